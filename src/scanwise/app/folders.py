"""Folders of this machine: walking through them, and class folders that pictures are dropped into.

Names come from a web page, so each is checked before it becomes part of a path.
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from scanwise.core.errors import DataError
from scanwise.core.files import atomic_path, sha256_bytes, sha256_file
from scanwise.data.folders import is_junk
from scanwise.data.images import is_image_name

DATA_FILES = {".csv", ".tsv", ".npz"}
MOST_SHOWN = 500
_FORBIDDEN = set('/\\:*?"<>|')


@dataclass(frozen=True)
class Listing:
    """What a folder holds, as far as choosing data needs it."""

    path: Path
    parent: Path | None
    folders: tuple[str, ...]
    files: tuple[str, ...]  # .csv, .tsv, .npz
    images: int  # image files right in the folder
    cut: bool = False  # more sub-folders than are shown


def list_folder(path: str | Path) -> Listing:
    """List a folder; hidden entries are left out.

    Raises:
        DataError: If it does not exist or may not be read.
    """
    folder = Path(path).expanduser()
    try:
        folder = folder.resolve(strict=True)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name.lower())
    except NotADirectoryError as error:
        raise DataError(f"{path} is a file, not a folder.") from error
    except OSError as error:
        raise DataError(f"can't open {path}: {error.strerror}; choose another folder.") from error
    shown = [entry for entry in entries if not is_junk(entry.name)]
    folders = [entry.name for entry in shown if _is_dir(entry)]
    files = [entry.name for entry in shown if Path(entry.name).suffix.lower() in DATA_FILES]
    return Listing(
        folder,
        folder.parent if folder.parent != folder else None,
        tuple(folders[:MOST_SHOWN]),
        tuple(files[:MOST_SHOWN]),
        sum(is_image_name(entry.name) for entry in shown),
        len(folders) > MOST_SHOWN,
    )


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def safe_name(name: str, what: str = "name") -> str:
    """A file or folder name without any path in it, in NFC.

    Raises:
        DataError: If it is empty, hidden, or holds what some systems forbid in names.
    """
    clean = unicodedata.normalize("NFC", name).strip()
    bad = sorted({character for character in clean if character in _FORBIDDEN or character < " "})
    if not clean or clean.startswith(".") or bad or len(clean.encode()) > 200:
        why = f"it holds {' '.join(bad)}" if bad else "it is empty, too long or begins with a dot"
        raise DataError(f"{name!r} can't be the {what}: {why}; choose another.")
    return clean


@dataclass(frozen=True)
class Added:
    """What became of one dropped file."""

    name: str
    path: Path | None  # None: not added
    reason: str = ""


@dataclass(frozen=True)
class ClassFolders:
    """A folder of class folders that the workbench fills."""

    root: Path

    def classes(self) -> dict[str, int]:
        """Images of each class, by name."""
        if not self.root.is_dir():
            return {}
        folders = sorted(p for p in self.root.iterdir() if p.is_dir() and not is_junk(p.name))
        return {
            folder.name: sum(p.is_file() and is_image_name(p.name) for p in folder.rglob("*"))
            for folder in folders
        }

    def add_class(self, name: str) -> str:
        """Make a class.

        Raises:
            DataError: If the name can't be one, or one that is equal but for case is there.
        """
        clean = safe_name(name, "name of a class")
        if "|" in clean:
            raise DataError(f"{name!r}: '|' separates labels; choose another name.")
        same = [known for known in self.classes() if known.casefold() == clean.casefold()]
        if same:
            raise DataError(f"there is a class '{same[0]}' already.")
        (self.root / clean).mkdir(parents=True)
        return clean

    def add_image(self, class_name: str, name: str, data: bytes) -> Added:
        """Save a picture into a class, unless it is there or in another class already."""
        try:
            clean = safe_name(Path(name.replace("\\", "/")).name, "name of a file")
        except DataError as error:
            return Added(name, None, str(error))
        if not is_image_name(clean):
            return Added(name, None, "its name is not that of an image file")
        if class_name not in self.classes():
            return Added(name, None, f"there is no class '{class_name}'")
        twin = self.find(data)
        if twin is not None and twin[0] != class_name:
            return Added(
                name, None, f"the same picture is in class '{twin[0]}' already ({twin[1].name})"
            )
        if twin is not None:
            return Added(name, None, f"it is there already ({twin[1].name})")
        target = free_name(self.root / class_name / clean)
        with atomic_path(target) as temporary:
            temporary.write_bytes(data)
        return Added(name, target)

    def find(self, data: bytes) -> tuple[str, Path] | None:
        """Class and path of a file with these very bytes."""
        wanted = sha256_bytes(data)
        for folder in self.classes():
            for path in (self.root / folder).rglob("*"):
                same_size = path.is_file() and path.stat().st_size == len(data)
                if same_size and sha256_file(path) == wanted:
                    return folder, path
        return None


def free_name(path: Path) -> Path:
    """The path, with a number where that name is taken: 'a.png', 'a-2.png', …"""
    number, found = 2, path
    while found.exists():
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return found
