"""What a bundle remembers of its training images, to know when an image is unlike them.

`reference.safetensors` holds features (no pixels, no names) and the threshold; SHA256SUMS covers
it. Bundles without it answer "not measured".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from scanwise.core.errors import IntegrityError
from scanwise.metrics.inputs import Floats
from scanwise.metrics.unknown import KnnReference, fit_knn, known_threshold

REFERENCE = "reference.safetensors"
MAX_ROWS = 2000
MAX_CELLS = 2**22  # 8 MB of features; wide ones are remembered of fewer images


@dataclass(frozen=True, eq=False)
class Reference:
    """Training features and the score above which an image counts as unknown."""

    known: KnnReference
    threshold: float

    def scores(self, features: NDArray[np.floating]) -> Floats:
        """Unknown-input score of each image, float (n,); NaN where its features are not finite."""
        found = np.full(len(features), np.nan)
        finite = np.isfinite(features).all(axis=1)
        if finite.any():
            found[finite] = self.known.scores(features[finite])
        return found

    def in_distribution(self, scores: Floats) -> tuple[bool | None, ...]:
        """Whether each image is like the training images; None where there is no score."""
        return tuple(None if np.isnan(s) else bool(s <= self.threshold) for s in scores)

    def save(self, path: Path) -> None:
        tensors = {
            "features": self.known.features,
            "neighbours": np.array([self.known.neighbours], np.int64),
            "threshold": np.array([self.threshold], np.float64),
        }
        save_file(tensors, path, metadata={"method": "knn", "version": "1"})

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what `save` wrote.

        Raises:
            IntegrityError: If it is something else.
        """
        try:
            parts = load_file(path)
            features = parts["features"]
            neighbours, threshold = int(parts["neighbours"][0]), float(parts["threshold"][0])
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise IntegrityError(f"{path} is no reference of this scanwise: {error}.") from error
        if features.ndim != 2 or not 1 <= neighbours <= len(features):
            raise IntegrityError(f"{path}: {neighbours} neighbours of {features.shape} features.")
        return cls(KnnReference(features.astype(np.float16), neighbours), threshold)


def fit_reference(
    train: NDArray[np.floating], validation: NDArray[np.floating], seed: int = 0
) -> Reference:
    """Remember training features and set the threshold on validation.

    Args:
        train: Features of training images, float (m, d); at most 2,000 rows (fewer where features
            are wide) are kept, drawn by the seed.
        validation: Features of validation images, float (n, d).
        seed: Of the draw.

    Raises:
        DataError: Too few validation images, or features that are not finite.
    """
    known = fit_knn(train[reference_rows(*train.shape, seed)])
    return Reference(known, known_threshold(known.scores(validation)))


def reference_rows(num_rows: int, num_features: int, seed: int) -> NDArray[np.int64]:
    """Which of the training rows are remembered, sorted int (r,)."""
    most = min(MAX_ROWS, max(1, MAX_CELLS // max(num_features, 1)))
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, most, replace=False))
