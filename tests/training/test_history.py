"""history.csv: the contract's columns, exact numbers, blanks where there is none."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from scanwise.core.errors import RunError
from scanwise.training.history import (
    EpochRecord,
    append_history,
    read_history,
    write_history,
)

FIRST = EpochRecord(1, 0.1 + 0.2, 1 / 3, 1e-9, 0.5, 1e-4, 2.5, 100.0, 1234.5, 0.75, 0.5)
SECOND = EpochRecord(2, 0.25, 0.5, 0.75, 1.0, 1e-3, 2.0, 80.0, 1500.0)


def test_columns_start_with_the_contracts(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [])
    header = (tmp_path / "history.csv").read_text()
    contract = "epoch,loss,accuracy,val_loss,val_accuracy,lr,seconds,ms_per_step,images_per_s"
    assert header.startswith(contract + ",val_auc,val_balanced_acc\n")


def test_numbers_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    write_history(path, [FIRST])
    append_history(path, SECOND)
    first, second = read_history(path)
    assert first == FIRST
    assert math.isnan(second.val_auc)
    assert second.to_json() == SECOND.to_json()
    assert EpochRecord.from_json(FIRST.to_json()) == FIRST


def test_a_value_that_can_not_be_computed_is_blank(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [SECOND])
    with (tmp_path / "history.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["val_auc"] == ""
    assert SECOND.to_json()["val_auc"] is None


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text("epoch,loss\n1,abc\n")
    with pytest.raises(RunError, match=r"history\.csv"):
        read_history(tmp_path / "history.csv")
