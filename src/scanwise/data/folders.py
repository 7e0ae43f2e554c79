"""Class folders, with or without train/val/test: the sub-folder's name is the class."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Dataset, Finding, Provenance
from scanwise.data.assemble import (
    SPLIT_ALIASES,
    Listing,
    check_distinct,
    check_learnable,
    dataset_of,
    fold,
    groups_from_regex,
    slug,
)
from scanwise.data.cache import ReadOptions
from scanwise.data.images import is_image_name, looks_like_image

JUNK_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
JUNK_NAMES |= {"$recycle.bin", "system volume information"}


@dataclass
class _Seen:
    """What a walk leaves out, counted for the notes."""

    junk: int = 0
    other: list[str] = field(default_factory=list)  # files that are no images
    loose: list[str] = field(default_factory=list)  # images outside any class folder


def load_folder(
    root: Path, options: ReadOptions | None = None, *, group_regex: str | None = None
) -> Dataset:
    """Read images from class folders, or from class folders inside train/val/test folders.

    Class names are NFC-normalised and sorted by code point; each class folder is read recursively.
    Hidden and system files are ignored and counted, other files listed. Folders are taken for
    splits when all of them are named train, val or test (or training, valid, validation, testing)
    and train is among them.

    Args:
        root: The folder.
        options: Size, fit and page; the defaults if None.
        group_regex: Its first capture group in a file's relative path is the group.

    Raises:
        DataError: Under two classes, an empty class, names that are equal after folding case and
            spaces, a class without training images, most files under several classes, or nothing
            readable.
    """
    options = options or ReadOptions()
    seen = _Seen()
    splits = _split_folders(root, seen)
    if splits:
        files = _split_files(root, splits, seen)
    else:
        found, empty = _class_files(root, root, seen)
        if found or len(empty) > 1:
            _refuse_empty(root, empty)
        files = [("", *pair) for pair in found]
    class_names = tuple(sorted({name for _, name, _ in files}))
    if len(class_names) < 2:
        raise DataError(_too_few_classes(root, class_names, seen))
    index = {name: i for i, name in enumerate(class_names)}
    targets = np.array([index[name] for _, name, _ in files], np.int64)
    given_split = tuple(split for split, _, _ in files) if splits else None
    check_learnable(targets, given_split, class_names, str(root))
    sample_ids = tuple(path.relative_to(root).as_posix() for _, _, path in files)
    listing = Listing(
        name=slug(root.resolve().name),
        paths=tuple(path for _, _, path in files),
        sample_ids=sample_ids,
        targets=targets,
        class_names=class_names,
        groups=groups_from_regex(sample_ids, group_regex) if group_regex else None,
        given_split=given_split,
        notes=tuple(_walk_notes(root, seen)),
    )
    provenance = Provenance(str(root), "split-folder" if splits else "folder", files=True)
    dataset = dataset_of(listing, options, provenance)
    _refuse_files_in_many_classes(dataset, root)
    return dataset


def is_junk(name: str) -> bool:
    """Hidden files and what operating systems leave behind."""
    return name.startswith(".") or name.lower() in JUNK_NAMES


def _subfolders(folder: Path, seen: _Seen) -> list[Path]:
    found = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            if is_junk(entry.name):
                seen.junk += 1
            else:
                found.append(Path(entry.path))
    return found


def _split_folders(root: Path, seen: _Seen) -> dict[str, Path]:
    """Split name -> folder, empty if the folders are classes.

    Raises:
        DataError: If a train folder stands beside folders that are no splits, or twice.
    """
    ignored = _Seen()
    folders = _subfolders(root, ignored)
    names = {folder: SPLIT_ALIASES.get(folder.name.lower()) for folder in folders}
    if "train" not in names.values():
        return {}
    if len(folders) == 1 and not _subfolders(folders[0], ignored):
        return {}  # images of a class that is called train, not classes
    strangers = [f"'{folder.name}'" for folder, split in names.items() if split is None]
    if strangers:
        raise DataError(
            f"{root} has a train folder beside {', '.join(strangers)}; give a folder that holds "
            "either classes or train/val/test."
        )
    splits: dict[str, Path] = {}
    for folder, split in names.items():
        assert split is not None
        if split in splits:
            raise DataError(
                f"{root} has two folders for {split}: '{splits[split].name}' and '{folder.name}'."
            )
        splits[split] = folder
    seen.junk += ignored.junk
    for entry in os.scandir(root):  # files beside the splits belong to no class
        if not entry.is_dir():
            _note_loose(root, Path(entry.path), seen)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _split_files(root: Path, splits: dict[str, Path], seen: _Seen) -> list[tuple[str, str, Path]]:
    """(split, class, path) of all files, splits joined by class name.

    Raises:
        DataError: If a class has no image in any split, or two names are equal after folding.
    """
    files, empty = [], set()
    for split, folder in splits.items():
        found, without = _class_files(root, folder, seen)
        files += [(split, *pair) for pair in found]
        empty |= without
    names = {name for _, name, _ in files}
    check_distinct(sorted(names | empty), "class folders", str(root))
    if files:
        _refuse_empty(root, empty - names)
    return files


def _class_files(root: Path, folder: Path, seen: _Seen) -> tuple[list[tuple[str, Path]], set[str]]:
    """(class, path) of all images in the class folders of `folder`, sorted; classes without any.

    Raises:
        DataError: If two names are equal after folding.
    """
    for entry in os.scandir(folder):
        if not entry.is_dir():
            _note_loose(root, Path(entry.path), seen)
    classes = _subfolders(folder, seen)
    check_distinct([path.name for path in classes], "class folders", str(folder))
    files, empty = [], set()
    for path in classes:
        name = unicodedata.normalize("NFC", path.name)
        images = list(_images_below(root, path, seen))
        files += [(name, image) for image in images]
        if not images:
            empty.add(name)
    return files, empty


def _refuse_empty(root: Path, empty: set[str]) -> None:
    if empty:
        names = ", ".join(f"'{name}'" for name in sorted(empty))
        raise DataError(
            f"{root}: class {'folder' if len(empty) == 1 else 'folders'} without images: {names}; "
            "add images or remove the folder."
        )


def _images_below(root: Path, top: Path, seen: _Seen) -> Iterator[Path]:
    """Image files below a class folder, sorted; each real folder once, so links can't loop."""
    visited = {os.path.realpath(root), os.path.realpath(top.parent)}
    pending = [top]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        inner = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            if is_junk(entry.name):
                seen.junk += 1
            elif entry.is_dir():
                inner.append(path)
            elif is_image_name(entry.name) or looks_like_image(path):
                yield path
            else:
                seen.other.append(path.relative_to(root).as_posix())
        pending += reversed(inner)


def _note_loose(root: Path, path: Path, seen: _Seen) -> None:
    if is_junk(path.name):
        seen.junk += 1
    elif is_image_name(path.name):
        seen.loose.append(path.relative_to(root).as_posix())
    else:
        seen.other.append(path.relative_to(root).as_posix())


def _too_few_classes(root: Path, class_names: tuple[str, ...], seen: _Seen) -> str:
    advice = (
        "put the images of each class into a sub-folder of its own, named after the class, or "
        "give a CSV manifest with columns path,label"
    )
    if class_names:
        hint = ""
        if SPLIT_ALIASES.get(fold(class_names[0])):
            hint = f" ('{class_names[0]}' looks like a split: give {root / class_names[0]} instead)"
        return (
            f"{root} has one class folder, '{class_names[0]}', and two are needed{hint}; {advice}."
        )
    loose = f" ({len(seen.loose)} images lie directly in it)" if seen.loose else ""
    return f"{root} has no class folders with images{loose}; {advice}."


def _walk_notes(root: Path, seen: _Seen) -> list[Finding]:
    notes = []
    if seen.junk:
        notes.append(
            Finding("R001", "info", f"{seen.junk} hidden or system files and folders ignored.")
        )
    if seen.other:
        notes.append(
            Finding("R002", "info", f"{len(seen.other)} files are no images: {_some(seen.other)}.")
        )
    if seen.loose:
        notes.append(
            Finding(
                "R003",
                "warning",
                f"{len(seen.loose)} images lie outside the class folders and are left out: "
                f"{_some(seen.loose)}.",
                "Move them into the folder of their class.",
            )
        )
    tables = [name for name in seen.other if name.lower().endswith((".csv", ".tsv"))]
    if len(tables) == 1 and "/" not in tables[0]:
        path = root / tables[0]
        notes.append(
            Finding(
                "R018",
                "info",
                f"{tables[0]} lies beside the classes and is not read.",
                "If it lists these images with labels and groups, give it instead of the folder.",
                f"scanwise check {shlex.quote(str(path))}",
            )
        )
    return notes


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in sorted(names)[:5]) + more


def _refuse_files_in_many_classes(dataset: Dataset, root: Path) -> None:
    """Labels by folder can't say that an image has two; when most have, that is what is meant.

    A few such files are label conflicts, which the checks report.

    Raises:
        DataError: If over half of the files lie, byte for byte, under several classes.
    """
    classes = defaultdict(set)
    for digest, target in zip(dataset.sha256, dataset.targets.tolist(), strict=True):
        classes[digest].add(target)
    counts = Counter(dataset.sha256)
    several = [digest for digest, targets in classes.items() if len(targets) > 1]
    files = sum(counts[digest] for digest in several)
    if files * 2 <= len(dataset):
        return
    row = dataset.sha256.index(several[0])
    if (dataset.images[row] == dataset.images[row, :1, :1]).all():
        return  # blank pictures are the same everywhere; the checks speak of them
    example = dataset.sample_ids[row]
    raise DataError(
        f"{root}: {files} of {len(dataset)} files lie under several classes (such as "
        f"'{example}'), so these are several labels per image. Give a CSV manifest instead, "
        "with a column label of cells like a|b, or one 0/1 column label_NAME per label."
    )
