"""Numbers and files exactly as the evaluator of the MedMNIST package has them.

Source:
    Yang et al., Sci. Data 10, 2023, arXiv:2110.14795; medmnist 3.0, evaluator.py: AUC is the plain
    mean over classes (labels), of two classes the second is positive, ACC of several labels is the
    mean over labels at 0.5, not the exact match.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from scanwise.core.errors import DataError
from scanwise.core.files import write_text
from scanwise.core.types import SplitName, Task
from scanwise.metrics.inputs import THRESHOLD, Floats, Ints, check_targets

_STANDARD_SIZE_PX = 28  # leaves no mark in a file name


def medmnist_auc(targets: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """AUC as MedMNIST's evaluator computes it.

    Args:
        targets: Class indices (n,) or (n, 1); multi-label (n, k) of 0 and 1.
        probabilities: (n, k); for two classes also (n,) or (n, 1), of class 1. Constant scores
            give 0.5, as there.
        task: Multi-class with k = 2 is MedMNIST's "binary-class".

    Returns:
        In [0, 1]; NaN where a class (label) is absent or universal: the evaluator refuses that.

    Raises:
        DataError: If shapes differ or a value is not finite.
    """
    scores, truth = _check(targets, probabilities, task)
    if task == "multilabel":
        return _mean([_auc(truth[:, i], scores[:, i]) for i in range(scores.shape[1])])
    if scores.shape[1] <= 2:
        return _auc(truth, scores[:, -1])
    return _mean([_auc(truth == i, scores[:, i]) for i in range(scores.shape[1])])


def medmnist_acc(targets: ArrayLike, probabilities: ArrayLike, task: Task) -> float:
    """ACC as MedMNIST's evaluator computes it; takes what `medmnist_auc` takes.

    Two classes: column of class 1 above 0.5. Multi-label: mean over labels of the share decided
    right at 0.5. Otherwise the share of right argmax.
    """
    scores, truth = _check(targets, probabilities, task)
    if task == "multilabel":
        return _mean([float(np.mean(label)) for label in ((scores > THRESHOLD) == truth).T])
    if scores.shape[1] <= 2:
        return float(np.mean((scores[:, -1] > THRESHOLD) == (truth == 1)))
    return float(np.mean(scores.argmax(axis=1) == truth))


def write_medmnist_csv(
    folder: Path,
    flag: str,
    size: int,
    split: SplitName,
    targets: ArrayLike,
    probabilities: ArrayLike,
    task: Task,
    run: str,
) -> Path:
    """Write the scores of an official split as a file that MedMNIST's `evaluate` reads.

    Args:
        folder: Where to; made if absent.
        flag: MedMNIST's name of the set, such as "octmnist".
        size: Side in px; anything but 28 is part of the file name.
        split: "train", "val" or "test", all of it, in official order.
        targets: True labels, for the AUC and ACC in the file name.
        probabilities: (n, k), written so that reading gives the same float64.
        task: See `medmnist_auc`.
        run: Name of the run: letters, digits, "-" and "_".

    Returns:
        The file: {flag}{size}_{split}_[AUC]0.917_[ACC]0.741@{run}.csv.

    Raises:
        DataError: If a name would not survive the evaluator's parsing, or the AUC is undefined.
    """
    if not re.fullmatch(r"[A-Za-z0-9]+", flag):
        raise DataError(f"MedMNIST flag must be letters and digits, got '{flag}'.")
    if not re.fullmatch(r"[\w-]+", run):
        raise DataError(f"run name must be letters, digits, '-' and '_', got '{run}'.")
    auc, acc = (
        medmnist_auc(targets, probabilities, task),
        medmnist_acc(targets, probabilities, task),
    )
    if math.isnan(auc):
        raise DataError(
            f"{flag} {split}: a class is absent or universal, so MedMNIST's AUC is undefined; "
            "write the whole official split."
        )
    mark = "" if size == _STANDARD_SIZE_PX else f"_{size}"
    path = Path(folder) / f"{flag}{mark}_{split}_[AUC]{auc:.3f}_[ACC]{acc:.3f}@{run}.csv"
    scores = np.asarray(probabilities, dtype=np.float64).reshape(len(np.asarray(probabilities)), -1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([index, *row] for index, row in enumerate(scores.tolist()))
    write_text(path, text.getvalue())
    return path


def read_medmnist_csv(path: Path) -> Floats:
    """Scores (n, k) of a file in MedMNIST's result format, in the order of its index column.

    Raises:
        DataError: If a line is not an index and numbers, or lines differ in length.
    """
    rows: list[list[float]] = []
    with Path(path).open(encoding="utf-8", newline="") as stream:
        for line, cells in enumerate(csv.reader(stream), start=1):
            try:
                rows.append([int(cells[0]), *(float(cell) for cell in cells[1:])])
            except (ValueError, IndexError) as error:
                raise DataError(f"{path} line {line}: 'index,score,…' expected.") from error
            if len(cells) != len(rows[0]) or len(cells) < 2:
                raise DataError(
                    f"{path} line {line} has {len(cells) - 1} scores, {len(rows[0]) - 1} expected."
                )
    if not rows:
        raise DataError(f"{path} is empty.")
    table = np.array(rows)
    return np.asarray(table[np.argsort(table[:, 0], kind="stable"), 1:])


def _auc(truth: NDArray[np.generic], scores: Floats) -> float:
    """scikit-learn's own, as there: ours may differ in the last bit, and then round otherwise."""
    if len(np.unique(truth)) < 2:
        return math.nan
    return float(roc_auc_score(truth, scores))


def _mean(values: list[float]) -> float:
    """Summed in order, as there."""
    return sum(values) / len(values)


def _check(targets: ArrayLike, probabilities: ArrayLike, task: Task) -> tuple[Floats, Ints]:
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim == 1:
        scores = scores[:, None]
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise DataError(f"scores must be finite (n, k) with n, k > 0, got shape {scores.shape}.")
    n, k = scores.shape
    return scores, check_targets(targets, n, k if task == "multilabel" else max(k, 2), task)
