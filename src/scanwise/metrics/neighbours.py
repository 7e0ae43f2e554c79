"""The training images that the network sees as most alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanwise.metrics.inputs import Floats, Ints

SHOWN = 3  # neighbours of an image


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each of n images its nearest training images, nearest first."""

    rows: Ints  # (n, 3) row numbers of the training features; fewer columns if train is smaller
    distances: Floats  # (n, 3) cosine distance, 0 (same direction) to 2


def nearest_neighbours(
    train: NDArray[np.floating], images: NDArray[np.floating], count: int = SHOWN
) -> Neighbours:
    """Search by brute force; exact.

    Args:
        train: Training features, finite float (m, d), m > 0.
        images: Features of the images asked about, finite float (n, d).
        count: Neighbours of each image; min(count, m) are returned.
    """
    from sklearn.neighbors import NearestNeighbors  # half a second to import

    count = min(count, len(train))
    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(unit_rows(train))
    if not len(images):
        return Neighbours(np.empty((0, count), np.int64), np.empty((0, count)))
    distances, rows = found.kneighbors(unit_rows(images))
    # Of vectors of length 1, half the squared distance is 1 - cosine.
    return Neighbours(rows.astype(np.int64), np.asarray(distances, np.float64) ** 2 / 2)


def unit_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows (n, d) scaled to length 1; rows of zeros stay zero."""
    exact = np.asarray(features, np.float32)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(
        exact, lengths, out=np.zeros_like(exact), where=lengths > 0
    )
    return scaled
