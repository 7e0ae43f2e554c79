"""Decoded pixels: upright, plain, without alpha, promoted, brought to a square.

What the readers of every format share; they import from here, and `images` imports them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanwise.core.config import Fit
from scanwise.core.errors import DataError, one_line

MAX_PIXELS = 100_000_000  # 10,000 x 10,000: more is a slide scan or a decompression bomb
ORIENTATION_TAG = 0x0112  # TIFF 6.0 and EXIF 2.3, values 1-8
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")


def slide_reason(extent: str) -> str:
    """Why a whole-slide image is refused; `extent` is " of 3 levels, 9000x9000 px" or empty."""
    return (
        f"is a whole-slide image{extent}, and scanwise reads 2-D pictures; cut tiles out of it "
        "first (QuPath, OpenSlide) and train on those"
    )


def check_pixel_count(height: int, width: int) -> None:
    """Refuse before decoding what would not fit.

    Raises:
        DataError: If a side is 0 or there are over MAX_PIXELS.
    """
    if height <= 0 or width <= 0:
        raise DataError(f"has a side of 0 px ({width}x{height})")
    if height * width > MAX_PIXELS:
        raise DataError(
            f"has {width}x{height} px, over the limit of {MAX_PIXELS // 10**6} megapixels for one "
            "picture (a slide scan, or a damaged or hostile header); cut tiles out of it"
        )


def pillow_pixels(image: Image.Image) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Pixels of any Pillow mode: grey (h, w) or RGB (h, w, 3), with notes on conversions.

    Raises:
        DataError: If the file is truncated.
    """
    try:
        image.load()
    except OSError as error:
        if "truncated" in str(error):
            raise DataError(f"is truncated ({one_line(error)})") from error
        raise
    mode, notes = image.mode, []
    if mode in {"P", "PA"}:
        notes.append("palette expanded to RGB")
    if mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        notes.append("alpha composited on black")
        rgba = np.asarray(image.convert("RGBA"))
        pixels = composite_on_black(rgba[..., :3], rgba[..., 3])
        return (pixels[..., 0] if mode in {"1", "L", "LA", "La"} else pixels), tuple(notes)
    if mode == "1":
        return np.asarray(image.convert("L")), ()
    if mode in {"L", "RGB", "F"}:
        return np.asarray(image), ()
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), ()
    if mode == "I":
        return plain_depth(np.asarray(image))
    if mode != "P":
        notes.append(f"{mode} converted to RGB")
    return np.asarray(image.convert("RGB")), tuple(notes)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none."""
    value = image.getexif().get(ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(
    pixels: NDArray[Any], orientation: int, notes: tuple[str, ...] = ()
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Pixels turned by an EXIF orientation, with a note where they were."""
    if orientation == 1:
        return pixels, notes
    return turn_upright(pixels, orientation), (*notes, "EXIF orientation applied")


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF/TIFF orientation of 1-8; pixels (h, w) or (h, w, c)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def composite_on_black(pixels: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Pixels (h, w, c) times their straight alpha (h, w), same dtype, rounded."""
    if np.issubdtype(pixels.dtype, np.floating):
        return np.asarray(pixels * alpha[..., np.newaxis], pixels.dtype)
    top = np.iinfo(pixels.dtype).max
    product = pixels.astype(np.uint64) * alpha[..., np.newaxis].astype(np.uint64)
    return ((product + top // 2) // top).astype(pixels.dtype)


def plain_depth(pixels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Any real dtype as uint8, uint16 or float32 of the same values; 1-bit becomes 0 and 255.

    Raises:
        DataError: On complex numbers, or if a pixel is NaN or infinite.
    """
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255), ()
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), ()
    if pixels.dtype.kind not in "iuf":
        raise DataError(f"has pixels of type {pixels.dtype}, which is no intensity")
    with np.errstate(over="ignore"):
        narrow = pixels.astype(np.float32)
    bad = narrow.size - int(np.isfinite(narrow).sum())
    if bad:
        raise DataError(f"has {bad} pixels that are NaN or infinite")
    wide = pixels.dtype.itemsize > 4 or (pixels.dtype.kind != "f" and pixels.dtype.itemsize == 4)
    return narrow, ((f"{pixels.dtype.name} read as float32",) if wide else ())


def promote(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Bring pixels to the depth of a data set that mixes depths.

    uint8 becomes uint16 times 257, so that white stays white. To float32 the values stay: a float
    image has no white to aim at.

    Raises:
        DataError: If the depth would be lowered.
    """
    if pixels.dtype == dtype:
        return pixels
    if pixels.dtype == np.uint8 and dtype == np.uint16:
        return pixels.astype(np.uint16) * np.uint16(257)
    if dtype == np.float32 and pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32)
    raise DataError(f"has depth {pixels.dtype}, but {dtype} is expected")


def is_grey(pixels: NDArray[Any]) -> bool:
    """True if (h, w, c) has one channel, or three that are equal everywhere."""
    if pixels.shape[2] != 3:
        return bool(pixels.shape[2] == 1)
    return bool(
        np.array_equal(pixels[..., 0], pixels[..., 1])
        and np.array_equal(pixels[..., 1], pixels[..., 2])
    )


def fit_to_square(
    pixels: NDArray[Any], size_px: int | tuple[int, int], fit: Fit = "stretch"
) -> NDArray[Any]:
    """Resize one picture; pixel areas are averaged when it shrinks, interpolated when it grows.

    Args:
        pixels: (h, w, c), uint8, uint16 or float32.
        size_px: Side of the square, or (height, width).
        fit: "stretch" ignores the aspect ratio; "pad" keeps it and fills with black, centred;
            "crop" keeps it and cuts the centre out.

    Returns:
        (height, width, c), same dtype; the very pixels where the size already fits.

    Raises:
        DataError: If `fit` is none of the three.
    """
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    if pixels.shape[:2] == (height, width):
        return pixels
    if fit == "stretch":
        return _resize(pixels, height, width)
    if fit not in {"pad", "crop"}:
        raise DataError(f"unknown fit '{fit}'; choose one of stretch, pad, crop.")
    scales = (height / pixels.shape[0], width / pixels.shape[1])
    scale = min(scales) if fit == "pad" else max(scales)
    if fit == "crop":
        part = _centre(pixels, round(height / scale), round(width / scale))
        return _resize(part, height, width)
    inner = _resize(
        pixels, max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))
    )
    top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
    square = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


def _centre(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    height = min(max(height, 1), pixels.shape[0])
    width = min(max(width, 1), pixels.shape[1])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def _resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """First shrink by area, then grow bilinearly: OpenCV's area mode can't do both at once."""
    small = (min(height, pixels.shape[0]), min(width, pixels.shape[1]))
    for (rows, columns), method in ((small, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if pixels.shape[:2] != (rows, columns):
            # Four channels at a time: OpenCV takes no more in every mode.
            parts = [
                cv2.resize(
                    np.ascontiguousarray(pixels[..., start : start + 4]),
                    (columns, rows),
                    interpolation=method,
                ).reshape(rows, columns, -1)
                for start in range(0, pixels.shape[2], 4)
            ]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return pixels
