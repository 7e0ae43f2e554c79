"""Does `compare` keep its word? Models that are equally good, and models with a known gap.

    python benchmarks/aa_check.py [--pairs 200] [--write docs/comparing.md]

Simulated models answer simulated images. Whether one is right depends on how hard the image is for
every model, on what this recipe finds hard, on the seed of its training, and on chance; in the
grouped cases half of the first two is shared by the images of a patient. Base accuracy 0.80.
A/A pairs have the same true accuracy but err on images of their own, which is harder to judge than
one recipe twice. Gaps are judged with 1000 resamples instead of the 2000 of `compare`, for time.

Exit code 1 where equal models were called different too often: the lower 95 % Wilson bound of
"better or worse" lies above 0.05, in one row of the A/A table or in all rows together.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, ndtri

from scanwise.metrics.compare import compare
from scanwise.metrics.intervals import NUM_RESAMPLES, wilson_interval
from scanwise.metrics.predictions import Predictions, make_predictions

START, END = "<!-- aa_check: start -->", "<!-- aa_check: end -->"
BASE = 0.80
GAPS = (0.02, 0.05, 0.10)
SIZES = (150, 300, 1000)
SEEDS = (1, 3, 5)
ALLOWED = 0.05
# Shares of the variance of the margin; the seed's comes on top.
HARDNESS, TASTE, CHANCE = 0.60, 0.15, 0.25
SEED_SD = 0.05  # on that scale: an SD of 0.014 in accuracy between trainings
LARGEST_GROUP = 9  # images of a patient: 1 to 9, equally often


@dataclass(frozen=True)
class Case:
    """One row: how the models and images are made."""

    n: int
    seeds: int
    gap: float = 0.0
    grouped: bool = False
    seed_sd: float = SEED_SD
    groups_told: bool = True


@dataclass(frozen=True)
class Outcome:
    """How often the variant was called better and worse."""

    case: Case
    better: int
    worse: int
    pairs: int

    @property
    def too_often(self) -> bool:
        return (wilson_interval(self.better + self.worse, self.pairs).low or 0.0) > ALLOWED


def simulate(case: Case, rng: np.random.Generator) -> tuple[list[Predictions], list[Predictions]]:
    """Predictions of all seeds of a base and a variant on the same n images of two classes."""
    numbers = _group_of_each(case.n, rng)
    targets = rng.integers(0, 2, case.n)
    hardness = _by_image(numbers, case.grouped, rng)
    scale = np.sqrt(HARDNESS + TASTE + CHANCE + case.seed_sd**2)
    told = case.grouped and case.groups_told
    groups = tuple(f"patient {i}" for i in numbers) if told else None
    models = []
    for accuracy in (BASE, BASE + case.gap):
        taste = _by_image(numbers, case.grouped, rng)
        shared = ndtri(accuracy) * scale + np.sqrt(HARDNESS) * hardness + np.sqrt(TASTE) * taste
        models.append(
            [
                _answers(shared + case.seed_sd * rng.normal(), targets, groups, rng)
                for _ in range(case.seeds)
            ]
        )
    return models[0], models[1]


def run(case: Case, pairs: int, seed: int, num_resamples: int = NUM_RESAMPLES) -> Outcome:
    """Let `compare` judge so many pairs."""
    verdicts = []
    for number in range(pairs):
        base, variant = simulate(case, np.random.default_rng([seed, number]))
        found = compare(base, variant, num_resamples=num_resamples, seed=number)
        verdicts.append(found.verdict)
    return Outcome(case, verdicts.count("better"), verdicts.count("worse"), pairs)


def _answers(
    margin: np.ndarray,
    targets: np.ndarray,
    groups: tuple[str, ...] | None,
    rng: np.random.Generator,
) -> Predictions:
    n = len(targets)
    sure = expit(2 * (margin + np.sqrt(CHANCE) * rng.normal(size=n)))
    probabilities = np.stack([np.where(targets == i, sure, 1 - sure) for i in (0, 1)], axis=1)
    samples = tuple(f"{i:05d}" for i in range(n))
    return make_predictions(
        samples, ("test",) * n, targets, probabilities, ("no", "yes"), groups=groups
    )


def _group_of_each(n: int, rng: np.random.Generator) -> np.ndarray:
    sizes = rng.integers(1, LARGEST_GROUP + 1, n)
    return np.repeat(np.arange(n), sizes)[:n]


def _by_image(numbers: np.ndarray, grouped: bool, rng: np.random.Generator) -> np.ndarray:
    """A standard normal number of each image; grouped: half of its variance is the group's."""
    own, of_group = rng.normal(size=(2, len(numbers)))
    return np.sqrt(0.5) * (own + of_group[numbers]) if grouped else own


def equal_cases() -> Iterator[Case]:
    """One seed claims something about trained models, so those are equal: no seed effect."""
    for grouped in (False, True):
        for n in SIZES:
            for seeds in SEEDS:
                yield Case(n, seeds, grouped=grouped, seed_sd=SEED_SD if seeds > 1 else 0.0)


def gap_cases() -> Iterator[Case]:
    for case in equal_cases():
        for gap in GAPS:
            yield Case(case.n, case.seeds, gap, case.grouped, case.seed_sd)


def warning_cases() -> Iterator[tuple[str, Case]]:
    for n in SIZES:
        yield "one seed each, asked of the recipes", Case(n, 1)
    for n in SIZES:
        yield (
            "groups there, but not told",
            Case(n, 1, grouped=True, seed_sd=0.0, groups_told=False),
        )


def percent(count: int, pairs: int) -> str:
    found = wilson_interval(count, pairs)
    low, high = found.low or 0.0, found.high or 0.0
    return f"{100 * count / pairs:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def equal_table(outcomes: list[Outcome]) -> list[str]:
    lines = [
        "| images | seeds | groups | called better | called worse | better or worse |",
        "|---:|---:|---|---:|---:|---:|",
    ]
    for one in outcomes:
        case = one.case
        lines.append(
            f"| {case.n} | {case.seeds} | {'yes' if case.grouped else 'no'} "
            f"| {percent(one.better, one.pairs)} | {percent(one.worse, one.pairs)} "
            f"| {percent(one.better + one.worse, one.pairs)} |"
        )
    better, worse, pairs = total(outcomes)
    lines.append(
        f"| all | | | {percent(better, pairs)} | {percent(worse, pairs)} "
        f"| {percent(better + worse, pairs)} |"
    )
    return lines


def gap_table(outcomes: list[Outcome]) -> list[str]:
    """Power: share called better, for each gap; the share called worse is said where not 0."""
    lines = [
        "| images | seeds | groups | " + " | ".join(f"+{gap:.2f}" for gap in GAPS) + " |",
        "|---:|---:|---|" + "---:|" * len(GAPS),
    ]
    rows = [outcomes[i : i + len(GAPS)] for i in range(0, len(outcomes), len(GAPS))]
    for row in rows:
        case = row[0].case
        cells = [
            percent(one.better, one.pairs) + (f" ({one.worse} called worse)" if one.worse else "")
            for one in row
        ]
        lines.append(
            f"| {case.n} | {case.seeds} | {'yes' if case.grouped else 'no'} | "
            + " | ".join(cells)
            + " |"
        )
    return lines


def warning_table(found: list[tuple[str, Outcome]]) -> list[str]:
    lines = ["| what was done wrong | images | better or worse |", "|---|---:|---:|"]
    lines += [
        f"| {words} | {one.case.n} | {percent(one.better + one.worse, one.pairs)} |"
        for words, one in found
    ]
    return lines


def total(outcomes: list[Outcome]) -> tuple[int, int, int]:
    return (
        sum(one.better for one in outcomes),
        sum(one.worse for one in outcomes),
        sum(one.pairs for one in outcomes),
    )


def too_often(outcomes: list[Outcome]) -> bool:
    better, worse, pairs = total(outcomes)
    together = Outcome(outcomes[0].case, better, worse, pairs)
    return any(one.too_often for one in (*outcomes, together))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200, help="pairs of models in each row")
    parser.add_argument("--write", type=Path, help="page whose marked part is replaced")
    options = parser.parse_args()
    started = time.process_time()
    pairs = options.pairs
    equal = [run(case, pairs, 1 + i) for i, case in enumerate(equal_cases())]
    gaps = [
        run(case, pairs, 101 + i, num_resamples=NUM_RESAMPLES // 2)
        for i, case in enumerate(gap_cases())
    ]
    warned = [(words, run(case, pairs, 201 + i)) for i, (words, case) in enumerate(warning_cases())]
    failed = too_often(equal)
    lines = [
        f"**Equal models, {pairs} pairs a row:** how often they were called different.",
        "",
        *equal_table(equal),
        "",
        f"**Known gaps, {pairs} pairs a cell:** how often the better variant was called better.",
        "",
        *gap_table(gaps),
        "",
        f"**Equal recipes, judged wrongly, {pairs} pairs a row:** how often called different.",
        "",
        *warning_table(warned),
    ]
    print("\n".join(lines))
    print(f"{'FAILED' if failed else 'passed'}; {time.process_time() - started:.0f} s of CPU.")
    if options.write:
        from pages import write_between

        write_between(options.write, START, END, "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
