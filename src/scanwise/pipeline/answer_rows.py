"""Answers as rows of a CSV: one row an input, the same columns for every model."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanwise.deploy.answers import Answer, BundlePredictions

Row = list[Any]  # cells in the order of `header`

LABELS = "|"  # between several labels of a cell
YES = {True: "yes", False: "no", None: ""}


def header(class_names: Sequence[str]) -> list[str]:
    """Column names."""
    probabilities = [f"prob_{name}" for name in class_names]
    return [
        "path", "status", "reason", "pred", *probabilities,
        "threshold_pred", "set", "in_dist", "unknown_score",
    ]  # fmt: skip


def joined(names: Sequence[str]) -> str:
    """Class names as one cell, "|" between them; quoted as in a CSV if one holds "|" or a quote."""
    if not any(set(name) & set('|"\r\n') for name in names):
        return LABELS.join(names)
    text = io.StringIO()
    made = csv.writer(text, delimiter=LABELS, quoting=csv.QUOTE_ALL, lineterminator="")
    made.writerow(names)
    return text.getvalue()


def names_in(cell: str) -> tuple[str, ...]:
    """The class names of a cell that `joined` made."""
    return tuple(next(csv.reader([cell], delimiter=LABELS)))


def rows_of(answers: BundlePredictions) -> list[Row]:
    """A row of each answer."""
    return [_row(answer, answers.class_names) for answer in answers]


def error_row(name: str, reason: str, num_classes: int) -> Row:
    """The row of an input that has no answer."""
    return [readable(name), "error", reason, "", *[""] * num_classes, "", "", "", ""]


def readable(name: str) -> str:
    """A file name as text; bytes of it that are not UTF-8 are written like "\\xe9"."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _row(answer: Answer, class_names: Sequence[str]) -> Row:
    probabilities = [answer.probabilities.get(name, math.nan) for name in class_names]
    if not answer.ok:
        return error_row(answer.sample, answer.reason, len(class_names))
    if not all(map(math.isfinite, probabilities)):
        return error_row(answer.sample, "the network's answer is not a number", len(class_names))
    return [
        readable(answer.sample),
        "ok",
        "",
        answer.predicted,
        *probabilities,
        joined(answer.above_threshold or ()),
        joined(answer.prediction_set or ()),
        YES[answer.in_distribution],
        "" if answer.unknown_score is None else answer.unknown_score,
    ]


@dataclass(frozen=True, slots=True)
class Said:
    """What a row says, as far as counting and sorting need it."""

    ok: bool
    reason: str
    predicted: str
    probabilities: tuple[float, ...]
    above_threshold: str
    in_dist: str


def said(row: Sequence[Any]) -> Said:
    """Read a row, as it was made or as it was read from the file."""
    ok, reason, predicted = row[1] == "ok", str(row[2]), str(row[3])
    probabilities = tuple(float(cell) for cell in row[4:-4]) if ok else ()
    return Said(ok, reason, predicted, probabilities, str(row[-4]), str(row[-2]))


def read_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a finished file, without the header."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream)
        next(rows, None)
        yield from rows
