"""Exact areas under the ROC and precision-recall curves, with ties, for many weightings at once.

Both areas need only the weight of positives and negatives at and above each score that a positive
has. Scores are sorted once; a bootstrap resample only changes weights, and a sparse product sums
those for hundreds of resamples in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are loaded at first use
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.metrics.counts import ratio
from scanwise.metrics.inputs import Floats


@dataclass(frozen=True, eq=False)
class Ranking:
    """Who stands where, for g distinct scores of positives, highest first.

    `positives` (g, n) sums the weights of positives at each score. `negatives` (2g + 1, n) sums
    those of negatives: row 2j above score j (below score j - 1), row 2j + 1 at score j.
    """

    positives: Any  # scipy.sparse.csr_matrix
    negatives: Any


def make_ranking(
    scores: Floats, positive: NDArray[np.bool_], images: NDArray[np.int64], n: int
) -> Ranking:
    """Sort m scores once.

    Args:
        scores: Higher means more likely positive, float (m,).
        positive: Truth, bool (m,).
        images: Which image (column of the weights) each score belongs to, int (m,) in [0, n).
        n: Number of images.
    """
    levels = np.unique(scores[positive])  # ascending
    g = len(levels)
    left = np.searchsorted(levels, scores, side="left")
    right = np.searchsorted(levels, scores, side="right")
    tied = right > left
    # Ascending level a is descending level g - 1 - a; a gap lies above all levels below it.
    row = np.where(tied, 2 * (g - 1 - left) + 1, 2 * (g - left))
    ones = np.ones(len(scores))
    negative = ~positive
    return Ranking(
        positives=scipy.sparse.csr_matrix(
            (ones[positive], (g - 1 - left[positive], images[positive])), shape=(g, n)
        ),
        negatives=scipy.sparse.csr_matrix(
            (ones[negative], (row[negative], images[negative])), shape=(2 * g + 1, n)
        ),
    )


def rank_areas(ranking: Ranking, weights: Floats) -> tuple[Floats, Floats]:
    """AUROC and average precision under each of r weightings (n, r); two float (r,).

    NaN where a weighting has no positives (AUROC: or no negatives).
    """
    hits, false, tied, negatives = _counted(ranking, weights)
    true = np.cumsum(hits, axis=0)
    flagged = true + false
    precision = np.divide(true, flagged, out=np.zeros_like(true), where=flagged > 0)
    return (
        _roc(hits, false, tied, negatives),
        ratio((hits * precision).sum(axis=0), hits.sum(axis=0)),
    )


def roc_areas(ranking: Ranking, weights: Floats) -> Floats:
    """The AUROC of `rank_areas` without the other area, (r,)."""
    return _roc(*_counted(ranking, weights))


def _counted(ranking: Ranking, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """At each of g scores positives, negatives at or above it, negatives tied; all negatives."""
    hits = np.asarray(ranking.positives @ weights)  # (g, r)
    misses = np.asarray(ranking.negatives @ weights)  # (2g + 1, r)
    tied = misses[1::2].copy()
    np.cumsum(misses, axis=0, out=misses)
    return hits, misses[1::2], tied, misses[-1]


def _roc(hits: Floats, false: Floats, tied: Floats, negatives: Floats) -> Floats:
    """Mann-Whitney: pairs in the right order, and half of the tied ones."""
    ordered = (hits * (negatives - false + 0.5 * tied)).sum(axis=0)
    return ratio(ordered, hits.sum(axis=0) * negatives)


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a random positive scores above a random negative, ties counting half.

    Args:
        scores: Higher means more likely positive, float (n,), finite.
        positive: Truth, (n,) of 0 and 1.

    Returns:
        Area in [0, 1]; NaN if only one of the two kinds is there.

    Raises:
        DataError: If shapes differ or a score is not finite.

    Source:
        Hanley and McNeil, Radiology 143, 1982.

    >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    0.75
    """
    return _areas(scores, positive)[0]


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """Area under the precision-recall steps (AUPRC), without interpolation.

    Takes what `auroc` takes; an uninformed score gets the share of positives, not 0.5.

    Returns:
        Area in (0, 1]; NaN if there are no positives.

    Source:
        Davis and Goadrich, ICML 2006; same definition as scikit-learn's average_precision_score.
    """
    return _areas(scores, positive)[1]


def _areas(scores: ArrayLike, positive: ArrayLike) -> tuple[float, float]:
    given, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive)
    if given.shape != truth.shape or given.ndim != 1:
        raise DataError(f"scores {given.shape} and truth {truth.shape} must both be (n,).")
    if not np.isfinite(given).all():
        raise DataError(f"score {int(np.flatnonzero(~np.isfinite(given))[0])} is not finite.")
    n = len(given)
    ranking = make_ranking(given, truth.astype(bool), np.arange(n), n)
    roc, pr = rank_areas(ranking, np.ones((n, 1)))
    return float(roc[0]), float(pr[0])
