"""A local .npz: MedMNIST's layout (train_images, train_labels, …) or one pair such as X and y.

Nothing is ever unpickled. Above LARGE_BYTES the pixels are mapped: in place where the file stores
them uncompressed in one piece, else from a copy that is written once to the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.core.files import cache_dir, hash_file, write_text
from scanwise.core.memory import check_memory
from scanwise.core.types import Dataset, Finding, Provenance, Task
from scanwise.data.arrays import (
    check_images,
    check_not_constant,
    known_depth,
    parse_targets,
    row_hashes,
)
from scanwise.data.assemble import check_learnable, slug
from scanwise.data.cache import (
    LARGE_BYTES,
    MAKE_ROOM,
    announce,
    move_into_place,
    npy_header,
    room_for,
    temporary_in,
)
from scanwise.data.medmnist_table import CITATION, RECORD, MedMNIST, by_file_stem, by_prefix

_BLOCK_BYTES = 16 << 20
_SPLIT_KEYS = (("{}_images", "{}_labels"), ("X_{}", "y_{}"), ("x_{}", "y_{}"))
_PLAIN_KEYS = (("X", "y"), ("x", "y"), ("images", "labels"), ("images", "targets"))
_MAPPABLE = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, struct.error)


@dataclass(frozen=True)
class _Part:
    """One split's images and labels in the file; `split` is '' where there is only one pair."""

    split: str
    images: str
    labels: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class _Origin:
    """What the name, the counts and the checksum say about a file."""

    known: MedMNIST | None = None  # for class names, task, licence
    official: bool = False  # the official split, so a benchmark
    verified: bool | None = None
    notes: tuple[Finding, ...] = ()


def load_npz(
    path: Path, *, kind: Literal["npz", "medmnist"] = "npz", md5: str | None = None
) -> Dataset:
    """Read a data set from an .npz file.

    Args:
        path: The file. One named like an official MedMNIST file (dermamnist.npz,
            breastmnist_64.npz) gets the official class names and is compared with the official
            counts and MD5; one that only begins so (pathmnist_train1000.npz) gets the names.
        kind: For the provenance: who asked.
        md5: The file's MD5 if it is known already.

    Raises:
        DataError: No such keys, no labels, pickled objects, a damaged file, or images and labels
            that do not go together.
    """
    with _opened(path) as archive:
        parts = _parts(path, archive)
        labels = np.concatenate([_read(path, archive, part.labels) for part in parts])
        extras = _extras(path, archive, parts)
        given_names = _class_names(path, archive)
        images, notes = _images(path, archive, parts)
    images = check_images(images, str(path))
    origin = _origin(path, parts, labels, md5)
    known = origin.known
    names = given_names if known is None else known.class_names
    task: Task | None = None if known is None else known.task
    targets, class_names, task = parse_targets(labels, names, task, str(path))
    given_split = None
    if parts[0].split:
        given_split = np.repeat([part.split for part in parts], [part.shape[0] for part in parts])
        if task != "multilabel":
            check_learnable(targets, given_split.tolist(), class_names, str(path))
    else:
        check_not_constant(images, str(path))
    name = slug(path.stem)
    groups = extras.pop("groups", None)
    return Dataset(
        name=name,
        images=images,
        targets=targets,
        class_names=class_names,
        sample_ids=tuple(f"{name}#{row}" for row in range(len(images))),
        sha256=_hashes(path, images),
        task=task,
        groups=groups,
        given_split=given_split,
        split_origin=None if given_split is None else "official" if origin.official else "user",
        metadata=extras,
        notes=(*notes, *origin.notes),
        provenance=Provenance(
            source=str(path),
            kind=kind,
            licence=known.licence if known else None,
            citation=CITATION if known else None,
            url=RECORD if known else None,
            verified=origin.verified,
            benchmark=known.flag if known and origin.official else None,
        ),
    )


def npz_images(path: Path) -> tuple[str, NDArray[Any]]:
    """The images of an .npz, whose labels may be missing, and the name that its rows have.

    Returns:
        The name, and images (n, h, w) or (n, h, w, c) in the order in which `load_npz` has them:
        row k is its sample "name#k". Pixels that are not finite are left in.

    Raises:
        DataError: No images, pickled objects, or a damaged file.
    """
    with _opened(path) as archive:
        parts = _same_form(path, archive, _pairs(path, _keys(archive)))
        images, _ = _images(path, archive, parts)
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{path}: images have shape {images.shape}; (n, height, width) or (n, height, width, "
            "channels) is needed."
        )
    return slug(path.stem), known_depth(images, str(path))


def md5_file(path: Path) -> str:
    """Hex MD5 of a file's bytes: what MedMNIST publishes, no protection against malice."""
    return hash_file(path, "md5")


# --- what is in the file ------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} can't be read as .npz ({error}); it may be truncated: get it again."
        ) from error
    with archive:
        yield archive


def _keys(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _pairs(path: Path, keys: list[str]) -> list[tuple[str, str, str]]:
    """(split, key of the images, key of the labels, which may be absent) of each part.

    Raises:
        DataError: If there are no images.
    """
    for images, labels in _SPLIT_KEYS:
        splits = [split for split in ("train", "val", "test") if images.format(split) in keys]
        if splits:
            pairs = [(split, images.format(split), labels.format(split)) for split in splits]
            break
    else:
        pairs = [("", images, labels) for images, labels in _PLAIN_KEYS if images in keys]
        pairs = [pair for pair in pairs if pair[2] in keys][:1] or pairs[:1]
    if not pairs:
        raise DataError(
            f"{path} has no images: it needs train_images and train_labels (and val_…, test_…) or "
            f"X and y; it has {', '.join(keys) or 'no arrays'}."
        )
    return pairs


def _parts(path: Path, archive: zipfile.ZipFile) -> list[_Part]:
    keys = _keys(archive)
    pairs = _pairs(path, keys)
    missing = [labels for _, _, labels in pairs if labels not in keys]
    if missing:
        raise DataError(
            f"{path} has images but no labels: {', '.join(missing)} is missing; it has "
            f"{', '.join(keys)}."
        )
    if pairs[0][0] not in ("", "train"):
        raise DataError(f"{path} has no train images; it has {', '.join(keys)}.")
    parts = _same_form(path, archive, pairs)
    for part in parts:
        count = _header(path, archive, part.labels)[0]
        if not part.shape or not count or part.shape[0] != count[0]:
            raise DataError(
                f"{path}: {part.images} has shape {part.shape}, but {part.labels} has {count}."
            )
    return parts


def _same_form(
    path: Path, archive: zipfile.ZipFile, pairs: list[tuple[str, str, str]]
) -> list[_Part]:
    """The parts that are not empty, and train.

    Raises:
        DataError: If their images differ in size or type.
    """
    parts = [_Part(*pair, *_header(path, archive, pair[1])) for pair in pairs]
    parts = [part for part in parts if part.split in ("", "train") or part.shape[:1] != (0,)]
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype:
            raise DataError(
                f"{path}: {part.images} has images {part.shape[1:]} {part.dtype}, but "
                f"{parts[0].images} {parts[0].shape[1:]} {parts[0].dtype}."
            )
    return parts


def _header(
    path: Path, archive: zipfile.ZipFile, key: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a member.

    Raises:
        DataError: If it is damaged or holds Python objects.
    """
    try:
        with archive.open(f"{key}.npy") as stream:
            shape, _, dtype = _npy_header(stream)
    except _BROKEN as error:
        raise DataError(f"{path}: {key} can't be read ({error}).") from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: {key} holds Python objects, and loading them could run foreign code; save it "
            "as plain numbers or strings."
        )
    return shape, dtype


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"unknown .npy version {version}")


def _read(path: Path, archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    _header(path, archive, key)
    try:
        with archive.open(f"{key}.npy") as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except _BROKEN as error:
        raise DataError(
            f"{path}: {key} can't be read ({error}); the file is damaged: get it again."
        ) from error


def _class_names(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...] | None:
    if "class_names.npy" not in archive.namelist():
        return None
    names = _read(path, archive, "class_names")
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"{path}: class_names must be a list of strings.")
    return tuple(str(name) for name in names.tolist())


def _extras(path: Path, archive: zipfile.ZipFile, parts: list[_Part]) -> dict[str, tuple[str, ...]]:
    """Further columns: `something_train`, `something_val` … of fitting length, and `groups`."""
    keys = {name.removesuffix(".npy") for name in archive.namelist()}
    columns: dict[str, tuple[str, ...]] = {}
    if not parts[0].split:
        if "groups" in keys:
            columns["groups"] = _column(path, archive, ["groups"], parts)
        return columns
    columns["split_index"] = tuple(str(row) for part in parts for row in range(part.shape[0]))
    used = {key for part in parts for key in (part.images, part.labels)}
    for key in sorted(keys - used):
        stem = key.removesuffix("_train")
        members = [f"{stem}_{part.split}" for part in parts]
        if stem != key and not set(members) & used and set(members) <= keys:
            columns[stem] = _column(path, archive, members, parts)
    return columns


def _column(
    path: Path, archive: zipfile.ZipFile, members: list[str], parts: list[_Part]
) -> tuple[str, ...]:
    cells: list[str] = []
    for member, part in zip(members, parts, strict=True):
        values = _read(path, archive, member)
        if values.shape != (part.shape[0],):
            raise DataError(
                f"{path}: {member} has shape {values.shape}, but there are {part.shape[0]} images."
            )
        cells += [str(value) for value in values.tolist()]
    return tuple(cells)


# --- pixels -------------------------------------------------------------------------------------


def _images(
    path: Path, archive: zipfile.ZipFile, parts: list[_Part]
) -> tuple[NDArray[Any], tuple[Finding, ...]]:
    """(n, h, w, c) of all parts in order, in memory or mapped."""
    if sum(part.num_bytes for part in parts) <= LARGE_BYTES:
        return _joined(path, archive, parts), ()
    if len(parts) == 1:
        mapped = _mapped_in_place(path, archive, parts[0])
        if mapped is not None:
            return mapped, ()
    try:
        return _mapped_copy(path, archive, parts), ()
    except OSError as error:
        needed = int(np.prod(_joint_shape(parts), dtype=np.int64)) * parts[0].dtype.itemsize
        check_memory(needed, f"{path} without a copy in the cache ({error})", MAKE_ROOM)
        note = Finding(
            "R016",
            "warning",
            f"{path.name} is kept in memory, not mapped from the cache: {error}.",
            "Make room, or set SCANWISE_CACHE to a folder with more.",
        )
        return _streamed(path, archive, parts), (note,)


def _joint_shape(parts: list[_Part]) -> tuple[int, ...]:
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def _streamed(path: Path, archive: zipfile.ZipFile, parts: list[_Part]) -> NDArray[Any]:
    """As `_joined`, without holding any pixel twice."""
    dtype = known_depth(np.empty(0, parts[0].dtype), str(path)).dtype
    images, start = np.empty(_joint_shape(parts), dtype), 0
    for part in parts:
        for block in _blocks(path, archive, part):
            images[start : start + len(block)] = known_depth(block, str(path))
            start += len(block)
    return images


def _joined(path: Path, archive: zipfile.ZipFile, parts: list[_Part]) -> NDArray[Any]:
    arrays = [_read(path, archive, part.images) for part in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _mapped_in_place(path: Path, archive: zipfile.ZipFile, part: _Part) -> NDArray[Any] | None:
    """A map of an uncompressed member inside the file; None if it is compressed or transposed."""
    member = archive.getinfo(f"{part.images}.npy")
    if member.compress_type != zipfile.ZIP_STORED or part.dtype not in _MAPPABLE:
        return None
    with path.open("rb") as stream:
        # The local header repeats name and extra field with lengths of its own (APPNOTE 4.3.7).
        stream.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", stream.read(4))
        stream.seek(member.header_offset + 30 + name_length + extra_length)
        shape, transposed, dtype = _npy_header(stream)
        start = stream.tell()
    if transposed:
        return None
    return np.memmap(path, dtype, "r", start, shape)


def _mapped_copy(path: Path, archive: zipfile.ZipFile, parts: list[_Part]) -> NDArray[Any]:
    """A map of all parts one after another, written once to the cache.

    Raises:
        OSError: If the cache can't hold it.
    """
    stem = cache_dir() / "npz" / _copy_key(path)
    target = stem.with_suffix(".npy")
    shape = _joint_shape(parts)
    dtype = known_depth(np.empty(0, parts[0].dtype), str(path)).dtype
    if not target.exists():
        num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        why_not = room_for(target.parent, num_bytes)
        if why_not:
            raise OSError(why_not)
        announce(f"a copy of {path.name} that can be read by index", num_bytes, target.parent)
        with temporary_in(target.parent) as part_path:
            with part_path.open("wb") as stream:
                stream.write(npy_header(shape, dtype))
                for part in parts:
                    for block in _blocks(path, archive, part):
                        pixels = known_depth(block, str(path))
                        stream.write(np.ascontiguousarray(pixels).data)
            move_into_place(part_path, target)
    mapped: NDArray[Any] = np.load(target, mmap_mode="r", allow_pickle=False)
    if mapped.shape != shape:
        target.unlink()
        raise OSError("the copy in the cache was damaged; it was removed")
    return mapped


def _copy_key(path: Path) -> str:
    stat = path.stat()
    text = json.dumps([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(text.encode()).hexdigest()


def _blocks(path: Path, archive: zipfile.ZipFile, part: _Part) -> Iterator[NDArray[Any]]:
    """A member's rows, some megabytes at a time."""
    row_bytes = part.num_bytes // max(part.shape[0], 1)
    rows_at_once = max(1, _BLOCK_BYTES // max(row_bytes, 1))
    try:
        with archive.open(f"{part.images}.npy") as stream:
            _, transposed, dtype = _npy_header(stream)
            if transposed:
                yield _read(path, archive, part.images)
                return
            for start in range(0, part.shape[0], rows_at_once):
                count = min(rows_at_once, part.shape[0] - start)
                data = stream.read(count * row_bytes)
                yield np.frombuffer(data, dtype).reshape(count, *part.shape[1:])
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(
            f"{path}: {part.images} can't be read ({error}); the file is damaged: get it again."
        ) from error


def _hashes(path: Path, images: NDArray[Any]) -> tuple[str, ...]:
    """Row hashes; those of mapped pixels are remembered, since they take as long as reading all."""
    if not isinstance(images, np.memmap) and not isinstance(images.base, np.memmap):
        return row_hashes(images)
    memory = cache_dir() / "npz" / f"{_copy_key(path)}.json"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        if len(known) == len(images):
            return tuple(known)
    hashes = row_hashes(images)
    with contextlib.suppress(OSError):
        write_text(memory, json.dumps(hashes))
    return hashes


# --- is it MedMNIST? ----------------------------------------------------------------------------


def _origin(path: Path, parts: list[_Part], labels: NDArray[Any], md5: str | None) -> _Origin:
    named = by_file_stem(path.stem)
    if named is None:
        return _part_of(path, parts, labels)
    known, size_px = named
    why_not = _misfit(known, labels) or _other_images(known, size_px, parts)
    if why_not:
        return _Origin(
            known=None if _misfit(known, labels) else known,
            verified=False,
            notes=(
                Finding(
                    "R017",
                    "warning",
                    f"{path.name} is named like {known.title}, but {why_not}; it is read as a "
                    "data set of your own, not as the benchmark.",
                ),
            ),
        )
    digest = md5 or md5_file(path)
    if digest == known.md5[size_px]:
        evidence = f"{path.name} is the official {known.title} (MD5 {digest})."
        return _Origin(known, True, True, (Finding("R017", "info", evidence),))
    return _Origin(
        known,
        official=True,
        verified=False,
        notes=(
            Finding(
                "R017",
                "warning",
                f"unverified: {path.name} has the layout and counts of {known.title}, but another "
                f"MD5 ({digest}; official {known.md5[size_px]}).",
                "Compare results with published ones only if you know where it comes from.",
            ),
        ),
    )


def _part_of(path: Path, parts: list[_Part], labels: NDArray[Any]) -> _Origin:
    """A file named FLAG_something: class names of that set, nothing official about it."""
    known = by_prefix(path.stem)
    if known is None or _misfit(known, labels):
        return _Origin()
    counts = ", ".join(f"{part.split or 'all'} {part.shape[0]}" for part in parts)
    evidence = (
        f"{path.name} is taken for a part of {known.title} by its name ({counts} of "
        f"{sum(known.num_images)} images): class names and licence are {known.title}'s, the split "
        "is the file's own."
    )
    return _Origin(known, notes=(Finding("R021", "info", evidence),))


def _misfit(known: MedMNIST, labels: NDArray[Any]) -> str:
    """Why labels can't be this set's, or ''."""
    k = len(known.class_names)
    columns = labels.shape[1] if labels.ndim == 2 else 1
    if known.task == "multilabel":
        return "" if columns == k else f"it has {columns} label columns, not {k}"
    if columns != 1 or labels.dtype.kind not in "iu":
        return f"its labels have shape {labels.shape} and type {labels.dtype}"
    if labels.size and (labels.min() < 0 or labels.max() >= k):
        return f"its labels go from {labels.min()} to {labels.max()}, not 0 to {k - 1}"
    return ""


def _other_images(known: MedMNIST, size_px: int, parts: list[_Part]) -> str:
    """How images differ from the official ones in number or shape, or ''."""
    counts = {part.split: part.shape[0] for part in parts}
    official = dict(zip(("train", "val", "test"), known.num_images, strict=True))
    if counts != official:
        found = ", ".join(f"{split or 'all'} {n}" for split, n in counts.items())
        return f"has other counts ({found}; official {', '.join(map(str, known.num_images))})"
    shape = (size_px, size_px) if known.channels == 1 else (size_px, size_px, known.channels)
    if parts[0].shape[1:] != shape or parts[0].dtype != np.uint8:
        return f"its images are {parts[0].shape[1:]} {parts[0].dtype}, not {shape} uint8"
    return ""
