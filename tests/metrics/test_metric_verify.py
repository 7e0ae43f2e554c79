"""An honest metrics.json verifies; every edit is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.metrics.calibration import apply_temperature, calibrate
from scanwise.metrics.evaluate import (
    calibration_document,
    evaluate_predictions,
    metrics_document,
)
from scanwise.metrics.predictions import (
    Predictions,
    make_predictions,
    read_predictions,
    write_predictions,
)
from scanwise.metrics.verify import verify_metrics


def _run(folder: Path, task: Any, grouped: bool = False) -> tuple[Predictions, dict[str, Any]]:
    """A finished run as it lies on disk: predictions.csv, splits.csv, metrics.json."""
    rng = np.random.default_rng(0)
    n, k = 160, 3
    split = tuple("val" if i < 80 else "test" for i in range(n))
    logits = rng.normal(size=(n, k)) * 3
    if task == "multilabel":
        targets: Any = (rng.random((n, k)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
        counts: Any = {"train_counts": [50, 40, 30], "train_images": 100}
    else:
        targets = rng.integers(0, k, n)
        logits[np.arange(n), targets] += 3
        counts = {"train_counts": [50, 40, 30]}
    calibration = calibrate(logits[:80], targets[:80], task)
    assert calibration.applied
    samples = tuple(f"cells#{i}" for i in range(n))
    groups = tuple(f"slide{i // 4}" for i in range(n)) if grouped else None
    made = make_predictions(
        samples,
        split,
        targets,
        apply_temperature(logits, calibration.temperature, task),
        ("a", "b", "c"),
        task,
        groups,
    )
    write_predictions(folder / "predictions.csv", made)
    rows = [
        f"{s},0,{p},{groups[i] if groups else ''}"
        for i, (s, p) in enumerate(zip(samples, split, strict=True))
    ]
    (folder / "splits.csv").write_text("path,sha256,split,group\n" + "\n".join(rows) + "\n")
    document = metrics_document(
        {"name": "cells"},
        "abc",
        {
            name: evaluate_predictions(made, name, num_resamples=200, seed=3, **counts)
            for name in ("val", "test")
        },
        clean_splits={
            "test": evaluate_predictions(
                made, "test", excluded=["cells#99", "cells#120"], num_resamples=200, **counts
            )
        },
        calibration=calibration_document(calibration, made),
        run="cells-001",
    )
    (folder / "metrics.json").write_text(json.dumps(document, allow_nan=False))
    return (
        read_predictions(folder / "predictions.csv", folder / "splits.csv"),
        json.loads((folder / "metrics.json").read_text()),
    )


@pytest.mark.parametrize(
    ("task", "grouped"),
    [("multiclass", False), ("multiclass", True), ("ordinal", False), ("multilabel", False)],
)
def test_an_honest_file_verifies(tmp_path: Path, task: str, grouped: bool) -> None:
    predictions, metrics = _run(tmp_path, task, grouped)
    assert verify_metrics(predictions, metrics, split_sha256="abc") == ()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictions, dict[str, Any]]:
    return _run(tmp_path_factory.mktemp("run"), "multiclass")


@pytest.mark.parametrize(
    "where",
    [
        "splits.test.accuracy.value",
        "splits.test.accuracy.ci95.0",
        "splits.val.auroc_macro.ci95.1",
        "splits.test.per_class.1.sensitivity.value",
        "splits.test.confusion_matrix.2.0",
        "splits.test.medmnist_auc",
        "splits.test.trivial.majority.accuracy",
        "splits.test.n",
        "clean_splits.test.f1_macro.value",
        "calibration.before.ece",
        "calibration.splits.test.after.brier",
    ],
)
def test_a_hand_edited_number_is_named(
    finished: tuple[Predictions, dict[str, Any]], where: str
) -> None:
    predictions, honest = finished
    edited = copy.deepcopy(honest)
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    spot: Any = edited
    for part in path:
        spot = spot[part]
    spot[last] += 1 if isinstance(spot[last], int) else 1e-5
    found = verify_metrics(predictions, edited)
    assert where in [mismatch.where for mismatch in found]
    named = next(mismatch for mismatch in found if mismatch.where == where)
    assert named.stated == spot[last]
    assert str(named).startswith(f"{where}: stated ")


def test_edits_of_words_missing_and_invented_numbers_are_named(
    finished: tuple[Predictions, dict[str, Any]],
) -> None:
    predictions, honest = finished
    edited = copy.deepcopy(honest)
    edited["splits"]["test"]["skill"] = "collapsed"
    del edited["splits"]["test"]["mcc"]
    edited["splits"]["test"]["super_score"] = 0.99
    edited["splits"]["val"]["trivial"] = None
    edited["split_sha256"] = "else"
    found = {bad.where: bad for bad in verify_metrics(predictions, edited, split_sha256="abc")}
    assert set(found) == {
        "splits.test.skill",
        "splits.test.mcc",
        "splits.test.super_score",
        "splits.val",
        "split_sha256",
    }
    del edited["splits"]["test"]
    assert "splits.test" in [bad.where for bad in verify_metrics(predictions, edited)]


def test_a_nudged_temperature_is_named(finished: tuple[Predictions, dict[str, Any]]) -> None:
    predictions, honest = finished
    edited = copy.deepcopy(honest)
    edited["calibration"]["temperature"] *= 1.01
    where = [bad.where for bad in verify_metrics(predictions, edited)]
    assert "calibration.before.cross_entropy_loss" in where


def test_edited_predictions_are_named(tmp_path: Path) -> None:
    _, metrics = _run(tmp_path, "multiclass")
    path = tmp_path / "predictions.csv"
    lines = path.read_text().splitlines()
    cells = lines[100].split(",")
    wrong = next(name for name in "abc" if name != cells[3])
    lines[100] = ",".join([*cells[:3], wrong, *cells[4:]])
    path.write_text("\n".join(lines) + "\n")
    (found,) = verify_metrics(read_predictions(path), metrics)
    assert found.where == f"predictions.csv.{cells[0]}.predicted"
    # Without a row, every count of its split is off.
    path.write_text("\n".join(lines[:-1]) + "\n")
    where = [bad.where for bad in verify_metrics(read_predictions(path), metrics)]
    assert "splits.test.n" in where
    assert not any(name.startswith("splits.val") for name in where)


def test_lost_groups_are_noticed(tmp_path: Path) -> None:
    _, metrics = _run(tmp_path, "multiclass", grouped=True)
    alone = read_predictions(tmp_path / "predictions.csv")
    where = [bad.where for bad in verify_metrics(alone, metrics)]
    assert "splits.test.accuracy.ci95.0" in where


def test_a_document_without_splits_is_refused(
    finished: tuple[Predictions, dict[str, Any]],
) -> None:
    with pytest.raises(DataError, match="no 'splits'"):
        verify_metrics(finished[0], {"schema": 1})
