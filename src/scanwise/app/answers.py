"""Answers to new pictures, as a folder of plain files in the workspace.

predictions/NNN/
  about.json        which model answered, when, about how many pictures from where
  predictions.csv   the rows that `scanwise predict` writes
  images/           pictures that were dropped on the page (chosen folders stay where they are)
  labels/           labels that were given by hand (app.labelling)
"""

from __future__ import annotations

import csv
import shlex
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scanwise.app.progress import read_json
from scanwise.app.workspace import Workspace
from scanwise.core.errors import DataError, RunError
from scanwise.core.files import csv_text, write_json, write_text
from scanwise.deploy.answers import ABSTAIN, Answer
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.opening import open_model
from scanwise.pipeline.answer_rows import LABELS, header, names_in, rows_of
from scanwise.pipeline.find_inputs import Input, Inputs
from scanwise.pipeline.predict import answer_blocks, block_size, model_sha256
from scanwise.pipeline.sort_into import Sorted, SortPlan, check_plan, sort_files

ABOUT, CSV, IMAGES = "about.json", "predictions.csv", "images"
KEPT_MODELS = 2
SURE, LIKELY = 0.9, 0.6  # bounds of the words, not of any decision


@dataclass(frozen=True, eq=False)
class AnswerSet:
    """One folder of answers."""

    folder: Path
    about: dict[str, Any]
    class_names: tuple[str, ...]
    answers: tuple[Answer, ...]

    @property
    def csv(self) -> Path:
        return self.folder / CSV

    @property
    def headline(self) -> str:
        """How many pictures were answered, and how many could not be."""
        number, read = len(self.answers), sum(answer.ok for answer in self.answers)
        if read == number:
            return f"{number:,} pictures answered"
        return f"{read:,} of {number:,} answered, {number - read:,} could not be read"

    def counts(self) -> list[tuple[str, str]]:
        """How often each class was the answer."""
        said = [
            # A class may have "|" in its name, but none of several labels.
            [one.predicted] if one.predicted in self.class_names else one.predicted.split(LABELS)
            for one in self.answers
            if one.ok
        ]
        return [(name, f"{sum(name in one for one in said):,}") for name in self.class_names]

    def summary(self) -> list[tuple[str, str]]:
        """How sure the answers are, in words."""
        read = [answer for answer in self.answers if answer.ok]
        known = [answer for answer in read if answer.decision != ABSTAIN]
        sure = sum((answer.probability or 0) >= SURE for answer in known)
        likely = sum(LIKELY <= (answer.probability or 0) < SURE for answer in known)
        return [
            (f"sure (probability {SURE:g} or more)", f"{sure:,}"),
            (f"likely ({LIKELY:g} to {SURE:g})", f"{likely:,}"),
            (f"unsure (under {LIKELY:g})", f"{len(known) - sure - likely:,}"),
            ("unlike the training images (unknown)", f"{len(read) - len(known):,}"),
            ("could not be read", f"{len(self.answers) - len(read):,}"),
        ]


def confidence(answer: Answer) -> tuple[str, str]:
    """A key for the border, and words that say the same without colour."""
    if not answer.ok:
        return "error", "can't be read"
    if answer.in_distribution is False:
        return "unknown", "unlike the training images"
    probability = answer.probability or 0.0
    if probability >= SURE:
        return "sure", "sure"
    return ("likely", "likely") if probability >= LIKELY else ("unsure", "unsure")


class Models:
    """Opened models, the last few, renewed when their files changed. Safe in threads."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[str, str], Bundle] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: Path) -> tuple[Bundle, str]:
        """The model and the SHA-256 of its list of hashes.

        Raises:
            ScanwiseError: If it can't be opened; nothing else ever answers instead.
        """
        with self._lock:
            digest = model_sha256(path)
            key = (str(path), digest)
            if key not in self._opened:
                self._opened[key] = open_model(path)
            self._opened.move_to_end(key)
            while len(self._opened) > KEPT_MODELS:
                self._opened.popitem(last=False)
            return self._opened[key], digest


def answer_inputs(
    workspace: Workspace,
    folder: Path,
    model: str,
    opened: tuple[Bundle, str],
    source: str,
    inputs: Inputs,
    told: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> AnswerSet:
    """Ask a model, and keep its answers; the set exists once about.json is there.

    Args:
        workspace: Where commands are run.
        folder: The new set.
        model: Name of the model.
        opened: The model and its hash.
        source: What `scanwise predict` would be given.
        inputs: The pictures, in order; each gets a row, whatever happens.
        told: Called with the number of answers so far, and of all.
        cancelled: Asked between blocks; True ends the work.

    Raises:
        RunError: If it was cancelled; nothing is kept then.
    """
    bundle, digest = opened
    rows: list[list[Any]] = []
    for block in answer_blocks(bundle, inputs.images, block_size(bundle)):
        rows += rows_of(block)
        if told is not None:
            told(len(rows), len(inputs))
        if cancelled is not None and cancelled():
            raise RunError("the prediction was cancelled; no answer was kept.")
    write_text(folder / CSV, csv_text(header(bundle.class_names), rows))
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "model_sha256": digest,
        "source": source,
        "images": len(rows),
        "errors": sum(row[1] != "ok" for row in rows),
        "class_names": list(bundle.class_names),
        "thresholds": dict(bundle.config.thresholds),
        "sets": bundle.config.conformal is not None,
        "command": predict_command(model, source),
    }
    write_json(folder / ABOUT, about)
    return read_set(folder)


def predict_command(model: str, source: str) -> str:
    """The same in a terminal, into a new table: that of the set is there already.

    >>> predict_command("runs/cells-001", "new cells")
    "scanwise predict runs/cells-001 'new cells' -o NAME.csv"
    """
    return shlex.join(["scanwise", "predict", model, source, "-o", "NAME.csv"])


def command_of(about: Mapping[str, Any]) -> str:
    """`predict_command` of a set of answers, by its about.json."""
    return predict_command(str(about.get("model") or ""), str(about.get("source") or ""))


def read_set(folder: Path) -> AnswerSet:
    """Read a folder of answers back.

    Raises:
        RunError: If it holds none, or the files are damaged.
    """
    about = read_json(folder / ABOUT)
    if not about:
        raise RunError(f"{folder} holds no answers (no {ABOUT}).")
    names = tuple(about.get("class_names") or ())
    try:
        with (folder / CSV).open(encoding="utf-8", newline="") as stream:
            answers = tuple(_answer(row, names, about) for row in csv.DictReader(stream))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"can't read {folder / CSV}: {error}.") from error
    return AnswerSet(folder, about, names, answers)


def _answer(row: dict[str, str], names: Sequence[str], about: Mapping[str, Any]) -> Answer:
    ok = row["status"] == "ok"
    p = {name: float(row[f"prob_{name}"]) for name in names} if ok else {}
    return Answer(
        row["path"],
        row["reason"],
        row["pred"],
        max(p.values()) if p else None,
        p,
        names_in(row["threshold_pred"]) if ok and about.get("thresholds") else None,
        names_in(row["set"]) if ok and about.get("sets") else None,
        {"yes": True, "no": False}.get(row["in_dist"]),
        float(row["unknown_score"]) if row["unknown_score"] else None,
    )


def list_sets(workspace: Workspace) -> list[tuple[Path, dict[str, Any]]]:
    """Folders of answers and what they are about, newest first."""
    if not workspace.predictions.is_dir():
        return []
    found = [(path, read_json(path / ABOUT)) for path in workspace.predictions.iterdir()]
    known = [(path, about) for path, about in found if about]
    return sorted(known, key=lambda pair: (str(pair[1].get("when")), pair[0].name), reverse=True)


def sort_answers(
    workspace: Workspace, found: AnswerSet, bundle: Bundle, target: str, min_probability: float
) -> Sorted:
    """Copy the pictures into a folder for each class, as `scanwise predict --sort-into` does.

    Raises:
        ConfigError: A folder inside the pictures' own, or a probability out of range.
        RunError: The folder holds something, or can't be written.
    """
    files = [Input(a.sample, str(workspace.place(a.sample))) for a in found.answers]
    folders = sorted({Path(each.file).parent for each in files})
    inputs = Inputs(tuple(files), tuple(folders))
    plan = SortPlan(workspace.place(target), min_probability)
    check_plan(plan, inputs, bundle.class_names, found.folder / CSV)
    return sort_files(plan, inputs, found.csv, bundle)


def new_set_folder(workspace: Workspace) -> Path:
    """An empty folder for the next answers.

    Raises:
        DataError: If it can't be made.
    """
    folder = workspace.root / workspace.new_folder("predictions", "set")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"can't make {folder}: {error.strerror}.") from error
    return folder
