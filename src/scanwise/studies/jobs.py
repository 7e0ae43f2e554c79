"""How many trainings side by side? Measured on the network that is to be trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from scanwise.studies.members import Member

TRIAL_S = 0.4  # of one measurement
LEAST_GAIN = 1.10  # below it, side by side is not worth the memory
SIDE_BY_SIDE_S = 1.0


@dataclass(frozen=True)
class Probe:
    """The network of a training and the batches that it sees."""

    model: str
    num_outputs: int
    channels: int
    size_px: tuple[int, int]
    batch_size: int


def best_jobs(members: Sequence[Member], probe: Probe | None, cores: int) -> tuple[int, str]:
    """How many of these trainings should run at a time, and why.

    Steps of the network are timed with all cores and with a share of them; where j trainings with
    a share each promise more, j processes are started and timed together, since they share memory
    bandwidth and caches, and more than one is taken only if that held.

    Args:
        members: The trainings.
        probe: The network of the first; None where no steps are trained (frozen networks), whose
            inference uses all cores already.
        cores: CPU cores to share out.
    """
    most = min(cores, len(members))
    if most <= 1:
        return 1, "1 core" if cores == 1 else f"{len(members)} training(s) to do"
    if probe is None:
        return 1, "a pretrained network uses all cores by itself"
    alone = steps_per_second(probe, cores)
    shares = [jobs for jobs in range(2, most + 1) if cores // jobs * jobs == cores or jobs == most]
    promised = {jobs: jobs * steps_per_second(probe, cores // jobs) / alone for jobs in shares}
    best = max(promised, key=lambda jobs: promised[jobs])
    if promised[best] < LEAST_GAIN:
        return 1, f"{best} side by side promise {promised[best]:.2f} times the speed"
    gain = together(probe, best, cores // best) / alone
    if gain < LEAST_GAIN:
        return 1, f"{best} side by side gave {gain:.2f} times the speed, measured"
    return best, f"{gain:.2f} times the speed of one after another, measured on {probe.model}"


def together(probe: Probe, jobs: int, threads: int) -> float:
    """Steps a second of `jobs` processes that run at the same time, summed."""
    from joblib import Parallel, delayed

    Parallel(n_jobs=jobs)(delayed(_timed)(probe, threads, 0.01) for _ in range(jobs))  # imports
    rates = Parallel(n_jobs=jobs)(
        delayed(_timed)(probe, threads, SIDE_BY_SIDE_S) for _ in range(jobs)
    )
    return float(sum(rates))


def _timed(probe: Probe, threads: int, seconds: float) -> float:
    from scanwise.core.runtime import limit_threads

    limit_threads(threads)
    return steps_per_second(probe, threads, seconds)


def steps_per_second(probe: Probe, threads: int, seconds: float = TRIAL_S) -> float:
    """Training steps of random images a second, with so many threads; threads are put back."""
    import torch

    from scanwise.models.build import build_model

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            model = build_model(
                probe.model,
                num_outputs=probe.num_outputs,
                channels=probe.channels,
                size_px=probe.size_px,
            )
            images = torch.randn(probe.batch_size, probe.channels, *probe.size_px)
            targets = torch.randint(probe.num_outputs, (probe.batch_size,))
        optimizer = torch.optim.AdamW(model.parameters())
        done, began = -1, 0.0
        while done < 1 or time.perf_counter() - began < seconds:
            loss = torch.nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            if done == 0:  # the first step warms up
                began = time.perf_counter()
        return done / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
