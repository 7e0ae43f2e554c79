"""Prepared pixels of chosen rows: made as they are read, or once into a file; never copied."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from scanwise.core.files import cache_dir
from scanwise.core.memory import check_memory
from scanwise.data.cache import MAKE_ROOM, announce, room_for
from scanwise.prepare.preprocessing import Preprocessing

RESIDENT_LIMIT_BYTES = 2**29  # pixels of a memory map up to this size are read into memory
EVALUATION_BATCH = 256
_BLOCK_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class PixelRows:
    """`Preprocessing.to_pixels` of some rows of a data set, computed when they are asked for.

    Read it along its first axis like an array uint8 (m, h, w, c): `rows[3]`, `rows[8:16]`,
    `len(rows)`, `rows.shape`.
    """

    preprocessing: Preprocessing
    images: NDArray[Any]  # (n, h, w, c), of any supported type; may be a memory map
    rows: NDArray[np.int64]  # (m,)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), *self.preprocessing.size_px, self.preprocessing.channels)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> NDArray[np.uint8]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8]:
        if isinstance(index, slice):
            rows = self.rows[index]
            return self.preprocessing.to_pixels(self.images[rows], rows=rows)
        row = int(self.rows[index])
        number = np.array([row])
        made: NDArray[np.uint8] = self.preprocessing.to_pixels(
            self.images[row : row + 1], rows=number
        )[0]
        return made

    @property
    def block_rows(self) -> int:
        """Rows that are read at a time where the number is free: some megabytes."""
        return max(1, _BLOCK_BYTES // max(1, self.images[:1].nbytes, int(np.prod(self.shape[1:]))))


Pixels = NDArray[np.uint8] | PixelRows


def evaluation_batch(size_px: tuple[int, int]) -> int:
    """Images of an evaluation batch: 256 up to 64 px, fewer of larger ones to bound the memory."""
    return max(8, min(EVALUATION_BATCH, EVALUATION_BATCH * 64 * 64 // (size_px[0] * size_px[1])))


def keep_pixels(view: PixelRows) -> tuple[NDArray[np.uint8], str]:
    """All of the rows' pixels, computed once: in memory, or mapped from a file where they are many.

    The file lies in the cache folder, has no name there and is gone when the process ends.

    Returns:
        uint8 (m, h, w, c), and a note for the user ('' where they are in memory as usual).

    Raises:
        DataError: If there is room neither on the disk nor in memory.
    """
    num_bytes = int(np.prod(view.shape, dtype=np.int64))
    note = ""
    if num_bytes <= RESIDENT_LIMIT_BYTES:
        pixels: NDArray[np.uint8] = np.empty(view.shape, np.uint8)
    else:
        pixels, note = _large(view.shape, num_bytes)
    for start in range(0, len(view), view.block_rows):
        stop = start + view.block_rows
        pixels[start:stop] = view[start:stop]
    return pixels, note


def _large(shape: tuple[int, ...], num_bytes: int) -> tuple[NDArray[np.uint8], str]:
    """An empty array in a file or, without room on the disk, in memory."""
    folder, what = cache_dir() / "prepared", f"the prepared pixels of {shape[0]:,} images"
    try:
        why_not = room_for(folder, num_bytes)
        if not why_not:
            announce(what, num_bytes, folder)
            with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps it open
                if hasattr(os, "posix_fallocate"):  # a disk that fills up later would kill us
                    os.posix_fallocate(file.fileno(), 0, num_bytes)
                mapped = np.memmap(file, np.uint8, "w+", shape=shape)
            return mapped, f"Prepared pixels: {num_bytes / 1e9:.1f} GB in a temporary file."
    except OSError as error:
        why_not = f"{folder}: {error.strerror or error}"
    check_memory(num_bytes, f"keeping {what} without a file in the cache ({why_not})", MAKE_ROOM)
    return np.empty(shape, np.uint8), f"Prepared pixels are kept in memory: {why_not}."
