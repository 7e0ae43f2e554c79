"""Labels given by hand to pictures on the page: a journal that only grows, and an undo.

The journal has the format of `scanwise relabel journal`; undoing adds a line that takes a label
back. labels.csv (path, label) is what `scanwise train` reads. A picture that is byte for byte one
that has another label already is a conflict, which the user settles; nothing is written before.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scanwise.app.folders import Added, ClassFolders
from scanwise.core.config import make_config
from scanwise.core.errors import DataError
from scanwise.core.files import csv_text, sha256_file, write_text
from scanwise.data.assemble import SPLIT_ALIASES
from scanwise.pipeline.label_journal import Entry, latest, path_in, read_journal, write_journal
from scanwise.pipeline.relabel import Applied, Conflict, apply_decisions
from scanwise.pipeline.train import load_data

LABELS = "labels.csv"
UNDONE = "undone"


@dataclass(frozen=True)
class Clash:
    """A picture that would have two labels."""

    path: Path
    wanted: str
    known: str
    where: str  # the file that has the other label

    def __str__(self) -> str:
        return (
            f"{self.path.name} is the same picture as {self.where}, which is '{self.known}', "
            f"and now should be '{self.wanted}'."
        )


class LabelBook:
    """The labels of one set of pictures.

    Args:
        folder: Where journal.csv and labels.csv are; made with the first label.
        known: Labels of training images by SHA-256: (label, name of the file).
        who: Who decides.
    """

    def __init__(
        self, folder: Path, known: Mapping[str, tuple[str, str]] | None = None, who: str = "you"
    ) -> None:
        self.folder = folder
        self._known = dict(known or {})
        self._who = who
        self._entries = list(read_journal(folder))
        self._steps: list[list[tuple[str, str, str]]] = []  # what undo takes back: path, old, new
        self._hashes: dict[Path, str] = {}

    def label_of(self, path: Path) -> str:
        """The label of a picture, '' for none."""
        entry = latest(self._entries).get(path_in(self.folder, str(path)))
        return entry.new if entry is not None else ""

    def labels(self) -> dict[Path, str]:
        """All pictures that have a label, by absolute path."""
        return {
            (self.folder / name).resolve(): entry.new
            for name, entry in latest(self._entries).items()
            if entry.new
        }

    @property
    def can_undo(self) -> bool:
        return bool(self._steps)

    def clashes(self, paths: Sequence[Path], label: str) -> list[Clash]:
        """Pictures that are the same as one with another label: of this set, or of training."""
        mine = {self._hash(path): (path, old) for path, old in self.labels().items()}
        found = []
        for path in paths:
            digest = self._hash(path)
            twin, old = mine.get(digest, (path, label))
            if twin.resolve() != path.resolve() and old != label:
                found.append(Clash(path, label, old, twin.name))
            elif digest in self._known and self._known[digest][0] != label:
                known, where = self._known[digest]
                found.append(Clash(path, label, known, f"{where} of the training images"))
        return found

    def give(self, labels: Mapping[Path, str], reason: str = "") -> int:
        """Label pictures ('' takes a label away); returns how many labels changed."""
        changes = [
            (path_in(self.folder, str(path)), self.label_of(path), label)
            for path, label in labels.items()
        ]
        changes = [change for change in changes if change[1] != change[2]]
        if changes:
            self._write(changes, reason)
            self._steps.append(changes)
        return len(changes)

    def undo(self) -> int:
        """Take the last step back; returns how many labels changed."""
        if not self._steps:
            return 0
        step = self._steps.pop()
        self._write([(path, new, old) for path, old, new in step], UNDONE)
        return len(step)

    def _write(self, changes: Sequence[tuple[str, str, str]], reason: str) -> None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        fresh = [Entry(when, self._who, *change, reason, "1") for change in changes]
        write_journal(self.folder, [*self._entries, *fresh])
        self._entries += fresh
        rows = [[name, e.new] for name, e in latest(self._entries).items() if e.new]
        write_text(self.folder / LABELS, csv_text(["path", "label"], rows))

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_file(path)
        return self._hashes[path]


def training_labels(run: Path, class_names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Label and name of each training image by SHA-256, where class folders tell the label."""
    try:
        with (run / "splits.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except OSError:
        return {}
    found = {}
    for row in rows:
        folders = str(row.get("path") or "").split("/")[:-1]
        if folders and SPLIT_ALIASES.get(folders[0].lower()):
            folders = folders[1:]
        if folders and folders[0] in class_names:
            found[str(row.get("sha256"))] = (folders[0], str(row["path"]))
    return found


def add_to_classes(book: LabelBook, classes: ClassFolders) -> list[Added]:
    """Copy every labelled picture into its class folder; what is there already is told, not done.

    Raises:
        DataError: If nothing has a label.
    """
    labels = book.labels()
    if not labels:
        raise DataError("no picture has a label yet; select some and press the key of a class.")
    known = {name.casefold(): name for name in classes.classes()}
    done = []
    for path, label in labels.items():
        name = known.get(label.casefold()) or classes.add_class(label)
        known[label.casefold()] = name
        done.append(classes.add_image(name, path.name, path.read_bytes()))
    return done


@dataclass(frozen=True)
class Relabelled:
    """What `scanwise relabel apply` did, or the conflicts that keep it from doing it."""

    applied: Applied | None
    conflicts: tuple[Conflict, ...]
    decisions: Path


def relabel_training(
    source: str, book: LabelBook, output: Path, choices: Mapping[str, str] | None = None
) -> Relabelled:
    """Bring the labels of this book into the labels of the data that a model was trained on.

    Args:
        source: The data, as `scanwise train` was given it.
        book: Labels; pictures that are not of these data are left out.
        output: The labels folder.
        choices: Answers to conflicts: path as a conflict names it, and the label that is right.

    Raises:
        DataError: No labelled picture is of these data, or they are arrays.
    """
    dataset = load_data(make_config({"data": source}))
    ours = {str(Path(path).resolve()) for path in dataset.paths or ()}
    rows = [[str(path), label] for path, label in book.labels().items() if str(path) in ours]
    if not rows:
        raise DataError(
            f"no labelled picture is one of {source}; choose that folder as the pictures to label."
        )
    decisions = output / "decisions.csv"
    write_text(decisions, csv_text(["path", "label"], rows))
    met: list[Conflict] = []
    chosen = choices or {}

    def ask(conflict: Conflict) -> str | None:
        met.append(conflict)
        return chosen.get(conflict.path)

    try:
        applied = apply_decisions(dataset, source, decisions, output=output, ask=ask)
    except DataError:
        if any(conflict.path not in chosen for conflict in met):
            return Relabelled(None, tuple(met), decisions)
        raise
    return Relabelled(applied, (), decisions)


def labels_text(book: LabelBook) -> str:
    """labels.csv for a download: absolute paths."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    writer.writerows((str(path), label) for path, label in book.labels().items())
    return text.getvalue()
