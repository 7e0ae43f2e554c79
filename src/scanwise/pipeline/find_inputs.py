"""What a command is given to look at: files, folders, globs, lists, tables, arrays; as one list."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.data.folders import is_junk
from scanwise.data.images import is_image_name, looks_like_image
from scanwise.data.manifest import listed_files
from scanwise.data.npz import npz_images

TABLES = (".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class Input:
    """One image to look at."""

    name: str  # as the user gave it; rows of arrays are "name#row"
    file: str  # where it is
    row: int | None = None  # of an .npz

    def source(self) -> Path | NDArray[Any]:
        """What `Bundle.prepare` takes."""
        return Path(self.file) if self.row is None else _images(self.file)[1][self.row]


@dataclass(frozen=True)
class Inputs:
    """Images in the order given, and the folders that were searched for them."""

    images: tuple[Input, ...]
    folders: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """SHA-256 of names, sizes and times of change."""
        digest = hashlib.sha256()
        for each in self.images:
            try:
                stat = os.stat(each.file)
                state = f"{stat.st_size} {stat.st_mtime_ns}"
            except OSError:
                state = "absent"
            digest.update(f"{each.name!r} {each.file!r} {each.row} {state}\n".encode())
        return digest.hexdigest()


def find_inputs(given: Sequence[str], *, lists: Sequence[str] = (), but_not: str = "") -> Inputs:
    """Find the images that are meant.

    Args:
        given: Image files; folders, searched to any depth, sorted; globs such as "scans/**/*.png"
            (for shells that do not expand them); `@LIST`, a text file of all these, one a line; a
            .csv or .tsv with a column `path`, relative to its folder; an .npz, of which each row is
            an image.
        lists: Text files as after `@`; "-" is standard input.
        but_not: A table that must not be among them: the one to be written.

    Raises:
        DataError: Nothing to look at; a folder without images, a glob without files, a list or an
            array that can't be read. A file that does not exist is an image that can't be read,
            unless no other exists.
    """
    words = [word for text in given for word in _unlisted(text)]
    words += [word for file in lists for word in read_list(file)]
    images: list[Input] = []
    folders: list[Path] = []
    for word in words:
        for path in _unglobbed(word, folders):
            if but_not and _same_file(path, but_not):
                raise DataError(f"{path} is the file to be written; name another with -o.")
            images += _expanded(path, folders)
    if not images:
        raise DataError("there is no image to look at; name files, folders or a list.")
    if not any(os.path.lexists(each.file) for each in images):
        many = f", nor do {len(images) - 1:,} others" if len(images) > 1 else ""
        raise DataError(f"{images[0].file} does not exist{many}.")
    return Inputs(tuple(images), tuple(folders))


def find_images(folder: Path) -> list[Path]:
    """Image files below a folder, sorted; hidden ones and what systems leave behind are skipped.

    Linked folders are searched too, each real folder once.

    Raises:
        DataError: If there is no such folder, no image in it, or a folder that can't be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; name a folder of images.")
    found, seen = [], {os.path.realpath(folder)}
    for place, inner, names in os.walk(folder, followlinks=True, onerror=_stop):
        inner[:] = [name for name in sorted(inner) if not is_junk(name) and _new(place, name, seen)]
        paths = [Path(place) / name for name in names if not is_junk(name)]
        found += [path for path in paths if is_image_name(path.name) or looks_like_image(path)]
    if not found:
        raise DataError(f"{folder} holds no image.")
    return sorted(found, key=lambda path: path.as_posix())


def read_list(file: str) -> list[str]:
    """The lines of a text file that are not empty (or what stands between its zero bytes).

    Raises:
        DataError: If it can't be read.
    """
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"can't read the list {file}: {error.strerror or error}.") from error
    text = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text:  # as `find -print0` writes
        return [name for name in text.split("\0") if name]
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def _new(place: str, name: str, seen: set[str]) -> bool:
    real = os.path.realpath(os.path.join(place, name))
    is_new = real not in seen
    seen.add(real)
    return is_new


def _stop(error: OSError) -> None:
    raise DataError(f"can't list {error.filename}: {error.strerror or error}.") from error


def _unlisted(text: str) -> list[str]:
    if text.startswith("@") and not os.path.lexists(text):
        return read_list(text[1:])
    return [text]


def _unglobbed(text: str, folders: list[Path]) -> Iterator[str]:
    """The files of a glob, sorted; anything else as it is."""
    if os.path.lexists(text) or not glob.has_magic(text):
        yield text
        return
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise DataError(f"no file matches {text}.")
    if "**" in text:
        folders.append(Path(text.partition("**")[0] or "."))
        found = [path for path in found if not os.path.isdir(path)]
    yield from found


def _expanded(path: str, folders: list[Path]) -> list[Input]:
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        folders.append(Path(path))
        files = find_images(Path(path))
        inner = [file.relative_to(path).as_posix() for file in files]
        return [Input(os.path.join(path, name), os.path.join(path, name)) for name in inner]
    if suffix in TABLES and os.path.isfile(path):
        return [Input(name, str(file)) for name, file in listed_files(Path(path))]
    if suffix == ".npz" and os.path.isfile(path):
        name, images = _images(path)
        return [Input(f"{name}#{row}", path, row) for row in range(len(images))]
    return [Input(path, path)]


@functools.lru_cache(maxsize=8)
def _images(file: str) -> tuple[str, NDArray[Any]]:
    """Images of an .npz; large ones are mapped from the disk."""
    return npz_images(Path(file))


def _same_file(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
