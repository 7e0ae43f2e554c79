"""How often do the 95 % intervals of a report hold the true value?

Many small test sets are drawn from a known distribution of scores, whose true accuracy, F1 and
AUROC are computed from a sample of a million. Each set is judged as a run's test split is
(`metrics.evaluate.evaluate_split`), and it is counted how often the interval holds the truth.

    python benchmarks/coverage.py                              # about 15 minutes on two cores
    python benchmarks/coverage.py --write docs/intervals.md    # and put the table there

Ends with exit code 1 if a coverage lies outside 93.5 to 96.5 %; of sets that a model answers nearly
without error only the lower bound counts, since a handful of errors can't be covered exactly.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from pages import write_between
from scanwise.core.types import Interval
from scanwise.metrics.evaluate import evaluate_split
from scanwise.metrics.intervals import wilson_interval

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1 (macro)",
    "auroc_macro": "AUROC (macro)",
}
LOWEST, HIGHEST = 0.935, 0.965
NEARLY_RIGHT = 0.97  # a true value from here on is judged by the lower bound alone
RESAMPLES = 1000
MARKS = ("<!-- coverage: start -->", "<!-- coverage: end -->")


@dataclass(frozen=True)
class Scenario:
    """How test sets are drawn. `gap` is how far the true class's score is moved, in its SDs."""

    words: str
    n: int
    shares: tuple[float, ...]
    gap: float
    group_size: int = 1
    alike: float = 0.0  # correlation of the scores of two images of a group

    @property
    def k(self) -> int:
        return len(self.shares)


SCENARIOS = (
    Scenario("two classes, 70 and 30 images", 100, (0.7, 0.3), 1.5),
    Scenario("two classes, 400 images", 400, (0.6, 0.4), 1.0),
    Scenario("three classes, 200 images", 200, (0.5, 0.3, 0.2), 1.5),
    Scenario("seven classes, rarest 25 of 500", 500, (0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05), 2.0),
    Scenario("nearly right: two classes, 200 images", 200, (0.5, 0.5), 3.0),
    Scenario("60 patients with 5 images each", 300, (0.5, 0.3, 0.2), 1.5, 5, 0.5),
    Scenario("150 patients with 3 images each", 450, (0.6, 0.4), 1.2, 3, 0.7),
    Scenario("100 lesions with 2 images each", 200, (0.5, 0.3, 0.2), 1.5, 2, 0.8),
)


def draw(
    scenario: Scenario, n: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str] | None]:
    """Probabilities (n, k), targets (n,) and groups of a test set.

    Without groups the classes have their shares exactly, as a stratified split gives them.
    """
    x = rng.normal(size=(n, scenario.k))
    if scenario.group_size == 1:
        targets, groups = _exact(scenario.shares, n), None
    else:
        number = np.arange(n) // scenario.group_size
        of_group = rng.choice(scenario.k, number.max() + 1, p=scenario.shares)
        shared = rng.normal(size=(number.max() + 1, scenario.k))
        x = np.sqrt(1 - scenario.alike) * x + np.sqrt(scenario.alike) * shared[number]
        targets, groups = of_group[number], [f"g{i}" for i in number]
    x[np.arange(n), targets] += scenario.gap
    return softmax(2 * x, axis=1), targets, groups


def _exact(shares: tuple[float, ...], n: int) -> NDArray[np.int64]:
    counts = np.round(np.array(shares) * n).astype(int)
    counts[0] += n - counts.sum()
    return np.repeat(np.arange(len(shares)), counts)


def truth(scenario: Scenario, n: int = 999_000) -> dict[str, float]:
    """The values that an endless test set would have."""
    probabilities, targets, _ = draw(scenario, n, np.random.default_rng(2))
    predicted = probabilities.argmax(axis=1)
    classes = range(scenario.k)
    return {
        "accuracy": float((predicted == targets).mean()),
        "balanced_accuracy": float(
            np.mean([(predicted[targets == c] == c).mean() for c in classes])
        ),
        "f1_macro": float(f1_score(targets, predicted, average="macro")),
        "auroc_macro": float(
            np.mean([roc_auc_score(targets == c, probabilities[:, c]) for c in classes])
        ),
    }


def held(scenario: Scenario, true: dict[str, float], seeds: range) -> dict[str, int]:
    """How many of the test sets have an interval that holds the truth, by metric."""
    found = dict.fromkeys(METRICS, 0)
    names = [f"class {i}" for i in range(scenario.k)]
    for seed in seeds:
        probabilities, targets, groups = draw(
            scenario, scenario.n, np.random.default_rng([3, seed])
        )
        result = evaluate_split(
            probabilities, targets, names, "multiclass",
            groups=groups, seed=seed, num_resamples=RESAMPLES,
        )  # fmt: skip
        for name in METRICS:
            low, high = result[name]["ci95"]
            found[name] += low <= true[name] <= high
    return found


def cover(scenario: Scenario, sets: int, jobs: int) -> tuple[dict[str, float], dict[str, int]]:
    true = truth(scenario)
    parts = [range(start, min(start + 100, sets)) for start in range(0, sets, 100)]
    counts = Parallel(n_jobs=jobs)(delayed(held)(scenario, true, part) for part in parts)
    return true, {name: sum(count[name] for count in counts) for name in METRICS}


def is_kept(share: float, true: float) -> bool:
    return share >= LOWEST and (share <= HIGHEST or true >= NEARLY_RIGHT)


def percent(share: Interval) -> str:
    low, high = share.low or 0.0, share.high or 0.0
    return f"{100 * (share.value or 0):.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sets", type=int, default=2000, help="test sets a scenario")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", type=Path, help="page whose marked table is replaced")
    given = parser.parse_args()
    lines = [
        f"| test sets ({given.sets:,} of each kind) | " + " | ".join(METRICS.values()) + " |",
        "|---" * (1 + len(METRICS)) + "|",
    ]
    kept = True
    for scenario in SCENARIOS:
        true, counts = cover(scenario, given.sets, given.jobs)
        cells = []
        for name, count in counts.items():
            found = wilson_interval(count, given.sets)
            good = is_kept(count / given.sets, true[name])
            kept &= good
            share = percent(found)
            cells.append(f"{share} of {true[name]:.3f}{'' if good else ' **outside**'}")
        lines.append(f"| {scenario.words} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if given.write:
        write_between(given.write, *MARKS, "\n".join(lines))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
