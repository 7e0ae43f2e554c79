"""Training speed on a quiet machine and beside a foreign busy process; and many trainings at once.

    python benchmarks/busy_core.py [CASE ...] [--rounds 3]

Every figure comes from a process of its own that runs the real training loop: with torch's and the
system's defaults (SCANWISE_TUNE=0), or as scanwise tunes itself. The foreign process keeps one core
busy. The variants alternate; medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections import defaultdict

import workload

DEFAULT_CASES = ("mlp", "simple_cnn")
VARIANTS = {"defaults": {"SCANWISE_TUNE": "0"}, "scanwise": {}}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
BUSY = "while True: pass"


def worker(name: str) -> None:
    """Print the training loop's images/s, median of the epochs after the first."""
    from scanwise.core.runtime import tune_process

    tune_process()
    from scanwise.models.losses import make_loss
    from scanwise.training.loop import LoopSettings, fit
    from training_loop import SETTINGS

    case = workload.CASES[name]
    train, val = workload.make_batches(case)
    result = fit(
        workload.make_model(case),
        train,
        val,
        loss_fn=make_loss(task="multiclass"),
        task="multiclass",
        settings=LoopSettings(epochs=4, channels_last=case.channels_last, **SETTINGS),
    )
    print(statistics.median(record.images_per_s for record in result.history[1:]))


def start(name: str, environ: dict[str, str]) -> subprocess.Popen[str]:
    free = {key: value for key, value in os.environ.items() if key not in THREAD_VARIABLES}
    command = [sys.executable, __file__, "--worker", name]
    return subprocess.Popen(command, env=free | environ, stdout=subprocess.PIPE, text=True)


def speed(running: subprocess.Popen[str]) -> float:
    out, _ = running.communicate()
    if running.returncode:
        raise SystemExit(f"the training process failed with {running.returncode}.")
    return float(out)


def beside(busy: int, name: str, environ: dict[str, str]) -> float:
    """Images/s beside `busy` foreign processes."""
    foreign = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        return speed(start(name, environ))
    finally:
        for process in foreign:
            process.kill()
            process.wait()


def at_once(name: str, environ: dict[str, str]) -> float:
    """Images/s of as many trainings as there are CPUs, together."""
    return sum(map(speed, [start(name, environ) for _ in range(os.cpu_count() or 1)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(DEFAULT_CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", metavar="CASE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker(given.worker)
        return
    print(workload.machine())
    cpus = os.cpu_count() or 1
    for name in given.cases:
        found: dict[str, list[float]] = defaultdict(list)
        for _ in range(given.rounds):
            for variant, environ in VARIANTS.items():
                found[f"{variant} quiet"].append(beside(0, name, environ))
                found[f"{variant} busy"].append(beside(1, name, environ))
            # joblib gives each of n workers cores / n threads, and scanwise leaves it at that.
            found["workers, 1 thread each"].append(at_once(name, {"OMP_NUM_THREADS": "1"}))
            found[f"workers, {cpus} threads each"].append(
                at_once(name, {"SCANWISE_TUNE": "0", "OMP_NUM_THREADS": str(cpus)})
            )
        median = {what: statistics.median(speeds) for what, speeds in found.items()}
        print(f"{name}, images/s")
        for variant in VARIANTS:
            quiet, busy = median[f"{variant} quiet"], median[f"{variant} busy"]
            kept = busy / quiet
            print(
                f"  {variant:<9} quiet {quiet:>7.0f}   one busy core {busy:>7.0f}   kept {kept:.0%}"
            )
        for what in list(median)[4:]:
            print(f"  {cpus} trainings at once, {what}: {median[what]:.0f} together", flush=True)


if __name__ == "__main__":
    main()
