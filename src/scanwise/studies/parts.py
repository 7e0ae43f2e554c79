"""Training and validation rows within given rows, for searches; none of it is ever test."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanwise.core.types import Dataset, Split
from scanwise.data.duplicates import duplicate_groups, find_duplicates
from scanwise.data.folds import divide_rows
from scanwise.data.splits import draw_part
from scanwise.metrics.inputs import Ints


def copies_together(dataset: Dataset, rows: Ints) -> Dataset:
    """The data set with copies among `rows` in one group, beside its own groups."""
    whole = len(rows) == len(dataset)
    images = dataset.images if whole else dataset.images[rows]
    found = find_duplicates(images, dataset.targets[rows])
    if not found.clusters:
        return dataset
    own = None if dataset.groups is None else [dataset.groups[row] for row in rows]
    groups = [f"left {row}" for row in range(len(dataset))]
    for row, name in zip(rows.tolist(), duplicate_groups(found, len(rows), own), strict=True):
        groups[row] = name
    return dataset.with_groups(tuple(groups))


def inner_parts(dataset: Dataset, rows: Ints, k: int, seed: int) -> tuple[Split, ...]:
    """Folds within `rows`, each the validation of one training; nothing is test.

    Raises:
        SplitError: As `divide_rows`.
    """
    none = np.empty(0, np.int64)
    origin: Any = "random" if dataset.groups is None else "group"
    return tuple(
        Split(np.sort(rest), np.sort(held), none, origin, seed)
        for rest, held in divide_rows(dataset, rows, k, seed=seed)
    )


def part_of(dataset: Dataset, rows: Ints, val_share: float, seed: int) -> Split:
    """One training and validation split of `rows`; nothing is test."""
    train = draw_part(dataset, rows, 1 - val_share, seed=seed)
    origin: Any = "random" if dataset.groups is None else "group"
    return Split(train, np.setdiff1d(rows, train), np.empty(0, np.int64), origin, seed)
