"""The gallery of mistakes: most confident first, then samples that are right."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from scanwise.core.files import write_text
from scanwise.metrics.predictions import Predictions
from scanwise.report.pages import png_uri, render
from scanwise.report.plots import evenly, plot_predicted_vs_actual, to_display
from scanwise.report.style import figure_names, save_figure
from scanwise.report.verdict import SPLIT_WORDS

MAX_MISTAKES = 60
MAX_CORRECT = 24
GRID_IMAGES = 18

Thumbnails = Callable[[NDArray[np.int64]], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model said of each prediction row, in words; all (n,).

    `confidence` is the probability of the answer given; for multi-label that of its most confident
    wrong label, or of its least confident label where all are right.
    """

    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    of_target: NDArray[np.float64]
    actual: tuple[str, ...]
    said: tuple[str, ...]


def answers(predictions: Predictions, names: Sequence[str] | None = None) -> Answers:
    """Compare predictions with targets row by row; `names` replaces the class names."""
    probabilities = np.asarray(predictions.probabilities)
    targets, predicted = np.asarray(predictions.targets), np.asarray(predictions.predicted)
    names = names or predictions.class_names
    if predictions.task == "multilabel":
        return _label_answers(probabilities, targets, predicted, names)
    rows = np.arange(len(targets))
    return Answers(
        correct=targets == predicted,
        confidence=probabilities[rows, predicted],
        of_target=probabilities[rows, targets],
        actual=tuple(names[i] for i in targets),
        said=tuple(names[i] for i in predicted),
    )


def _label_answers(
    probabilities: NDArray[np.float64],
    targets: NDArray[np.int64],
    predicted: NDArray[np.int64],
    names: Sequence[str],
) -> Answers:
    wrong = targets != predicted
    sure = np.where(predicted == 1, probabilities, 1 - probabilities)
    correct = ~wrong.any(axis=1)
    confidence = np.where(correct, sure.min(axis=1), np.where(wrong, sure, -1).max(axis=1))
    truth = np.where(targets == 1, probabilities, 1 - probabilities)

    def words(row: NDArray[np.int64]) -> str:
        return " + ".join(name for name, on in zip(names, row, strict=True) if on) or "none"

    return Answers(
        correct=correct,
        confidence=confidence,
        of_target=truth.min(axis=1),
        actual=tuple(words(row) for row in targets),
        said=tuple(words(row) for row in predicted),
    )


@dataclass(frozen=True)
class GalleryFiles:
    """What was written, and how many of the split's images are wrong."""

    html: Path
    csv: Path
    split: str
    n: int
    mistakes: int


def write_gallery(
    run_dir: Path,
    thumbnails: Thumbnails,
    predictions: Predictions,
    *,
    split: str | None = None,
    paths: Sequence[str] | None = None,
) -> GalleryFiles:
    """Write errors/index.html (self-contained), errors/errors.csv and the sample grids in plots/.

    Args:
        run_dir: The run folder.
        thumbnails: Called with row numbers of `predictions`, int (m,); returns their images
            (m, h, w, c). Only the rows that are shown are asked for.
        predictions: All rows of predictions.csv, or those of one split.
        split: Whose mistakes; None takes test where it was scored, else validation.
        paths: File of each row's original, for links; None where rows are no files.

    Returns:
        The files, and the number of mistakes (for multi-label: images with any label wrong).
    """
    chosen = split or _split_to_show(predictions)
    rows = np.flatnonzero(np.asarray(predictions.split) == chosen)
    found = answers(predictions)
    wrong = rows[~found.correct[rows]]
    wrong = wrong[np.argsort(-found.confidence[wrong], kind="stable")]
    folder = run_dir / "errors"
    source = _Source(predictions, found, thumbnails, paths, folder)
    write_text(folder / "errors.csv", _errors_csv(predictions, found, wrong))
    write_text(folder / "index.html", _page(source, rows, wrong, chosen))
    _write_grids(run_dir / "plots", source, rows, wrong, chosen)
    return GalleryFiles(folder / "index.html", folder / "errors.csv", chosen, len(rows), len(wrong))


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the text and the picture of a row come from."""

    predictions: Predictions
    answers: Answers
    thumbnails: Thumbnails
    paths: Sequence[str] | None
    folder: Path

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return to_display(self.thumbnails(rows))

    def tiles(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        if not len(rows):
            return []
        return [
            self._tile(int(row), image) for row, image in zip(rows, self.images(rows), strict=True)
        ]

    def _tile(self, row: int, image: NDArray[np.uint8]) -> dict[str, Any]:
        sample, found = self.predictions.sample[row], self.answers
        return {
            "uri": png_uri(image),
            "small": max(image.shape[:2]) < 100,
            "alt": f"{sample}: true class {found.actual[row]}, the model says {found.said[row]}",
            "sample": sample,
            "actual": found.actual[row],
            "said": found.said[row],
            "right": bool(found.correct[row]),
            "confidence": float(found.confidence[row]),
            "of_target": float(found.of_target[row]),
            "link": _link(self.paths[row], self.folder) if self.paths is not None else None,
        }


def _split_to_show(predictions: Predictions) -> str:
    return "test" if "test" in set(predictions.split) else "val"


def _errors_csv(predictions: Predictions, found: Answers, wrong: NDArray[np.int64]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["rank", "sample", "split", "target", "predicted", "probability", "probability_of_target"]
    )
    for rank, row in enumerate(wrong, start=1):
        writer.writerow(
            [
                rank,
                predictions.sample[row],
                predictions.split[row],
                found.actual[row],
                found.said[row],
                f"{found.confidence[row]:.6f}",
                f"{found.of_target[row]:.6f}",
            ]
        )
    return stream.getvalue()


def _page(source: _Source, rows: NDArray[np.int64], wrong: NDArray[np.int64], split: str) -> str:
    found = source.answers
    right = rows[found.correct[rows]]
    unsure = right[np.argsort(found.confidence[right], kind="stable")][:MAX_CORRECT]
    return render(
        "gallery.html.j2",
        {
            "title": f"Mistakes on {SPLIT_WORDS[split]} images",
            "split": SPLIT_WORDS[split],
            "n": len(rows),
            "n_wrong": len(wrong),
            "multilabel": source.predictions.task == "multilabel",
            "mistakes": source.tiles(wrong[:MAX_MISTAKES]),
            "samples": source.tiles(evenly(right, MAX_CORRECT)),
            "unsure": source.tiles(unsure) if not len(wrong) else [],
        },
    )


def _link(path: str, folder: Path) -> str:
    """A relative address of a file, so that the run and its data can move together."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive
        return Path(path).as_uri()
    return quote(Path(relative).as_posix())


def _write_grids(
    plots: Path, source: _Source, rows: NDArray[np.int64], wrong: NDArray[np.int64], split: str
) -> None:
    found, words = source.answers, SPLIT_WORDS[split]
    short = answers(source.predictions, figure_names(source.predictions.class_names, 12))
    chosen = {
        "samples_predicted": (evenly(rows, GRID_IMAGES), f"Evenly spaced {words} images"),
        "mistakes": (wrong[:GRID_IMAGES], f"Most confident mistakes on {words} images"),
    }
    for name, (picked, title) in chosen.items():
        if not len(picked):
            for suffix in (".png", ".svg"):
                (plots / (name + suffix)).unlink(missing_ok=True)
            continue
        correct = [bool(found.correct[row]) for row in picked]
        mistakes = len(picked) - sum(correct)
        figure = plot_predicted_vs_actual(
            source.images(picked),
            [_cut(short.actual[row]) for row in picked],
            [_cut(short.said[row]) for row in picked],
            [float(found.confidence[row]) for row in picked],
            correct,
            title=title if name == "mistakes" else f"{title}: {mistakes} of {len(picked)} wrong",
        )
        save_figure(figure, plots / name, _grid_alt(title, found, picked))


def _cut(text: str, most: int = 12) -> str:
    """Text no longer than its picture is wide."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _grid_alt(title: str, found: Answers, picked: NDArray[np.int64]) -> str:
    parts = [
        f"{found.said[row]} ({'right' if found.correct[row] else 'true: ' + found.actual[row]})"
        for row in picked
    ]
    return f"{title}. The model says: {'; '.join(parts)}."
