"""Published files by name: downloaded once into the cache, known by their hash, or by hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scanwise.core.errors import ScanwiseError
from scanwise.core.files import atomic_path, hash_file, offline, write_text


@dataclass(frozen=True)
class Download:
    """A published file: what it is, where it lies, how to know it, where it goes.

    Attributes:
        title: What it is, for messages: "BreastMNIST at 28 px".
        url: http or https.
        algorithm: "md5" or "sha256".
        digest: Hex digits of its hash; only the first ones where no more were published.
        target: Its path in the cache.
    """

    title: str
    url: str
    algorithm: str
    digest: str
    target: Path

    @property
    def hash_name(self) -> str:
        return {"md5": "MD5", "sha256": "SHA-256"}[self.algorithm]

    @property
    def by_hand(self) -> str:
        """What a user without network can do, one sentence."""
        starting = "" if len(self.digest) in {32, 64} else "starting "
        return (
            f"Download {self.url} ({self.hash_name} {starting}{self.digest}) and put it at "
            f"{self.target}."
        )

    def matches(self, digest: str) -> bool:
        return digest.startswith(self.digest)


def cached(download: Download) -> Literal["missing", "damaged", "verified"]:
    """Whether the file is in the cache with the right hash; downloads nothing."""
    if not download.target.is_file():
        return "missing"
    found = _hash_once(download.target, download.algorithm)
    return "verified" if download.matches(found) else "damaged"


def fetch(download: Download, error: Callable[[str], ScanwiseError]) -> Path:
    """Path of the verified file in the cache, downloaded if it is not there.

    Args:
        download: The file.
        error: Class of the error to raise.

    Raises:
        ScanwiseError: Of the given class: SCANWISE_OFFLINE or no network (with URL, hash and the
            path to put the file); a download with another hash, of which nothing is kept.
    """
    target, state = download.target, cached(download)
    if state == "verified":
        return target
    if offline():
        if state == "damaged":
            found = _hash_once(target, download.algorithm)
            raise error(
                f"{target} is not the official {download.title} ({download.hash_name} {found}, "
                f"expected {download.digest}). {download.by_hand}"
            )
        raise error(
            f"{download.title} is not in the cache, and SCANWISE_OFFLINE forbids the network. "
            f"{download.by_hand}"
        )
    _download(download, error)
    return target


def _download(download: Download, error: Callable[[str], ScanwiseError]) -> None:
    import pooch

    pooch.get_logger().info("downloading %s to %s", download.url, download.target)
    try:
        with atomic_path(download.target) as temporary:
            pooch.HTTPDownloader()(download.url, str(temporary), None)
            if not download.matches(hash_file(temporary, download.algorithm)):
                raise error(
                    f"the download of {download.title} has another {download.hash_name} than the "
                    f"official one and was deleted. {download.by_hand}"
                )
    except OSError as reason:
        said = " ".join(str(reason).split())[:160]
        raise error(f"can't download {download.title} ({said}). {download.by_hand}") from reason


def _hash_once(path: Path, algorithm: str) -> str:
    """Hash of a file; remembered beside it, since the large ones take half a minute."""
    stat = path.stat()
    stamp, memory = f"{stat.st_size} {stat.st_mtime_ns}", path.with_suffix(f".{algorithm}")
    with contextlib.suppress(OSError, ValueError):
        known, digest = memory.read_text(encoding="utf-8").strip().rsplit(" ", 1)
        if known == stamp:
            return digest
    digest = hash_file(path, algorithm)
    with contextlib.suppress(OSError):
        write_text(memory, f"{stamp} {digest}\n")
    return digest
