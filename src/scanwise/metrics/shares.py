"""Shares and means of images with 95 % intervals: Wilson, or drawn by group where there are any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Interval
from scanwise.metrics.counts import ratio
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    logit_interval,
    resample_weights,
    wilson_interval,
)

Mask = NDArray[np.bool_]


def share_interval(
    counted: Mask,
    among: Mask | None = None,
    groups: Ints | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Share of the images `among` that are `counted` too, with its 95 % interval.

    Args:
        counted: bool (n,).
        among: bool (n,) [all]; none true gives no value but the reason.
        groups: Group of each image, int (n,), or None where images are independent. With groups
            the interval is spread by resamples of whole groups, else it is Wilson's.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    >>> print(share_interval(np.arange(100) < 90))
    0.900 [0.826, 0.945]
    """
    among = np.ones(len(counted), np.bool_) if among is None else among
    hits, n = int((counted & among).sum()), int(among.sum())
    if groups is None or n == 0:
        return wilson_interval(hits, n)
    draws = ratio_resamples(
        (counted & among)[None].astype(np.float64),
        among[None].astype(np.float64),
        groups,
        num_resamples,
        seed,
    )[0]
    units = len(np.unique(groups[among]))
    return logit_interval(hits / n, draws, units=units, noun="groups")


def mean_interval(
    values: Floats,
    groups: Ints | None,
    *,
    highest: float,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of values (n,) in [0, highest] with its 95 % interval, spread by resamples."""
    draws = ratio_resamples(
        values[None].astype(np.float64), np.ones((1, len(values))), groups, num_resamples, seed
    )[0]
    units = len(values) if groups is None else len(np.unique(groups))
    noun = "n" if groups is None else "groups"
    return logit_interval(float(values.mean()), draws, units=units, noun=noun, highest=highest)


def ratio_resamples(
    parts: Floats, wholes: Floats, groups: Ints | None, num_resamples: int, seed: int
) -> Floats:
    """Sum of parts over sum of wholes, both (m, n), in each bootstrap resample: (m, r).

    Images, or whole groups, are drawn with replacement; NaN where a whole is 0.
    """
    n = parts.shape[1]
    strata = np.zeros(n, dtype=np.int64)
    blocks = [
        ratio(parts @ weights, wholes @ weights)
        for weights in resample_weights(strata, groups, num_resamples, seed)
    ]
    return np.concatenate(blocks, axis=1)
