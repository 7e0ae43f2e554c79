"""Images/s of the real training loop beside bare forward-backward passes on one fixed batch.

    python benchmarks/training_loop.py [CASE ...] [--rounds 5] [--seconds 2]

The loop draws, normalises and augments each batch (gentle), steps the optimiser, sums loss and
accuracy, and reports; validation is left out of its time. The bare loop does forward, backward and
the same fused Adam step, nothing else, in the same process and memory order. The two alternate;
medians of the rounds, and of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import time

import workload
from scanwise.core.runtime import tune_process

tune_process()

import torch  # noqa: E402  (after the process is tuned)

from scanwise.models.losses import make_loss  # noqa: E402
from scanwise.training.loop import LoopSettings, fit  # noqa: E402

AIMS = {"mlp": 0.8, "simple_cnn": 0.9, "resnet18": 0.9}
SETTINGS = {"optimizer": "adam", "lr": 1e-4, "precision": "32"}


class Bare:
    """Forward, backward and step on one batch, over and over."""

    def __init__(self, case: workload.Case) -> None:
        self.model = workload.make_model(case).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)
        self.images, self.targets, _ = next(iter(workload.make_batches(case)[0].iterate(0)))
        self.step()

    def step(self) -> None:
        loss = torch.nn.functional.cross_entropy(self.model(self.images), self.targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def images_per_s(self, seconds: float) -> float:
        began, steps = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < seconds or steps < 2:
            self.step()
            steps += 1
        return steps * len(self.images) / took


def loop_images_per_s(case: workload.Case, epochs: int) -> float:
    """Median over epochs of what history.csv says; the first epoch warms up."""
    train, val = workload.make_batches(case)
    result = fit(
        workload.make_model(case),
        train,
        val,
        loss_fn=make_loss(task="multiclass"),
        task="multiclass",
        settings=LoopSettings(epochs=epochs + 1, channels_last=case.channels_last, **SETTINGS),
    )
    return statistics.median(record.images_per_s for record in result.history[1:])


def measure(name: str, rounds: int, seconds: float) -> None:
    case = workload.CASES[name]
    bare = Bare(case)
    speed = bare.images_per_s(seconds)
    epochs = max(1, min(60, round(seconds * speed / case.images)))
    pairs = []
    for _ in range(rounds):
        before = bare.images_per_s(seconds / 2)
        loop = loop_images_per_s(case, epochs)
        after = bare.images_per_s(seconds / 2)
        pairs.append((loop, (before + after) / 2))
    loops, bares = zip(*pairs, strict=True)
    ratio = statistics.median(loop / bare for loop, bare in pairs)
    print(
        f"{name:<11} batch {case.batch:<4} loop {statistics.median(loops):>8.0f} images/s   "
        f"bare {statistics.median(bares):>8.0f} images/s   ratio {ratio:.2f} (aim {AIMS[name]})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(AIMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    given = parser.parse_args()
    print(f"{workload.machine()}; {torch.get_num_threads()} threads; 28 px, 3 channels, 9 classes")
    for name in given.cases:
        measure(name, given.rounds, given.seconds)


if __name__ == "__main__":
    main()
