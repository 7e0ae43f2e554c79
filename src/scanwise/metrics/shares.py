"""A share of images with its interval, whether or not images come in groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Interval
from scanwise.metrics.counts import ratio
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    group_numbers,
    percentile_interval,
    resample_weights,
    wilson_interval,
)


def share_interval(
    yes: NDArray[np.bool_],
    among: NDArray[np.bool_] | None = None,
    groups: tuple[str, ...] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Share of images with a property, with a 95 % interval: Wilson, or a bootstrap of groups.

    Args:
        yes: Has it, bool (n,).
        among: Which images are asked about, bool (n,) [all].
        groups: Patient or slide of each image, (n,); then whole groups are drawn.

    >>> print(share_interval(np.arange(100) < 90))
    0.900 [0.826, 0.945]
    """
    asked = np.ones(len(yes), bool) if among is None else among
    hits, n = int((yes & asked).sum()), int(asked.sum())
    numbers = None if groups is None or not n else group_numbers(groups)
    if numbers is None or len(np.unique(numbers[asked])) == n:
        return wilson_interval(hits, n)
    numbers = np.unique(numbers[asked], return_inverse=True)[1].astype(np.int64)
    blocks = resample_weights(np.zeros(n, np.int64), numbers, num_resamples, seed)
    chosen = yes[asked].astype(np.float64)
    drawn = np.concatenate([ratio(chosen @ weights, weights.sum(axis=0)) for weights in blocks])
    return percentile_interval(hits / n, drawn, units=int(numbers.max()) + 1, noun="groups")
