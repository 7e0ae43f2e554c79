"""What a bundle remembers of its training images, to know when an image is unlike them.

`reference.safetensors` holds class means and a covariance of features (no image, no name) and the
threshold; SHA256SUMS covers it. Bundles without it answer "not known".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from scanwise.core.errors import DataError, IntegrityError
from scanwise.metrics.inputs import Floats
from scanwise.metrics.unknown import GaussianReference, fit_gaussians, known_threshold

REFERENCE = "reference.safetensors"
MAX_ROWS = 2000  # training images that are measured; more change little
MAX_CELLS = 2**21  # of the directions kept: 8 MB; of wide features fewer are


@dataclass(frozen=True, eq=False)
class Reference:
    """Where training features lie, and the score above which an image counts as unknown."""

    known: GaussianReference
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
            "means": self.known.means,
            "directions": self.known.directions,
            "variances": self.known.variances,
            "rest": np.array([self.known.rest], np.float64),
            "threshold": np.array([self.threshold], np.float64),
        }
        # One entry: several would be written in an order that differs from time to time.
        save_file(tensors, path, metadata={"method": "mahalanobis, version 1"})

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what `save` wrote.

        Raises:
            IntegrityError: If it is something else.
        """
        try:
            parts = load_file(path)
            means, directions, variances = (
                parts[name] for name in ("means", "directions", "variances")
            )
            rest, threshold = float(parts["rest"][0]), float(parts["threshold"][0])
        except (SafetensorError, KeyError, IndexError, ValueError) as error:
            raise IntegrityError(f"{path} is no reference of this scanwise: {error}.") from error
        shapes = (means.shape[1:], directions.shape[1:], variances.shape)
        if means.ndim != 2 or shapes != (means.shape[1:], means.shape[1:], directions.shape[:1]):
            raise IntegrityError(f"{path}: its parts do not fit together: {shapes}.")
        if not (variances > 0).all() or not rest > 0:
            raise IntegrityError(f"{path}: variances must be above 0.")
        return cls(GaussianReference(means, directions, variances, rest), threshold)


def fit_reference(
    train: NDArray[np.floating], classes: NDArray[np.int64], validation: NDArray[np.floating]
) -> Reference:
    """Measure where training features lie, and set the threshold on validation.

    Args:
        train: Features of training images, float (m, d).
        classes: Class of each, int (m,); all 0 where images have several labels.
        validation: Features of validation images, float (n, d).

    Raises:
        DataError: Too few validation images, or features that are not finite.
    """
    most = max(1, MAX_CELLS // train.shape[1])
    known = fit_gaussians(train, classes, most)
    if not np.isfinite(validation).all():
        raise DataError("a validation feature is not finite; the network diverged.")
    return Reference(known, known_threshold(known.scores(validation)))
