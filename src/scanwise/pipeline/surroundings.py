"""What lies around each validation and test image in the features of a trained network.

Written beside the predictions: `unknown_scores.csv` and `unknown.json` (how unlike the training
images each one is), `errors/nearest.csv` (the three most alike training images). The bundle gets
its reference here.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, RunError
from scanwise.core.files import csv_text, write_text
from scanwise.core.types import SPLIT_NAMES, Dataset, Split
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.reference import MAX_ROWS, fit_reference
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import group_numbers
from scanwise.metrics.neighbours import SHOWN, Neighbours, nearest_neighbours
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.shares import share_interval
from scanwise.metrics.unknown import KEPT_SHARE, known_threshold
from scanwise.metrics.verify import TOLERANCE, Mismatch, differences
from scanwise.pipeline.runs import Run, command_line
from scanwise.report.gallery_facts import label_words

SCORES = "unknown_scores.csv"
DOCUMENT = "unknown.json"
NEAREST = "errors/nearest.csv"
MAX_SEARCHED = 20_000  # training images among which the nearest are searched


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Of the n rows of a table of predictions, as far as it was measured."""

    scores: Floats | None = None  # (n,) unknown-input score
    threshold: float | None = None
    nearest: Neighbours | None = None  # rows are those of the data set


def look_around(
    run: Run,
    dataset: Dataset,
    split: Split,
    bundle: Bundle,
    predictions: Predictions,
    features: NDArray[np.float32] | None,
    *,
    search: bool = True,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Write what lies around the predicted images, and give the bundle its reference.

    Args:
        features: Of the rows of `predictions`, float (n, d), from the pass that predicted them;
            None where the network has none (then unknown.json says so).
        search: Look for the nearest training images; else only the reference is fitted.
        seed: Draws the training images, where they are too many.
    """
    for name in (SCORES, NEAREST):
        (run.path / name).unlink(missing_ok=True)
    bundle.reference = None
    if features is None or not len(split.train):
        run.write(DOCUMENT, _not_measured("the model has no features (an ensemble has none)"))
        return
    rows = _drawn(split.train, MAX_SEARCHED if search else MAX_ROWS, seed)
    train = bundle.features_of_rows(dataset, rows, device=device)
    if search and np.isfinite(train).all() and np.isfinite(features).all():
        found = nearest_neighbours(train, features)
        write_text(run.path / NEAREST, _nearest_csv(predictions, dataset, rows, found))
    chosen = _drawn(np.arange(len(rows)), MAX_ROWS, seed)
    multilabel = dataset.task == "multilabel"
    classes = np.zeros(len(chosen), np.int64) if multilabel else dataset.targets[rows[chosen]]
    val = np.array([name == "val" for name in predictions.split])
    try:
        bundle.reference = fit_reference(train[chosen], classes, features[val])
    except DataError as error:
        run.write(DOCUMENT, _not_measured(str(error)))
        return
    scores = bundle.reference.scores(features)
    write_text(run.path / SCORES, _scores_csv(predictions, scores, bundle.reference.threshold))
    run.write(
        DOCUMENT,
        {
            "schema": 1,
            "split_sha256": split.sha256,
            "command": command_line(),
            "method": "mahalanobis",
            "num_features": int(train.shape[1]),
            "train_images": len(chosen),
            **unknown_numbers(predictions, scores),
        },
    )


def _drawn(rows: Ints, most: int, seed: int) -> Ints:
    """At most so many of the rows, sorted."""
    if len(rows) <= most:
        return rows
    return rows[np.sort(np.random.default_rng([seed, 4]).choice(len(rows), most, replace=False))]


def _not_measured(reason: str) -> dict[str, Any]:
    return {"schema": 1, "reason": reason, "command": command_line()}


def unknown_numbers(predictions: Predictions, scores: Floats) -> dict[str, Any]:
    """The threshold (from validation) and the share flagged of each split, with intervals."""
    names = np.array(predictions.split)
    threshold = known_threshold(scores[names == "val"])
    splits = {}
    for name in SPLIT_NAMES:
        if name in predictions.split:
            flagged = ~(scores <= threshold)
            share = share_interval(flagged, names == name, group_numbers(predictions.groups))
            splits[name] = {
                "n": int((names == name).sum()),
                "flagged": int(flagged[names == name].sum()),
                "share_flagged": share.to_json(),
            }
    return {"threshold": threshold, "kept_share_of_val": KEPT_SHARE, "splits": splits}


def _scores_csv(predictions: Predictions, scores: Floats, threshold: float) -> str:
    rows = [
        [sample, split, repr(float(score)), "yes" if score <= threshold else "no"]
        for sample, split, score in zip(
            predictions.sample, predictions.split, scores.tolist(), strict=True
        )
    ]
    return csv_text(["sample", "split", "score", "in_distribution"], rows)


def _nearest_csv(
    predictions: Predictions, dataset: Dataset, searched: Ints, found: Neighbours
) -> str:
    rows = []
    for i, sample in enumerate(predictions.sample):
        for rank, (place, distance) in enumerate(
            zip(found.rows[i], found.distances[i], strict=True), start=1
        ):
            row = int(searched[place])
            label = label_words(dataset, row)
            name = dataset.sample_ids[row]
            rows.append([sample, predictions.split[i], rank, name, label, f"{distance:.8f}"])
    columns = ["sample", "split", "rank", "train_sample", "train_label", "distance"]
    return csv_text(columns, rows)


def read_scores(run: Run, predictions: Predictions) -> Floats | None:
    """The unknown-input score of each prediction row, (n,); None where it was not measured.

    Raises:
        RunError: If unknown_scores.csv does not fit the predictions.
    """
    file = run.path / SCORES
    if not file.is_file():
        return None
    try:
        known = {row["sample"]: float(row["score"]) for row in _rows(run, SCORES)}
        return np.array([known[sample] for sample in predictions.sample])
    except (KeyError, ValueError) as error:
        raise RunError(f"{file} does not fit predictions.csv ({error!r}).") from error


def read_surroundings(run: Run, dataset: Dataset, predictions: Predictions) -> Surroundings:
    """What the run's files say of these rows; parts that were not measured are None.

    Raises:
        RunError: If a file does not fit the predictions or the data.
    """
    scores = read_scores(run, predictions)
    threshold = None
    if scores is not None:
        threshold = float(run.read_json(DOCUMENT, "it was deleted")["threshold"])
    return Surroundings(scores, threshold, _read_nearest(run, dataset, predictions))


def _read_nearest(run: Run, dataset: Dataset, predictions: Predictions) -> Neighbours | None:
    if not (run.path / NEAREST).is_file():
        return None
    row_of = {name: row for row, name in enumerate(dataset.sample_ids)}
    place = {name: i for i, name in enumerate(predictions.sample)}
    rows = np.full((len(place), SHOWN), -1, np.int64)
    distances = np.full((len(place), SHOWN), np.nan)
    try:
        for line in _rows(run, NEAREST):
            if line["sample"] in place:
                cell = (place[line["sample"]], int(line["rank"]) - 1)
                rows[cell] = row_of[line["train_sample"]]
                distances[cell] = float(line["distance"])
    except (KeyError, ValueError, IndexError) as error:
        raise RunError(f"{run.path / NEAREST} does not fit the data ({error!r}).") from error
    there = (rows >= 0).all(axis=0)
    return Neighbours(rows[:, there], distances[:, there]) if there.any() else None


def _rows(run: Run, name: str) -> list[dict[str, str]]:
    with (run.path / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def verify_unknown(run: Run, predictions: Predictions) -> list[Mismatch]:
    """Numbers of unknown.json that do not follow from unknown_scores.csv."""
    if not (run.path / DOCUMENT).is_file():
        return []
    stated = run.read_json(DOCUMENT, "")
    scores = read_scores(run, predictions)
    if scores is None:
        missing = "threshold" in stated
        return [Mismatch(DOCUMENT, "numbers", f"no {SCORES}")] if missing else []
    truth = unknown_numbers(predictions, scores)
    shown = {key: stated.get(key) for key in truth}
    return list(differences("unknown", shown, truth, TOLERANCE))
