"""Small pictures for pages, made when a browser asks for them, under names that nobody can guess.

A page never names a file: it names a key that this process gave out, so that no other page can read
files of this machine through the server.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scanwise.core.errors import DataError
from scanwise.data.images import read_image
from scanwise.report.plots import as_picture, to_display

MOST_KEPT = 2000  # thumbnails of about 10 kB
SIZES_PX = (96, 200, 640)

Source = Path | NDArray[Any]


class Thumbnails:
    """Keys to pictures, and the PNGs made of them. Safe to use from several threads."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}
        self._keys: dict[Path, str] = {}
        self._made: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, source: Source) -> str:
        """A key for a file, or for pixels (h, w, c); the same for the same file."""
        with self._lock:
            if isinstance(source, Path) and source in self._keys:
                return self._keys[source]
            key = secrets.token_urlsafe(18)
            self._sources[key] = source
            if isinstance(source, Path):
                self._keys[source] = key
            return key

    def png(self, key: str, side_px: int) -> bytes | None:
        """The picture, its longer side at most `side_px`; None for an unknown key.

        Raises:
            DataError: If the file can't be read.
        """
        with self._lock:
            source = self._sources.get(key)
            made = self._made.get((key, side_px))
        if source is None or made is not None:
            return made
        made = thumbnail(source, side_px)
        with self._lock:
            self._made[key, side_px] = made
            while len(self._made) > MOST_KEPT:
                self._made.popitem(last=False)
        return made


def thumbnail(source: Source, side_px: int) -> bytes:
    """PNG of a picture, no larger than asked for, each depth stretched to what eyes can see.

    Raises:
        DataError: If the file can't be read.
    """
    if isinstance(source, Path):
        try:
            pixels = read_image(source).pixels
        except DataError:
            pixels = read_image(source, page=0).pixels  # of several pages the first is shown
    else:
        pixels = source
    shown = as_picture(to_display(np.asarray(pixels)[None])[0])
    image = Image.fromarray(np.ascontiguousarray(shown))
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
