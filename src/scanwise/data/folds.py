"""K-fold partitions: each image is tested once, by a model that saw neither it nor its group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import SplitError
from scanwise.core.types import Dataset, Split
from scanwise.data.splits import draw_part, partition

MOST_FOLDS = 100


def make_folds(
    dataset: Dataset, k: int, *, seed: int = 0, val_fraction: float = 0.15
) -> tuple[Split, ...]:
    """Divide the data into k folds; each is the test split of one of the k splits.

    Validation is drawn from the rest, as large as if `val_fraction` of all images were drawn. All
    parts are stratified; with groups, whole groups are drawn. A delivered test split is left alone:
    its images are in no fold, and remain a test set that no one has looked at.

    Args:
        dataset: The data; `groups` and `given_split` are used where present.
        k: Number of folds, from 2.
        seed: Decides between the possible partitions.
        val_fraction: Share of validation in all rows that are divided, in (0, 1 - 1 / k).

    Returns:
        k splits; their test rows are disjoint and together all rows but a delivered test split.

    Raises:
        SplitError: If k is out of range or above the images or groups of a class, or nothing would
            be left to train on.
    """
    rows = np.arange(len(dataset))
    delivered = dataset.given_split
    if delivered is not None and (np.asarray(delivered) == "test").any():
        rows = np.flatnonzero(np.asarray(delivered) != "test")
    _refuse_too_many(dataset, rows, k)
    share = val_fraction / (1 - 1 / k)
    if share >= 1:
        raise SplitError(
            f"val_fraction {val_fraction} of {k} folds leaves nothing to train on; lower it."
        )
    fold_of_row = partition(dataset, rows, k, seed=seed)
    apart = len(dataset) - len(rows)
    left = f" {apart:,} images of the delivered test split are left alone." if apart else ""
    made = []
    for fold in range(k):
        test, rest = rows[fold_of_row == fold], rows[fold_of_row != fold]
        if not len(test):
            raise SplitError(
                f"{dataset.name}: no division of its groups into {k} folds was found that leaves "
                "none empty; use fewer folds."
            )
        train = draw_part(dataset, rest, 1 - share, seed=seed + fold)  # first: rare classes
        val = np.setdiff1d(rest, train)
        _refuse_unlearned(dataset, train, test, fold, k)
        unit = "images" if dataset.groups is None else "whole groups"
        note = f"fold {fold + 1} of {k}, stratified by {unit}, seed {seed}.{left}"
        origin = "random" if dataset.groups is None else "group"
        made.append(Split(train, val, test, origin=origin, seed=seed, note=note))  # type: ignore[arg-type]
    return tuple(made)


def divide_rows(
    dataset: Dataset, rows: NDArray[np.int64], k: int, *, seed: int = 0
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
    """Divide some rows into k folds, stratified, groups whole: what is left of each, and the fold.

    Raises:
        SplitError: If k is out of range or above the images or groups of a class, or a fold would
            be empty or hold a class that the rest lacks.
    """
    _refuse_too_many(dataset, rows, k)
    fold_of_row = partition(dataset, rows, k, seed=seed)
    made = []
    for fold in range(k):
        held, rest = rows[fold_of_row == fold], rows[fold_of_row != fold]
        if not len(held):
            raise SplitError(
                f"{dataset.name}: no division of its groups into {k} folds was found that leaves "
                "none empty; use fewer folds."
            )
        _refuse_unlearned(dataset, rest, held, fold, k)
        made.append((rest, held))
    return tuple(made)


def _refuse_too_many(dataset: Dataset, rows: NDArray[np.int64], k: int) -> None:
    """SplitError where a class has fewer images (or groups) than there are folds."""
    if not 2 <= k <= MOST_FOLDS:
        raise SplitError(f"cv={k}: the number of folds must lie between 2 and {MOST_FOLDS}.")
    what = "images" if dataset.groups is None else "groups"
    units = rows if dataset.groups is None else np.array([dataset.groups[row] for row in rows])
    if dataset.task == "multilabel":
        count = len(np.unique(units))
        if count < k:
            raise SplitError(f"{dataset.name} has {count} {what}, too few for {k} folds.")
        return
    of_class = {
        name: len(np.unique(units[dataset.targets[rows] == index]))
        for index, name in enumerate(dataset.class_names)
    }
    rarest = min((name for name in of_class if of_class[name]), key=lambda name: of_class[name])
    if of_class[rarest] < k:
        raise SplitError(
            f"{dataset.name}: class '{rarest}' has {of_class[rarest]} {what}, too few for {k} "
            f"folds, each of which should test it; use at most {of_class[rarest]} folds, or add "
            "images."
        )


def _refuse_unlearned(
    dataset: Dataset, train: NDArray[np.int64], test: NDArray[np.int64], fold: int, k: int
) -> None:
    """SplitError where a fold tests a class that its training images lack."""
    if dataset.task == "multilabel":
        return
    learned, tested = dataset.class_counts(train), dataset.class_counts(test)
    for index in np.flatnonzero((learned == 0) & (tested > 0)):
        raise SplitError(
            f"{dataset.name}: fold {fold + 1} of {k} would have no training image of class "
            f"'{dataset.class_names[index]}'; use fewer folds or another --seed."
        )
