"""Small square 8-bit copies of images, and the ways to look at them: mirrored, turned, moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

THUMB_PX = 16  # what copies are told by; finer detail is what compression changes
NUM_SYMMETRIES = 8

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """One way to look at an image: turned and magnified about its centre, then shifted."""

    zoom: float = 1.0
    angle_deg: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)  # shares of the side

    def matrix(self, side: int) -> NDArray[np.float64]:
        """Map of source to target pixels, (2, 3)."""
        centre = (side - 1) / 2
        matrix = cv2.getRotationMatrix2D((centre, centre), self.angle_deg, self.zoom)
        matrix[:, 2] += np.array(self.shift) * side
        return np.asarray(matrix, np.float64)


def to_8bit(images: NDArray[np.generic]) -> Bytes:
    """uint8 as it is; any other type scaled image by image from its 0.5th to 99.5th percentile."""
    if images.dtype == np.uint8:
        return np.asarray(images, np.uint8)
    values = np.asarray(images, dtype=np.float32)
    low, high = np.percentile(values, (0.5, 99.5), axis=(1, 2, 3), keepdims=True)
    scaled = (values - low) / np.maximum(high - low, 1e-12) * 255
    return np.asarray(np.clip(np.round(scaled), 0, 255), dtype=np.uint8)


def working_copies(images: NDArray[np.generic]) -> Bytes:
    """Small square 8-bit copies (n, s, s, 1 or 3) that the search and the alignment use.

    Up to 48 px a side (32 px above 20,000 images), never larger than the image.
    """
    n, height, width, channels = images.shape
    side = max(4, min(height, width, 48 if n <= 20_000 else 32))
    copies = np.empty((n, side, side, 3 if channels == 3 else 1), np.uint8)
    step = max(1, 2**24 // max(1, height * width * channels))
    grey = channels == 3  # until a picture in colour is met
    for start in range(0, n, step):
        block = to_8bit(images[start : start + step])
        if channels not in (1, 3):
            block = block.mean(axis=3, keepdims=True).round().astype(np.uint8)
        for i, image in enumerate(block, start):
            copies[i] = _shrink(image, side)
            grey = grey and bool((copies[i] == copies[i, ..., :1]).all())
    if grey:
        return copies[..., :1]  # grey saved as colour
    return copies


def contrast(images: Bytes) -> NDArray[np.float64]:
    """Standard deviation of each image's pixels (n,), in grey levels."""
    return np.array([image.std() for image in images])


def thumbnails(images: Bytes) -> Floats:
    """Float (n, t, t, c) with light and contrast taken out, channel by channel."""
    small = np.stack([_shrink(image, THUMB_PX) for image in images]).astype(np.float32)
    small -= small.mean(axis=(1, 2), keepdims=True)
    scale = np.sqrt((small**2).mean(axis=(1, 2, 3), keepdims=True))
    # Ten grey levels: the contrast of nearly flat images is noise and must not shape the metric.
    return np.asarray(small / (scale + 10), dtype=np.float32)


def _shrink(image: Bytes, side: int) -> Bytes:
    if image.shape[:2] != (side, side):
        image = np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return image.reshape(side, side, -1)


def symmetries(images: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """The 8 flips and quarter turns of square images (n, s, s, c)."""
    for code in range(NUM_SYMMETRIES):
        yield symmetry(images, code)


def symmetry(images: NDArray[np.generic], code: int) -> NDArray[np.generic]:
    """Quarter turns (code // 2), then a mirror (code % 2), over axes 1 and 2."""
    turned = np.rot90(images, code // 2, axes=(1, 2))
    return turned[:, :, ::-1] if code % 2 else turned


def warp(image: Bytes, matrix: NDArray[np.float64], *, inverse: bool = False) -> Bytes:
    """Move an image by a source-to-target map (or its inverse); the outside is mirrored in."""
    side = image.shape[0]
    flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if inverse else 0)
    moved = cv2.warpAffine(
        image, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.uint8).reshape(image.shape)
