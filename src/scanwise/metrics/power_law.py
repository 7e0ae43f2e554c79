"""How an error falls with the number of training images: err(n) = a · n^-b + c, c >= 0.

For a given b the best a and c are those of a straight line in n^-b, in closed form; b is searched
on a grid that is made finer around the best point. So thousands of bootstrap resamples are fitted
at once, none of them can fail to converge, and all are fitted as the estimate is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scanwise.core.errors import DataError
from scanwise.metrics.counts import ratio
from scanwise.metrics.inputs import Floats

MIN_SIZES = 4  # three parameters; with fewer sizes nothing is left to contradict the law
STEEPEST = 3.0  # largest b; learning curves of classifiers lie between 0.05 and 2
_FLATTEST = 0.05
_COARSE, _FINE, _ROUNDS = 80, 21, 5
_CHUNK = 500  # resamples at once


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """Fitted curves, one an element: err(n) = a · (n / scale)^-b + c."""

    a: Floats  # (r,): how much of the error at n = scale more images take away; may be negative
    b: Floats  # (r,) in [0.05, 3]
    c: Floats  # (r,) >= 0: the error that stays
    scale: float

    def at(self, sizes: ArrayLike) -> Floats:
        """Errors (m, r) at m numbers of images, kept within [0, 1]."""
        relative = np.asarray(sizes, np.float64).reshape(-1, 1) / self.scale
        return np.clip(self.a * relative**-self.b + self.c, 0.0, 1.0)


def fit_power_law(sizes: ArrayLike, errors: ArrayLike, spread: ArrayLike | None = None) -> PowerLaw:
    """Fit the law by weighted least squares.

    `a` may be negative, so that an error that rises with more images is told as it was measured;
    were it not, every curve would promise a gain.

    Args:
        sizes: Numbers of training images, float (s,), at least MIN_SIZES distinct ones, above 0.
        errors: Errors (s,) or (s, r), finite.
        spread: Standard deviation of each size's error (s,), above 0 [equal].

    Returns:
        r curves (one for errors (s,)).

    Raises:
        DataError: Too few distinct sizes, or shapes that differ.

    Source:
        The law: Cortes et al., NIPS 1993; Hestness et al. 2017, arXiv:1712.00409. Linear parameters
        eliminated: Golub and Pereyra, SIAM J. Numer. Anal. 10, 1973 (variable projection).

    >>> curve = fit_power_law([100, 200, 400, 800], [0.3, 0.25, 0.225, 0.2125])
    >>> round(float(curve.b[0]), 3), round(float(curve.c[0]), 3)
    (1.0, 0.2)
    """
    n = np.asarray(sizes, np.float64)
    table = np.asarray(errors, np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if len(np.unique(n)) < MIN_SIZES or (n <= 0).any():
        raise DataError(
            f"a power law needs {MIN_SIZES} distinct numbers of images above 0, got "
            f"{len(np.unique(n))}: {', '.join(f'{size:g}' for size in np.unique(n))}."
        )
    if len(table) != len(n):
        raise DataError(f"{len(n)} sizes, but errors of {len(table)}.")
    weights = np.ones(len(n)) if spread is None else 1 / np.asarray(spread, np.float64) ** 2
    scale = float(n.max())
    parts = [
        _fit(n / scale, table[:, start : start + _CHUNK], weights / weights.sum())
        for start in range(0, table.shape[1], _CHUNK)
    ]
    a, b, c = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return PowerLaw(a, b, c, scale)


def _fit(n: Floats, errors: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """a, b and c (r,) of errors (s, r)."""
    y = errors.T[:, None, :]  # (r, 1, s)
    grid = np.geomspace(_FLATTEST, STEEPEST, _COARSE)[None].repeat(len(y), 0)  # (r, g)
    for turn in range(_ROUNDS + 1):
        a, c, misfit = _line(n ** -grid[..., None], y, weights)
        best = misfit.argmin(axis=1)
        rows = np.arange(len(y))
        if turn == _ROUNDS:
            break
        low = grid[rows, np.maximum(best - 1, 0)]
        high = grid[rows, np.minimum(best + 1, grid.shape[1] - 1)]
        grid = np.linspace(low, high, _FINE, axis=1)
    return a[rows, best], grid[rows, best], c[rows, best]


def _line(x: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Slope, level >= 0 and misfit of lines y = a x + c; x (r, g, s), y (r, 1, s)."""
    mean_x, mean_y = x @ weights, y @ weights
    dx, dy = x - mean_x[..., None], y - mean_y[..., None]
    a = ratio((dx * dy) @ weights, (dx * dx) @ weights)
    c = mean_y - a * mean_x
    through_zero = ratio((x * y) @ weights, (x * x) @ weights)
    a = np.where(c < 0, through_zero, a)
    c = np.maximum(c, 0.0)
    misfit = (y - a[..., None] * x - c[..., None]) ** 2 @ weights
    return a, c, misfit
