"""One verdict a patient (slide, lesion) from the verdicts on its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scanwise.core.errors import DataError
from scanwise.metrics.evaluate import evaluate_rows
from scanwise.metrics.inputs import Floats
from scanwise.metrics.intervals import NUM_RESAMPLES
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.metrics.slices import headline_names

Aggregate = Literal["mean", "max", "vote"]
AGGREGATES: tuple[Aggregate, ...] = ("mean", "max", "vote")
_TIE = 1e-6  # weight of the mean beside votes: it decides ties and nothing else
_LISTED = 20


@dataclass(frozen=True, eq=False)
class Grouped:
    """The groups of a split as if each were one image, and those that have no one truth."""

    groups: Predictions  # one row a group; `sample` is its name
    images: Predictions  # the images of these groups
    several: int  # groups of more than one image among them
    mixed: tuple[str, ...]  # groups whose images differ in their labels: left out
    mixed_images: int


def group_predictions(predictions: Predictions, how: Aggregate) -> Grouped:
    """Gather the images of each group into one answer.

    mean: the mean of the probabilities. max: the largest probability of each class, scaled to sum
    to 1 (multi-label: as it is). vote: the share of images with that decision; a tie goes to the
    class with the larger mean probability. A group whose images have different labels has no label
    of its own: it is left out and named. An image without a group stands alone.

    Args:
        predictions: Of one split, with groups.
        how: "mean", "max" or "vote".

    Raises:
        DataError: If there are no groups, none has two images, or all that have are mixed.
    """
    if predictions.groups is None:
        raise DataError("these images have no groups to gather them by.")
    names = [name or f"\0{row}" for row, name in enumerate(predictions.groups)]
    members: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        members.setdefault(name, []).append(row)
    if len(members) == len(names):
        raise DataError(f"each of the {len(names)} groups has one image, so nothing is gathered.")
    mixed = [name for name, rows in members.items() if _is_mixed(predictions, rows)]
    kept = {name: rows for name, rows in members.items() if name not in set(mixed)}
    several = sum(len(rows) > 1 for rows in kept.values())
    if not several:
        raise DataError(
            f"the images of all {len(mixed)} groups of several images have different labels, so "
            "no group has a label of its own."
        )
    first = [rows[0] for rows in kept.values()]
    probabilities = np.stack([_gather(predictions, rows, how) for rows in kept.values()])
    groups = make_predictions(
        sample=tuple(predictions.sample[rows[0]] if name[0] == "\0" else name
                     for name, rows in kept.items()),
        split=tuple(predictions.split[row] for row in first),
        targets=predictions.targets[first],
        probabilities=probabilities,
        class_names=predictions.class_names,
        task=predictions.task,
    )  # fmt: skip
    left_out = sorted(row for name in mixed for row in members[name])
    images = predictions.rows(np.array(sorted(set(range(len(names))) - set(left_out))))
    return Grouped(groups, images, several, tuple(sorted(mixed)), len(left_out))


def grouped_scores(
    grouped: Grouped, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Image-level and group-level scores side by side, JSON-ready.

    Both are of the same groups; image-level intervals are over groups too.
    """
    return {
        "n_images": len(grouped.images),
        "n_groups": len(grouped.groups),
        "groups_of_several": grouped.several,
        "mixed": {
            "groups": len(grouped.mixed),
            "images": grouped.mixed_images,
            "first": list(grouped.mixed[:_LISTED]),
        },
        "images": _scores(grouped.images, num_resamples, seed),
        "groups": _scores(grouped.groups, num_resamples, seed),
    }


def _scores(part: Predictions, num_resamples: int, seed: int) -> dict[str, Any]:
    judged = evaluate_rows(part, num_resamples=num_resamples, seed=seed)
    return {
        "n": len(part),
        **{name: judged[name] for name in headline_names(part.task)},
        "per_class": [
            {key: entry[key] for key in ("name", "n", "sensitivity", "specificity", "auroc")}
            for entry in judged["per_class"]
        ],
        "confusion_matrix": judged["confusion_matrix"],
    }


def _is_mixed(predictions: Predictions, rows: list[int]) -> bool:
    targets = predictions.targets[rows]
    return bool((targets != targets[0]).any())


def _gather(predictions: Predictions, rows: list[int], how: Aggregate) -> Floats:
    """Probabilities of one group, (k,)."""
    given = predictions.probabilities[rows]
    mean: Floats = given.mean(axis=0)
    labels = predictions.task == "multilabel"
    if how == "mean":
        return mean
    if how == "max":
        highest: Floats = given.max(axis=0)
        return highest if labels else highest / highest.sum()
    said = predictions.predicted[rows]
    k = given.shape[1]
    votes = said.mean(axis=0) if labels else np.bincount(said, minlength=k) / len(rows)
    return np.asarray((votes + _TIE * mean) / (1 + _TIE), dtype=np.float64)
