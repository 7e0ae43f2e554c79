"""Ordered classes: which data sets are graded, and in which order their grades stand."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from scanwise.core.errors import DataError, nearest
from scanwise.core.types import Dataset, Finding


def with_task(
    dataset: Dataset,
    task: Literal["multiclass", "ordinal"] | None = None,
    class_order: str | None = None,
) -> Dataset:
    """The data set as the task that the user says; ordinal classes in rising order of grade.

    The order is the one given, else the data set's own (RetinaMNIST), else that of class names
    which are consecutive whole numbers, alone ("0" … "4") or behind one word ("grade 1", "KL2").

    Args:
        dataset: Any data set.
        task: None leaves it as it is; "multiclass" drops an order.
        class_order: Class names from lowest to highest grade, between commas (a name that holds
            one in double quotes); makes the task ordinal.

    Raises:
        DataError: Several labels an image; an order that is not of these classes; names that tell
            no order, or leave gaps.
    """
    if (task or class_order) and dataset.task == "multilabel":
        raise DataError(
            f"{dataset.name} has several labels an image, which have no order; leave --task and "
            "--class-order out."
        )
    if task == "multiclass" and dataset.task == "ordinal":
        return replace(dataset, task="multiclass")
    if class_order:
        order = _given_order(class_order, dataset.class_names)
    elif dataset.task == "ordinal":
        order = list(range(dataset.num_classes))
    elif task == "ordinal":
        order = _order_of_names(dataset)
    else:
        return dataset
    return _graded(dataset, order)


def _graded(dataset: Dataset, order: list[int]) -> Dataset:
    """With class `order[g]` as grade g, and a note that says what that means."""
    names = tuple(dataset.class_names[index] for index in order)
    same = order == sorted(order)
    note = Finding(
        "R020",
        "info",
        f"ordered grades, from lowest to highest: {', '.join(names)}. The network "
        "trains on them as classes without an order (cross-entropy); quadratic-weighted kappa and "
        "the mean error in grades are added.",
        "Say --task multiclass to leave them out, --class-order for another order.",
    )
    # A benchmark's evaluator expects the columns in its own order.
    provenance = dataset.provenance if same else replace(dataset.provenance, benchmark=None)
    return replace(
        dataset,
        task="ordinal",
        targets=np.argsort(order)[dataset.targets].astype(np.int64),
        class_names=names,
        notes=(*dataset.notes, note),
        provenance=provenance,
    )


def _given_order(text: str, class_names: Sequence[str]) -> list[int]:
    """Index of the class of each grade, from names between commas."""
    given = [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    for name in given:
        if name not in class_names:
            raise DataError(f"class_order: no class '{name}'; {nearest(name, class_names)}")
    twice = sorted({name for name in given if given.count(name) > 1})
    if twice:
        raise DataError(f"class_order has '{twice[0]}' twice; name each class once.")
    missing = [name for name in class_names if name not in given]
    if missing:
        raise DataError(
            f"class_order lacks {', '.join(map(repr, missing))}; name every class, from the lowest "
            "grade to the highest."
        )
    return [class_names.index(name) for name in given]


def _order_of_names(dataset: Dataset) -> list[int]:
    """The order that numbered names tell.

    Raises:
        DataError: If they tell none.
    """
    names = dataset.class_names
    example = ",".join(f'"{name}"' if "," in name else name for name in names)
    ask = f"say it, lowest grade first: --class-order '{example}' (in the right order)."
    numbers = _numbers(names)
    if numbers is None:
        raise DataError(
            f"{dataset.name}: the class names {', '.join(map(repr, names))} tell no order; {ask}"
        )
    order = sorted(range(len(names)), key=lambda index: numbers[index])
    levels = [numbers[index] for index in order]
    if levels != list(range(levels[0], levels[0] + len(levels))):
        raise DataError(
            f"{dataset.name}: the grades {', '.join(map(str, levels))} are not consecutive, so how "
            f"far they lie apart is not known. If each is one step from the next, {ask}"
        )
    return order


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The whole number of each name, alone or at the end of one word common to all; else None."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return [int(name) for name in names]
    found = [re.fullmatch(r"(.*?\D)(\d+)", name) for name in names]
    words = {match[1].casefold().strip() for match in found if match}
    if not all(found) or len(words) != 1:
        return None
    return [int(match[2]) for match in found if match]
