"""The error analysis of a run, from its predictions: confusions.json and errors/."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from scanwise.core.commands import completed
from scanwise.core.types import Dataset, Split, SplitName
from scanwise.metrics.confusions import confusions_document
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.verify import TOLERANCE, Mismatch, differences
from scanwise.pipeline.runs import Run, command_line
from scanwise.pipeline.surroundings import read_surroundings
from scanwise.report.error_blocks import confusion_blocks
from scanwise.report.gallery import GalleryFiles, write_gallery
from scanwise.report.gallery_facts import Beside
from scanwise.report.run_files import run_argument

DOCUMENT = "confusions.json"
CURVE = Path("learning_curve") / "learning_curve.json"


def write_errors(
    run: Run, dataset: Dataset, split: Split, predictions: Predictions, name: SplitName
) -> GalleryFiles:
    """Write confusions.json, errors/index.html, errors/errors.csv and the grids of pictures.

    Only images are read and no network runs: this is no look at the test split.

    Args:
        predictions: Of the whole run, with groups where there are any.
        name: The split whose mistakes are shown.
    """
    part = predictions.of_split(name)
    found = {
        "schema": 1,
        "split": name,
        "split_sha256": split.sha256,
        "command": command_line(),
        **confusions_document(part),
    }
    run.write(DOCUMENT, found)
    row_of = {dataset.sample_ids[row]: row for row in split.rows(name)}
    rows = np.array([row_of[sample] for sample in part.sample], dtype=np.int64)
    around = read_surroundings(run, dataset, part)
    curve = run.read_json(str(CURVE), "") if (run.path / CURVE).is_file() else {}
    curve_folder = shlex.quote(f"{run_argument(run.path)}/learning_curve")
    command = f"learning-curve --output {curve_folder}"
    return write_gallery(
        run.path,
        lambda chosen: dataset.images[rows[chosen]],
        part,
        paths=None if dataset.paths is None else [dataset.paths[row] for row in rows],
        beside=Beside(
            dataset,
            rows,
            _probability_words(run),
            around.scores,
            around.threshold,
            around.nearest,
        ),
        blocks=confusion_blocks(
            found, curve, completed(command, run.config.model_dump(), run.plan)
        ),
    )


def _probability_words(run: Run) -> str:
    """How the probabilities were calibrated, from metrics.json."""
    given = run.metrics.get("calibration") or {}
    if not given.get("applied"):
        return f"not calibrated ({given.get('reason') or 'no reason recorded'})"
    return f"calibrated on validation (temperature {given['temperature']:.3f})"


def verify_confusions(run: Run, predictions: Predictions) -> list[Mismatch]:
    """Numbers of confusions.json that do not follow from predictions.csv."""
    if not (run.path / DOCUMENT).is_file():
        return []
    stated = run.read_json(DOCUMENT, "")
    name = stated.get("split")
    if name not in predictions.split:
        return [Mismatch(f"{DOCUMENT}.split", name, sorted(set(predictions.split)))]
    truth = confusions_document(predictions.of_split(name))
    # predictions.csv can't tell ordinal from multi-class, and no number depends on it.
    truth["task"] = stated.get("task")
    shown = {key: stated.get(key) for key in truth}
    return list(differences("confusions", shown, truth, TOLERANCE))
