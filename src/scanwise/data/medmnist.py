"""MedMNIST by name: downloaded once, verified by its MD5, read like any local .npz."""

from __future__ import annotations

from pathlib import Path

from scanwise.core import downloads
from scanwise.core.downloads import Download
from scanwise.core.errors import DataError, nearest
from scanwise.core.files import cache_dir
from scanwise.core.types import Dataset
from scanwise.data.medmnist_table import MEDMNIST, SIZES_PX, MedMNIST
from scanwise.data.npz import load_npz


def load_medmnist(name: str, size_px: int = 28, *, url: str | None = None) -> Dataset:
    """Load an official set with its official split.

    Args:
        name: Such as "dermamnist"; case does not matter.
        size_px: 28, 64, 128 or 224.
        url: Where to download from instead of Zenodo.

    Raises:
        DataError: Unknown name or size; no network (with URL, MD5 and the path to put the file);
            a download with another MD5, which is deleted.
    """
    entry = find_medmnist(name)
    if size_px not in SIZES_PX:
        sizes = ", ".join(map(str, SIZES_PX))
        raise DataError(f"{entry.title} exists at {sizes} px, not at {size_px}; use one of these.")
    path = fetch(entry, size_px, url=url)
    return load_npz(path, kind="medmnist", md5=entry.md5[size_px])


def find_medmnist(name: str) -> MedMNIST:
    """The entry of a name.

    Raises:
        DataError: If there is none; with the nearest names.
    """
    entry = MEDMNIST.get(name.strip().lower())
    if entry is None:
        raise DataError(f"unknown MedMNIST set '{name}'; {nearest(name.strip().lower(), MEDMNIST)}")
    return entry


def fetch(entry: MedMNIST, size_px: int, *, url: str | None = None) -> Path:
    """Path of the verified file in the cache, downloaded if it is not there.

    Raises:
        DataError: As `load_medmnist`.
    """
    return downloads.fetch(medmnist_download(entry, size_px, url=url), DataError)


def medmnist_download(entry: MedMNIST, size_px: int, *, url: str | None = None) -> Download:
    """Where the file of a set comes from and goes to."""
    return Download(
        title=f"{entry.title} at {size_px} px",
        url=url or entry.url(size_px),
        algorithm="md5",
        digest=entry.md5[size_px],
        target=cache_dir() / "medmnist" / entry.file_name(size_px),
    )
