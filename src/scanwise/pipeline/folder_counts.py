"""`scanwise counts RUN DIR`: images by class, as predicted and corrected for known mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Interval, Task
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.inputs import predict_classes
from scanwise.metrics.intervals import wilson_interval
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.metrics.prevalence import corrected_counts
from scanwise.pipeline.find_inputs import find_inputs
from scanwise.pipeline.predict import answer_blocks, block_size
from scanwise.pipeline.runs import Run
from scanwise.pipeline.tables import aligned


@dataclass(frozen=True)
class FolderCounts:
    """Counts by class (multi-label: by label) of the images that could be read."""

    class_names: tuple[str, ...]
    n: int
    predicted: tuple[int, ...]
    mean_probability: tuple[float, ...]
    corrected: tuple[Interval, ...]  # images
    split: str  # whose confusion matrix corrects
    n_labelled: int
    unreadable: tuple[tuple[str, str], ...]  # path, reason
    unknown: Interval  # share of images unlike the training images; no value where not known

    def text(self) -> str:
        """What the terminal shows."""
        rows = [("class", "predicted", "mean probability", "corrected, 95 % interval")]
        for name, count, mean, corrected in zip(
            self.class_names, self.predicted, self.mean_probability, self.corrected, strict=True
        ):
            rows.append((name, f"{count:,}", f"{mean:.3f}", _images(corrected)))
        lines = [
            f"{self.n:,} image{'' if self.n == 1 else 's'} counted",
            aligned(rows),
            f"corrected by the confusion matrix of {self.n_labelled:,} {self.split} images; right "
            "where images of a class are confused here as they were there",
        ]
        cautions = dict.fromkeys(
            f"{name}: {one.reason}"
            for name, one in zip(self.class_names, self.corrected, strict=True)
            if one.reason
        )
        lines += cautions
        if self.unknown.value is not None:
            lines.append(f"unlike the training images: {self.unknown} (about 0.05 is usual)")
        lines += [f"unreadable: {path}: {reason}" for path, reason in self.unreadable]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "n": self.n,
            "corrected_by": {"split": self.split, "n": self.n_labelled},
            "share_unknown": self.unknown.to_json(),
            "classes": {
                name: {
                    "predicted": self.predicted[i],
                    "mean_probability": self.mean_probability[i],
                    "corrected": self.corrected[i].to_json(),
                }
                for i, name in enumerate(self.class_names)
            },
            "unreadable": [{"path": path, "reason": why} for path, why in self.unreadable],
        }


def count_images(run: Path, inputs: Sequence[Path]) -> FolderCounts:
    """Predict images and count them.

    Args:
        run: A run folder: its labelled predictions (test, else validation) tell the mistakes.
        inputs: Image files, folders and what else `find_inputs` takes.

    Raises:
        DataError: Nothing that is there, or no image that can be read.
        RunError: No run.
    """
    opened = Run.open(run)
    labelled = read_predictions(
        opened.path / "predictions.csv", task=opened.metrics["dataset"]["task"]
    )
    split = "test" if "test" in labelled.split else "val"
    labelled = labelled.of_split(split)
    bundle = Bundle.from_pretrained(run)
    files = find_inputs([str(path) for path in inputs]).images
    parts, unreadable = [], []
    known: list[bool | None] = []
    for answers in answer_blocks(bundle, files, block_size(bundle)):
        parts.append(answers.probabilities)
        known += answers.in_distribution
        said = zip(answers.samples, answers.reasons, strict=True)
        unreadable += [(sample, reason) for sample, reason in said if reason]
    probabilities = np.concatenate(parts)
    probabilities = probabilities[~np.isnan(probabilities).any(axis=1)]
    if not len(probabilities):
        raise DataError(f"none of {len(files)} images can be read; the first: {unreadable[0][1]}.")
    counts, corrected = _counted(probabilities, labelled)
    return FolderCounts(
        labelled.class_names,
        len(probabilities),
        tuple(counts),
        tuple(probabilities.mean(axis=0).tolist()),
        corrected,
        split,
        len(labelled),
        tuple(unreadable),
        _share_unknown(known),
    )


def _share_unknown(known: Sequence[bool | None]) -> Interval:
    told = [one for one in known if one is not None]
    return wilson_interval(told.count(False), len(told))


def _counted(
    probabilities: NDArray[np.float64], labelled: Predictions
) -> tuple[list[int], tuple[Interval, ...]]:
    """Images called each class, and the corrected numbers; both by the most probable class."""
    task: Task = labelled.task
    new = predict_classes(probabilities, task)
    old = predict_classes(labelled.probabilities, task)
    k = len(labelled.class_names)
    if task != "multilabel":
        counts = np.bincount(new, minlength=k)
        return counts.tolist(), _corrected(labelled.targets, old, counts)
    counts = new.sum(axis=0)
    pairs = [
        _corrected(labelled.targets[:, i], old[:, i], np.array([len(new) - counts[i], counts[i]]))
        for i in range(k)
    ]
    return counts.tolist(), tuple(pair[1] for pair in pairs)


def _corrected(
    targets: NDArray[np.int64], predicted: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[Interval, ...]:
    """Corrected counts; not evaluable where a class has no labelled image."""
    k = len(counts)
    table = np.bincount(targets * k + predicted, minlength=k * k).reshape(k, k)
    if (table.sum(axis=1) == 0).any():
        return (Interval(None, reason="a class has no labelled image"),) * k
    return corrected_counts(table, counts)


def _images(value: Interval) -> str:
    if value.value is None:
        return "not evaluable"
    if value.low is None or value.high is None:
        return f"{value.value:,.1f}"
    return f"{value.value:,.1f} [{value.low:,.1f}, {value.high:,.1f}]"
