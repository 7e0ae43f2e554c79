"""`scanwise relabel apply`: decisions become a new manifest and lines in the journal.

Image files and the labels as delivered are never touched. The journal is written first and is the
truth; labels_vN.csv follows from it and is made again if it is missing.
"""

from __future__ import annotations

import csv
import getpass
import io
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, nearest
from scanwise.core.files import write_text
from scanwise.core.types import Dataset
from scanwise.data.manifest import LABEL_PREFIX, RESERVED
from scanwise.pipeline.label_journal import (
    Entry,
    counted,
    default_folder,
    latest,
    newest_version,
    path_in,
    read_journal,
    write_journal,
)

NO_LABEL = "-"  # how a decision says that a multi-label image has none
MAX_LISTED = 20
_SEPARATOR = "|"


@dataclass(frozen=True)
class Decision:
    """What a line of the decisions file says of an image."""

    line: int
    path: str
    label: str
    reason: str


@dataclass(frozen=True)
class Conflict:
    """An image with different answers: those of the file, and the journal's where it has one."""

    path: str
    answers: tuple[str, ...]  # different labels of the file, in its order
    earlier: Entry | None

    def __str__(self) -> str:
        said = " and ".join(f"'{answer}'" for answer in self.answers)
        if self.earlier is None:
            return f"{self.path}: {said}"
        return (
            f"{self.path}: now {said}, '{self.earlier.new}' by {self.earlier.who} "
            f"on {self.earlier.when[:10]}"
        )


@dataclass(frozen=True)
class Applied:
    """What was done. `version` is the newest one afterwards."""

    folder: Path
    version: int
    changed: tuple[Entry, ...]
    kept: tuple[Entry, ...]  # looked at, and found right
    already: int  # decisions that the journal had
    undecided: int  # lines without a decision
    unreadable: int  # files that are in no version
    rewritten: bool = False  # the newest file was missing and was made again

    @property
    def file(self) -> Path:
        return self.folder / f"labels_v{self.version}.csv"

    def text(self) -> str:
        """What the terminal shows."""
        lines = [f"{entry.path}: {entry.old} -> {entry.new}" for entry in self.changed]
        if not self.changed and not self.kept:
            lines.append("nothing to do: the journal has every one of these decisions already.")
        counts = f"{counted(len(self.changed), 'label')} changed, {len(self.kept)} kept"
        lines.append(f"{counts}, {self.already} decided before, {self.undecided} undecided")
        if self.unreadable:
            files = counted(self.unreadable, "unreadable file")
            lines.append(f"left out of every version of the labels: {files}")
        if self.version > 1:
            words = "made again: " if self.rewritten else ""
            command = shlex.join(["scanwise", "train", str(self.file)])
            lines += [f"labels: {words}{self.file}", f"next: {command}"]
        return "\n".join(lines)


def apply_decisions(
    dataset: Dataset,
    source: str,
    decisions: Path,
    *,
    by: str | None = None,
    output: Path | None = None,
    overrule: bool = False,
    ask: Callable[[Conflict], str | None] | None = None,
) -> Applied:
    """Write the decisions into the journal, and all labels as they now are into labels_vN.csv.

    Args:
        dataset: The data as loaded from `source`: as delivered, or any version of its labels.
        source: Where it was loaded from.
        decisions: Columns path, label and, if wanted, reason; or a suspects.csv whose `decision`
            column was filled in (empty: undecided).
        by: Who decided; the user of this machine if None.
        output: The labels folder; see `label_journal.default_folder`.
        overrule: Decisions replace earlier ones of the journal.
        ask: Settles a conflict by returning one of the labels, or None; without it, conflicts are
            refused.

    Raises:
        DataError: An unknown path or class, conflicting decisions (nothing is written), or data
            whose images are no files.
    """
    if dataset.paths is None:
        raise DataError(
            f"{source} holds arrays, and a list of labels needs image files; save the images as "
            "files in class folders first."
        )
    folder = output or default_folder(source, dataset)
    entries = read_journal(folder)
    names = tuple(path_in(folder, path) for path in dataset.paths)
    labels = _labels_now(dataset, names, entries)
    asked, undecided = _read_decisions(decisions)
    wanted = _settled(_located(asked, dataset, names, folder, decisions), entries, overrule, ask)
    known = latest(entries)
    new = [
        (path, labels[path], one)
        for path, one in wanted.items()
        if path not in known or known[path].new != one.label
    ]
    version = newest_version(folder, entries)
    changes = any(old != one.label for _, old, one in new)
    version += changes
    when, who = datetime.now(UTC).isoformat(timespec="seconds"), by or _user()
    fresh = [
        Entry(when, who, path, old, one.label, one.reason, str(version)) for path, old, one in new
    ]
    file = folder / f"labels_v{version}.csv"
    missing = not changes and version > 1 and not file.exists()
    text = _manifest(dataset, names, {**labels, **{entry.path: entry.new for entry in fresh}})
    if fresh:
        write_journal(folder, [*entries, *fresh])
    if changes or missing:
        write_text(file, text)
    return Applied(
        folder,
        version,
        tuple(entry for entry in fresh if entry.old != entry.new),
        tuple(entry for entry in fresh if entry.old == entry.new),
        len(wanted) - len(fresh),
        undecided,
        len(dataset.unreadable),
        missing,
    )


def label_text(dataset: Dataset, target: NDArray[np.int64] | np.int64 | int) -> str:
    """A class's name; several labels as 'a|b', none as '-'."""
    if dataset.task != "multilabel":
        return dataset.class_names[int(target)]
    chosen = np.flatnonzero(np.asarray(target))
    return _SEPARATOR.join(dataset.class_names[i] for i in chosen) or NO_LABEL


def _labels_now(dataset: Dataset, names: Sequence[str], entries: Sequence[Entry]) -> dict[str, str]:
    """Label of each path: the journal's last word, else that of the data.

    Raises:
        DataError: If the data say something that neither the journal nor its past knows.
    """
    labels = {
        name: label_text(dataset, target)
        for name, target in zip(names, dataset.targets, strict=True)
    }
    past: dict[str, set[str]] = {}
    for entry in entries:
        past.setdefault(entry.path, set()).update((entry.old, entry.new))
    strange = [name for name in past if name in labels and labels[name] not in past[name]]
    if strange:
        first = strange[0]
        raise DataError(
            f"labels were changed outside the journal ({len(strange)}), first {first}: the data "
            f"say '{labels[first]}', the journal knows {' and '.join(sorted(past[first]))}. Undo "
            "that change, or keep new decisions in another --output."
        )
    return labels | {path: one.new for path, one in latest(entries).items() if path in labels}


def _read_decisions(path: Path) -> tuple[list[Decision], int]:
    """Decisions by line, and how many lines have none.

    Raises:
        DataError: If the file can't be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"can't read {path}: {getattr(error, 'strerror', None) or error}."
        ) from error
    first = text.splitlines()[0] if text.strip() else ""
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), restval=""
    )
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    column = "decision" if "decision" in columns else "label"
    if "path" not in columns or column not in columns:
        raise DataError(
            f"{path} needs the columns path and label (or decision); it has "
            f"{', '.join(columns) or 'none'}."
        )
    found, undecided = [], 0
    for row in reader:
        cells = {name: (row.get(name) or "").strip() for name in ("path", column, "reason")}
        if cells[column]:
            found.append(Decision(reader.line_num, cells["path"], cells[column], cells["reason"]))
        elif any(str(cell or "").strip() for cell in row.values()):
            undecided += 1
    if not found:
        raise DataError(f"{path} holds no decision; fill in its column '{column}'.")
    return found, undecided


def _located(
    decisions: Sequence[Decision],
    dataset: Dataset,
    names: Sequence[str],
    folder: Path,
    file: Path,
) -> dict[str, list[Decision]]:
    """Decisions by image, labels in one spelling.

    Raises:
        DataError: Unknown paths or classes, the first 20 with the nearest known one.
    """
    place = dict(zip(dataset.sample_ids, names, strict=True))
    place |= {name: name for name in names}
    ends = _unique_ends(names)
    wrong: list[str] = []
    found: dict[str, list[Decision]] = {}
    for one in decisions:
        given = one.path.replace("\\", "/")
        whole = path_in(folder, str(Path(given).absolute()))
        name = place.get(given) or place.get(whole) or ends.get(given)
        label, unknown = _spelled(one.label, dataset)
        if name is None:
            wrong.append(f"line {one.line}: no image '{one.path}'; {_nearest_path(given, place)}")
        elif unknown:
            wrong.append(
                f"line {one.line}: no class '{unknown}'; {nearest(unknown, dataset.class_names)}"
            )
        else:
            found.setdefault(name, []).append(Decision(one.line, name, label, one.reason))
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise DataError(f"{file}: {'; '.join(wrong[:MAX_LISTED])}{more}")
    return found


def _unique_ends(names: Sequence[str]) -> dict[str, str]:
    """Ends of paths, cut at a slash, that one image alone has: 'a/b/c.png' is also 'b/c.png'."""
    found: dict[str, str] = {}
    for name in names:
        parts = name.split("/")
        for start in range(1, len(parts)):
            end = "/".join(parts[start:])
            found[end] = "" if end in found else name
    return found


def _spelled(label: str, dataset: Dataset) -> tuple[str, str]:
    """The label with its parts in class order, and the first part that is no class ('' if none)."""
    if dataset.task != "multilabel":
        return label, "" if label in dataset.class_names else label
    parts = [] if label == NO_LABEL else [part.strip() for part in label.split(_SEPARATOR)]
    unknown = next((part for part in parts if part not in dataset.class_names), "")
    return _SEPARATOR.join(c for c in dataset.class_names if c in parts) or NO_LABEL, unknown


def _nearest_path(given: str, known: dict[str, str]) -> str:
    """The path with the same file name, else the most similar one."""
    same = [name for name in known if Path(name).name == Path(given).name]
    if same:
        return f"did you mean '{same[0]}'?"
    close = nearest(given, known)
    return close if close.startswith("did") else "paths are as in suspects.csv."


def _settled(
    located: dict[str, list[Decision]],
    entries: Sequence[Entry],
    overrule: bool,
    ask: Callable[[Conflict], str | None] | None,
) -> dict[str, Decision]:
    """One decision an image.

    Raises:
        DataError: If answers conflict and nobody settles it.
    """
    known = {} if overrule else latest(entries)
    settled, open_conflicts = {}, []
    for path, several in located.items():
        answers = tuple(dict.fromkeys(one.label for one in several))
        earlier = known.get(path)
        if len(answers) == 1 and (earlier is None or earlier.new == answers[0]):
            settled[path] = several[-1]
            continue
        conflict = Conflict(path, answers, earlier)
        said = ask(conflict) if ask is not None else None
        if said is None:
            open_conflicts.append(conflict)
        else:
            chosen = next((one for one in several if one.label == said), several[-1])
            settled[path] = Decision(chosen.line, path, said, chosen.reason)
    if open_conflicts:
        listed = "; ".join(str(one) for one in open_conflicts[:MAX_LISTED])
        raise DataError(
            f"{counted(len(open_conflicts), 'image')} decided in two ways, to be asked again: "
            f"{listed}. Leave one answer in the file; --overrule lets it replace the journal's."
        )
    return settled


def _manifest(dataset: Dataset, names: Sequence[str], labels: dict[str, str]) -> str:
    """All images with their labels, as `scanwise train` reads them."""
    many = dataset.task == "multilabel"
    if not many and (bad := [name for name in dataset.class_names if _SEPARATOR in name]):
        raise DataError(f"class '{bad[0]}' holds '|', which separates labels; rename it first.")
    columns: dict[str, Sequence[str]] = {"path": names}
    if many:
        for name in dataset.class_names:
            columns[LABEL_PREFIX + name] = [
                str(int(name in labels[path].split(_SEPARATOR))) for path in names
            ]
    else:
        columns["label"] = [labels[path] for path in names]
    for column, cells in (("group", dataset.groups), ("split", dataset.given_split)):
        if cells is not None and all(str(cell) for cell in cells):
            columns[column] = [str(cell) for cell in cells]
    if dataset.weights is not None:
        columns["weight"] = [repr(float(weight)) for weight in dataset.weights]
    columns |= {name: cells for name, cells in dataset.metadata.items() if name not in RESERVED}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
