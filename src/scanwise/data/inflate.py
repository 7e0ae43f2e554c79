"""Small files that unpack to gigabytes: measured with a limit before anything unpacks them."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Any

Inflater = Callable[[], Any]  # makes an object whose decompress takes data and a maximum length


def deflate() -> Any:
    """Of zlib streams, as in TIFF."""
    return zlib.decompressobj()


def raw_deflate() -> Any:
    """Of streams without zlib's header, as in DICOM."""
    return zlib.decompressobj(-zlib.MAX_WBITS)


def xz() -> Any:
    """Of LZMA streams, as in TIFF."""
    return lzma.LZMADecompressor()


def inflates_beyond(data: bytes, limit: int, inflater: Inflater) -> bool:
    """True if a stream unpacks to more than `limit` bytes; a damaged one counts up to its damage.

    Never holds more than `limit` bytes.
    """
    try:
        return len(inflater().decompress(data, limit + 1)) > limit
    except (zlib.error, lzma.LZMAError):
        return False  # the reader will say what is wrong


def packbits_beyond(data: bytes, limit: int) -> bool:
    """The same of PackBits (TIFF 6.0, section 9), which needs no unpacking to be measured."""
    at = size = 0
    while at < len(data) and size <= limit:
        count = data[at]
        at += 2 if count > 128 else 1 if count == 128 else count + 2
        size += 257 - count if count > 128 else 0 if count == 128 else count + 1
    return size > limit
