"""history.csv as arrays."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import RunError

COLUMNS = (
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
    "seconds",
    "ms_per_step",
    "images_per_s",
    "val_balanced_acc",
)


@dataclass(frozen=True, eq=False)
class History:
    """One row an epoch, float (e,) each; NaN where a cell is empty or not a number.

    `epoch` counts from 1 and need not be complete (a log may hold every fifth epoch).
    """

    epoch: NDArray[np.int64]
    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    val_loss: NDArray[np.float64]
    val_accuracy: NDArray[np.float64]
    lr: NDArray[np.float64]
    seconds: NDArray[np.float64]
    ms_per_step: NDArray[np.float64]
    images_per_s: NDArray[np.float64]
    val_balanced_acc: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.epoch)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> History:
        """Build from rows of the contract's columns; missing columns are NaN."""
        rows = list(rows)
        columns = {name: np.array([_number(row.get(name)) for row in rows]) for name in COLUMNS}
        epoch = [int(_number(row.get("epoch"), place + 1)) for place, row in enumerate(rows)]
        return cls(np.array(epoch, dtype=np.int64), **columns)

    def best_row(self) -> int | None:
        """Row of the lowest validation loss, or None where there is none."""
        if not len(self) or not np.isfinite(self.val_loss).any():
            return None
        return int(np.nanargmin(np.where(np.isfinite(self.val_loss), self.val_loss, np.nan)))


def read_history(path: Path) -> History | None:
    """Read history.csv; None if there is no such file or it has no row yet.

    Raises:
        RunError: If the file has no `epoch` column.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if "epoch" not in (reader.fieldnames or []):
            raise RunError(f"{path} has no column 'epoch'; it has {reader.fieldnames}.")
        rows = list(reader)
    return History.from_rows(rows) if rows else None


def _number(cell: Any, otherwise: float = float("nan")) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return otherwise
