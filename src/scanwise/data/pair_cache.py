"""Near-duplicates remembered by content, so that `train` does not search again after `check`.

The key is a hash of the pixels, the labels and the search's own constants. An entry is an .npz of
plain numbers, written whole or not at all; one that is damaged is made anew, and a cache folder
that can't be written to costs only the time of the search.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanwise.core.files import atomic_path, cache_dir
from scanwise.data import near_duplicates
from scanwise.data.near_duplicates import NearPairs, find_near_pairs

SEARCH_VERSION = 1  # raise it when the same images would give other pairs
BLOCK_BYTES = 2**24
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
_CONSTANTS = ("COPY_ON_GRID", "COPY_ALIGNED", "LOWEST_ALIKE", "MOST_CHANCE_PAIRS", "PARTNERS")


def remembered_near_pairs(
    images: NDArray[np.generic], targets: NDArray[np.int64], *, seed: int = 0
) -> NearPairs:
    """`find_near_pairs`, from the cache where it has these images and labels."""
    entry = cache_dir() / "near" / f"{_key(images, targets, seed)}.npz"
    with contextlib.suppress(*_DAMAGED):
        return _read(entry, len(images))
    found = find_near_pairs(images, targets, seed=seed)
    with contextlib.suppress(OSError):
        _write(entry, found)
    return found


def _key(images: NDArray[np.generic], targets: NDArray[np.int64], seed: int) -> str:
    constants = [getattr(near_duplicates, name) for name in _CONSTANTS]
    head = (SEARCH_VERSION, constants, seed, images.shape, images.dtype.str, targets.shape)
    digest = hashlib.sha256(repr(head).encode())
    step = max(1, BLOCK_BYTES // max(1, images[0].nbytes))
    for start in range(0, len(images), step):  # a memory map is never read whole
        digest.update(np.ascontiguousarray(images[start : start + step]).data)
    digest.update(np.ascontiguousarray(targets).data)
    return digest.hexdigest()


def _read(entry: Path, num_images: int) -> NearPairs:
    """Raises one of _DAMAGED if there is no entry, or it is not whole."""
    # Opened here: numpy leaves the file open where it turns out to be no archive.
    with entry.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        rows, similarity = arrays["rows"], arrays["similarity"]
        copies, cut = arrays["copies"], float(arrays["alike_cut"])
    kinds = (rows.dtype, similarity.dtype, copies.dtype)
    if kinds != (np.dtype(np.int64), np.dtype(np.float64), np.dtype(np.bool_)):
        raise ValueError(f"{entry} has other types")
    m = len(rows)
    if rows.shape != (m, 2) or similarity.shape != (m,) or copies.shape != (m,):
        raise ValueError(f"{entry} has other shapes")
    if m and not (rows.min() >= 0 and rows.max() < num_images):
        raise ValueError(f"{entry} names rows that do not exist")
    return NearPairs(rows, similarity, copies, None if math.isnan(cut) else cut)


def _write(entry: Path, found: NearPairs) -> None:
    with atomic_path(entry) as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            rows=found.rows,
            similarity=found.similarity,
            copies=found.copies,
            alike_cut=np.float64(math.nan if found.alike_cut is None else found.alike_cut),
        )
