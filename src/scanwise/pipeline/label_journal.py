"""journal.csv: every decision about a label, in the order in which it was made, and never undone.

A labels folder holds `journal.csv` and the versions `labels_v2.csv`, `labels_v3.csv`, … that follow
from it; version 1 is the data as delivered. Paths are relative to the folder.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from scanwise.core.errors import DataError, RunError
from scanwise.core.files import write_text
from scanwise.core.types import Dataset
from scanwise.pipeline.tables import aligned

JOURNAL = "journal.csv"


@dataclass(frozen=True)
class Entry:
    """One decision. `old` equals `new` where a label was looked at and kept."""

    when: str  # UTC, ISO 8601
    who: str
    path: str
    old: str
    new: str
    reason: str
    version: str  # of labels_vN.csv from which on it holds, "2"


def default_folder(source: str, dataset: Dataset) -> Path:
    """Where decisions about data are kept: beside a manifest with a journal, else NAME-labels.

    >>> default_folder("cells/labels_v2.csv", dataset)  # where cells/journal.csv exists
    PosixPath('cells')
    """
    given = Path(source)
    if given.suffix.lower() in {".csv", ".tsv"} and (given.parent / JOURNAL).is_file():
        return given.parent
    return Path(f"{dataset.name}-labels")


def read_journal(folder: Path) -> tuple[Entry, ...]:
    """All decisions, oldest first; none where there is no journal yet.

    Raises:
        DataError: If the file is damaged; names the line.
    """
    path = folder / JOURNAL
    if not path.exists():
        return ()
    names = [field.name for field in fields(Entry)]
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"can't read {path}: {error}.") from error
    if not rows or rows[0] != names:
        raise DataError(f"{path} must have columns {','.join(names)}; restore the file.")
    for line, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(names) or not cells[-1].isdecimal():
            raise DataError(f"{path} row {line} is damaged; restore the file.")
    return tuple(Entry(*cells) for cells in rows[1:])


def write_journal(folder: Path, entries: Sequence[Entry]) -> None:
    """Write the whole journal anew, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Entry)])
    writer.writerows(astuple(entry) for entry in entries)
    write_text(folder / JOURNAL, text.getvalue())


def latest(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The last decision about each path."""
    return {entry.path: entry for entry in entries}


def newest_version(folder: Path, entries: Sequence[Entry]) -> int:
    """Highest N of the journal and of the labels_vN.csv that are there; 1 where there is none."""
    files = folder.glob("labels_v*.csv") if folder.is_dir() else ()
    found = [re.fullmatch(r"labels_v(\d+)\.csv", file.name) for file in files]
    numbers = [int(match.group(1)) for match in found if match]
    return max([1, *numbers, *(int(entry.version) for entry in entries)])


def path_in(folder: Path, file: str) -> str:
    """An image's path as the labels folder's files name it: relative, with forward slashes."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return Path(file).as_posix()


def counted(number: int, noun: str) -> str:
    """'1 label', '2 labels'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def journal_text(folder: Path) -> str:
    """The journal as a table, and what it amounts to.

    Raises:
        RunError: If there is none.
    """
    entries = read_journal(folder)
    if not entries:
        raise RunError(
            f"{folder} holds no {JOURNAL}; `scanwise relabel apply DECISIONS.csv --data DATA` "
            "begins one."
        )
    rows = [("image", "old", "new", "who", "when", "file", "reason")]
    for entry in entries:
        file = f"labels_v{entry.version}.csv" if entry.version != "1" else "as delivered"
        rows.append(
            (entry.path, entry.old, entry.new, entry.who, entry.when, file, entry.reason or "-")
        )
    last = latest(entries)
    kept = sum(entry.old == entry.new for entry in entries)
    summary = (
        f"{counted(len(entries), 'decision')} about {counted(len(last), 'image')}: "
        f"{counted(len(entries) - kept, 'label')} changed, {kept} kept; "
        f"the newest labels are version {newest_version(folder, entries)}."
    )
    return f"{aligned(rows)}\n{summary}"
