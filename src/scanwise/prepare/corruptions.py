"""Six ways in which pictures get worse, each in five severities; numpy and OpenCV only.

The kinds and strengths follow Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", ICLR 2019, whose generator gives one table for images of
32 px (CIFAR-10-C) and one for 224 px (ImageNet-C). Between them strengths are interpolated in the
logarithm of the image's shorter side; smaller and larger images get the nearer table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import ConfigError, nearest

SMALL_PX, LARGE_PX = 32, 224
NUM_SEVERITIES = 5
Picture = NDArray[np.float32]  # (h, w, c), 0 to 1 over the span of intensities


@dataclass(frozen=True)
class Corruption:
    """What is done, in which unit, how strongly for images of 32 px and of 224 px."""

    name: str
    unit: str
    what: str
    small: tuple[float, ...]
    large: tuple[float, ...]
    apply: Callable[[Picture, float, np.random.Generator], Picture]

    def strengths(self, side_px: int) -> tuple[float, ...]:
        """The five strengths for images whose shorter side is `side_px`, mildest first."""
        share = math.log(side_px / SMALL_PX) / math.log(LARGE_PX / SMALL_PX)
        share = min(max(share, 0.0), 1.0)
        mixed = ((1 - share) * a + share * b for a, b in zip(self.small, self.large, strict=True))
        return tuple(round(value, 3) for value in mixed)


def corrupt(
    images: NDArray[Any],
    name: str,
    severity: int,
    *,
    span: tuple[float, float],
    seed: int = 0,
) -> NDArray[Any]:
    """Copies of images after one corruption.

    Args:
        images: (n, h, w, c), uint8, uint16 or float32; c is any number of channels.
        name: A key of CORRUPTIONS.
        severity: 1 (mild) to 5.
        span: Intensities of black and white (`intensity_span`); results are clipped to it.
        seed: Of the noise: image i of n gets the same noise whatever the other images are.

    Returns:
        Like `images`, same type and shape.

    Raises:
        ConfigError: Unknown name or severity.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"unknown corruption '{name}'; {nearest(name, CORRUPTIONS)}")
    if severity not in range(1, NUM_SEVERITIES + 1):
        raise ConfigError(f"severity={severity} must be a whole number from 1 to {NUM_SEVERITIES}.")
    corruption = CORRUPTIONS[name]
    strength = corruption.strengths(min(images.shape[1:3]))[severity - 1]
    low, high = span
    width = (high - low) or 1.0
    result = np.empty_like(images)
    for row, image in enumerate(images):
        picture = ((image.astype(np.float32) - low) / width).clip(0, 1)
        changed = corruption.apply(picture, strength, np.random.default_rng([seed, severity, row]))
        values = changed.clip(0, 1) * width + low
        result[row] = values if images.dtype.kind == "f" else np.rint(values)
    return result


def intensity_span(images: NDArray[Any]) -> tuple[float, float]:
    """Black and white: 0 and 255 of 8-bit images, else the lowest and highest pixel."""
    if images.dtype == np.uint8:
        return 0.0, 255.0
    return float(images.min()), float(images.max())


def _blur(picture: Picture, sigma_px: float, generator: np.random.Generator) -> Picture:
    del generator
    blurred = cv2.GaussianBlur(picture, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)
    return _like(blurred, picture)


def _noise(picture: Picture, sigma: float, generator: np.random.Generator) -> Picture:
    return picture + generator.normal(0, sigma, picture.shape).astype(np.float32)


def _jpeg(picture: Picture, quality: float, generator: np.random.Generator) -> Picture:
    del generator
    pixels = np.rint(picture * 255).astype(np.uint8)
    parts = [pixels] if pixels.shape[2] == 3 else np.split(pixels, pixels.shape[2], axis=2)
    read = []
    for part in parts:
        data = cv2.imencode(".jpg", part[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
        back = np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), dtype=np.float32)
        read.append(_like(back, part)[..., ::-1])
    return np.asarray(np.concatenate(read, axis=2) / 255, dtype=np.float32)


def _brighter(picture: Picture, added: float, generator: np.random.Generator) -> Picture:
    del generator
    return picture + np.float32(added)


def _flatter(picture: Picture, factor: float, generator: np.random.Generator) -> Picture:
    del generator
    mean = picture.mean(axis=(0, 1), keepdims=True)
    result: Picture = (picture - mean) * np.float32(factor) + mean
    return result


def _smaller(picture: Picture, factor: float, generator: np.random.Generator) -> Picture:
    del generator
    height, width = picture.shape[:2]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return _like(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), picture)


def _like(result: NDArray[Any], picture: NDArray[Any]) -> NDArray[Any]:
    """OpenCV drops the last axis of one-channel images."""
    return result.reshape(picture.shape)


CORRUPTIONS: dict[str, Corruption] = {
    each.name: each
    for each in (
        Corruption(
            "blur", "sigma in px", "Gaussian blur, as out of focus",
            (0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6), _blur,
        ),
        Corruption(
            "noise", "sigma, share of black to white", "Gaussian noise on every pixel and channel",
            (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38), _noise,
        ),
        Corruption(
            "jpeg", "quality, 1 to 100", "saved as JPEG (8 bits a channel)",
            (80, 65, 58, 50, 40), (25, 18, 15, 10, 7), _jpeg,
        ),
        Corruption(
            "brightness", "added, share of black to white", "made brighter in all channels",
            (0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5), _brighter,
        ),
        Corruption(
            "contrast", "factor", "contrast reduced around each channel's mean",
            (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05), _flatter,
        ),
        Corruption(
            "resize", "share of the side kept", "made smaller (area) and back (bilinear)",
            (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25), _smaller,
        ),
    )
}  # fmt: skip
