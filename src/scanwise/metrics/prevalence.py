"""How many images of each class are really in a folder? Predicted counts, corrected for mistakes.

A model that finds 80 % of the sick and calls 10 % of the healthy sick counts wrongly in every
folder whose mix differs from the one it was trained on, and no number of images mends that. What it
does to each class is known from labelled images (the confusion matrix), and can be undone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import LEVEL, MIN_UNITS, NUM_RESAMPLES

_SUM_WEIGHT = 1e3  # how hard the least squares hold to "shares sum to 1"


def corrected_counts(
    confusion: ArrayLike,
    predicted_counts: ArrayLike,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Images of each class in a new folder, with 95 % intervals, from what was predicted there.

    The shares are the least-squares solution, on the simplex, of "predicted share = sum over
    classes of share times how often the class is called so"; for two classes that is Rogan and
    Gladen's estimate cut off at 0 and 1. The interval is for the folder itself, not for the place
    it comes from. It carries both uncertainties: of the confusion matrix, whose rows are drawn
    from their posterior under Jeffreys' prior (so that a class never seen to be confused is not
    held to be infallible), and of the new answers, which are drawn again for the images thought to
    be there. benchmarks/corrected_counts.py measures how often it holds the truth.

    It rests on one assumption: images of a class are confused in the new folder as they were in
    the labelled one (another mix, the same kind of images).

    Args:
        confusion: Labelled images that the model did not see, by true class (row) and predicted
            class (column), whole numbers (k, k); each row must have an image.
        predicted_counts: New images by predicted class, whole numbers (k,).
        num_resamples: Of both.
        seed: Of both.

    Returns:
        k intervals of images in [0, n]; the values sum to n. A class with under 30 labelled images
        carries a caution.

    Raises:
        DataError: If shapes do not fit, a count is negative, a class has no labelled image, or
            there is no new image.

    Source:
        Rogan and Gladen, Am. J. Epidemiol. 107, 1978; Buonaccorsi, Measurement Error, 2010,
        chapter 3; the constraint as in Saerens, Latinne and Decaestecker, Neural Comput. 14, 2002.
    """
    table, counts = _check(confusion, predicted_counts)
    n = int(counts.sum())
    labelled = table.sum(axis=1)
    value = n * shares_behind(table / labelled[:, None], counts / n)
    draws = _draws(table, counts, value, num_resamples, np.random.default_rng(seed))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return tuple(
        Interval(
            float(value[i]),
            float(min(low[i], value[i])),
            float(max(high[i], value[i])),
            f"too few to conclude (n={labelled[i]} labelled)" if labelled[i] < MIN_UNITS else None,
        )
        for i in range(len(counts))
    )


def shares_behind(called: Floats, predicted: Floats) -> Floats:
    """Shares (k,) on the simplex that come closest to giving the predicted shares.

    Args:
        called: How often each class (row) is called each class (column), (k, k); rows sum to 1.
        predicted: Share of images that were called each class, (k,), sums to 1.
    """
    k = len(predicted)
    rows = np.concatenate([called.T, np.full((1, k), _SUM_WEIGHT)])
    found, _ = nnls(rows, np.append(predicted, _SUM_WEIGHT))
    return np.asarray(found / found.sum())


def _draws(
    table: Ints, counts: Ints, value: Floats, num_resamples: int, rng: np.random.Generator
) -> Floats:
    """Corrected counts (r, k) under other confusion matrices and other answers.

    By matrix inversion and cut off at 0 and n afterwards: draws held to the simplex would all lie
    on one side of a class that is not there.
    """
    k, n = len(counts), int(counts.sum())
    smooth = table + 0.5  # Jeffreys' prior
    gammas = rng.standard_gamma(np.broadcast_to(smooth, (num_resamples, k, k)))
    called = gammas / gammas.sum(axis=2, keepdims=True)
    there = np.rint(value).astype(np.int64)
    answers = np.zeros((num_resamples, k))
    for images, row in zip(there, smooth / smooth.sum(axis=1, keepdims=True), strict=True):
        answers += rng.multinomial(images, row, size=num_resamples)
    found = np.linalg.solve(called.transpose(0, 2, 1), answers[:, :, None])[:, :, 0]
    return np.asarray(found.clip(0, n))


def _check(confusion: ArrayLike, predicted_counts: ArrayLike) -> tuple[Ints, Ints]:
    table, counts = np.asarray(confusion), np.asarray(predicted_counts)
    k = len(counts) if counts.ndim == 1 else 0
    if k < 2 or table.shape != (k, k):
        raise DataError(
            f"a confusion matrix (k, k) and predicted counts (k,) with k > 1 are needed, got "
            f"{table.shape} and {counts.shape}."
        )
    for name, given in (("confusion matrix", table), ("predicted counts", counts)):
        if not np.issubdtype(given.dtype, np.number) or not np.isfinite(given).all():
            raise DataError(f"the {name} must hold finite numbers.")
        if (given < 0).any() or (given != np.rint(given)).any():
            raise DataError(f"the {name} must hold whole numbers from 0, got {given.min():g}.")
    if (table.sum(axis=1) == 0).any():
        row = int(np.flatnonzero(table.sum(axis=1) == 0)[0])
        raise DataError(
            f"class {row} has no labelled image, so nothing is known about what it is taken for; "
            "counts can't be corrected."
        )
    if counts.sum() == 0:
        raise DataError("there is no new image to count.")
    return table.astype(np.int64), counts.astype(np.int64)
