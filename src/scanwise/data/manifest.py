"""A CSV or TSV that lists images with their labels, splits, groups, weights and anything else.

Columns: `path` (or `file_name`), then `label`, and if wanted `split`, `group`, `weight`; every
other column is metadata. Several labels per image are written either as `a|b` in the `label` column
(an empty cell means none), or as one 0/1 column per label: the columns named `label_NAME` where
there are any, else, in a table without `label`, every further column that holds nothing but 0 and 1
(two at least).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, nearest
from scanwise.core.types import Dataset, Finding, Provenance, Task
from scanwise.data.assemble import (
    SPLIT_ALIASES,
    Listing,
    check_distinct,
    check_learnable,
    dataset_of,
    groups_from_regex,
    slug,
)
from scanwise.data.cache import ReadOptions
from scanwise.data.tables import MAX_LISTED, Table, read_table

PATH_COLUMNS = ("path", "file_name")
RESERVED = (*PATH_COLUMNS, "label", "split", "group", "weight")
LABEL_PREFIX = "label_"
_GENERIC_STEMS = {"manifest", "data", "labels", "label", "metadata", "train", "index", "images"}


@dataclass(frozen=True, eq=False)
class _Labels:
    task: Task
    targets: NDArray[np.int64]
    class_names: tuple[str, ...]
    columns: tuple[str, ...]  # that they were read from
    notes: tuple[Finding, ...] = ()


class _Offenders:
    """Collects what is wrong with single lines, to say it all at once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.found: list[tuple[int, str]] = []

    def add(self, row: int, reason: str) -> None:
        self.found.append((self.table.lines[row], reason))

    def stop_if_any(self) -> None:
        """Raise DataError with the first MAX_LISTED of them, by line."""
        if not self.found:
            return
        self.found.sort(key=lambda pair: pair[0])
        said = "; ".join(f"line {line}: {reason}" for line, reason in self.found[:MAX_LISTED])
        more = len(self.found) - MAX_LISTED
        raise DataError(
            f"{self.table.path}: {len(self.found)} "
            f"{'problem' if len(self.found) == 1 else 'problems'}: {said}"
            f"{f'; and {more} more' if more > 0 else ''}."
        )


def load_manifest(
    path: Path,
    options: ReadOptions | None = None,
    *,
    group: str | None = None,
    group_regex: str | None = None,
) -> Dataset:
    """Read the images that a table lists.

    Relative paths start from the table's folder. Classes are sorted by code point, or as numbers
    where all labels are whole numbers; labels in columns of their own keep the columns' order.

    Args:
        path: The .csv (comma, semicolon or tab) or .tsv file, UTF-8 or UTF-16 with a mark.
        options: Size, fit and page; the defaults if None.
        group: The column that holds the groups; `group` if None and there is one.
        group_regex: Groups from the `path` cells instead.

    Raises:
        DataError: Unknown or missing columns; missing files, unknown splits, a path listed twice,
            cells that are no label or weight (the first 20 with their line numbers); under two
            classes; a class or label without training images.
    """
    table = read_table(path, _header)
    offenders = _Offenders(table)
    names = table.cells(_path_column(table))
    files = _find_files(table, names, offenders)
    labels = _labels(table, offenders)
    _check_paths_once(table, files, labels.targets, offenders)
    group_column = _group_column(table, group)
    splits = _splits(table, offenders)
    weights = _weights(table, offenders)
    groups = _groups(table, group_column, offenders)
    offenders.stop_if_any()
    check_learnable(labels.targets, splits, labels.class_names, str(path))
    used = {*RESERVED, *labels.columns, group_column}
    sample_ids = tuple(name.replace("\\", "/") for name in names)
    if group_regex:
        groups = groups_from_regex(sample_ids, group_regex)
    listing = Listing(
        name=slug(path.resolve().parent.name if path.stem.lower() in _GENERIC_STEMS else path.stem),
        paths=tuple(files),
        sample_ids=sample_ids,
        targets=labels.targets,
        class_names=labels.class_names,
        task=labels.task,
        groups=groups,
        given_split=splits,
        weights=weights,
        metadata={name: table.cells(name) for name in table.columns if name not in used},
        notes=labels.notes,
    )
    return dataset_of(
        listing, options or ReadOptions(), Provenance(str(path), "manifest", files=True)
    )


def listed_files(path: Path) -> list[tuple[str, Path]]:
    """What a table's column `path` (or `file_name`) says, and the file that is meant by it.

    No other column is needed; files need not exist.

    Raises:
        DataError: If the table can't be read or has no such column.
    """
    table = read_table(path, _header)
    return [(name, _file_of(table, name)) for name in table.cells(_path_column(table))]


# --- the table ----------------------------------------------------------------------------------


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    """Column names; the reserved ones in lower case."""
    names = [cell.strip() for cell in cells]
    # Only the reserved names are folded, so that 'Path' and 'Label' work and metadata keep theirs.
    names = [name.lower() if name.lower() in RESERVED else name for name in names]
    if not any(name in names for name in PATH_COLUMNS):
        raise DataError(
            f"{path} has no column 'path' (or 'file_name'); its columns are "
            f"{', '.join(map(repr, names))}."
        )
    return names


def _path_column(table: Table) -> str:
    found = [name for name in PATH_COLUMNS if name in table.columns]
    if len(found) > 1:
        raise DataError(f"{table.path} has both 'path' and 'file_name'; keep one.")
    return found[0]


def _group_column(table: Table, group: str | None) -> str | None:
    if group is None:
        return "group" if "group" in table.columns else None
    if group not in table.columns:
        raise DataError(f"{table.path} has no column '{group}'; {nearest(group, table.columns)}")
    if group in (*PATH_COLUMNS, "label", "split", "weight"):
        raise DataError(f"{table.path}: column '{group}' can't be the group.")
    return group


# --- its columns --------------------------------------------------------------------------------


def _file_of(table: Table, name: str) -> Path:
    """Relative paths start from the table's folder."""
    file = table.path.parent / name
    if "\\" in name and not file.exists():  # written on Windows
        return table.path.parent / name.replace("\\", "/")
    return file


def _find_files(table: Table, names: Sequence[str], offenders: _Offenders) -> list[Path]:
    files = []
    for row, name in enumerate(names):
        file = _file_of(table, name)
        if not name:
            offenders.add(row, "empty path")
        elif file.is_dir():
            offenders.add(row, f"'{name}' is a folder")
        elif not file.exists():
            offenders.add(row, f"file '{name}' not found")
        files.append(file)
    return files


def _check_paths_once(
    table: Table, files: Sequence[Path], targets: NDArray[np.int64], offenders: _Offenders
) -> None:
    first: dict[Path, int] = {}
    for row, file in enumerate(files):
        earlier = first.setdefault(Path(file).absolute().resolve(), row)
        if earlier != row:
            same = np.array_equal(targets[row], targets[earlier])
            labels = "listed before" if same else "listed before with another label"
            offenders.add(row, f"'{file.name}' is {labels}, in line {table.lines[earlier]}")


def _labels(table: Table, offenders: _Offenders) -> _Labels:
    if "label" in table.columns:
        prefixed = [name for name in table.columns if name.startswith(LABEL_PREFIX)]
        if prefixed:
            raise DataError(
                f"{table.path} has a column 'label' and columns such as '{prefixed[0]}'; keep one "
                "way of giving labels."
            )
        cells = table.cells("label")
        several = any("|" in cell for cell in cells)
        return (_piped if several else _single)(table, cells, offenders)
    return _columns(table, offenders)


def _single(table: Table, cells: Sequence[str], offenders: _Offenders) -> _Labels:
    for row, cell in enumerate(cells):
        if not cell:
            offenders.add(row, "empty label")
    names = sort_labels({cell for cell in cells if cell})
    check_distinct(names, "labels", str(table.path))
    if len(names) < 2 and not offenders.found:
        said = f"one label, '{names[0]}'" if names else "no labels"
        raise DataError(f"{table.path} has {said}; two classes are needed.")
    index = {name: i for i, name in enumerate(names)}
    targets = np.array([index.get(cell, 0) for cell in cells], np.int64)
    return _Labels("multiclass", targets, names, ("label",))


def _piped(table: Table, cells: Sequence[str], offenders: _Offenders) -> _Labels:
    parts = [[part.strip() for part in cell.split("|")] if cell else [] for cell in cells]
    for row, labels in enumerate(parts):
        if "" in labels:
            offenders.add(row, f"empty label in '{cells[row]}'")
    names = sort_labels({label for labels in parts for label in labels if label})
    check_distinct(names, "labels", str(table.path))
    targets = np.array([[int(name in labels) for name in names] for labels in parts], np.int64)
    return _Labels("multilabel", targets.reshape(len(cells), len(names)), names, ("label",))


def _columns(table: Table, offenders: _Offenders) -> _Labels:
    prefixed = [name for name in table.columns if name.startswith(LABEL_PREFIX)]
    notes: tuple[Finding, ...] = ()
    if prefixed:
        columns = prefixed
    else:
        columns = [
            name
            for name in table.columns
            if name not in RESERVED and set(table.cells(name)) <= {"0", "1"}
        ]
        notes = (
            Finding(
                "R019",
                "warning",
                f"no column 'label', so the columns of only 0 and 1 are taken for labels: "
                f"{', '.join(columns)}.",
                f"Name label columns '{LABEL_PREFIX}NAME' if some of these are metadata.",
            ),
        )
    if len(columns) < 2:
        raise DataError(
            f"{table.path} has no column 'label' and {len(columns)} label columns of 0 and 1 (two "
            f"are needed); its columns are {', '.join(map(repr, table.columns))}."
        )
    names = tuple(name.removeprefix(LABEL_PREFIX) for name in columns)
    check_distinct(names, "labels", str(table.path))
    targets = np.zeros((len(table.rows), len(names)), np.int64)
    for k, column in enumerate(columns):
        for row, cell in enumerate(table.cells(column)):
            if cell not in {"0", "1"}:
                offenders.add(row, f"'{cell}' in column '{column}', 0 or 1 expected")
            targets[row, k] = cell == "1"
    empty = [name for name, count in zip(names, targets.sum(axis=0), strict=True) if not count]
    if empty:
        raise DataError(
            f"{table.path}: no image has the label {', '.join(map(repr, empty))}, so it can't be "
            "learned; remove its column."
        )
    return _Labels("multilabel", targets, names, tuple(columns), notes)


def sort_labels(labels: set[str]) -> tuple[str, ...]:
    """By code point; by value where all are whole numbers ('10' after '9')."""
    if labels and all(label.removeprefix("-").isdecimal() and label.isascii() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _splits(table: Table, offenders: _Offenders) -> tuple[str, ...] | None:
    if "split" not in table.columns or not any(table.cells("split")):
        return None
    found = []
    for row, cell in enumerate(table.cells("split")):
        split = SPLIT_ALIASES.get(cell.lower(), "")
        if not split:
            offenders.add(row, f"split '{cell}', where train, val or test is expected")
        found.append(split or "train")
    return tuple(found)


def _weights(table: Table, offenders: _Offenders) -> tuple[float, ...] | None:
    if "weight" not in table.columns:
        return None
    found = []
    for row, cell in enumerate(table.cells("weight")):
        try:
            weight = float(cell)
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight >= 0):
            offenders.add(row, f"weight '{cell}' is not a number of 0 or more")
        found.append(weight)
    return tuple(found)


def _groups(table: Table, column: str | None, offenders: _Offenders) -> tuple[str, ...] | None:
    if column is None:
        return None
    cells = table.cells(column)
    for row, cell in enumerate(cells):
        if not cell:
            offenders.add(row, f"empty group (column '{column}')")
    return cells
