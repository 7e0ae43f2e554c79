"""history.csv: one row an epoch, on disk before the next epoch starts."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scanwise.core.errors import RunError
from scanwise.core.files import write_text


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch measured. NaN where a value can't be computed.

    `loss` and `accuracy` are averages over the epoch's steps while the weights changed, under
    augmentation and dropout; validation values are of the epoch's end (of the averaged weights if
    those are on). So validation may look better than training early on.
    """

    epoch: int  # from 1
    loss: float
    accuracy: float  # multi-label: share of right labels
    val_loss: float  # the same loss, class weights and smoothing included
    val_accuracy: float
    lr: float  # at the epoch's last step
    seconds: float  # training and validation
    ms_per_step: float  # seconds over training steps
    images_per_s: float  # training images over training seconds, without validation
    val_auc: float = math.nan  # macro average of one-vs-rest AUROC
    val_balanced_acc: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """NaN becomes None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> EpochRecord:
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in row.items()}
        return cls(**known)


COLUMNS = tuple(field.name for field in fields(EpochRecord))


def write_history(path: Path, history: Iterable[EpochRecord]) -> None:
    """Write the whole file anew (atomically), as at the start and on resume."""
    write_text(path, _line(COLUMNS) + "".join(_line(_cells(record)) for record in history))


def append_history(path: Path, record: EpochRecord) -> None:
    """Add one row and force it to the disk."""
    with path.open("a", encoding="utf-8", newline="") as stream:
        stream.write(_line(_cells(record)))
        stream.flush()
        os.fsync(stream.fileno())


def read_history(path: Path) -> tuple[EpochRecord, ...]:
    """Read history.csv back; exact, since floats were written in full.

    Raises:
        RunError: If there is no such file or a row can't be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return tuple(_record(row) for row in csv.DictReader(stream))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"can't read {path}: {error}") from error


def _record(row: Mapping[str, str]) -> EpochRecord:
    numbers = (float(row[name]) if row[name] else math.nan for name in COLUMNS[1:])
    return EpochRecord(int(row["epoch"]), *numbers)


def _cells(record: EpochRecord) -> list[str]:
    values = [getattr(record, name) for name in COLUMNS]
    return ["" if value != value else repr(value) for value in values]


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
