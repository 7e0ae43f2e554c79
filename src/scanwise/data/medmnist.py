"""MedMNIST by name: downloaded once, verified by its MD5, read like any local .npz."""

from __future__ import annotations

import contextlib
from pathlib import Path

from scanwise.core.errors import DataError, nearest
from scanwise.core.files import cache_dir, offline, write_text
from scanwise.core.types import Dataset
from scanwise.data.medmnist_table import MEDMNIST, SIZES_PX, MedMNIST
from scanwise.data.npz import load_npz, md5_file


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
    target = cache_dir() / "medmnist" / entry.file_name(size_px)
    expected = entry.md5[size_px]
    if target.is_file():
        found = _md5_once(target)
        if found == expected:
            return target
        if offline():
            raise DataError(
                f"{target} is not the official {entry.title} (MD5 {found}, expected {expected}). "
                + _by_hand(entry, size_px, url, target)
            )
        target.unlink()
    if offline():
        raise DataError(
            f"{entry.title} at {size_px} px is not in the cache, and SCANWISE_OFFLINE forbids the "
            f"network. {_by_hand(entry, size_px, url, target)}"
        )
    _download(entry, size_px, url, target)
    return target


def _download(entry: MedMNIST, size_px: int, url: str | None, target: Path) -> None:
    import pooch

    try:
        pooch.retrieve(
            url or entry.url(size_px),
            known_hash=f"md5:{entry.md5[size_px]}",
            fname=target.name,
            path=target.parent,
        )
    except ValueError as error:  # pooch has deleted what it downloaded
        target.unlink(missing_ok=True)
        raise DataError(
            f"the download of {entry.title} at {size_px} px has another MD5 than the official one "
            f"and was deleted. {_by_hand(entry, size_px, url, target)}"
        ) from error
    except OSError as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"can't download {entry.title} at {size_px} px ({reason}). "
            + _by_hand(entry, size_px, url, target)
        ) from error


def _by_hand(entry: MedMNIST, size_px: int, url: str | None, target: Path) -> str:
    return (
        f"Download {url or entry.url(size_px)} (MD5 {entry.md5[size_px]}) and put it at {target}."
    )


def _md5_once(path: Path) -> str:
    """MD5 of a file; remembered beside it, since the large ones take half a minute."""
    stat = path.stat()
    stamp, memory = f"{stat.st_size} {stat.st_mtime_ns}", path.with_suffix(".md5")
    with contextlib.suppress(OSError, ValueError):
        known, digest = memory.read_text(encoding="utf-8").strip().rsplit(" ", 1)
        if known == stamp:
            return digest
    digest = md5_file(path)
    with contextlib.suppress(OSError):
        write_text(memory, f"{stamp} {digest}\n")
    return digest
