"""Contrast of each image by itself: the same pure function for every split and at prediction.

Nothing here is fitted: an image's result depends on that image and the setting alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from scanwise.core.config import Settings
from scanwise.core.errors import ConfigError, nearest
from scanwise.core.runtime import thread_count

T = TypeVar("T")

BLOCK_BYTES = 1 << 20  # one job's images stay in the cache of a core


class Contrast(Settings):
    """What is done to the contrast of each image; `none` leaves the pixels alone."""

    kind: Literal["none", "clahe", "percentile"] = "none"
    clip: float = Field(default=1.5, gt=0, le=1000, description="Clip limit, OpenCV's unit.")
    grid: int = Field(default=8, ge=1, le=128, description="Tiles along each side.")
    low: float = Field(default=1.0, ge=0, lt=100, description="Percentile that becomes 0.")
    high: float = Field(default=99.0, gt=0, le=100, description="Percentile that becomes 255.")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"percentile {self.low:g} must be below {self.high:g}.")
        return self

    def __str__(self) -> str:
        """The spelling that `parse_contrast` reads back."""
        if self.kind == "clahe":
            return f"clahe:clip={self.clip!r},grid={self.grid}"
        if self.kind == "percentile":
            return f"percentile:{self.low!r},{self.high!r}"
        return "none"

    def tiles(self, size_px: tuple[int, int]) -> int:
        """Tiles along each side that an image of (height, width) bears: at least 2 px a tile."""
        return max(1, min(self.grid, min(size_px) // 2))

    def note(self, size_px: tuple[int, int]) -> str | None:
        """Say what had to be changed for images of this size, or None."""
        tiles = self.tiles(size_px)
        if self.kind != "clahe" or tiles == self.grid:
            return None
        return (
            f"CLAHE grid {self.grid} is too fine for {size_px[0]}×{size_px[1]} px images; "
            f"{tiles} tiles a side are used."
        )

    def apply(
        self, images: NDArray[np.uint8], *, num_threads: int | None = None
    ) -> NDArray[np.uint8]:
        """Enhance each image.

        CLAHE works on grey pixels, on L of CIELAB for 3 channels, and on each channel by itself for
        any other number. The percentile stretch is one for all channels, so hues stay.

        Args:
            images: uint8 (n, h, w, c).
            num_threads: Threads to use [those of torch].

        Returns:
            uint8 (n, h, w, c), a new array; `images` itself for `none`.

        Source:
            Zuiderveld, Graphics Gems IV 1994 (CLAHE; OpenCV's implementation).
        """
        if self.kind == "none":
            return images
        result = np.empty(images.shape, np.uint8)

        def job(start: int, stop: int) -> None:
            result[start:stop] = self.apply_block(np.ascontiguousarray(images[start:stop]))

        in_blocks(job, len(images), images[:1].nbytes, num_threads)
        return result

    def apply_block(self, block: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`apply` in the calling thread alone; `block` is C-contiguous."""
        if self.kind == "clahe":
            return _clahe(block, self.clip, self.tiles((block.shape[1], block.shape[2])))
        if self.kind == "percentile":
            return _stretch(block, self.low, self.high)
        return block


def parse_contrast(spec: str) -> Contrast:
    """Read `none`, `clahe[:clip=1.5,grid=8]` or `percentile[:1,99]`.

    Raises:
        ConfigError: Unknown kind or option (with the nearest), or a value out of range.
    """
    kind, _, options = spec.strip().partition(":")
    if kind not in ("none", "clahe", "percentile"):
        raise ConfigError(
            f"contrast={spec!r}: unknown contrast '{kind}'; "
            f"{nearest(kind, ('none', 'clahe', 'percentile'))}"
        )
    if kind == "none" and options:
        raise ConfigError(f"contrast={spec!r}: 'none' takes no options.")
    values: dict[str, Any] = {"kind": kind}
    if options:
        values |= _clahe_options(spec, options) if kind == "clahe" else _limits(spec, options)
    try:
        return Contrast(**values)
    except ValueError as error:
        raise ConfigError(f"contrast={spec!r}: {_first_line(error)}") from error


def _clahe_options(spec: str, options: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in options.split(","):
        name, _, text = (part.strip() for part in item.partition("="))
        if name not in ("clip", "grid"):
            raise ConfigError(
                f"contrast={spec!r}: unknown option '{name}'; {nearest(name, ('clip', 'grid'))}"
            )
        values[name] = text
    return values


def _limits(spec: str, options: str) -> dict[str, Any]:
    parts = [part.strip() for part in options.split(",")]
    if len(parts) != 2:
        raise ConfigError(f"contrast={spec!r}: give two percentiles, such as percentile:1,99.")
    return {"low": parts[0], "high": parts[1]}


def _first_line(error: ValueError) -> str:
    """The reason of a pydantic error, with the setting and its value."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    item = details()[0]
    where = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{where}={item['input']!r}: {message}." if where else f"{message}."


def _clahe(block: NDArray[np.uint8], clip: float, tiles: int) -> NDArray[np.uint8]:
    # One object for each call: it has buffers of its own, so threads can't share it.
    clahe = cv2.createCLAHE(clipLimit=clip, tileGridSize=(tiles, tiles))
    result = np.empty_like(block)
    channels = block.shape[3]
    for image, out in zip(block, result, strict=True):
        if channels == 3:
            lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
            lab[:, :, 0] = clahe.apply(np.ascontiguousarray(lab[:, :, 0]))
            out[:] = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
        else:
            for k in range(channels):
                out[:, :, k] = clahe.apply(np.ascontiguousarray(image[:, :, k]))
    return result


def _stretch(block: NDArray[np.uint8], low: float, high: float) -> NDArray[np.uint8]:
    flat = block.reshape(len(block), -1)
    bounds = np.percentile(flat, (low, high), axis=1).astype(np.float32)
    span = bounds[1] - bounds[0]
    # An image with one level between the percentiles has nothing to stretch.
    flatness = span <= 0
    scale = np.where(flatness, 1, np.float32(255) / np.where(flatness, 1, span))
    offset = np.where(flatness, 0, bounds[0])
    stretched = (flat - offset[:, None]) * scale[:, None].astype(np.float32)
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8).reshape(block.shape)


def in_blocks(
    job: Callable[[int, int], T], n: int, row_bytes: int, num_threads: int | None = None
) -> list[T]:
    """Run job(start, stop) over all n rows in blocks of about 1 MB, in threads; results in order.

    The threads are as many as torch may use, so the program's one limit on threads holds here too.
    """
    workers = num_threads or min(thread_count(), os.cpu_count() or 1)
    rows = max(1, min(BLOCK_BYTES // max(1, row_bytes), -(-n // workers)))
    starts = range(0, n, rows)
    with _one_opencv_thread():
        if workers == 1 or len(starts) <= 1:
            return [job(start, min(start + rows, n)) for start in starts]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda start: job(start, min(start + rows, n)), starts))


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Threads over images, not inside them: OpenCV's own threads lose on small images."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
