"""Images that differ from the others of their class: dark, bright, flat, blurred, of odd size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Dataset
from scanwise.data.near_duplicates import to_8bit

BLOCK = 1024
# Robust z-score beyond which an image is an outlier of its class. For a normal distribution one in
# 3.5 million; medical images have heavier tails.
CUT = 5.0
MEASURES = ("brightness", "contrast", "sharpness", "entropy", "saturation")
TOO = {
    "brightness": ("dark", "bright"),
    "contrast": ("flat", "contrasty"),
    "sharpness": ("blurred", "noisy or sharp"),
    "entropy": ("poor in information", "rich in grey levels"),
    "saturation": ("free of clipped pixels", "clipped to black or white"),
    "size": ("small", "large"),
}


@dataclass(frozen=True)
class Outlier:
    """An image unlike its class, by its strongest reason."""

    row: int
    sample: str
    class_name: str
    reason: str
    score: float  # robust z of the reason, always positive

    def to_json(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "sample": self.sample,
            "class": self.class_name,
            "reason": self.reason,
            "score": round(self.score, 2),
        }


@dataclass(frozen=True, eq=False)
class Quality:
    """Scores (n,) of every image and the outliers, strongest first."""

    scores: dict[str, NDArray[np.float64]]
    outliers: tuple[Outlier, ...]

    def to_json(self, most: int = 12) -> dict[str, Any]:
        """Counts and the top offenders."""
        return {
            "cut": CUT,
            "outliers": len(self.outliers),
            "top": [outlier.to_json() for outlier in self.outliers[:most]],
        }


def measure_quality(dataset: Dataset) -> Quality:
    """Score every image and find each class's outliers by median and MAD.

    Raises:
        DataError: If every image is of a single colour.
    """
    parts = [
        _measures(to_8bit(np.asarray(dataset.images[start : start + BLOCK])))
        for start in range(0, len(dataset), BLOCK)
    ]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}
    if not (scores["contrast"] > 0).any():
        raise DataError(
            f"{dataset.name}: all {len(dataset)} images are of a single colour; look at the files."
        )
    if dataset.original_sizes is not None and np.ptp(dataset.original_sizes) > 0:
        scores["size"] = np.log2(dataset.original_sizes.astype(np.float64).prod(axis=1))
    return Quality(scores, _outliers(dataset, scores))


def _measures(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """Each measure (b,) of uint8 images (b, h, w, c)."""
    grey = images[..., 0] if images.shape[3] == 1 else images.mean(axis=3).round().astype(np.uint8)
    flat = grey.reshape(len(grey), -1)
    sharp = [float(cv2.Laplacian(image, cv2.CV_32F).var()) for image in grey]
    return {
        "brightness": flat.mean(axis=1),
        "contrast": flat.std(axis=1),
        "sharpness": np.log1p(np.array(sharp)),
        "entropy": np.array([_entropy(row) for row in flat]),
        "saturation": ((flat == 0) | (flat == 255)).mean(axis=1),
    }


def _entropy(pixels: NDArray[np.uint8]) -> float:
    """Bits a pixel of the grey-level histogram (Shannon 1948)."""
    shares = np.bincount(pixels, minlength=256) / len(pixels)
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def _outliers(dataset: Dataset, scores: dict[str, NDArray[np.float64]]) -> tuple[Outlier, ...]:
    strongest = np.zeros(len(dataset))
    reasons = [""] * len(dataset)
    single = np.zeros(len(dataset), np.int64) if dataset.task == "multilabel" else dataset.targets
    for name, values in scores.items():
        z = _robust_z(values, single)
        for row in np.flatnonzero(np.abs(z) > np.maximum(CUT, strongest)):
            strongest[row] = abs(z[row])
            reasons[row] = f"{TOO[name][int(z[row] > 0)]} ({name} {values[row]:.3g})"
    for row in np.flatnonzero(scores["contrast"] == 0):
        strongest[row], reasons[row] = np.inf, "of a single colour"
    rows = np.flatnonzero(strongest > CUT)
    order = rows[np.argsort(-strongest[rows], kind="stable")]
    return tuple(
        Outlier(
            int(row),
            dataset.sample_ids[row],
            "" if dataset.task == "multilabel" else dataset.class_names[dataset.targets[row]],
            reasons[row],
            min(float(strongest[row]), 1e6),
        )
        for row in order
    )


def _robust_z(values: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """(value - median) / (1.4826 MAD) within each class; 0 where a class has under 10 images.

    A class whose MAD vanishes (most images share one value) has no scale, so nothing is judged.
    """
    z = np.zeros(len(values))
    for target in np.unique(targets):
        rows = np.flatnonzero(targets == target)
        centre = np.median(values[rows])
        spread = 1.4826 * np.median(np.abs(values[rows] - centre))
        if len(rows) >= 10 and spread > 1e-9:
            z[rows] = (values[rows] - centre) / spread
    return z
