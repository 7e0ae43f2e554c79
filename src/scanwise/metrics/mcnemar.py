"""Is one model right more often than another on the same images? Exactly, for any number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from scanwise.core.errors import DataError
from scanwise.metrics.intervals import LEVEL


@dataclass(frozen=True)
class McNemar:
    """The images on which two models differ, and how surprising their imbalance is."""

    gained: int  # only the second model is right
    lost: int  # only the first is
    p_value: float  # in (0, 1]
    low: float  # of (gained - lost) / n, 95 %; both exclude 0 exactly where p < 0.05
    high: float


def mcnemar_exact(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test: were as many images gained as lost?

    Images on which both are right or both wrong say nothing of the difference. Of the others each
    model wins half where they are equally accurate, so that `gained` is binomial with 1/2. The
    images must be independent: not for several images of a patient.

    Args:
        first_right, second_right: Whether each model is right on each image, bool (n,), n > 0.

    Returns:
        The counts, p (1.0 where the models never differ), and the Clopper-Pearson bounds that
        belong to it. Those take the number of images that differ as given, and so are too narrow
        far from 0: only the one towards 0 is good to tell.

    Raises:
        DataError: If shapes differ, there is no image, or a value is neither 0 nor 1.

    Source:
        McNemar, Psychometrika 12, 1947; exact form as in Agresti, Categorical Data Analysis, 2013,
        section 11.1.

    >>> mcnemar_exact([1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1])
    McNemar(gained=6, lost=0, p_value=0.03125, low=0.0698..., high=0.857...)
    """
    first, second = np.asarray(first_right), np.asarray(second_right)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise DataError(
            f"right or wrong of the same images is needed, (n,) with n > 0; got {first.shape} and "
            f"{second.shape}."
        )
    if not np.isin(np.concatenate([first, second]), (0, 1)).all():
        raise DataError("right or wrong must be given as True or False (1 or 0).")
    gained = int((second > first).sum())
    lost = int((first > second).sum())
    differ = gained + lost
    if differ == 0:
        return McNemar(0, 0, 1.0, 0.0, 0.0)
    found = binomtest(gained, differ)
    bounds = found.proportion_ci(LEVEL, method="exact")
    low, high = (float(2 * share - 1) * differ / len(first) for share in bounds)
    return McNemar(gained, lost, float(found.pvalue), low, high)
