"""predictions.csv: every probability behind every number, to be read back to the last bit.

Columns: `sample,split,target,predicted,prob_<class>…`; multi-label
`sample,split,target_<label>…,predicted,prob_<label>…` with targets 0 or 1 and `predicted` as "a|b"
(empty: no label). `target` and `predicted` are class names, so a file can be read without its run.
Cells are quoted where a name holds a comma, a quote or a line break.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.core.files import csv_text, write_text
from scanwise.core.types import SPLIT_NAMES, Task
from scanwise.metrics.inputs import Floats, Ints, check_inputs, predict_classes

_PROBABILITY, _TARGET, _SEPARATOR = "prob_", "target_", "|"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about n images, beside the truth; rows in input order."""

    sample: tuple[str, ...]  # n names, as in splits.csv
    split: tuple[str, ...]  # n of "val", "test" (or "train")
    targets: Ints  # (n,) class indices; multi-label (n, k) of 0 and 1
    predicted: Ints  # like targets
    probabilities: Floats  # (n, k)
    class_names: tuple[str, ...]
    task: Task = "multiclass"
    groups: tuple[str, ...] | None = None  # not in the file; splits.csv has them

    def __post_init__(self) -> None:
        check_inputs(self.probabilities, self.targets, self.task)
        n, k = self.probabilities.shape
        for name, column in (("sample", self.sample), ("split", self.split)):
            if len(column) != n:
                raise DataError(f"{name} has {len(column)} rows, probabilities have {n}.")
        if self.groups is not None and len(self.groups) != n:
            raise DataError(f"groups have {len(self.groups)} rows, probabilities have {n}.")
        if self.predicted.shape != self.targets.shape:
            raise DataError(
                f"predicted have shape {self.predicted.shape}, targets {self.targets.shape}."
            )
        if len(self.class_names) != k or len(set(self.class_names)) != k:
            raise DataError(f"{k} different class names expected, got {self.class_names}.")
        if unknown := set(self.split) - set(SPLIT_NAMES):
            raise DataError(f"split must be one of {', '.join(SPLIT_NAMES)}, got {unknown}.")
        joined = [name for name in self.class_names if _SEPARATOR in name or name == ""]
        if self.task == "multilabel" and joined:
            raise DataError(f"label '{joined[0]}' must not be empty or hold '|'; rename it.")

    def __len__(self) -> int:
        return len(self.sample)

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
        """The rows with these numbers (or a mask), in that order."""
        numbers = np.arange(len(self))[chosen].tolist()
        return replace(
            self,
            sample=tuple(self.sample[i] for i in numbers),
            split=tuple(self.split[i] for i in numbers),
            targets=self.targets[numbers],
            predicted=self.predicted[numbers],
            probabilities=self.probabilities[numbers],
            groups=None if self.groups is None else tuple(self.groups[i] for i in numbers),
        )

    def of_split(self, name: str) -> Predictions:
        """The rows of one split.

        Raises:
            DataError: If it has none.
        """
        chosen = np.array([split == name for split in self.split])
        if not chosen.any():
            raise DataError(
                f"no predictions of split '{name}'; there are {sorted(set(self.split))}."
            )
        return self.rows(chosen)


def make_predictions(
    sample: tuple[str, ...],
    split: tuple[str, ...],
    targets: ArrayLike,
    probabilities: ArrayLike,
    class_names: tuple[str, ...],
    task: Task = "multiclass",
    groups: tuple[str, ...] | None = None,
) -> Predictions:
    """Predictions with the decision that follows from probabilities: argmax, multi-label p > 0.5.

    Raises:
        DataError: If shapes differ, a value is out of range, or a name is not usable.
    """
    given, truth = check_inputs(probabilities, targets, task)
    predicted = predict_classes(given, task)
    return Predictions(sample, split, truth, predicted, given, class_names, task, groups)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions.csv atomically; floats are written so that reading gives the same ones."""
    names = predictions.class_names
    many = predictions.task == "multilabel"
    truth = [f"{_TARGET}{name}" for name in names] if many else ["target"]
    rows: list[list[Any]] = []
    for sample, split, target, predicted, row in zip(
        predictions.sample,
        predictions.split,
        predictions.targets.tolist(),
        predictions.predicted.tolist(),
        predictions.probabilities.tolist(),  # Python floats: csv writes their repr
        strict=True,
    ):
        if many:
            said = _SEPARATOR.join(name for name, yes in zip(names, predicted, strict=True) if yes)
            rows.append([sample, split, *target, said, *row])
        else:
            rows.append([sample, split, names[target], names[predicted], *row])
    header = ["sample", "split", *truth, "predicted", *(f"{_PROBABILITY}{name}" for name in names)]
    write_text(path, csv_text(header, rows))


def read_predictions(
    path: Path, splits_csv: Path | None = None, task: Task | None = None
) -> Predictions:
    """Read predictions.csv, with groups from splits.csv where that is given.

    Args:
        path: The file.
        splits_csv: Columns path, sha256, split, group; `path` is matched with `sample`. Groups are
            None if all of its cells are empty.
        task: To tell "ordinal", which the file does not know; else multi-label or multi-class as
            its columns say.

    Raises:
        DataError: If a file can't be read or does not keep the format; names the line.
    """
    header, lines = _read_rows(path)
    names, many = _parse_header(path, header)
    k = len(names)
    index = {name: i for i, name in enumerate(names)}
    truth_cells = k if many else 1
    targets: list[int | list[int]] = []
    predicted: list[int | list[int]] = []
    probabilities: list[list[float]] = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"{path} line {number}: {len(cells)} cells, {len(header)} expected.")
        truth = cells[2 : 2 + truth_cells]
        said = cells[2 + truth_cells]
        try:
            probabilities.append([float(cell) for cell in cells[3 + truth_cells :]])
            if many:
                targets.append([int(cell) for cell in truth])
                chosen = {index[name] for name in said.split(_SEPARATOR)} if said else set()
                predicted.append([int(i in chosen) for i in range(k)])
            else:
                targets.append(index[truth[0]])
                predicted.append(index[said])
        except KeyError as error:
            raise DataError(f"{path} line {number}: unknown class {error}.") from error
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}.") from error
    if not lines:
        raise DataError(f"{path} has no rows.")
    sample = tuple(cells[0] for _, cells in lines)
    found: Task = "multilabel" if many else "multiclass"
    if task is not None and (task == "multilabel") != many:
        raise DataError(f"{path} holds {found} predictions, not {task}.")
    try:
        return Predictions(
            sample=sample,
            split=tuple(cells[1] for _, cells in lines),
            targets=np.array(targets, dtype=np.int64),
            predicted=np.array(predicted, dtype=np.int64),
            probabilities=np.array(probabilities, dtype=np.float64),
            class_names=names,
            task=task or found,
            groups=None if splits_csv is None else _read_groups(splits_csv, sample),
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _parse_header(path: Path, header: list[str]) -> tuple[tuple[str, ...], bool]:
    """Class names, and whether the file is multi-label; by position, since names are free."""
    for many in (False, True):
        k = (len(header) - 3) // 2 if many else len(header) - 4
        names = tuple(cell.removeprefix(_PROBABILITY) for cell in header[len(header) - k :])
        truth = [f"{_TARGET}{name}" for name in names] if many else ["target"]
        columns = [f"{_PROBABILITY}{name}" for name in names]
        if k > 0 and header == ["sample", "split", *truth, "predicted", *columns]:
            return names, many
    raise DataError(
        f"{path} must have columns sample,split,target,predicted,prob_<class>… "
        f"(multi-label: target_<label>…), got {','.join(header)}."
    )


def _read_groups(path: Path, sample: tuple[str, ...]) -> tuple[str, ...] | None:
    header, lines = _read_rows(path)
    if not {"path", "group"} <= set(header):
        raise DataError(f"{path} must have columns path and group, got {','.join(header)}.")
    name, group = header.index("path"), header.index("group")
    known = {cells[name]: cells[group] for _, cells in lines if len(cells) == len(header)}
    missing = [key for key in sample if key not in known]
    if missing:
        raise DataError(f"{path} lacks {len(missing)} predicted samples, first '{missing[0]}'.")
    groups = tuple(known[key] for key in sample)
    return groups if any(groups) else None


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with Path(path).open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream)
            rows = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"can't read {path}: {error}") from error
    if not rows:
        raise DataError(f"{path} is empty.")
    return rows[0][1], rows[1:]
