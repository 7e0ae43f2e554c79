"""Decode image files once: one memory-mapped array on disk, keyed by what the files contain.

A file is known by its SHA-256, looked up by path, size and modification time, so that a second load
of ten thousand files reads none of them. The array is written under a temporary name and renamed
when complete; two processes at once write two temporary files and the last one wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from scanwise.core.config import Fit
from scanwise.core.errors import DataError
from scanwise.core.files import cache_dir, sha256_file, write_text
from scanwise.core.memory import check_memory
from scanwise.data.images import image_size, read_image
from scanwise.data.pixels import fit_to_square, is_grey, promote

READER_VERSION = 1  # raise it when the same file would give other pixels
STANDARD_SIZES_PX = (28, 32, 48, 64, 96, 128, 160, 192, 224)
KEEP_UP_TO_PX = 64
LARGE_BYTES = 256 << 20  # more pixels than this are mapped from a file, not held in memory
MAKE_ROOM = (
    "make room on the disk, set SCANWISE_CACHE to a folder with more, or use fewer or smaller "
    "images."
)
_BATCH = 256
_PROBED = 8  # files that are decoded to estimate the depth of the others
_HEADER_BYTES = 256
_SPARE_BYTES = 256 << 20
_RACY_NS = 2_000_000_000  # a file changed this recently may change again within one clock tick

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ReadOptions:
    """How image files become pixels."""

    size: int | None = None  # side in px; None chooses
    fit: Fit = "stretch"
    page: int | None = None
    project: Literal["max"] | None = None


@dataclass(frozen=True)
class FileFacts:
    """What is remembered of each decoded file."""

    index: int  # position among the files given
    height: int  # px as stored, upright
    width: int
    channels: int
    depth: str  # dtype as stored
    color: bool  # three channels that differ somewhere
    format: str
    group: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """The files that could be read, as one array, and those that could not."""

    images: NDArray[Any]  # (m, h, w, c), read-only map or in memory
    facts: tuple[FileFacts, ...]  # m
    sha256: tuple[str, ...]  # m
    failures: tuple[tuple[int, str], ...]  # position among the files given, reason
    size_reason: str  # why this height and width
    not_cached: str  # why the array is in memory; '' if it is on disk


@dataclass(frozen=True)
class _Identity:
    sha256: str  # '' if unreadable
    height: int | None
    width: int | None


@dataclass(frozen=True, eq=False)
class _Row:
    pixels: NDArray[Any]
    facts: FileFacts


def decode_files(paths: Sequence[Path], sample_ids: Sequence[str], options: ReadOptions) -> Decoded:
    """Decode image files into one array of one size, from the cache where it has them.

    Args:
        paths: n files.
        sample_ids: n names of them, for messages.
        options: Side, fit and page.

    Returns:
        The array with its facts, in the order given, without the unreadable ones.

    Raises:
        DataError: If none can be read, or the numbers of channels differ (other than 1 and 3).
    """
    identities = _identify([path.absolute() for path in paths])  # the index outlives this folder
    (height, width), reason = choose_size(
        [(i.height, i.width) for i in identities if i.height and i.width], options.size
    )
    key = _key(sample_ids, identities, (height, width), options)
    folder = cache_dir() / "decoded"
    what = f"decoding {len(paths):,} image files to {width}x{height} px"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return _from_cache(folder / key, identities, reason)

    def decode(index: int) -> _Row | str:
        return _decode_one(index, paths[index], (height, width), options)

    estimate = _estimate_bytes(paths, (height, width), options)
    try:
        not_cached = room_for(folder, estimate)
        if not not_cached:
            announce(what, estimate, folder)
            with temporary_in(folder) as part:
                result = _decode_all(decode, sample_ids, part)
                _write_cache(folder / key, part, result)
            return _from_cache(folder / key, identities, reason)
    except OSError as error:
        not_cached = f"{type(error).__name__}: {error.strerror or error}"
    check_memory(estimate, f"{what} without the cache ({not_cached})", MAKE_ROOM)
    result = _decode_all(decode, sample_ids, None)
    assert result.images is not None
    return _finish(result.images, result.facts, result.failures, identities, reason, not_cached)


def choose_size(
    sizes: Sequence[tuple[int | None, int | None]], wanted: int | None
) -> tuple[tuple[int, int], str]:
    """Height and width for a data set, and why.

    Without `wanted`: files of one size up to 64 px keep it, square or not; otherwise the median of
    the larger sides goes to the nearest standard size, at most 224 px.
    """
    known = [(int(h), int(w)) for h, w in sizes if h and w]
    if wanted is not None:
        return (wanted, wanted), "as asked"
    if known and len(set(known)) == 1 and max(known[0]) <= KEEP_UP_TO_PX:
        return known[0], "all files have this size"
    larger = float(np.median([max(pair) for pair in known])) if known else STANDARD_SIZES_PX[-1]
    step = min(STANDARD_SIZES_PX, key=lambda size: abs(size - larger))
    return (step, step), f"the standard size nearest to the median of the larger sides, {larger:g}"


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Map over the cores in order, a bounded batch at a time; decoders release the interpreter."""
    with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
        for start in range(0, len(items), _BATCH):
            yield from pool.map(function, items[start : start + _BATCH])


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _estimate_bytes(paths: Sequence[Path], size: tuple[int, int], options: ReadOptions) -> int:
    """What the decoded files take: RGB at 16 bits, or for much data as deep as a few of them."""
    deepest = 3 * 2
    if len(paths) * size[0] * size[1] * deepest > LARGE_BYTES:
        some = np.unique(np.linspace(0, len(paths) - 1, _PROBED).astype(int)).tolist()
        rows = [_decode_one(index, paths[index], size, options) for index in some]
        sizes = [row.pixels[0, 0].nbytes for row in rows if not isinstance(row, str)]
        deepest = max(sizes, default=deepest)
    return len(paths) * size[0] * size[1] * deepest


def announce(what: str, num_bytes: int, folder: Path) -> None:
    """Say on stderr, before it is written, how large a copy in the cache will be."""
    if num_bytes > LARGE_BYTES:
        free = shutil.disk_usage(folder).free
        sys.stderr.write(
            f"Cache: {what} takes about {num_bytes / 1e9:.1f} GB in {folder}, once "
            f"({free / 1e9:.1f} GB free)\n"
        )


# --- which files are these ----------------------------------------------------------------------


def _identify(paths: Sequence[Path]) -> list[_Identity]:
    stats = [_stat(path) for path in paths]
    index = _FileIndex(cache_dir() / "files.sqlite")
    known = index.find(paths, stats)
    unknown = [i for i, path in enumerate(paths) if str(path) not in known]
    fresh = dict(zip(unknown, in_threads(lambda i: _measure(paths[i]), unknown), strict=True))
    index.remember([(paths[i], stats[i], identity) for i, identity in fresh.items()])
    return [fresh[i] if i in fresh else known[str(path)] for i, path in enumerate(paths)]


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)


def _measure(path: Path) -> _Identity:
    try:
        digest = sha256_file(path)
    except OSError:
        return _Identity("", None, None)
    size = image_size(path)
    return _Identity(digest, *(size or (None, None)))


class _FileIndex:
    """SHA-256 and size in px by path, file size and modification time; any failure means empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=5)
        try:
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER, "
                    "mtime_ns INTEGER, sha256 TEXT, height INTEGER, width INTEGER)"
                )
                yield connection
        finally:
            connection.close()

    def find(self, paths: Sequence[Path], stats: Sequence[tuple[int, int]]) -> dict[str, _Identity]:
        found: dict[str, _Identity] = {}
        current = {str(path): stat for path, stat in zip(paths, stats, strict=True)}
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as connection:
            names = list(current)
            for start in range(0, len(names), 500):  # SQLite's limit of parameters is 999 or more
                some = names[start : start + 500]
                marks = ",".join("?" * len(some))
                for path, size, mtime, *identity in connection.execute(
                    f"SELECT path, size, mtime_ns, sha256, height, width FROM files "
                    f"WHERE path IN ({marks})",
                    some,
                ):
                    if (size, mtime) == current[path] and identity[1]:
                        found[path] = _Identity(*identity)
        return found

    def remember(self, entries: Sequence[tuple[Path, tuple[int, int], _Identity]]) -> None:
        settled = time.time_ns() - _RACY_NS
        rows = [
            (str(path), *stat, identity.sha256, identity.height, identity.width)
            for path, stat, identity in entries
            if identity.sha256 and stat[1] < settled
        ]
        if rows:
            with contextlib.suppress(sqlite3.Error, OSError), self._open() as connection:
                connection.executemany("INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?)", rows)


def _key(
    sample_ids: Sequence[str],
    identities: Sequence[_Identity],
    size: tuple[int, int],
    options: ReadOptions,
) -> str:
    digest = hashlib.sha256()
    head = [READER_VERSION, _decoders(), size, options.fit, options.page, options.project]
    digest.update(json.dumps(head).encode())
    for name, identity in zip(sample_ids, identities, strict=True):
        digest.update(f"\n{name}\0{identity.sha256}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decoders() -> list[str]:
    """Versions of what decodes: another decoder may give other pixels, or read one file more."""
    found = []
    for name in (
        "opencv-python-headless",
        "pillow",
        "tifffile",
        "imagecodecs",
        "pydicom",
        "python-gdcm",
        "pylibjpeg-openjpeg",
    ):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} -")
    return found


# --- decoding -----------------------------------------------------------------------------------


def _decode_one(index: int, path: Path, size: tuple[int, int], options: ReadOptions) -> _Row | str:
    try:
        image = read_image(path, page=options.page, project=options.project)
    except DataError as error:
        return str(error)
    height, width, channels = image.pixels.shape
    facts = FileFacts(
        index=index,
        height=height,
        width=width,
        channels=channels,
        depth=image.pixels.dtype.name,
        color=channels == 3 and not is_grey(image.pixels),
        format=image.format,
        group=image.group,
        notes=image.notes,
    )
    return _Row(fit_to_square(image.pixels, size, options.fit), facts)


@dataclass(frozen=True, eq=False)
class _Result:
    images: NDArray[Any] | None  # None when they were written to the file
    facts: tuple[FileFacts, ...]
    failures: tuple[tuple[int, str], ...]


def _decode_all(
    decode: Callable[[int], _Row | str], sample_ids: Sequence[str], part: Path | None
) -> _Result:
    """Decode in order, to a file (`part`) or to memory, then bring rows to one depth and channels.

    Depth and channels of the whole are known only when the last file has been read, so rows are
    written as they come and rewritten only if they turn out to differ.
    """
    facts: list[FileFacts] = []
    failures: list[tuple[int, str]] = []
    rows: list[NDArray[Any]] = []
    with contextlib.ExitStack() as stack:
        stream = None
        if part is not None:
            stream = stack.enter_context(part.open("wb"))
            stream.write(bytes(_HEADER_BYTES))
        for index, row in enumerate(in_threads(decode, range(len(sample_ids)))):
            if isinstance(row, str):
                failures.append((index, row))
                continue
            facts.append(row.facts)
            if stream is not None:
                stream.write(np.ascontiguousarray(row.pixels).data)
                shape = row.pixels.shape
            else:
                rows.append(row.pixels)
    if not facts:
        raise DataError(_none_readable(failures, sample_ids))
    channels, dtype = common_layout(facts, sample_ids)
    if part is None:
        images = np.empty((len(rows), *rows[0].shape[:2], channels), dtype)
        rows.reverse()
        for place in range(len(images)):  # rows go as they are copied, so none is held twice
            images[place] = _conform(rows.pop(), channels, dtype)
        return _Result(images, tuple(facts), tuple(failures))
    _complete_file(part, facts, (shape[0], shape[1]), channels, dtype)
    return _Result(None, tuple(facts), tuple(failures))


def _none_readable(failures: Sequence[tuple[int, str]], sample_ids: Sequence[str]) -> str:
    examples = "; ".join(f"'{sample_ids[i]}' {reason}" for i, reason in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return f"none of the {len(failures)} image files can be read: {examples}{more}."


def common_layout(
    facts: Sequence[FileFacts], sample_ids: Sequence[str]
) -> tuple[int, np.dtype[Any]]:
    """Channels and depth that fit all rows.

    Grey files and files stored as RGB but grey in content make one channel; a single picture in
    colour makes three.

    Raises:
        DataError: If the numbers of channels differ in any other way; names two files.
    """
    counts = {fact.channels for fact in facts}
    if counts <= {1, 3}:
        channels = 3 if any(fact.color for fact in facts) else 1
    elif len(counts) == 1:
        channels = counts.pop()
    else:
        first = facts[0]
        other = next(fact for fact in facts if fact.channels != first.channels)
        raise DataError(
            f"'{sample_ids[other.index]}' has {other.channels} channels, but "
            f"'{sample_ids[first.index]}' has {first.channels}; all images of a data set must "
            "have the same channels."
        )
    depths = {fact.depth for fact in facts}
    depth = depths.pop() if len(depths) == 1 else "float32" if "float32" in depths else "uint16"
    return channels, np.dtype(depth)


def _conform(pixels: NDArray[Any], channels: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    pixels = promote(pixels, dtype)
    if pixels.shape[2] == channels:
        return pixels
    return pixels[..., :1] if channels == 1 else np.repeat(pixels, channels, axis=2)


# --- the file -----------------------------------------------------------------------------------


def room_for(folder: Path, num_bytes: int) -> str:
    """Why the cache can't be used, or ''."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _SPARE_BYTES:
        return f"{num_bytes / 1e9:.1f} GB needed in {folder}, {free / 1e9:.1f} GB free"
    return ""


@contextlib.contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """A new file beside the cached ones, removed if it was not renamed; sweeps up old ones."""
    for old in folder.glob("*.part"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 24 * 3600:  # left by a killed process
                old.unlink()
    handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _complete_file(
    part: Path,
    facts: Sequence[FileFacts],
    size: tuple[int, int],
    channels: int,
    dtype: np.dtype[Any],
) -> None:
    """Give the rows written so far the header of an .npy file; rewrite them if they differ."""
    shape = (len(facts), *size, channels)
    if any((fact.channels, fact.depth) != (channels, dtype.name) for fact in facts):
        rewritten = part.with_suffix(".rows.part")
        try:
            with part.open("rb") as source, rewritten.open("wb") as target:
                target.write(npy_header(shape, dtype))
                source.seek(_HEADER_BYTES)
                for fact in facts:
                    stored = np.dtype(fact.depth)
                    count = size[0] * size[1] * fact.channels
                    row = np.frombuffer(source.read(count * stored.itemsize), stored)
                    row = row.reshape(*size, fact.channels)
                    target.write(np.ascontiguousarray(_conform(row, channels, dtype)).data)
            os.replace(rewritten, part)
        finally:
            rewritten.unlink(missing_ok=True)
        return
    with part.open("r+b") as stream:
        stream.write(npy_header(shape, dtype))


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Header of an .npy file of format 1.0, padded to 256 bytes whatever the shape."""
    text = str({"descr": dtype.str, "fortran_order": False, "shape": shape})
    text = text.ljust(_HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin-1")


def _write_cache(stem: Path, part: Path, result: _Result) -> None:
    move_into_place(part, stem.with_suffix(".npy"))
    buffer = io.StringIO()
    json.dump(
        {"facts": [asdict(fact) for fact in result.facts], "failures": result.failures}, buffer
    )
    write_text(stem.with_suffix(".json"), buffer.getvalue())  # last: it says "complete"


def move_into_place(part: Path, path: Path) -> None:
    """Rename; on Windows another process that has the same file open keeps its own, equal one."""
    try:
        os.replace(part, path)
    except PermissionError:
        if not path.exists():
            raise


def _from_cache(stem: Path, identities: Sequence[_Identity], reason: str) -> Decoded:
    known = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    images = np.load(stem.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    facts = tuple(FileFacts(**{**fact, "notes": tuple(fact["notes"])}) for fact in known["facts"])
    if images.ndim != 4 or len(images) != len(facts):
        raise ValueError("the cached array does not fit its list")
    failures = tuple((int(index), str(text)) for index, text in known["failures"])
    return _finish(images, facts, failures, identities, reason, "")


def _finish(
    images: NDArray[Any],
    facts: tuple[FileFacts, ...],
    failures: tuple[tuple[int, str], ...],
    identities: Sequence[_Identity],
    reason: str,
    not_cached: str,
) -> Decoded:
    digests = tuple(identities[fact.index].sha256 for fact in facts)
    return Decoded(images, facts, digests, failures, reason, not_cached)
