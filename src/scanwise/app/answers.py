"""Answers to new pictures, as a folder of plain files in the workspace.

predictions/NNN/
  about.json        which model answered, when, about how many pictures from where
  predictions.csv   the rows that `scanwise predict` writes
  images/           pictures that were dropped on the page (chosen folders stay where they are)
  labels/           labels that were given by hand (app.labelling)
"""

from __future__ import annotations

import csv
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scanwise.app.progress import read_json
from scanwise.app.workspace import Workspace
from scanwise.core.errors import DataError, RunError
from scanwise.core.files import csv_text, sha256_file, write_json, write_text
from scanwise.deploy.answers import ABSTAIN, Answer
from scanwise.deploy.bundle import Bundle, find_bundle
from scanwise.deploy.opening import open_model

ABOUT, CSV, IMAGES = "about.json", "predictions.csv", "images"
BATCH = 32
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

    def summary(self) -> list[tuple[str, str]]:
        """Counts in words: of each answer, and of how sure they are."""
        read = [answer for answer in self.answers if answer.ok]
        rows = [
            (name, f"{sum(answer.predicted == name for answer in read):,}")
            for name in self.class_names
        ]
        known = [answer for answer in read if answer.decision != ABSTAIN]
        sure = sum((answer.probability or 0) >= SURE for answer in known)
        likely = sum(LIKELY <= (answer.probability or 0) < SURE for answer in known)
        return [
            *rows,
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


def model_sha256(path: Path) -> str:
    """One hash for a model: of the file that lists the hashes of all its files.

    Raises:
        RunError: If there is no bundle.
    """
    if path.is_file():
        return sha256_file(path)
    return sha256_file(find_bundle(path) / "SHA256SUMS")


def answer_images(
    bundle: Bundle,
    files: Sequence[Path],
    names: Sequence[str],
    told: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[Answer, ...]:
    """Answers in the order of the files, a row for each, whatever happens.

    Args:
        bundle: The model.
        files: Image files.
        names: How the answers name them.
        told: Called with the number of answers so far, and of all.
        cancelled: Asked between batches; True ends the work.

    Raises:
        RunError: If it was cancelled.
    """
    found: list[Answer] = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for first in range(0, len(files), BATCH):
            if cancelled is not None and cancelled():
                raise RunError("the prediction was cancelled; nothing was kept.")
            part = files[first : first + BATCH]
            prepared = list(pool.map(bundle.try_prepare, part))
            found += bundle.predict_prepared(names[first : first + BATCH], prepared)
            if told is not None:
                told(len(found), len(files))
    return tuple(found)


def save_answers(
    workspace: Workspace,
    folder: Path,
    model: str,
    digest: str,
    source: str,
    answers: Sequence[Answer],
    class_names: Sequence[str],
) -> AnswerSet:
    """Write predictions.csv and about.json; the set exists once the latter is there."""
    write_answers(folder / CSV, answers, class_names)
    command = f"scanwise predict {model} {source} -o {workspace.name_of(folder / CSV)}"
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "model_sha256": digest,
        "source": source,
        "images": len(answers),
        "errors": sum(not answer.ok for answer in answers),
        "class_names": list(class_names),
        "command": command,
    }
    write_json(folder / ABOUT, about)
    return AnswerSet(folder, about, tuple(class_names), tuple(answers))


def header(class_names: Sequence[str]) -> list[str]:
    return [
        "path", "status", "reason", "pred", *(f"prob_{name}" for name in class_names),
        "threshold_pred", "set", "in_dist", "unknown_score",
    ]  # fmt: skip


def write_answers(path: Path, answers: Iterable[Answer], class_names: Sequence[str]) -> None:
    """The columns of `scanwise predict`."""
    rows = [
        [
            answer.sample,
            "ok" if answer.ok else "error",
            answer.reason,
            answer.predicted,
            *(answer.probabilities.get(name, "") for name in class_names),
            _joined(answer.above_threshold),
            _joined(answer.prediction_set),
            {True: "yes", False: "no", None: ""}[answer.in_distribution],
            "" if answer.unknown_score is None else answer.unknown_score,
        ]
        for answer in answers
    ]
    write_text(path, csv_text(header(class_names), rows))


def _joined(names: tuple[str, ...] | None) -> str:
    return "" if names is None else "|".join(names)


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
            answers = tuple(_answer(row, names) for row in csv.DictReader(stream))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"can't read {folder / CSV}: {error}.") from error
    return AnswerSet(folder, about, names, answers)


def _answer(row: dict[str, str], names: Sequence[str]) -> Answer:
    ok = row["status"] == "ok"
    p = {name: float(row[f"prob_{name}"]) for name in names} if ok else {}
    return Answer(
        row["path"],
        row["reason"],
        row["pred"],
        max(p.values()) if p else None,
        p,
        _split(row["threshold_pred"]) if ok else None,
        _split(row["set"]) if ok else None,
        {"yes": True, "no": False}.get(row["in_dist"]),
        float(row["unknown_score"]) if row["unknown_score"] else None,
    )


def _split(cell: str) -> tuple[str, ...] | None:
    return tuple(cell.split("|")) if cell else None


def list_sets(workspace: Workspace) -> list[tuple[Path, dict[str, Any]]]:
    """Folders of answers and what they are about, newest first."""
    if not workspace.predictions.is_dir():
        return []
    found = [(path, read_json(path / ABOUT)) for path in workspace.predictions.iterdir()]
    known = [(path, about) for path, about in found if about]
    return sorted(known, key=lambda pair: (str(pair[1].get("when")), pair[0].name), reverse=True)


def sorted_folders(answers: Sequence[Answer]) -> list[str]:
    """The folder of each picture when they are sorted: its decision in words."""
    return [_folder_of(answer) for answer in answers]


def _folder_of(answer: Answer) -> str:
    if not answer.ok:
        return "unreadable"
    if answer.decision == ABSTAIN:
        return "unknown"
    return answer.decision.replace("|", "+") or "no class"


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
