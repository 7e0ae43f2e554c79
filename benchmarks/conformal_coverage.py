"""Do prediction sets hold the true class as often as they promise?

    python benchmarks/conformal_coverage.py [--trials 3000] [--write docs/decisions.md]

Simulated models of three classes, over-confident. Each trial calibrates on n fresh images and is
tested on 50 more. In theory the mean coverage of exchangeable images is exactly rank / (n + 1),
where rank is ceil((n + 1)(1 - alpha)): between 1 - alpha and 1 - alpha + 1 / (n + 1).

Exit code 1 where the mean coverage lies further from that than 4 standard errors. The last rows
break the assumption on purpose and are not judged.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pages import write_between
from scanwise.metrics.conformal import SetRule, fit_bars, in_sets, quantile_rank

START, END = "<!-- conformal_coverage: start -->", "<!-- conformal_coverage: end -->"
NAMES = ("common", "less", "rare")
SHARES = np.array([0.6, 0.3, 0.1])
ALPHAS = (0.05, 0.1, 0.2)
TESTED = 50
ALLOWED_ERRORS = 4.0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    words: str
    alpha: float
    expected: float | None  # None: not judged
    coverage: float
    error: float
    size: float

    @property
    def off(self) -> bool:
        if self.expected is None:
            return False
        return abs(self.coverage - self.expected) > ALLOWED_ERRORS * self.error


def draw(
    shape: tuple[int, int], rng: np.random.Generator, skill: float = 1.5, targets=None
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (trials, n, k) and truth (trials, n)."""
    if targets is None:
        targets = rng.choice(len(SHARES), shape, p=SHARES)
    logits = 2 * (rng.normal(size=(*shape, len(SHARES))) + skill * np.eye(len(SHARES))[targets])
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True), targets


def judge(words, rule, expected, calibration, test, of_class=None) -> Row:
    """Coverage over all trials, its standard error over trials, and the mean size of sets."""
    (probabilities, targets), (new, truth) = calibration, test
    covered, sizes = np.empty(len(targets)), np.empty(len(targets))
    for trial in range(len(targets)):
        bars = fit_bars(probabilities[trial], targets[trial], NAMES, rule)
        inside = in_sets(new[trial], bars, NAMES)
        held = inside[np.arange(len(inside)), truth[trial]]
        chosen = slice(None) if of_class is None else truth[trial] == of_class
        covered[trial], sizes[trial] = held[chosen].mean(), inside[chosen].sum(axis=1).mean()
    error = float(covered.std(ddof=1) / np.sqrt(len(covered)))
    return Row(words, rule.alpha, expected, float(covered.mean()), error, float(sizes.mean()))


def marginal(alpha: float, n: int, trials: int, rng: np.random.Generator) -> Row:
    calibration, test = draw((trials, n), rng), draw((trials, TESTED), rng)
    expected = quantile_rank(n, alpha) / (n + 1)
    return judge(f"all images, n = {n}", SetRule(alpha), expected, calibration, test)


def by_class(alpha: float, n: int, trials: int, rng: np.random.Generator) -> list[Row]:
    """Each class has n calibration images, and is tested by itself."""
    labels = np.broadcast_to(np.repeat(np.arange(3), n), (trials, 3 * n))
    tested = np.broadcast_to(np.repeat(np.arange(3), TESTED), (trials, 3 * TESTED))
    calibration = draw(labels.shape, rng, targets=labels)
    test = draw(tested.shape, rng, targets=tested)
    rule, expected = SetRule(alpha, class_conditional=True), quantile_rank(n, alpha) / (n + 1)
    return [
        judge(f"class '{name}', n = {n} of it", rule, expected, calibration, test, index)
        for index, name in enumerate(NAMES)
    ]


def broken(trials: int, rng: np.random.Generator) -> list[Row]:
    """What no calibration promises: a class of a marginal promise, and harder new images."""
    rule = SetRule(0.1)
    labels = rng.choice(3, (trials, 100), p=SHARES)
    tested = np.broadcast_to(np.full(TESTED, 2), (trials, TESTED))
    calibration = draw(labels.shape, rng, targets=labels)
    calibration = (dislike(calibration[0]), labels)
    rare = draw(tested.shape, rng, targets=tested)
    found = [
        judge(
            "not promised: the rare class, which the model dislikes", rule, None, calibration,
            (dislike(rare[0]), tested),
        )
    ]  # fmt: skip
    calibration, test = draw((trials, 100), rng), draw((trials, TESTED), rng, skill=0.8)
    return [*found, judge("not promised: harder new images", rule, None, calibration, test)]


def dislike(probabilities: np.ndarray) -> np.ndarray:
    """The same with a third of the odds for the rare class."""
    weighted = probabilities * np.array([1.0, 1.0, 1 / 3])
    return weighted / weighted.sum(axis=-1, keepdims=True)


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| of what | alpha | promised | in theory | measured ± error | classes in a set |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.words} | {row.alpha:g} | {1 - row.alpha:.2f} "
        f"| {'none' if row.expected is None else f'{row.expected:.4f}'} "
        f"| {row.coverage:.4f} ± {row.error:.4f}{' **off**' if row.off else ''} "
        f"| {row.size:.2f} |"
        for row in rows
    ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=3000, help="calibrations in each row")
    parser.add_argument("--write", type=Path, help="page whose marked part is replaced")
    options = parser.parse_args()
    started, rng = time.process_time(), np.random.default_rng(0)
    rows = [
        marginal(alpha, n, options.trials, rng) for alpha in ALPHAS for n in (30, 100, 500)
    ]  # fmt: skip
    for alpha in ALPHAS:
        rows += by_class(alpha, 40, options.trials, rng)
    rows += broken(options.trials, rng)
    failed = any(row.off for row in rows)
    lines = [f"{options.trials:,} calibrations a row.", "", *table(rows)]
    print("\n".join(lines))
    print(f"{'FAILED' if failed else 'passed'}; {time.process_time() - started:.0f} s of CPU.")
    if options.write:
        write_between(options.write, START, END, "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
