"""Did the second answer do better on the same images? Paired, so that hard images cancel out."""

from __future__ import annotations

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    caution,
    group_numbers,
    never_seen,
    percentile_interval,
    resample_weights,
)


def paired_gain(
    first: Floats,
    second: Floats,
    strata: Ints,
    *,
    groups: tuple[str, ...] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `second` minus `first` over images, with a paired bootstrap interval.

    Args:
        first, second: A score of each image (n,) under two models, such as 1 for right and 0 for
            wrong, or minus the log-loss; larger is better.
        strata: Class of each image, int (n,); each class is resampled to its own size.
        groups: Patient or slide of each image (n,); then whole groups are resampled.
        num_resamples: Bootstrap resamples.
        seed: Of the resampling.

    Returns:
        The gain with its 95 % percentile interval; above 0 where `second` is better.

    Raises:
        DataError: If lengths differ or there is no image.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8 (paired data).

    >>> paired_gain(np.zeros(4), np.ones(4), np.zeros(4, int)).value
    1.0
    """
    if not len(strata) or not len(first) == len(second) == len(strata):
        raise DataError(
            f"{np.shape(first)} and {np.shape(second)} scores of {len(strata)} images; one each "
            "for the same images is needed."
        )
    gains = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    numbers = group_numbers(groups)
    _, strata = np.unique(strata, return_inverse=True)
    means = [
        gains @ weights / weights.sum(axis=0)
        for weights in resample_weights(strata, numbers, num_resamples, seed)
    ]
    units = len(gains) if numbers is None else int(numbers.max()) + 1
    if not gains.any() and set(np.unique(first)) <= {0.0, 1.0}:
        # Never seen to differ is not known to be equal: so many more images could still differ.
        unseen = never_seen(units)
        return Interval(0.0, -unseen, unseen, caution(units, "n" if numbers is None else "groups"))
    return percentile_interval(
        float(gains.mean()),
        np.concatenate(means),
        units=units,
        noun="n" if numbers is None else "groups",
        lowest=-np.inf,
        highest=np.inf,
    )
