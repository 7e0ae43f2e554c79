"""Do corrected counts hold the truth where raw counts do not?

    python benchmarks/corrected_counts.py [--trials 1000] [--write docs/decisions.md]

Each trial draws a confusion matrix from labelled images, a new folder with another mix of classes,
and what a model of known mistakes says about it. Coverage is the share of trials whose 95 %
interval of a class holds its true number of images in the folder; the lowest class of each row is
shown. The raw count's interval is Wilson's, as one would write it without thinking of mistakes.

Exit code 1 where the coverage of a class lies below 93 %, by more than chance: its upper 95 %
Wilson bound is under 0.93.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pages import write_between
from scanwise.metrics.intervals import wilson_interval
from scanwise.metrics.prevalence import corrected_counts

START, END = "<!-- corrected_counts: start -->", "<!-- corrected_counts: end -->"
PROMISED = 0.93
GOOD = ((0.95, 0.05), (0.05, 0.95))
FAIR = ((0.85, 0.15), (0.2, 0.8))
FOUR = (
    (0.90, 0.05, 0.03, 0.02),
    (0.10, 0.80, 0.05, 0.05),
    (0.05, 0.15, 0.75, 0.05),
    (0.02, 0.03, 0.05, 0.90),
)


@dataclass(frozen=True)
class Case:
    """A model, how many images of each class were labelled, and the new folder."""

    words: str
    called: tuple[tuple[float, ...], ...]  # how often each class (row) is called each
    labelled: tuple[int, ...]
    new: int
    shares: tuple[float, ...]


CASES = (
    Case("2 classes, good model, rare class", GOOD, (100, 50), 1000, (0.97, 0.03)),
    Case("2 classes, fair model, rare class", FAIR, (114, 42), 500, (0.95, 0.05)),
    Case("2 classes, fair model, class absent", FAIR, (100, 100), 500, (1.0, 0.0)),
    Case("2 classes, fair model, few labelled", FAIR, (20, 20), 2000, (0.7, 0.3)),
    Case("2 classes, fair model, small folder", FAIR, (100, 100), 40, (0.5, 0.5)),
    Case("4 classes, one of them rare", FOUR, (100, 80, 60, 40), 800, (0.8, 0.1, 0.07, 0.03)),
    Case("4 classes, one of them absent", FOUR, (60, 60, 60, 60), 800, (0.5, 0.3, 0.2, 0.0)),
    Case("4 classes, few labelled", FOUR, (25, 25, 25, 25), 3000, (0.4, 0.3, 0.2, 0.1)),
)


@dataclass(frozen=True)
class Outcome:
    """Trials in which each class's interval held the truth; classes in order."""

    case: Case
    trials: int
    corrected: tuple[int, ...]
    raw: tuple[int, ...]
    width: float  # mean width of the intervals, images

    @property
    def off(self) -> bool:
        return any((wilson_interval(n, self.trials).high or 0) < PROMISED for n in self.corrected)


def run(case: Case, trials: int, seed: int) -> Outcome:
    rng = np.random.default_rng(seed)
    k = len(case.shares)
    corrected, raw, width = np.zeros(k, int), np.zeros(k, int), 0.0
    for trial in range(trials):
        pairs = zip(case.labelled, case.called, strict=True)
        table = np.stack([rng.multinomial(n, row) for n, row in pairs])
        truth = rng.multinomial(case.new, case.shares)
        answers = zip(truth, case.called, strict=True)
        counts = np.sum([rng.multinomial(n, row) for n, row in answers], axis=0)
        found = corrected_counts(table, counts, num_resamples=1000, seed=trial)
        for i, each in enumerate(found):
            plain = wilson_interval(int(counts[i]), case.new)
            corrected[i] += each.low <= truth[i] <= each.high
            raw[i] += plain.low * case.new <= truth[i] <= plain.high * case.new
            width += (each.high - each.low) / (k * trials)
    return Outcome(case, trials, tuple(corrected.tolist()), tuple(raw.tolist()), width)


def share(hits: int, trials: int) -> str:
    found = wilson_interval(hits, trials)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def table(outcomes: list[Outcome]) -> list[str]:
    lines = [
        "| case | labelled | new | corrected, lowest class | raw, lowest class | mean width |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one.case.words} | {', '.join(map(str, one.case.labelled))} | {one.case.new} "
        f"| {share(min(one.corrected), one.trials)}{' **off**' if one.off else ''} "
        f"| {share(min(one.raw), one.trials)} | {one.width:.0f} |"
        for one in outcomes
    ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="folders in each row")
    parser.add_argument("--write", type=Path, help="page whose marked part is replaced")
    options = parser.parse_args()
    started = time.process_time()
    outcomes = [run(case, options.trials, 1 + i) for i, case in enumerate(CASES)]
    failed = any(one.off for one in outcomes)
    lines = [f"{options.trials:,} folders a row.", "", *table(outcomes)]
    print("\n".join(lines))
    print(f"{'FAILED' if failed else 'passed'}; {time.process_time() - started:.0f} s of CPU.")
    if options.write:
        write_between(options.write, START, END, "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
