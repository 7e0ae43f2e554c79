"""Is an image unlike all that the network was trained on? Scores from its features.

Higher means more unknown. Both scores are fitted on training features alone; the threshold comes
from validation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    group_numbers,
    percentile_interval,
    resample_weights,
)
from scanwise.metrics.neighbours import unit_rows
from scanwise.metrics.ranks import auroc, make_ranking, rank_areas

KEPT_SHARE = 0.95  # of validation images that count as known
MIN_VALIDATION = 20  # images; of fewer no 95 % can be kept
NEIGHBOURS = 10


@dataclass(frozen=True, eq=False)
class KnnReference:
    """Distance to the k-th nearest training image, on features of length 1.

    Source:
        Sun et al., ICML 2022, arXiv:2204.06507.
    """

    features: NDArray[np.float16]  # (m, d), each row of length 1 (or 0)
    neighbours: int  # k, in [1, m]

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Euclidean distance in [0, 2] to the k-th neighbour, float (n,), of features (n, d)."""
        from sklearn.neighbors import NearestNeighbors  # half a second to import

        known = self.features.astype(np.float32)
        found = NearestNeighbors(n_neighbors=self.neighbours, algorithm="brute").fit(known)
        distances, _ = found.kneighbors(unit_rows(features))
        return np.asarray(distances[:, -1], np.float64)


def fit_knn(features: NDArray[np.floating], neighbours: int = NEIGHBOURS) -> KnnReference:
    """Remember training features (m, d); k falls to m where fewer are there.

    Raises:
        DataError: If there is no row, or a feature is not finite.
    """
    _check(features)
    return KnnReference(unit_rows(features).astype(np.float16), min(neighbours, len(features)))


@dataclass(frozen=True, eq=False)
class GaussianReference:
    """Mahalanobis distance to the nearest class mean, with one covariance for all classes.

    The covariance is kept as its strongest directions and one variance for all others.

    Source:
        Lee et al., NeurIPS 2018, arXiv:1807.03888, without its input perturbation and its ensemble
        of layers.
    """

    means: NDArray[np.float32]  # (c, d)
    directions: NDArray[np.float32]  # (r, d), of length 1, at right angles
    variances: Floats  # (r,) along them, above 0
    rest: float  # variance along all other directions, above 0

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Distance to the nearest mean, float (n,) from 0 up, of features (n, d)."""
        given = np.asarray(features, np.float32)
        weights = 1 / self.variances - 1 / self.rest
        squared = np.full(len(given), np.inf)
        for mean in self.means:
            apart = (given - mean).astype(np.float64)
            along = apart @ self.directions.T
            found = (apart**2).sum(axis=1) / self.rest + along**2 @ weights
            np.minimum(squared, found, out=squared)
        return np.asarray(np.sqrt(np.maximum(squared, 0)))


def fit_gaussians(
    features: NDArray[np.floating], classes: ArrayLike, max_directions: int | None = None
) -> GaussianReference:
    """Means of each class and the covariance around them, of training features (m, d).

    The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf), since features
    are often as many as images.

    Args:
        features: float (m, d).
        classes: Class of each row, int (m,); all 0 (one mean) where images have several labels.
        max_directions: Strongest directions to keep [all].

    Raises:
        DataError: If there is no row, or a feature is not finite.

    Source:
        Ledoit and Wolf, J. Multivar. Anal. 88, 2004.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    _check(features)
    exact = np.asarray(features, np.float64)
    _, numbers = np.unique(np.asarray(classes), return_inverse=True)
    means = np.stack([exact[numbers == c].mean(axis=0) for c in range(numbers.max() + 1)])
    apart = exact - means[numbers]
    d, trace = exact.shape[1], float((apart**2).sum()) / len(exact)
    shrinkage = float(ledoit_wolf_shrinkage(apart, assume_centered=True)) if trace > 0 else 1.0
    values, directions = _principal(apart, max_directions)
    level = trace / d or 1.0
    kept = (1 - shrinkage) * values + shrinkage * level
    left = max(trace - float(values.sum()), 0.0) / max(d - len(values), 1)
    # A direction in which training images never differ: far, but not infinitely far.
    floor = 1e-6 * level
    return GaussianReference(
        means.astype(np.float32),
        directions.astype(np.float32),
        np.maximum(kept, floor),
        max((1 - shrinkage) * left + shrinkage * level, floor),
    )


def _principal(apart: Floats, most: int | None) -> tuple[Floats, Floats]:
    """Variances (r,) and directions (r, d) of centred rows (m, d), strongest first."""
    m, d = apart.shape
    wide = d > m  # then the small matrix is that between rows
    values, vectors = np.linalg.eigh((apart @ apart.T if wide else apart.T @ apart) / m)
    order = np.argsort(values)[::-1][:most]
    order = order[values[order] > 1e-10 * max(float(values.max()), 1e-300)]
    values, vectors = values[order], vectors[:, order]
    if not wide:
        return values, vectors.T
    return values, (apart.T @ vectors).T / np.sqrt(values * m)[:, None]


def known_threshold(validation_scores: ArrayLike) -> float:
    """A score that as few validation images as may be stay below, and at least 95 %.

    Halfway to the next higher score of validation: on an image's own score the last bits of
    another program's arithmetic would decide about it.

    Raises:
        DataError: Under 20 images: their 95 % is a guess.
    """
    scores = np.asarray(validation_scores, np.float64)
    if len(scores) < MIN_VALIDATION:
        raise DataError(
            f"validation has {len(scores)} images; {MIN_VALIDATION} are needed to set the "
            "threshold of unknown inputs."
        )
    last = float(np.quantile(scores, KEPT_SHARE, method="higher"))
    above = scores[scores > last]
    if not len(above):
        return last + 1e-6 * max(1.0, abs(last))
    return last + (float(above.min()) - last) / 2


def separation(
    known: ArrayLike,
    foreign: ArrayLike,
    known_groups: tuple[str, ...] | None = None,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """How well scores tell foreign images from known ones: AUROC with a 95 % bootstrap interval.

    Args:
        known: Scores of images like those trained on, finite float (n,).
        foreign: Scores of others, finite float (m,).
        known_groups: Group of each known image; then groups are drawn whole.

    Raises:
        DataError: If a score is not finite.
    """
    scores = np.concatenate([np.asarray(known, np.float64), np.asarray(foreign, np.float64)])
    strange = np.arange(len(scores)) >= len(np.asarray(known))
    if strange.all() or not strange.any():
        return Interval(None, reason="n=0")
    value = auroc(scores, strange)
    groups = None
    if known_groups is not None:
        groups = group_numbers((*known_groups, *([""] * int(strange.sum()))))
    ranking = make_ranking(scores, strange, np.arange(len(scores)), len(scores))
    blocks = resample_weights(strange.astype(np.int64), groups, num_resamples, seed)
    areas = np.concatenate([rank_areas(ranking, weights)[0] for weights in blocks])
    fewer = min(int(strange.sum()), int((~strange).sum()))
    return percentile_interval(value, areas, units=fewer, noun="rarer kind n")


def _check(features: NDArray[np.floating]) -> None:
    if features.ndim != 2 or not len(features):
        raise DataError(f"features must be (m, d) with m > 0, got {features.shape}.")
    if not np.isfinite(features).all():
        raise DataError("a training feature is not finite; the network diverged.")
