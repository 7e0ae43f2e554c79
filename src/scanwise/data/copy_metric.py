"""A distance between images that forgives what copying does to them.

Perceptual hashes call all chest X-rays alike. Here the data set itself says which differences
matter: images of it are copied as careless people copy them, and a linear map is fitted that
shrinks what this changes and stretches what tells images apart (Fisher's discriminant).

Source: Fisher, Annals of Eugenics 7, 1936.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from scanwise.core.runtime import one_blas_thread
from scanwise.data.views import (
    NUM_SYMMETRIES,
    Bytes,
    Floats,
    View,
    symmetries,
    symmetry,
    thumbnails,
    warp,
)


@dataclass(frozen=True, eq=False)
class Metric:
    """Linear map of thumbnails to a space where copies lie close."""

    centre: Floats  # (e,), where the mean image goes; the same in all 8 symmetries
    projections: Floats  # (8, d, e), of thumbnails seen in each symmetry

    def embed(self, thumbs: Floats, code: int = 0) -> Floats:
        """Unit vectors, float32 (n, e), of thumbnails (n, t, t, c) in symmetry `code`."""
        return self._unit(thumbs.reshape(len(thumbs), -1) @ self.projections[code])

    def embed_symmetries(self, thumbs: Floats) -> Floats:
        """Unit vectors of all symmetries, float32 (8, n, e), in one go."""
        return self._unit(thumbs.reshape(len(thumbs), -1) @ self.projections)

    def _unit(self, vectors: Floats) -> Floats:
        vectors = vectors - self.centre
        length = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.asarray(vectors / np.maximum(length, 1e-12), dtype=np.float32)


def fit_metric(
    work: Bytes, rng: np.random.Generator, *, moved: bool, size: int, num_samples: int = 1500
) -> Metric:
    """Fisher's discriminant between what copying changes and what differs between images.

    Both covariances are averaged over the 8 symmetries, so that no orientation is preferred.

    Args:
        work: Working copies (n, s, s, c).
        rng: Chooses the sample and its changes.
        moved: Whether copies may also be shifted, turned and zoomed a little.
        size: Directions kept, the most telling ones.
        num_samples: Copies made at least (twice as many as there are images chosen).
    """
    chosen = work[rng.choice(len(work), size=min(num_samples, len(work)), replace=False)]
    base = thumbnails(chosen)
    repeats = max(2, -(-num_samples // len(chosen)))
    changes = np.concatenate(
        [thumbnails(changed(chosen, rng, moved)) - base for _ in range(repeats)]
    )
    mean = np.mean([each.mean(axis=0) for each in symmetries(base)], axis=0).ravel()
    within = _scatter(changes, np.zeros_like(mean))
    total = _scatter(base, mean)
    ridge = 1e-3 * np.trace(within) / len(mean) + 1e-9
    last, kept = len(mean) - 1, min(size, len(mean))
    with one_blas_thread():
        _, vectors = eigh(
            total, within + ridge * np.eye(len(mean)), subset_by_index=[last - kept + 1, last]
        )
    projection = vectors[:, ::-1]
    centre = np.asarray(mean @ projection, np.float32)
    return Metric(centre, _in_symmetries(projection, base.shape[1:]))


def _in_symmetries(projection: NDArray[np.float64], shape: tuple[int, ...]) -> Floats:
    """Projections (8, d, e) that do to a thumbnail what `projection` does to its symmetries."""
    places = np.arange(len(projection)).reshape(1, *shape)
    result = np.empty((NUM_SYMMETRIES, *projection.shape), np.float32)
    for code in range(NUM_SYMMETRIES):
        result[code, symmetry(places, code).ravel()] = projection
    return result


def _scatter(thumbs: NDArray[np.generic], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros((len(mean), len(mean)))
    for each in symmetries(thumbs):
        flat = each.reshape(len(thumbs), -1).astype(np.float64) - mean
        total += flat.T @ flat
    return total / (len(thumbs) * NUM_SYMMETRIES)


def changed(images: Bytes, rng: np.random.Generator, moved: bool) -> Bytes:
    """Each image as a copier leaves it: lit, tinted, noisy, blurred, compressed; moved if asked."""
    side, channels = images.shape[1], images.shape[3]
    result = np.empty_like(images)
    for i, original in enumerate(images):
        image = original
        if moved:
            zoom, angle_deg = float(np.exp(rng.uniform(-0.1, 0.1))), float(rng.uniform(-10, 10))
            x, y = rng.uniform(-0.04, 0.04, 2)
            image = warp(image, View(zoom, angle_deg, (x, y)).matrix(side))
        light = rng.uniform(0.85, 1.12) * rng.uniform(0.95, 1.05, channels)
        pixels = image * light + rng.normal(0, rng.uniform(0, 4), image.shape)
        if rng.random() < 0.4:
            pixels = cv2.GaussianBlur(pixels, (3, 3), rng.uniform(0.3, 0.9)).reshape(image.shape)
        copy = np.clip(pixels, 0, 255).astype(np.uint8)
        result[i] = recompressed(copy, int(rng.integers(50, 96))) if rng.random() < 0.85 else copy
    return result


def recompressed(image: Bytes, quality: int) -> Bytes:
    """The image after a trip through JPEG; grey, or RGB."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.uint8)
    return decoded.reshape(image.shape)[..., ::-1]
