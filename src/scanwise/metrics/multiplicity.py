"""Many comparisons find something by chance; Holm's correction keeps that chance at 5 % in all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scanwise.core.errors import DataError
from scanwise.metrics.inputs import Floats


def holm(p_values: ArrayLike) -> Floats:
    """Corrected p values: the chance of even one false alarm in the family stays below alpha.

    The smallest p is multiplied by m, the next by m - 1, and so on; none falls below a smaller one
    and none exceeds 1. Valid however the comparisons depend on each other.

    Args:
        p_values: Of the m comparisons of one family, (m,), each in [0, 1].

    Returns:
        Corrected p values in the order given, (m,).

    Raises:
        DataError: If a value is not in [0, 1].

    Source:
        Holm, Scand. J. Stat. 6, 1979.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    given = np.asarray(p_values, dtype=np.float64)
    if given.ndim != 1 or not ((given >= 0) & (given <= 1)).all():
        raise DataError(f"p values must be (m,) numbers in [0, 1], got {given.tolist()}.")
    order = np.argsort(given, kind="stable")
    stepped = given[order] * np.arange(len(given), 0, -1)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return corrected
