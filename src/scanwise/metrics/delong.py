"""Do two models rank the same images equally well? DeLong's paired comparison of two AUROCs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import rankdata

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.differences import (
    ALPHA,
    SMALLEST_P,
    Tested,
    is_zero,
    opened_interval,
    satterthwaite,
    sign_p_value,
)
from scanwise.metrics.inputs import Floats
from scanwise.metrics.intervals import caution


@dataclass(frozen=True)
class DeLong:
    """Two AUROCs of the same images and their difference, second minus first."""

    first: float
    second: float
    variance: float | None  # of the difference; None with a single positive or negative image
    z: float | None  # difference / its standard error, as other programs print it
    tested: Tested


def delong_test(first: ArrayLike, second: ArrayLike, positive: ArrayLike) -> DeLong:
    """Compare the AUROCs of two scores on the same independent images.

    The variance of the difference comes from the share of negatives that each positive beats and
    the share of positives that each negative stays below (DeLong), found by midranks in n log n
    (Sun and Xu); ties count half. Interval and p are those of t with Satterthwaite's degrees of
    freedom, where most programs take the normal, which is too sure with some ten images of a class;
    in large samples both are the same, and `z` is theirs.

    The variance can be 0 without the models being known to be equal. Then the interval is opened by
    the 95 % bound of what not one image of the rarer class showed, and p is that of a sign test on
    the images of the rarer class.

    Args:
        first, second: Scores of each image under two models, finite float (n,); higher means more
            likely positive.
        positive: Truth, (n,) of 0 and 1, with both.

    Raises:
        DataError: If shapes differ, a score is not finite, or only one kind of image is there.

    Source:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; Sun and Xu, IEEE Signal Process.
        Lett. 21, 2014.

    >>> delong_test([0.1, 0.4, 0.35, 0.8], [0.1, 0.2, 0.35, 0.8], [0, 0, 1, 1]).second
    1.0
    """
    truth = _checked(first, second, positive)
    one = _components(np.asarray(first, np.float64), truth)
    two = _components(np.asarray(second, np.float64), truth)
    areas = float(one[0].mean()), float(two[0].mean())
    return _judge(areas, two[0] - one[0], two[1] - one[1])


def _judge(areas: tuple[float, float], of_positives: Floats, of_negatives: Floats) -> DeLong:
    """From what each positive (m,) and each negative (n,) adds to the difference of the areas."""
    gap = areas[1] - areas[0]
    rarer = min(len(of_positives), len(of_negatives))
    if rarer < 2:
        kind = "positive" if len(of_positives) < 2 else "negative"
        return DeLong(
            *areas, None, None, Tested(Interval(gap, reason=f"no interval: 1 {kind}"), None)
        )
    note = caution(rarer, "rarer class n")
    kinds = (of_positives, of_negatives)
    parts = [float(part.var(ddof=1)) / len(part) for part in kinds]
    variance = sum(parts)
    spread = float(np.sqrt(variance))
    if is_zero(spread, 1.0):
        tested = Tested(
            opened_interval(gap, rarer, 1.0, note),
            sign_p_value(gap, rarer),
        )
        return DeLong(*areas, 0.0, None, tested.agreeing())
    freedom = satterthwaite(parts, [len(part) - 1 for part in kinds])
    reach = -float(stdtrit(freedom, ALPHA / 2)) * spread
    p_value = max(2 * float(stdtr(freedom, -abs(gap) / spread)), SMALLEST_P)
    interval = Interval(gap, max(gap - reach, -1.0), min(gap + reach, 1.0), note)
    return DeLong(*areas, variance, gap / spread, Tested(interval, p_value))


def _components(scores: Floats, truth: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Share of negatives below each positive (m,), and of positives above each negative (n,)."""
    m, n = int(truth.sum()), int((~truth).sum())
    overall = rankdata(scores)
    below = (overall[truth] - rankdata(scores[truth])) / n
    above = 1 - (overall[~truth] - rankdata(scores[~truth])) / m
    return below, above


def _checked(first: ArrayLike, second: ArrayLike, positive: ArrayLike) -> NDArray[np.bool_]:
    truth = np.asarray(positive)
    for given in (np.asarray(first), np.asarray(second)):
        if given.shape != truth.shape or truth.ndim != 1:
            raise DataError(f"scores {given.shape} and truth {truth.shape} must both be (n,).")
        if not np.isfinite(given).all():
            raise DataError(f"score {int(np.flatnonzero(~np.isfinite(given))[0])} is not finite.")
    if not np.isin(truth, (0, 1)).all():
        raise DataError("truth must be given as 0 and 1.")
    truth = truth.astype(bool)
    if truth.all() or not truth.any():
        raise DataError("an AUROC needs images of both kinds; all are of one.")
    return truth
