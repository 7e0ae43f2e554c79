"""TIFF: any depth, any number of channels, one page unless told which; slides are refused.

tifffile reads what it can without a codec package; LZW, JPEG and fax compression go to Pillow
(8 bit) or OpenCV (16 bit and float), whose wheels carry those codecs.
"""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import Any, BinaryIO, Literal

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import TiffImagePlugin

from scanwise.core.errors import DataError
from scanwise.data.inflate import deflate, inflates_beyond, packbits_beyond, xz
from scanwise.data.pixels import (
    ORIENTATION_TAG,
    SLIDE_SUFFIXES,
    check_pixel_count,
    composite_on_black,
    pillow_pixels,
    plain_depth,
    slide_reason,
    turn_upright,
)

# tifffile logs what is odd in a file; what matters is raised here, and stderr is the user's.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# TIFF 6.0, section 4 and 8: PhotometricInterpretation.
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, SEPARATED, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
PLAIN_AXES = "YXSC"
PACKBITS = 32773
# What tifffile unpacks itself, without an eye on the size.
INFLATERS = {8: deflate, 32946: deflate, 50013: deflate, 34925: xz}

Notes = tuple[str, ...]


def read_tiff(
    source: Path | bytes, *, page: int | None = None, project: Literal["max"] | None = None
) -> tuple[NDArray[Any], Notes]:
    """Decode one picture out of a TIFF.

    Args:
        source: Path, or the file's bytes.
        page: Which page, counted from 0; None where there is only one.
        project: "max" takes the maximum over all pages; the channels of an OME or ImageJ
            hyperstack stay channels.

    Returns:
        Pixels (h, w) or (h, w, c), uint8, uint16 or float32, and notes.

    Raises:
        DataError: Several pages without `page` or `project`, a slide, a truncated file, or a
            codec or colour space that nothing here decodes.
    """
    try:
        with tifffile.TiffFile(source if isinstance(source, Path) else io.BytesIO(source)) as tif:
            _refuse_slide(tif, source.name if isinstance(source, Path) else "")
            return _Reader(tif, source).read(page, project)
    except tifffile.TiffFileError as error:
        raise DataError(f"is a damaged TIFF ({error})") from error


def tiff_size(stream: BinaryIO) -> tuple[int, int]:
    """Height and width in px of the first page, upright, from its tags."""
    with tifffile.TiffFile(stream) as tif:
        first = tif.pages[0]
        height, width = int(first.imagelength), int(first.imagewidth)
        return (width, height) if _orientation(first) >= 5 else (height, width)


def _refuse_slide(tif: Any, name: str) -> None:
    first = tif.pages[0]
    levels = max((len(series.levels) for series in tif.series), default=1)
    vendor = any((tif.is_svs, tif.is_ndpi, tif.is_scn, tif.is_bif, tif.is_philips, tif.is_qpi))
    if vendor or levels > 1 or name.lower().endswith(SLIDE_SUFFIXES):
        extent = f"{levels} {'level' if levels == 1 else 'levels'}"
        raise DataError(
            slide_reason(f" ({extent}, {first.imagewidth}x{first.imagelength} px at the first)")
        )
    check_pixel_count(int(first.imagelength), int(first.imagewidth))


class _Reader:
    """One open file; holds what page reading needs (the file for other decoders, notes)."""

    def __init__(self, tif: Any, source: Path | bytes) -> None:
        self.tif = tif
        self.source = source
        self.series = tif.series[0]
        self.axes: str = self.series.axes
        self.shape: tuple[int, ...] = tuple(self.series.shape)
        planes = [
            n for axis, n in zip(self.axes, self.shape, strict=True) if axis not in PLAIN_AXES
        ]
        self.num_planes = math.prod(planes)
        # A stack may be many pages, or one page record followed by all planes (ImageJ).
        self.num_channels_apart = self._size_of("C")
        self.count = max(len(tif.pages), self.num_planes * self.num_channels_apart)

    def _size_of(self, axis: str) -> int:
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def read(self, page: int | None, project: Literal["max"] | None) -> tuple[NDArray[Any], Notes]:
        if page is not None:
            if page >= self.count:
                raise DataError(
                    f"has {self.count} pages (0 to {self.count - 1}), so no page {page}"
                )
            return self._page(page)
        if project is None and self._is_one_picture():
            return self._channels(0)
        if project is None:
            raise DataError(
                f"has {self.count} pages, and scanwise reads 2-D pictures; choose one with "
                "--page k (from 0) or take the maximum with --project max"
            )
        return self._maximum()

    def _is_one_picture(self) -> bool:
        return len(self.tif.series) == 1 and self.num_planes == 1

    def _channels(self, plane: int) -> tuple[NDArray[Any], Notes]:
        """Plane `plane` with the channels that lie on pages of their own put side by side."""
        if self.num_channels_apart == 1:
            return self._page(plane)
        parts, notes = [], set[str]()
        for channel in range(self.num_channels_apart):
            pixels, more = self._page(self._page_number(plane, channel))
            parts.append(pixels if pixels.ndim == 3 else pixels[..., np.newaxis])
            notes.update(more)
        return np.concatenate(parts, axis=2), tuple(sorted(notes))

    def _page_number(self, plane: int, channel: int) -> int:
        """Page of a plane and channel; pages follow the series' axes, the last one fastest."""
        outer = [
            (axis, n) for axis, n in zip(self.axes, self.shape, strict=True) if axis not in "YXS"
        ]
        number = 0
        place = dict[str, int]()
        for axis, n in reversed([pair for pair in outer if pair[0] != "C"]):
            place[axis], plane = plane % n, plane // n
        place["C"] = channel
        for axis, n in outer:
            number = number * n + place[axis]
        return number

    def _maximum(self) -> tuple[NDArray[Any], Notes]:
        if len(self.tif.series) > 1:
            raise DataError(
                f"has {self.count} pages of different sizes or types, which can't be projected; "
                "choose one with --page k (from 0)"
            )
        best, notes = self._channels(0)
        for plane in range(1, self.num_planes):
            best = np.maximum(best, self._channels(plane)[0])
        return best, (*notes, "pages projected by their maximum")

    def _page(self, number: int) -> tuple[NDArray[Any], Notes]:
        """One page as (h, w[, c])."""
        pages = self.tif.pages
        if number >= len(pages):  # the planes follow one page record
            record = pages[0]
            self._refuse_bomb(record)
            stack = self.series.asarray()
            per_plane = stack.reshape(self.count, *record.shape)
            return _interpret(record, _samples_last(per_plane[number], record.axes))
        record = pages[number]
        if isinstance(record, tifffile.TiffFrame):  # a page record without its tags
            record = record.aspage()
        check_pixel_count(int(record.imagelength), int(record.imagewidth))
        if _needs_other_decoder(record):
            return self._elsewhere(number, record)
        self._refuse_bomb(record)
        try:
            pixels = record.asarray()
        except DataError:
            raise
        except (ValueError, ImportError, KeyError) as error:
            if "imagecodecs" in str(error) or isinstance(error, ImportError):
                return self._elsewhere(number, record)
            raise DataError(_damage(error)) from error
        except Exception as error:  # zlib, struct, tifffile's own
            raise DataError(_damage(error)) from error
        return _interpret(record, _samples_last(pixels, record.axes))

    def _refuse_bomb(self, record: Any) -> None:
        """Strips and tiles that unpack to more than they should hold.

        Raises:
            DataError: If one does, or if it claims to hold more than a picture may.
        """
        compression = int(record.compression)
        if compression != PACKBITS and compression not in INFLATERS:
            return
        if record.is_tiled:
            height, width = int(record.tilelength), int(record.tilewidth)
        else:
            height, width = int(record.imagelength), int(record.imagewidth)
            height = min(height, int(record.rowsperstrip or height))
        check_pixel_count(height, width)
        samples = int(record.samplesperpixel) * int(record.imagedepth) * int(record.tiledepth or 1)
        limit = height * width * samples * record.dtype.itemsize + 64
        handle = self.tif.filehandle
        for offset, size in zip(record.dataoffsets, record.databytecounts, strict=False):
            handle.seek(offset)
            data = handle.read(size)
            if (
                packbits_beyond(data, limit)
                if compression == PACKBITS
                else inflates_beyond(data, limit, INFLATERS[compression])
            ):
                raise DataError("unpacks to more than its header says (damaged or hostile)")

    def _elsewhere(self, number: int, record: Any) -> tuple[NDArray[Any], Notes]:
        """Decode a page with Pillow or OpenCV."""
        if isinstance(self.source, Path):
            data = self.source.read_bytes()
        else:
            data = self.source
        if _bits(record) <= 8 and int(record.samplesperpixel) <= 4:
            return _by_pillow(data, number, record)
        if _bits(record) in (16, 32) and record.samplesperpixel in (1, 3):
            return _by_opencv(data, number, record)
        raise DataError(
            f"is compressed with {record.compression.name} at {_bits(record)} bits and "
            f"{record.samplesperpixel} channels, which needs a codec: pip install imagecodecs"
        )


def _by_pillow(data: bytes, number: int, record: Any) -> tuple[NDArray[Any], Notes]:
    with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as image:
        image.seek(number)
        pixels, notes = pillow_pixels(image)  # upright and uninverted already
    expected = sorted((int(record.imagelength), int(record.imagewidth)))
    if sorted(pixels.shape[:2]) != expected:
        raise DataError("is a damaged TIFF (its pixels do not fill its size)")
    return pixels, (*notes, *(("EXIF orientation applied",) if _orientation(record) > 1 else ()))


def _by_opencv(data: bytes, number: int, record: Any) -> tuple[NDArray[Any], Notes]:
    if record.photometric not in (MIN_IS_BLACK, RGB):
        raise DataError(f"stores {_name(record.photometric)} at 16 bits, which is not supported")
    done, pages = cv2.imdecodemulti(
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED, None, (number, number + 1)
    )
    shape = (int(record.imagelength), int(record.imagewidth))
    if not done or not pages or pages[0].shape[:2] != shape:
        raise DataError(
            f"can't be decoded: it is truncated, damaged or compressed with "
            f"{record.compression.name}, which may need a codec: pip install imagecodecs"
        )
    pixels = pages[0]
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return _turned(record, *plain_depth(pixels))


def _interpret(record: Any, pixels: NDArray[Any]) -> tuple[NDArray[Any], Notes]:
    """Stored samples (h, w[, s]) to grey, RGB or channels."""
    photometric, bits = int(record.photometric), _bits(record)
    notes: Notes = ()
    if photometric == PALETTE:
        pixels, notes = _from_palette(record, pixels), ("palette expanded to RGB",)
    else:
        if photometric == MIN_IS_WHITE:
            pixels = ~pixels if pixels.dtype == np.bool_ else _inverted(pixels, bits)
        if pixels.dtype == np.uint8 and bits < 8:
            pixels = (pixels * np.uint16(255) // (2**bits - 1)).astype(np.uint8)
        pixels, notes = plain_depth(pixels)
    alpha = _alpha_kind(record, pixels)
    if alpha:
        color, mask = pixels[..., :-1], pixels[..., -1]
        # Associated alpha (1) is premultiplied, that is, composited on black already.
        pixels = color if alpha == 1 else composite_on_black(color, mask)
        notes = (*notes, "alpha composited on black")
    return _turned(record, pixels, notes)


def _alpha_kind(record: Any, pixels: NDArray[Any]) -> int:
    """0 for no alpha, 1 for premultiplied, 2 for straight alpha (TIFF 6.0, ExtraSamples)."""
    extra = tuple(int(kind) for kind in record.extrasamples)
    base = {MIN_IS_BLACK: 1, RGB: 3}.get(int(record.photometric))
    if base is None or pixels.ndim != 3 or pixels.shape[2] != base + 1 or len(extra) != 1:
        return 0
    return extra[0] if extra[0] in (1, 2) else 0


def _from_palette(record: Any, indices: NDArray[Any]) -> NDArray[Any]:
    colors = np.asarray(record.colormap)  # (3, 2**bits), 16 bits each
    if colors.max(initial=0) > 255:
        colors = colors >> 8
    if indices.max(initial=0) >= colors.shape[1]:
        raise DataError("is a damaged TIFF (a pixel lies outside its palette)")
    return np.asarray(colors.T[indices], np.uint8)


def _inverted(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    if pixels.dtype.kind != "u":
        raise DataError(f"stores white as the minimum with {pixels.dtype} pixels; not supported")
    return np.asarray(pixels.dtype.type(2**bits - 1) - pixels, pixels.dtype)


def _turned(record: Any, pixels: NDArray[Any], notes: Notes) -> tuple[NDArray[Any], Notes]:
    orientation = _orientation(record)
    if orientation == 1:
        return pixels, notes
    return turn_upright(pixels, orientation), (*notes, "EXIF orientation applied")


def _orientation(record: Any) -> int:
    tag = record.tags.get(ORIENTATION_TAG)
    value = int(tag.value) if tag is not None else 1
    return value if 1 <= value <= 8 else 1


def _samples_last(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Planar (s, h, w) to (h, w, s).

    Raises:
        DataError: If the page has a depth, as volumetric TIFF has.
    """
    if any(axis not in "YXS" for axis in axes):
        raise DataError("is a volumetric TIFF, and scanwise reads 2-D pictures")
    return np.moveaxis(pixels, 0, -1) if axes.startswith("S") else pixels


def _needs_other_decoder(record: Any) -> bool:
    """Colour spaces that Pillow turns into RGB.

    Raises:
        DataError: For one that nothing here converts.
    """
    photometric = int(record.photometric)
    if photometric in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE):
        return False
    if photometric in (SEPARATED, YCBCR, CIELAB) and _bits(record) == 8:
        return True
    raise DataError(
        f"stores {_name(record.photometric)} pixels, which is not supported; save as RGB"
    )


def _bits(record: Any) -> int:
    bits = record.bitspersample
    return int(max(bits) if isinstance(bits, tuple) else bits)


def _name(photometric: Any) -> str:
    return str(getattr(photometric, "name", photometric))


def _damage(error: Exception) -> str:
    return f"is a truncated or damaged TIFF ({' '.join(str(error).split())[:120]})"
