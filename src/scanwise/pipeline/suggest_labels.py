"""`scanwise suggest-labels RUN DIR`: which unlabelled images a person should label next."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.core.files import sha256_file, write_text
from scanwise.data.cache import in_threads
from scanwise.data.duplicates import find_duplicates
from scanwise.data.images import read_image
from scanwise.data.views import to_8bit
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.label_next import choose_different, uncertainty
from scanwise.pipeline.find_inputs import Input, find_images
from scanwise.pipeline.label_journal import path_in
from scanwise.pipeline.predict import answer_blocks, block_size
from scanwise.pipeline.quick_folds import quick_features
from scanwise.pipeline.runs import check_output_free
from scanwise.pipeline.tables import aligned
from scanwise.report.label_pages import ToLabel, write_to_label_page

FILES = ("to_label.csv", "to_label.html", "unreadable.csv")
COPY_PX = 64  # of the copies that are compared and shown
SHOWN_HERE = 10
MAX_REASONS = 20


@dataclass(frozen=True, eq=False)
class Candidates:
    """Readable images: names, small copies (n, 64, 64, c), calibrated probabilities (n, k)."""

    paths: tuple[Path, ...]
    images: NDArray[np.uint8]
    probabilities: NDArray[np.float64]
    predicted: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Suggestion:
    """What to label next; rows are of `candidates`."""

    folder: Path  # where the images are
    output: Path
    candidates: Candidates
    class_names: tuple[str, ...]
    chosen: NDArray[np.int64]
    unsure: NDArray[np.float64]  # (n,) in [0, 1]
    found: int  # image files below the folder
    labelled: int  # of them known to the run
    copies: int  # left out, since a copy is kept
    unreadable: tuple[tuple[str, str], ...]  # path, reason

    def facts(self) -> list[tuple[str, str]]:
        """Counts of what was looked at and left out."""
        return [
            ("Image files", f"{self.found:,}"),
            ("Labelled already", f"{self.labelled:,} (in the run's splits.csv)"),
            ("Unreadable", f"{len(self.unreadable):,}"),
            ("Copies left out", f"{self.copies:,}"),
            ("Chosen", f"{len(self.chosen):,}"),
            ("By", "entropy of the calibrated probabilities times distance to those chosen before"),
        ]

    def text(self) -> str:
        """What the terminal shows."""
        counts = "; ".join(f"{name.lower()}: {value}" for name, value in self.facts()[:5])
        rows = [("image", "the model says", "uncertainty")]
        for row in self.chosen[:SHOWN_HERE].tolist():
            said = self.candidates.predicted[row] or "-"
            name = path_in(self.folder, str(self.candidates.paths[row]))
            rows.append((name, said, f"{self.unsure[row]:.3f}"))
        lines = [f"{self.folder}: {counts}", aligned(rows)]
        if len(self.chosen) > SHOWN_HERE:
            lines.append(f"  … {len(self.chosen) - SHOWN_HERE} more in the files")
        for path, reason in self.unreadable[:MAX_REASONS]:
            lines.append(f"unreadable: {path}: {reason}")
        if len(self.unreadable) > MAX_REASONS:
            lines.append(f"  … {len(self.unreadable) - MAX_REASONS} more in unreadable.csv")
        lines.append(f"page: {self.output / 'to_label.html'}")
        lines.append(f"list: {self.output / 'to_label.csv'}; fill in its column 'label'")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "folder": str(self.folder),
            "found": self.found,
            "labelled": self.labelled,
            "copies": self.copies,
            "unreadable": [{"path": path, "reason": why} for path, why in self.unreadable],
            "chosen": [
                {
                    "path": str(self.candidates.paths[row]),
                    "predicted": self.candidates.predicted[row],
                    "uncertainty": float(self.unsure[row]),
                }
                for row in self.chosen.tolist()
            ],
        }


def suggest_labels(
    run: Path, folder: Path, *, how_many: int = 50, output: Path | None = None, force: bool = False
) -> Suggestion:
    """Choose images to label, and write to_label.csv, to_label.html and unreadable.csv.

    Args:
        run: A run folder or a bundle.
        folder: Searched to any depth for image files.
        how_many: Images to choose.
        output: Folder for the files; FOLDER-to-label in the current folder if None.
        force: Replace such files that are there.

    Raises:
        RunError: No run, or files in the way.
        DataError: No image, or none that can be read and is not labelled yet.
    """
    if how_many < 1:
        raise DataError(f"n={how_many}: at least one image must be asked for.")
    target = output or Path(f"{folder.resolve().name}-to-label")
    check_output_free(target, force, markers=FILES[:1], what="list of images to label")
    bundle = Bundle.from_pretrained(run)
    files = find_images(folder)
    known = labelled_hashes(run)
    hashes = list(in_threads(sha256_file, files)) if known else [""] * len(files)
    fresh = [file for file, digest in zip(files, hashes, strict=True) if digest not in known]
    if not fresh:
        raise DataError(f"all {len(files)} images of {folder} are labelled already.")
    candidates, unreadable = _answered(bundle, fresh, folder)
    unsure = uncertainty(candidates.probabilities, bundle.config.task)
    kept = without_copies(candidates.images, unsure)
    features = _scaled(quick_features(candidates.images[kept]))
    chosen = kept[choose_different(unsure[kept], features, how_many)]
    found = Suggestion(
        folder,
        target,
        candidates,
        bundle.class_names,
        chosen,
        unsure,
        len(files),
        len(files) - len(fresh),
        len(candidates.paths) - len(kept),
        tuple(unreadable),
    )
    _write(found)
    return found


def labelled_hashes(run: Path) -> set[str]:
    """SHA-256 of the files that a run was trained and tested on; none of a bare bundle."""
    saved = run / "splits.csv"
    if not saved.is_file():
        return set()
    with saved.open(encoding="utf-8", newline="") as stream:
        return {row.get("sha256") or "" for row in csv.DictReader(stream)} - {""}


def without_copies(images: NDArray[np.uint8], unsure: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of which each picture occurs once: of copies the most uncertain one."""
    duplicates = find_duplicates(images, np.zeros(len(images), np.int64))
    dropped = [np.delete(rows, int(np.argmax(unsure[rows]))) for rows in duplicates.clusters]
    gone = np.concatenate(dropped) if dropped else np.empty(0, np.int64)
    return np.setdiff1d(np.arange(len(images)), gone)


def _answered(
    bundle: Bundle, files: Sequence[Path], folder: Path
) -> tuple[Candidates, list[tuple[str, str]]]:
    """Answers and small copies of what can be read, block by block; the rest with reasons.

    Raises:
        DataError: If nothing can be read.
    """
    paths, images, parts, said, unreadable = [], [], [], [], []
    inputs = [Input(str(path), str(path)) for path in files]
    for answers in answer_blocks(bundle, inputs, block_size(bundle)):
        for row, (name, reason) in enumerate(zip(answers.samples, answers.reasons, strict=True)):
            if reason:
                unreadable.append((path_in(folder, name), reason))
                continue
            paths.append(Path(name))
            images.append(_copy(Path(name), bundle))
            parts.append(answers.probabilities[row])
            said.append(answers.predicted[row])
    if not paths:
        first, why = unreadable[0]
        raise DataError(f"none of {len(files)} images can be read; the first: {first}: {why}")
    return Candidates(tuple(paths), np.stack(images), np.stack(parts), tuple(said)), unreadable


def _copy(path: Path, bundle: Bundle) -> NDArray[np.uint8]:
    """A small 8-bit copy (64, 64, c) of a file; c is 3 where the model sees colour, else 1."""
    image = read_image(path, page=bundle.config.page, project=bundle.config.project)
    pixels = to_8bit(image.pixels[None])[0]
    small = np.asarray(cv2.resize(pixels, (COPY_PX, COPY_PX), interpolation=cv2.INTER_AREA))
    small = small.reshape(COPY_PX, COPY_PX, -1)
    wanted = 3 if bundle.config.channels == 3 else 1
    if small.shape[2] != wanted:
        small = small.mean(axis=2, keepdims=True).round().astype(np.uint8).repeat(wanted, axis=2)
    return np.asarray(small, np.uint8)


def _scaled(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each number with mean 0 and SD 1; constant ones are 0."""
    spread = features.std(axis=0)
    spread[spread < 1e-6] = np.inf
    return np.asarray((features - features.mean(axis=0)) / spread, np.float32)


def _write(found: Suggestion) -> None:
    found.output.mkdir(parents=True, exist_ok=True)
    tiles = [
        ToLabel(
            found.candidates.images[row],
            path_in(found.folder, str(found.candidates.paths[row])),
            found.candidates.predicted[row],
            float(found.unsure[row]),
        )
        for row in found.chosen.tolist()
    ]
    page, name = found.output / "to_label.html", str(found.folder)
    write_to_label_page(page, found.facts(), tiles, name, found.unreadable)
    columns = ["path", "reason"]
    write_text(found.output / "unreadable.csv", _csv([columns, *found.unreadable]))
    names = [f"prob_{name}" for name in found.class_names]
    rows: list[Sequence[Any]] = [["path", "label", "rank", "predicted", "uncertainty", *names]]
    for rank, row in enumerate(found.chosen.tolist(), start=1):
        cells = [f"{value:.6f}" for value in found.candidates.probabilities[row]]
        path = path_in(found.output, str(found.candidates.paths[row].absolute()))
        said = found.candidates.predicted[row]
        rows.append([path, "", rank, said, f"{found.unsure[row]:.6f}", *cells])
    write_text(found.output / "to_label.csv", _csv(rows))


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
