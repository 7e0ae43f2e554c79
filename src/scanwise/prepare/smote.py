"""Synthetic images between neighbours (SMOTE), of the training split only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from imblearn.over_sampling import SMOTE, RandomOverSampler
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from scanwise.core.errors import ConfigError, DataError, nearest

EMBEDDING_DIMS = 50
EMBEDDING_SIDE_PX = 32  # larger images are shrunk to this before the embedding
EMBEDDING_FIT_IMAGES = 20_000


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Training images made by SMOTE (m of them); they never enter another split.

    Image i is (1 − step) · a + step · b of the training images a, b = `parents[i]`; copies have
    a = b.
    """

    images: NDArray[np.uint8]  # (m, h, w, c)
    targets: NDArray[np.int64]  # (m,)
    parents: NDArray[np.int64]  # (m, 2) positions in the training images given
    steps: NDArray[np.float64]  # (m,) in [0, 1]
    notes: tuple[str, ...] = ()  # what could not be done as asked


def smote(
    pixels: NDArray[np.uint8],
    targets: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    seed: int,
    space: str = "smote",
    features: NDArray[np.floating[Any]] | None = None,
    num_neighbours: int = 5,
) -> Synthetic:
    """Fill every class up to the size of the largest with images between neighbours (SMOTE).

    A network learns from images, not from features, so the synthetic sample is always an image:
    the pixels between two neighbours. What the space decides is who counts as a neighbour. `smote`
    looks in an embedding: `features` if given, else the first 50 principal components of the
    images themselves (at most 32 px a side), fitted on these images. `smote-pixels` measures all
    pixels, noise included. Both blend two pictures, and a blend of two cells is not a cell: look at
    the thumbnails.

    Args:
        pixels: Training images only, uint8 (n, h, w, c).
        targets: Their classes, int (n,).
        class_names: k names, for the notes.
        seed: Of the draws.
        space: `smote` or `smote-pixels`.
        features: Embedding of the same images, float (n, d).
        num_neighbours: k of SMOTE. A class with fewer than k + 1 images is filled with copies
            instead; `notes` say so.

    Returns:
        The synthetic images alone; `with_synthetic` appends them.

    Raises:
        ConfigError: Multi-label targets, or an unknown space.
        DataError: If features and images differ in number.

    Source:
        Chawla et al., JAIR 2002, doi:10.1613/jair.953; sampled by imbalanced-learn.
    """
    if targets.ndim != 1:
        raise ConfigError("balance: SMOTE needs one class an image; multi-label images have many.")
    if space not in ("smote", "smote-pixels"):
        raise ConfigError(f"balance='{space}': {nearest(space, ('smote', 'smote-pixels'))}")
    if features is not None and len(features) != len(pixels):
        raise DataError(f"features have {len(features)} rows, images {len(pixels)}.")
    counts = np.bincount(targets, minlength=len(class_names))
    goal = int(counts.max())
    short = {c: goal for c, count in enumerate(counts.tolist()) if 0 < count < goal}
    copied = {c: goal for c in short if counts[c] < num_neighbours + 1}
    blended = {c: goal for c in short if c not in copied}
    points = _points(pixels, features, space, seed) if blended else None
    blends = _between_neighbours(points, targets, blended, num_neighbours, seed)
    copies = _copies(targets, copied, seed)
    pairs = _Pairs(
        np.concatenate([blends.parents, copies.parents]),
        np.concatenate([blends.steps, copies.steps]),
    )
    notes = tuple(
        f"Class '{class_names[c]}' has {counts[c]} training images, fewer than "
        f"{num_neighbours + 1}: it was filled with copies, not with SMOTE."
        for c in copied
    )
    return _render(pixels, targets, pairs, notes)


def with_synthetic(
    pixels: NDArray[np.uint8], targets: NDArray[np.int64], synthetic: Synthetic
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Training images with the synthetic ones behind them.

    Args:
        pixels: The training images that `smote` was given, uint8 (n, h, w, c).
        targets: Their classes, int (n,).

    Returns:
        Pixels (n + m, h, w, c), targets (n + m,) and the mark of synthetic rows, bool (n + m,).
    """
    marks = np.arange(len(pixels) + len(synthetic.images)) >= len(pixels)
    return (
        np.concatenate([pixels, synthetic.images]),
        np.concatenate([targets, synthetic.targets]),
        marks,
    )


class _Neighbours(BaseEstimator):  # type: ignore[misc]
    """Nearest neighbours for imbalanced-learn's SMOTE, measured in a space of our choice.

    SMOTE hands over rows of an identity matrix; `points` (a function, which scikit-learn's clone
    does not copy) gives the coordinates that belong to those rows.
    """

    def __init__(self, points: Any, n_neighbors: int) -> None:
        self.points = points
        self.n_neighbors = n_neighbors

    def fit(self, rows: csr_matrix, y: object = None) -> _Neighbours:
        self.index_ = NearestNeighbors(n_neighbors=self.n_neighbors).fit(self.points(rows.indices))
        return self

    def kneighbors(self, rows: csr_matrix, return_distance: bool = True) -> Any:
        return self.index_.kneighbors(self.points(rows.indices), return_distance=return_distance)

    def kneighbors_graph(self, rows: csr_matrix) -> Any:
        return self.index_.kneighbors_graph(self.points(rows.indices))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Which two images (positions) each synthetic one lies between, and how far from the first."""

    parents: NDArray[np.int64]  # (m, 2)
    steps: NDArray[np.float64]  # (m,)


def _between_neighbours(
    points: Any,
    targets: NDArray[np.int64],
    goals: dict[int, int],
    num_neighbours: int,
    seed: int,
) -> _Pairs:
    """Let SMOTE draw in barycentric coordinates: a synthetic row names its parents and its step."""
    if not goals:
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    n = len(targets)
    sampler = SMOTE(
        sampling_strategy=goals,
        random_state=seed,
        k_neighbors=_Neighbours(points, num_neighbours + 1),
    )
    drawn, _ = sampler.fit_resample(identity(n, format="csr", dtype=np.float64), targets)
    made = drawn[n:].tocoo()
    rows, columns, shares = made.row, made.col, made.data
    order = np.lexsort((columns, rows))
    rows, columns, shares = rows[order], columns[order], shares[order]
    first = np.searchsorted(rows, np.arange(drawn.shape[0] - n))
    last = np.searchsorted(rows, np.arange(drawn.shape[0] - n), side="right") - 1
    # A step of exactly 0 or 1 leaves one parent.
    steps = np.where(first == last, 0.0, shares[last])
    return _Pairs(np.stack([columns[first], columns[last]], axis=1).astype(np.int64), steps)


def _copies(targets: NDArray[np.int64], goals: dict[int, int], seed: int) -> _Pairs:
    """Fill classes with copies of their own images."""
    if not goals:
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    sampler = RandomOverSampler(sampling_strategy=goals, random_state=seed)
    sampler.fit_resample(np.arange(len(targets))[:, None], targets)
    chosen = sampler.sample_indices_[len(targets) :].astype(np.int64)
    return _Pairs(np.stack([chosen, chosen], axis=1), np.zeros(len(chosen)))


def _render(
    pixels: NDArray[np.uint8],
    targets: NDArray[np.int64],
    pairs: _Pairs,
    notes: tuple[str, ...],
) -> Synthetic:
    images = np.empty((len(pairs.steps), *pixels.shape[1:]), np.uint8)
    for i, ((a, b), step) in enumerate(zip(pairs.parents, pairs.steps, strict=True)):
        blend = (1 - step) * pixels[a].astype(np.float64) + step * pixels[b]
        images[i] = np.rint(blend)
    return Synthetic(images, targets[pairs.parents[:, 0]], pairs.parents, pairs.steps, notes)


def _points(
    pixels: NDArray[np.uint8],
    features: NDArray[np.floating[Any]] | None,
    space: str,
    seed: int,
) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
    """A function from positions to coordinates (m, d) in the space where neighbours are sought."""
    if space == "smote-pixels":
        # One class at a time becomes float; the whole set would take four times its memory.
        return lambda chosen: pixels[chosen].reshape(len(chosen), -1).astype(np.float32)
    embedding = _embed(pixels, seed) if features is None else np.asarray(features)
    return lambda chosen: embedding[chosen]


def _embed(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    """The first principal components of (shrunk) images, fitted on them: float (n, ≤50)."""
    side = EMBEDDING_SIDE_PX
    if max(pixels.shape[1:3]) > side:
        shrunk = [cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in pixels]
        pixels = np.stack(shrunk)
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    dims = min(EMBEDDING_DIMS, *flat.shape)
    rows = np.arange(len(flat))
    if len(rows) > EMBEDDING_FIT_IMAGES:
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(rows), EMBEDDING_FIT_IMAGES, replace=False))
    model = PCA(n_components=dims, svd_solver="randomized", random_state=seed).fit(flat[rows])
    return np.asarray(model.transform(flat), dtype=np.float32)
