"""A score under several seeds of the same training: mean, spread, and which spreads less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, f

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.intervals import LEVEL


@dataclass(frozen=True)
class Spread:
    """Mean of a number over seeds, with the sample SD (n - 1); no SD of one seed.

    The SD says how far single trainings lie apart, not how well the mean is known, and nothing
    of other images.
    """

    mean: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        if self.sd is None:
            return f"{self.mean:.3f} (n=1: no SD)"
        return f"{self.mean:.3f} ± {self.sd:.3f} (n={self.n})"


def spread(values: Sequence[float]) -> Spread:
    """Mean ± SD of one number of each seed.

    Raises:
        DataError: If there is none, or one is not finite.

    >>> print(spread([0.80, 0.82, 0.84]))
    0.820 ± 0.020 (n=3)
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise DataError(f"one finite number of each seed is needed, got {list(values)}.")
    sd = float(given.std(ddof=1)) if len(given) > 1 else None
    return Spread(float(given.mean()), sd, len(given))


def seed_spread(values: Sequence[float]) -> Interval:
    """Standard deviation of one score over seeds, with its 95 % interval.

    The interval takes the scores of seeds for normally distributed; with two or three seeds it is
    very wide, and that is what two or three seeds tell.

    Args:
        values: The score under each seed, one or more.

    Returns:
        The sample SD (n - 1); without a value for a single seed, without an interval where all
        seeds score the same.

    Raises:
        DataError: If there is no value.

    Source:
        Chi-square interval of a variance: Snedecor and Cochran, Statistical Methods, 1989, ch. 5.
    """
    if not len(values):
        raise DataError("the score of at least one seed is needed.")
    if len(values) == 1:
        return Interval(None, reason="one seed")
    spread, free = float(np.std(values, ddof=1)), len(values) - 1
    if spread == 0:
        return Interval(0.0, reason="no interval: all seeds score the same")
    tail = (1 - LEVEL) / 2
    low, high = np.sqrt(free / chi2.ppf([1 - tail, tail], free))
    return Interval(spread, spread * float(low), spread * float(high))


def spread_ratio(first: Sequence[float], second: Sequence[float]) -> Interval:
    """SD of `second` over SD of `first`, with its 95 % interval; above 1 where `first` moves less.

    Args:
        first, second: The score of two methods under each of their seeds, two or more each.

    Returns:
        The ratio; without a value where a method has one seed, or all of its seeds score the same.

    Source:
        F interval of a ratio of variances: Snedecor and Cochran, Statistical Methods, 1989, ch. 6.
    """
    if min(len(first), len(second)) < 2:
        return Interval(None, reason="one seed")
    spreads = [float(np.std(values, ddof=1)) for values in (first, second)]
    if not all(spreads):
        return Interval(None, reason="the seeds of one method all score the same")
    ratio, tail = spreads[1] / spreads[0], (1 - LEVEL) / 2
    cuts = f.ppf([1 - tail, tail], len(second) - 1, len(first) - 1)
    low, high = ratio / np.sqrt(cuts)
    return Interval(ratio, float(low), float(high))
