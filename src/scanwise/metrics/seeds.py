"""One number for several seeds of the same training: mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scanwise.core.errors import DataError


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
