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
from scanwise.report.gallery_facts import Beside, neighbours_of, suspicions
from scanwise.report.pages import png_uri, render
from scanwise.report.plots import evenly, plot_predicted_vs_actual, to_display
from scanwise.report.style import figure_names, save_figure
from scanwise.report.verdict import SPLIT_WORDS

MAX_MISTAKES = 60
MAX_OF_A_KIND = 6  # of each listed kind of mistake, where the first 60 show fewer
MAX_KINDS = 12  # confusion pairs (or labels) that the page can be narrowed to
MAX_CORRECT = 24
GRID_IMAGES = 18
NEAR_PX = 64  # of the pictures of training images

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
    beside: Beside | None = None,
    blocks: Sequence[Any] = (),
) -> GalleryFiles:
    """Write errors/index.html (self-contained), errors/errors.csv and the sample grids in plots/.

    Args:
        run_dir: The run folder.
        thumbnails: Called with row numbers of `predictions`, int (m,); returns their images
            (m, h, w, c). Only the rows that are shown are asked for.
        predictions: All rows of predictions.csv, or those of one split.
        split: Whose mistakes; None takes test where it was scored, else validation.
        paths: File of each row's original, for links; None where rows are no files.
        beside: Nearest training images and unknown-input scores of the rows, where measured.
        blocks: What the page says before the pictures: confusion pairs, class to fix first.

    Returns:
        The files, and the number of mistakes (for multi-label: images with any label wrong).
    """
    chosen = split or _split_to_show(predictions)
    rows = np.flatnonzero(np.asarray(predictions.split) == chosen)
    found = answers(predictions)
    wrong = rows[~found.correct[rows]]
    wrong = wrong[np.argsort(-found.confidence[wrong], kind="stable")]
    folder = run_dir / "errors"
    source = _Source(predictions, found, thumbnails, paths, folder, beside)
    write_text(folder / "errors.csv", _errors_csv(source, wrong))
    write_text(folder / "index.html", _page(source, rows, wrong, chosen, blocks))
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
    beside: Beside | None = None

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
            "near": self._near(row),
            "why": () if found.correct[row] else self.suspicions(row),
            "unknown": self.beside is not None and self.beside.is_unknown(row),
            "kinds": (),
            "extra": False,
        }

    def suspicions(self, row: int) -> tuple[str, ...]:
        found = self.answers
        return suspicions(self.beside, self.predictions, row, found.actual[row], found.said[row])

    def _near(self, row: int) -> list[dict[str, Any]]:
        """The nearest training images of a row, as small pictures."""
        near = neighbours_of(self.beside, row)
        if not near or self.beside is None:
            return []
        images = to_display(self.beside.dataset.images[[each.row for each in near]])
        return [
            {
                "uri": png_uri(image, NEAR_PX),
                "small": max(image.shape[:2]) < NEAR_PX,
                "label": each.label,
                "alt": f"training image {each.sample}, labelled {each.label}",
                "sample": each.sample,
                "distance": f"{each.distance:.3f}",
                "agrees": each.label == self.answers.actual[row],
            }
            for image, each in zip(images, near, strict=True)
        ]


def _split_to_show(predictions: Predictions) -> str:
    return "test" if "test" in set(predictions.split) else "val"


def _errors_csv(source: _Source, wrong: NDArray[np.int64]) -> str:
    predictions, found = source.predictions, source.answers
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    near = [f"nearest_{i}{part}" for i in (1, 2, 3) for part in ("", "_label", "_distance")]
    writer.writerow(
        ["rank", "sample", "split", "target", "predicted", "probability", "probability_of_target",
         *near, "unknown_score", "in_distribution", "suspected", "path"]
    )  # fmt: skip
    for rank, row in enumerate(wrong.tolist(), start=1):
        writer.writerow(
            [
                rank,
                predictions.sample[row],
                predictions.split[row],
                found.actual[row],
                found.said[row],
                f"{found.confidence[row]:.6f}",
                f"{found.of_target[row]:.6f}",
                *_near_cells(source.beside, row),
                *_unknown_cells(source.beside, row),
                "; ".join(source.suspicions(row)),
                source.paths[row] if source.paths is not None else "",
            ]
        )
    return stream.getvalue()


def _near_cells(beside: Beside | None, row: int) -> list[str]:
    cells: list[str] = []
    for each in neighbours_of(beside, row):
        cells += [each.sample, each.label, f"{each.distance:.6f}"]
    return cells + [""] * (9 - len(cells))


def _unknown_cells(beside: Beside | None, row: int) -> list[str]:
    unknown = None if beside is None else beside.is_unknown(row)
    if beside is None or beside.scores is None or unknown is None:
        return ["", ""]
    return [f"{beside.scores[row]:.6g}", "no" if unknown else "yes"]


@dataclass(frozen=True, eq=False)
class _Kind:
    """One kind of mistake that the page can be narrowed to."""

    key: str
    words: str
    rows: NDArray[np.int64]  # most confident first


def _kinds(predictions: Predictions, wrong: NDArray[np.int64]) -> list[_Kind]:
    """Confusion pairs (multi-label: labels missed or falsely said), most frequent first."""
    targets, predicted = predictions.targets, predictions.predicted
    rows_of: dict[str, list[int]] = {}
    names = predictions.class_names
    for row in wrong.tolist():
        if predictions.task == "multilabel":
            words = [
                f"{'missed' if targets[row, c] else 'false alarm'}: {names[c]}"
                for c in np.flatnonzero(targets[row] != predicted[row])
            ]
        else:
            words = [f"{names[targets[row]]} → {names[predicted[row]]}"]
        for each in words:
            rows_of.setdefault(each, []).append(row)
    ranked = sorted(rows_of.items(), key=lambda item: -len(item[1]))[:MAX_KINDS]
    return [_Kind(f"k{i}", words, np.array(rows)) for i, (words, rows) in enumerate(ranked)]


def _mistakes(
    source: _Source, wrong: NDArray[np.int64]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tiles of the mistakes, and the kinds that they can be narrowed to.

    The most confident come first; further ones of each kind wait until it is chosen.
    """
    kinds = _kinds(source.predictions, wrong)
    first = set(wrong[:MAX_MISTAKES].tolist())
    more = {row for kind in kinds for row in kind.rows[:MAX_OF_A_KIND].tolist()}
    chosen = np.array([row for row in wrong.tolist() if row in first | more], dtype=np.int64)
    tiles = source.tiles(chosen)
    for row, tile in zip(chosen.tolist(), tiles, strict=True):
        tile["kinds"] = [kind.key for kind in kinds if row in kind.rows]
        tile["extra"] = row not in first
    shown = [
        {
            "key": kind.key,
            "words": kind.words,
            "count": len(kind.rows),
            "shown": sum(kind.key in tile["kinds"] for tile in tiles),
        }
        for kind in kinds
    ]
    return tiles, shown


def _page(
    source: _Source,
    rows: NDArray[np.int64],
    wrong: NDArray[np.int64],
    split: str,
    blocks: Sequence[Any],
) -> str:
    found = source.answers
    right = rows[found.correct[rows]]
    unsure = right[np.argsort(found.confidence[right], kind="stable")][:MAX_CORRECT]
    mistakes, kinds = _mistakes(source, wrong)
    return render(
        "gallery.html.j2",
        {
            "title": f"Mistakes on {SPLIT_WORDS[split]} images",
            "split": SPLIT_WORDS[split],
            "n": len(rows),
            "n_wrong": len(wrong),
            "n_first": min(len(wrong), MAX_MISTAKES),
            "multilabel": source.predictions.task == "multilabel",
            "blocks": blocks,
            "mistakes": mistakes,
            "kinds": kinds,
            "measured": source.beside is not None and source.beside.nearest is not None,
            "probabilities": "" if source.beside is None else source.beside.probabilities,
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
