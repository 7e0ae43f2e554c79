"""Which images are explained: those that were named, or a gallery of a run's validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, RunError
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.explain import class_index
from scanwise.deploy.subject import Subject, subject_of_files, subject_of_rows
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.pipeline.find_inputs import find_images
from scanwise.pipeline.runs import Run
from scanwise.pipeline.train import reload_data
from scanwise.report.plots import evenly

GIVEN = "Given images"


@dataclass(frozen=True)
class Item:
    """One map to be: of which image, whose evidence, and what is known of the image."""

    sample: str
    unit: str  # the image, or its group: what is independent of others
    section: str  # where it stands on the page
    explained: int | None = None  # index of the class; None: the most probable one
    true: str | None = None  # None where it is not known
    right: bool | None = None


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is explained, row by row of `subject`, and the files that could not be read."""

    subject: Subject
    items: tuple[Item, ...]
    words: str  # how they were chosen
    unit: str = "image"
    unreadable: tuple[tuple[str, str], ...] = ()  # file and reason


def choose_files(bundle: Bundle, paths: Sequence[Path], class_name: str | None) -> Chosen:
    """The files that were named; of a folder all its image files, in order of names.

    Raises:
        DataError: If one does not exist, or none can be read.
    """
    files = expand_paths(paths)
    subject, rows, reasons = subject_of_files(bundle, files)
    bad = tuple((str(f), why) for f, why in zip(files, reasons, strict=True) if why)
    if subject is None:
        raise DataError(f"no image can be read; {bad[0][0]}: {bad[0][1]}.")
    chosen = None if class_name is None else class_index(bundle, class_name)
    names = [str(files[row]) for row in rows]
    items = tuple(Item(name, name, GIVEN, chosen) for name in names)
    words = "The images were named by the user; what they truly show is not known here."
    return Chosen(subject, items, words, unreadable=bad)


def choose_gallery(run: Run, bundle: Bundle, per_class: int, class_name: str | None) -> Chosen:
    """Right and wrong validation images of each class, evenly spaced, so that nobody chose them.

    Raises:
        RunError: If the run has no predictions of validation images.
        SplitError: If the images are not those that it was trained on.
    """
    predictions = _validation(run)
    one = None if class_name is None else class_index(bundle, class_name)
    picked = _pick(predictions, per_class, one)
    if not picked:
        raise RunError(f"{run.path} has no validation image of '{class_name}' to explain.")
    dataset, split = reload_data(run, run.config)
    row_of = {dataset.sample_ids[row]: int(row) for row in split.val}
    rows = np.array([row_of[predictions.sample[row]] for row, _ in picked], np.int64)
    groups = predictions.groups
    grouped = groups is not None and any(groups)
    items = tuple(item for _, item in picked)
    words = (
        f"Up to {per_class} right and {per_class} wrong validation images of each "
        f"{'label' if predictions.task == 'multilabel' else 'class'}, evenly spaced among them. "
        "They are validation images, so that the test set needed no further look; training was "
        "watched on them, so that the network may do a little better on them than on new ones."
    )
    images = dataset.images[rows]
    return Chosen(
        subject_of_rows(bundle, images), items, words, unit="group" if grouped else "image"
    )


def _validation(run: Run) -> Predictions:
    way_out = "name the images to explain: scanwise explain RUN IMAGES…"
    file = run.path / "predictions.csv"
    if not file.is_file():
        raise RunError(f"{run.path} has no predictions.csv (it was not evaluated); {way_out}.")
    predictions = read_predictions(file, run.path / "splits.csv", task=run.dataset["task"])
    if "val" not in predictions.split:
        raise RunError(f"{run.path} has no predictions of validation images; {way_out}.")
    return predictions.of_split("val")


def _pick(
    predictions: Predictions, per_class: int, class_index: int | None
) -> list[tuple[int, Item]]:
    """Rows of the predictions with what is shown of each, class by class, right ones first."""
    targets, predicted = predictions.targets, predictions.predicted
    many = predictions.task == "multilabel"
    picked: list[tuple[int, Item]] = []
    for index, name in enumerate(predictions.class_names):
        if many and class_index not in (None, index):
            continue
        if many:
            right = (targets[:, index] == 1) & (predicted[:, index] == 1)
            wrong = targets[:, index] != predicted[:, index]
        else:
            right = (targets == index) & (predicted == index)
            wrong = (targets == index) & (predicted != index)
        section = f"Label: {name}" if many else f"True class: {name}"
        for mask, good in ((right, True), (wrong, False)):
            for row in evenly(np.flatnonzero(mask), per_class).tolist():
                explained = index if many else int(predicted[row])
                explained = explained if class_index is None else class_index
                picked.append((row, _item(predictions, row, section, explained, good)))
    return picked


def _item(predictions: Predictions, row: int, section: str, explained: int, right: bool) -> Item:
    sample = predictions.sample[row]
    group = predictions.groups[row] if predictions.groups is not None else ""
    return Item(
        sample=sample,
        unit=group or sample,
        section=section,
        explained=explained,
        true=label_words(predictions.targets[row], predictions.class_names),
        right=right,
    )


def label_words(target: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """The class by its name; of several labels those that are on, '' where none is."""
    if np.ndim(target) == 0:
        return class_names[int(target)]
    return "|".join(name for name, on in zip(class_names, target, strict=True) if on)


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """Image files, and those in folders (`find_images`)."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += find_images(path)
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist; name image files or folders of them.")
    return files
