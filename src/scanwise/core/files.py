"""Files that are whole or absent: atomic writes, hashes, the cache folder."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from scanwise.core.errors import RunError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only the owner may read; give them what open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def only_one(lock: Path, busy: str) -> Iterator[None]:
    """Keep other processes out while the block runs; the hold ends with the process, however.

    Where the disk knows no locks, nothing is kept out.

    Args:
        lock: A file of its own, in a folder that exists; it is gone afterwards.
        busy: The message if another process is at it.

    Raises:
        RunError: If so.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise RunError(busy) from None
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        held.release()
        lock.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with \\n line ends on every platform."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV; floats are written so that reading gives the same ones."""
    return csv_lines([header, *rows])


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of a table as CSV; those of two parts one after another are those of the whole."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    # The csv module does not see that a bare \r needs quotes.
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for row in rows:
        odd = any("\r" in cell for cell in row if isinstance(cell, str))
        (quoting if odd else plain).writerow(row)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are an error, since JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Write YAML atomically, keys in the given order."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def sha256_bytes(data: bytes | memoryview) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    return hash_file(path, "sha256")


def hash_file(path: Path, algorithm: str) -> str:
    """Hex hash of a file's bytes; "md5" only because others publish it, it stops no malice."""
    with path.open("rb") as stream:
        return hashlib.file_digest(
            stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def cache_dir() -> Path:
    """The one cache folder: SCANWISE_CACHE, or the platform's cache directory."""
    given = os.environ.get("SCANWISE_CACHE")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("scanwise", appauthor=False))


def offline() -> bool:
    """True when SCANWISE_OFFLINE forbids the network."""
    return os.environ.get("SCANWISE_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}
