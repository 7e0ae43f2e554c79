"""Five trainings side by side over one after another: images a second, whole processes counted.

    python benchmarks/studies.py [--rounds 2] [--images 12000] [--seconds 30]

The same five members (five seeds) of a study are trained with --jobs 1, 2, … cores and auto, in
alternating order, each time into a fresh folder; the time is from the first to the last training,
with the start of the worker processes and, for auto, its measurement. More than one times the
images/s of --jobs 1 is what training side by side brought.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from scanwise.core.config import make_config
from scanwise.core.runtime import choose_threads, tune_process

MEMBERS = 5
# Epochs of a training per second asked for, about, on one core: they need not be exact.
MODELS = {"mlp:512,256,128": 2.0, "simple_cnn": 0.35}


def data_of(folder: Path, images: int) -> Path:
    """An .npz of coloured noise with a class-dependent mean, 28 px, in three splits."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", images), ("val", 500), ("test", 500)):
        targets = rng.integers(0, 9, n)
        pixels = rng.integers(0, 160, (n, 28, 28, 3)) + 10 * targets[:, None, None, None]
        arrays[f"{name}_images"] = pixels.astype(np.uint8)
        arrays[f"{name}_labels"] = targets[:, None].astype(np.uint8)
    path = folder / "noise.npz"
    np.savez(path, **arrays)
    return path


def timed(data: Path, model: str, epochs: int, jobs: str, images: int) -> tuple[float, str]:
    """Images a second over all trainings, and what the plan said."""
    from scanwise.studies.study import (
        load_grounds,
        make_members,
        probe_of,
        resolve,
        write_study_splits,
    )
    from scanwise.studies.variants import Variant
    from scanwise.studies.workers import plan_workers, train_members

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_config({"data": str(data), "model": model, "epochs": epochs})
        grounds = load_grounds(config, [str(data)], MEMBERS, None)
        write_study_splits(folder, grounds)
        members = make_members(config, [(grounds[0], [Variant("base", {})])], folder)
        resolved = resolve(config, grounds[0])
        began = time.monotonic()
        workers = plan_workers(jobs, members, probe_of(resolved, grounds[0]))
        outcomes = train_members(members, workers, lambda line: None)
        seconds = time.monotonic() - began
        assert all(outcome.state == "trained" for outcome in outcomes), outcomes
    return MEMBERS * epochs * images / seconds, workers.describe()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of one training, about")
    given = parser.parse_args()
    tune_process()
    cores, why = choose_threads({})
    settings = ["1", *(str(n) for n in (2, 4, 8) if n <= cores), "auto"]
    print(f"{cores} cores ({why}), {MEMBERS} trainings each, {given.rounds} rounds")
    print("| model | jobs | images/s (median) | times --jobs 1 (median of rounds) | plan |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        data = data_of(Path(name), given.images)
        for model, epochs_a_second in MODELS.items():
            epochs = max(2, round(given.seconds * epochs_a_second))
            rates: dict[str, list[float]] = {jobs: [] for jobs in settings}
            plans: dict[str, str] = {}
            for round_number in range(given.rounds):
                order = settings if round_number % 2 == 0 else settings[::-1]
                for jobs in order:
                    rate, plans[jobs] = timed(data, model, epochs, jobs, given.images)
                    rates[jobs].append(rate)
            for jobs in settings:
                ratios = [own / one for own, one in zip(rates[jobs], rates["1"], strict=True)]
                middle = statistics.median(rates[jobs])
                print(
                    f"| {model}, {epochs} epochs | {jobs} | {middle:,.0f} | "
                    f"{statistics.median(ratios):.2f} | {plans[jobs]} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
