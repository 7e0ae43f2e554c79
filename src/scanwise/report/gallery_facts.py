"""What stands beside an answer in the gallery: nearest training images, and suspicions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Dataset
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.neighbours import Neighbours
from scanwise.metrics.predictions import Predictions

NEARLY_SAME = 2.0  # mean difference in grey levels of 255; other patients' images differ by tens
UNDECIDED = 0.1  # between the probabilities of the answer and of the true class


@dataclass(frozen=True, eq=False)
class Beside:
    """What was measured of n prediction rows besides the answers; None where it was not."""

    dataset: Dataset
    rows: Ints  # (n,) of the data set
    probabilities: str  # how they were calibrated, in words
    scores: Floats | None = None  # (n,) unknown-input score
    threshold: float | None = None
    nearest: Neighbours | None = None  # (n, 3); rows are those of the data set

    def is_unknown(self, row: int) -> bool | None:
        """Whether the image of a prediction row is unlike the training images."""
        if self.scores is None or self.threshold is None:
            return None
        return not self.scores[row] <= self.threshold


@dataclass(frozen=True)
class Neighbour:
    """One of the nearest training images of a prediction row."""

    row: int  # of the data set
    sample: str
    label: str
    distance: float


def neighbours_of(beside: Beside | None, row: int) -> tuple[Neighbour, ...]:
    """The nearest training images of a prediction row, nearest first; () where not measured."""
    if beside is None or beside.nearest is None:
        return ()
    return tuple(
        Neighbour(
            int(place),
            beside.dataset.sample_ids[place],
            label_words(beside.dataset, int(place)),
            float(distance),
        )
        for place, distance in zip(
            beside.nearest.rows[row], beside.nearest.distances[row], strict=True
        )
        if place >= 0
    )


def suspicions(
    beside: Beside | None, predictions: Predictions, row: int, actual: str, said: str
) -> tuple[str, ...]:
    """What may lie behind a mistake, each with its evidence; () where nothing speaks for any."""
    found = [_copy_in_train(beside, row, actual)] if beside is not None else []
    near = neighbours_of(beside, row)
    single = predictions.task != "multilabel"
    if single and near and all(each.label == said for each in near):
        found.append(
            f"all {len(near)} nearest training images are '{said}': to the network it looks like "
            "that class; check its label"
        )
    if beside is not None and beside.scores is not None and beside.is_unknown(row):
        found.append(
            f"unlike the training images: unknown-input score {beside.scores[row]:.3g}, threshold "
            f"{beside.threshold:.3g}"
        )
    if single:
        answer, truth = (
            float(predictions.probabilities[row, column[row]])
            for column in (predictions.predicted, predictions.targets)
        )
        if answer - truth < UNDECIDED:
            found.append(f"nearly undecided: {answer:.3f} against {truth:.3f}")
    return tuple(text for text in found if text)


def _copy_in_train(beside: Beside, row: int, actual: str) -> str:
    """Says so where one of the nearest training images is the same picture, or nearly."""
    dataset = beside.dataset
    own = int(beside.rows[row])
    for near in neighbours_of(beside, row):
        gap = pixel_gap(dataset.images[own], dataset.images[near.row])
        if dataset.sha256[own] == dataset.sha256[near.row] or gap == 0:
            what = "the same picture"
        elif gap <= NEARLY_SAME:
            what = f"nearly the same picture (mean difference {gap:.2f} of 255 grey levels)"
        else:
            continue
        other = "also" if near.label == actual else "with another label,"
        return f"train holds {what} {other} as '{near.label}': {near.sample}"
    return ""


def pixel_gap(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Mean absolute difference of two images in levels of 255; deep pixels by their joint range."""
    one, two = (np.asarray(image, np.float64) for image in (first, second))
    if first.dtype == np.uint8:
        return float(np.abs(one - two).mean())
    span = max(one.max(), two.max()) - min(one.min(), two.min())
    return 255 * float(np.abs(one - two).mean()) / float(span) if span > 0 else 0.0


def label_words(dataset: Dataset, row: int) -> str:
    """The class of an image, or its labels: 'mass + nodule', 'none'."""
    if dataset.task != "multilabel":
        return dataset.class_names[int(dataset.targets[row])]
    named = zip(dataset.class_names, dataset.targets[row], strict=True)
    return " + ".join(name for name, on in named if on) or "none"
