"""The public door of the metrics: shapes, ranges and types are checked here, once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Softmax in bfloat16 or float16 misses 1 by up to some 1e-3; logits miss it by far more.
ROW_SUM_TOLERANCE = 5e-3
THRESHOLD = 0.5  # of one label in multi-label tasks


def check_inputs(probabilities: ArrayLike, targets: ArrayLike, task: Task) -> tuple[Floats, Ints]:
    """Give probabilities as float64 (n, k) and targets as int64, or say what is wrong with them.

    Args:
        probabilities: (n, k), finite, in [0, 1]; each row sums to 1, except in multi-label tasks.
        targets: Class indices (n,) in [0, k); multi-label: (n, k) of 0 and 1.
        task: "multiclass", "ordinal" or "multilabel".

    Raises:
        DataError: If there are no rows, shapes differ, or a value is out of range; names the row.
    """
    if task not in ("multiclass", "ordinal", "multilabel"):
        raise DataError(f"unknown task '{task}'; choose multiclass, ordinal or multilabel.")
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] == 0 or matrix.shape[1] == 0:
        raise DataError(f"probabilities must be (n, k) with n, k > 0, got shape {matrix.shape}.")
    wrong = ~np.isfinite(matrix).all(axis=1)
    if wrong.any():
        raise DataError(f"probabilities of row {_first(wrong)} are not finite.")
    wrong = ((matrix < 0) | (matrix > 1 + ROW_SUM_TOLERANCE)).any(axis=1)
    if wrong.any():
        raise DataError(
            f"probabilities of row {_first(wrong)} lie outside [0, 1]; "
            "apply softmax (multi-label: sigmoid) to logits first."
        )
    if task != "multilabel":
        sums = matrix.sum(axis=1)
        wrong = np.abs(sums - 1) > ROW_SUM_TOLERANCE
        if wrong.any():
            row = _first(wrong)
            raise DataError(
                f"rows of probabilities must sum to 1, row {row} sums to {sums[row]:.6g}; "
                "apply softmax to logits first."
            )
    return matrix, check_targets(targets, matrix.shape[0], matrix.shape[1], task)


def check_targets(targets: ArrayLike, n: int, k: int, task: Task) -> Ints:
    """Targets as int64 (n,), multi-label (n, k); DataError names the first row that is wrong."""
    given = np.asarray(targets)
    if given.ndim == 2 and given.shape[1] == 1 and task != "multilabel":
        given = given[:, 0]
    expected = (n, k) if task == "multilabel" else (n,)
    if given.shape != expected:
        raise DataError(
            f"targets have shape {given.shape}, {expected} expected for {task} "
            f"beside probabilities of shape {(n, k)}."
        )
    if given.dtype.kind not in "biuf":
        raise DataError(f"targets must be class indices, got values of type {given.dtype}.")
    whole: Ints = given.astype(np.int64) if np.isfinite(given).all() else np.full(expected, -1)
    highest = 1 if task == "multilabel" else k - 1
    wrong = (whole != given) | (whole < 0) | (whole > highest)
    wrong = wrong.reshape(n, -1).any(axis=1)
    if wrong.any():
        row = _first(wrong)
        raise DataError(
            f"target of row {row} is {given[row]}, but must be a whole number in [0, {highest}]."
        )
    return whole


def predict_classes(probabilities: Floats, task: Task) -> Ints:
    """The decision: the most probable class (n,), the first one in a tie; multi-label: p > 0.5."""
    if task == "multilabel":
        return (probabilities > THRESHOLD).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def one_hot(targets: Ints, k: int, task: Task) -> Floats:
    """Targets as float 0/1 (n, k)."""
    if task == "multilabel":
        return targets.astype(np.float64)
    return np.asarray(targets[:, None] == np.arange(k), dtype=np.float64)


def _first(wrong: ArrayLike) -> int:
    return int(np.flatnonzero(wrong)[0])
