"""A run folder as the pipeline writes it, with simulated predictions: test data, clearly said."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scanwise.core.config import TrainConfig
from scanwise.core.files import write_json, write_yaml
from scanwise.core.types import Dataset, Provenance, Split, Task
from scanwise.metrics.calibration import Calibration, apply_temperature, calibrate
from scanwise.metrics.evaluate import calibration_document, evaluate_predictions, metrics_document
from scanwise.metrics.predictions import Predictions, make_predictions, write_predictions
from scanwise.report.build import build_report
from scanwise.report.data_plots import write_data_plots
from scanwise.report.gallery import write_gallery

RESAMPLES = 60
GUIDE_ROWS = (  # seed S2's example of a good training run
    (1, 2.1593, 0.3500, 1.5823, 0.4651),
    (5, 0.7215, 0.7850, 0.5324, 0.8372),
    (10, 0.3256, 0.8750, 0.2217, 0.9302),
    (15, 0.2082, 0.9150, 0.1089, 0.9535),
)


@dataclass
class Simulated:
    """What to simulate; `skill` 0 is noise, 3 is a good model."""

    class_names: tuple[str, ...] = ("discocyte", "spherocyte", "echinocyte", "blast")
    shares: tuple[float, ...] = (0.5, 0.27, 0.15, 0.08)
    n_val: int = 240
    n_test: int = 260
    skill: float = 2.2
    task: Task = "multiclass"
    synthetic: bool = True
    leaked: int = 0
    test: bool = True
    name: str = "simulated_cells"
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 3


def history_rows(epochs: int = 18, overfit_from: int | None = None) -> list[dict[str, float]]:
    """A plausible descent; with `overfit_from` validation loss turns there."""
    rng = np.random.default_rng(1)
    rows = []
    for epoch in range(1, epochs + 1):
        fall = np.exp(-epoch / 5)
        val = 0.42 + 0.9 * fall + rng.normal(0, 0.012)
        if overfit_from and epoch > overfit_from:
            val += 0.035 * (epoch - overfit_from)
        rows.append(
            {
                "epoch": epoch,
                "loss": 0.22 + 1.15 * fall + rng.normal(0, 0.004),
                "accuracy": 0.93 - 0.5 * fall,
                "val_loss": val,
                "val_accuracy": 0.86 - 0.42 * fall + rng.normal(0, 0.006),
                "lr": 4e-3 * (0.5 + 0.5 * np.cos(np.pi * epoch / epochs)) + 1e-6,
                "seconds": 2.1,
                "ms_per_step": 31.0,
                "images_per_s": 1840.0 + 10 * epoch,
            }
        )
    return rows


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def guide_history() -> list[dict[str, float]]:
    names = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")
    return [dict(zip(names, row, strict=True)) | {"lr": 1e-4, "seconds": 14} for row in GUIDE_ROWS]


def simulate_predictions(what: Simulated) -> tuple[Predictions, Calibration]:
    """Scores around the truth (more `skill`, less overlap), calibrated on validation."""
    rng = np.random.default_rng(what.seed)
    k, n = len(what.class_names), what.n_val + what.n_test
    if what.task == "multilabel":
        targets = (rng.random((n, k)) < np.array(what.shares)).astype(np.int64)
        logits = what.skill * (2 * targets - 1) + rng.normal(0, 2, (n, k)) - 1.0
    else:
        targets = rng.choice(k, n, p=np.array(what.shares) / sum(what.shares))
        logits = rng.normal(0, 1, (n, k)) + what.skill * np.eye(k)[targets]
        logits = 3 * (logits + np.log(what.shares) / 2)  # over-confident
    names = tuple(f"{what.name}#{i}" for i in range(n))
    split = ("val",) * what.n_val + ("test",) * what.n_test
    calibration = calibrate(logits[: what.n_val], targets[: what.n_val], what.task)
    probabilities = apply_temperature(logits, calibration.temperature, what.task)
    made = make_predictions(names, split, targets, probabilities, what.class_names, what.task)
    return made, calibration


def simulate_run(folder: Path, what: Simulated, rows: list[dict[str, float]] | None = None) -> Path:
    """Write every file of a finished run (but the ones that the report writes)."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions, calibration = simulate_predictions(what)
    k = len(what.class_names)
    train = np.maximum((1200 * np.array(what.shares)).astype(int), 1)
    _write_settings(folder, what)
    write_history(folder / "history.csv", rows or history_rows())
    splits = {"val": _score(predictions, "val", train), "test": _score(predictions, "test", train)}
    extra: dict[str, Any] = {"leaky": bool(what.leaked), "run": folder.name}
    if what.leaked:
        leaked = predictions.of_split("test").sample[: what.leaked]
        extra["clean_test"] = _score(predictions, "test", train, leaked)
    if not what.test:
        del splits["test"]
        predictions = predictions.of_split("val")
    document = metrics_document(
        {"name": what.name},
        "5f0c" * 16,
        splits,
        calibration=calibration_document(calibration, predictions),
        **extra,
    )
    write_json(folder / "metrics.json", document)
    write_predictions(folder / "predictions.csv", predictions)
    if what.test:
        (folder / "test_ledger.csv").write_text(
            "when,command,config_sha256\n"
            f"2026-01-02T03:04:05+00:00,scanwise train demo:cells,{'ab' * 32}\n"
        )
    write_json(folder / "dataset.json", _dataset_json(what, predictions, train, k))
    write_json(folder / "training.json", _training_json(k))
    write_json(folder / "env.json", {"python": "3.11", "packages": {"scanwise": "0.1.0"}})
    return folder


def _score(
    predictions: Predictions, split: str, train: NDArray[np.int64], excluded: tuple[str, ...] = ()
) -> dict[str, Any]:
    images = int(train.sum())
    return evaluate_predictions(
        predictions,
        split,
        excluded=excluded,
        train_counts=train,
        train_images=images,
        num_resamples=RESAMPLES,
    )


def _write_settings(folder: Path, what: Simulated) -> None:
    chosen: dict[str, Any] = {
        "data": "demo:cells?n=1700",
        "model": "small_resnet:32",
        "epochs": 18,
        "batch_size": 64,
        "lr": 4e-3,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "scheduler": "cosine",
        "augment": "gentle",
        "class_weights": "none",
        "dropout": 0.2,
        "patience": 0,
        "monitor": "val_loss",
        "ema": True,
    } | what.config
    write_yaml(folder / "config.yaml", TrainConfig(**chosen).model_dump())
    planned = ("model", "epochs", "batch_size", "lr", "optimizer", "weight_decay", "augment")
    rows = [
        {
            "setting": name,
            "value": chosen[name],
            "source": "you" if name in what.config else "preset default",
            "reason": "simulated for a test",
        }
        for name in planned
    ]
    write_yaml(folder / "plan.yaml", rows)


def _dataset_json(
    what: Simulated, predictions: Predictions, train: NDArray[np.int64], k: int
) -> dict[str, Any]:
    counts: dict[str, list[int]] = {"train": train.tolist()}
    for name in ("val", "test"):
        here = np.asarray(predictions.split) == name
        targets = predictions.targets[here]
        sums = (
            targets.sum(axis=0) if what.task == "multilabel" else np.bincount(targets, minlength=k)
        )
        counts[name] = sums.tolist()
    counts["all"] = np.sum([counts[name] for name in ("train", "val", "test")], axis=0).tolist()
    findings = [
        {
            "code": "D002",
            "severity": "info",
            "evidence": f"class '{what.class_names[-1]}' has {counts['test'][-1]} test images.",
            "advice": "Read its interval before its score.",
            "command": "",
        }
    ]
    if what.leaked:
        findings.insert(
            0,
            {
                "code": "D010",
                "severity": "warning",
                "evidence": f"{what.leaked} test images also lie in train.",
                "advice": "Trust the clean part.",
                "command": "",
            },
        )
    n = sum(counts["train"]) + what.n_val + what.n_test
    return {
        "schema": 1,
        "name": what.name,
        "source": "demo:cells?n=1700",
        "kind": "demo",
        "licence": "CC0-1.0",
        "citation": None,
        "synthetic": what.synthetic,
        "verified": None,
        "benchmark": None,
        "task": what.task,
        "n": n,
        "image": {"height": 28, "width": 28, "channels": 3, "dtype": "uint8"},
        "original_sizes": None,
        "class_names": list(what.class_names),
        "counts": counts,
        "imbalance_ratio": max(train) / min(train),
        "groups": {"n": 24, "by_split": {"train": 16, "val": 4, "test": 4}, "shared": 0},
        "split": {
            "origin": "group",
            "seed": 0,
            "sha256": "5f0c" * 16,
            "note": "whole slides, stratified as far as they allow",
            "n": {"train": int(train.sum()), "val": what.n_val, "test": what.n_test},
        },
        "checks": {
            "findings": findings,
            "duplicates": {
                "exact_pairs": what.leaked,
                "near_pairs": 0,
                "leaks": {"train-test": what.leaked, "train-val": 0, "val-test": 0},
                "test_share": what.leaked / what.n_test,
            },
        },
        "notes": [],
    }


def _training_json(k: int) -> dict[str, Any]:
    return {
        "model": "small_resnet:32",
        "parameters": {"total": 307_634, "trainable": 307_634},
        "best_epoch": 16,
        "best_value": 0.4312,
        "monitor": "val_loss",
        "epochs_run": 18,
        "stop_reason": "all 18 epochs done",
        "seconds": 38.4,
        "device": "cpu (2 threads)",
        "precision": "32",
        "class_weights": [round(0.5 + 0.7 * i, 2) for i in range(k)],
        "augmentation": "gentle: mirror, rotation ±5°, zoom ±5 %, contrast ±5 %",
        "preprocessing": {
            "size_px": [28, 28],
            "fit": "stretch",
            "channels": 3,
            "source_channels": 3,
            "dtype": "uint8",
            "intensity": {"kind": "none"},
            "contrast": {"kind": "none"},
            "mean": [0.5] * 3,
            "std": [0.2] * 3,
            "num_images": 1200,
            "notes": [],
        },
        "notes": [],
    }


def simulate_images(n: int, targets: NDArray[np.int64], size_px: int = 28) -> NDArray[np.uint8]:
    """Coloured discs whose size and tint follow the class: something to look at."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size_px, :size_px]
    images = np.empty((n, size_px, size_px, 3), dtype=np.uint8)
    for i in range(n):
        kind = int(targets[i]) if targets.ndim == 1 else int(targets[i].sum())
        centre = size_px / 2 + rng.normal(0, 1.5, 2)
        radius = size_px * (0.2 + 0.05 * (kind % 5)) + rng.normal(0, 0.5)
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        tint = np.array([190, 90 + 25 * (kind % 5), 120])
        image = np.where(inside[..., None], tint, [235, 225, 230]) + rng.normal(
            0, 9, (size_px, size_px, 3)
        )
        images[i] = image.clip(0, 255).astype(np.uint8)
    return images


def simulate_dataset(
    what: Simulated | None = None, n: int = 160, dtype: str = "uint8"
) -> tuple[Dataset, Split]:
    """A small data set with its split."""
    what = what or Simulated()
    rng = np.random.default_rng(2)
    k = len(what.class_names)
    if what.task == "multilabel":
        targets = (rng.random((n, k)) < 0.4).astype(np.int64)
    else:
        targets = rng.integers(0, k, n)
    images: NDArray[Any] = simulate_images(n, targets, 16)
    if dtype == "uint16":
        images = images.astype(np.uint16) * 100
    if dtype == "float32":
        images = images.astype(np.float32) / 255 - 0.5
    dataset = Dataset(
        name=what.name,
        images=images,
        targets=targets,
        class_names=what.class_names,
        sample_ids=tuple(f"{what.name}#{i}" for i in range(n)),
        sha256=tuple(f"{i:064x}" for i in range(n)),
        task=what.task,
        provenance=Provenance(source="simulated", kind="arrays", synthetic=True),
    )
    rows = np.arange(n)
    split = Split(rows[: n // 2], rows[n // 2 : 3 * n // 4], rows[3 * n // 4 :], origin="random")
    return dataset, split


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_run(Simulated(...), rows=None): a fresh run folder."""

    def make(what: Simulated | None = None, rows: list[dict[str, float]] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("run") / "simulated-001"
        return simulate_run(folder, what or Simulated(), rows)

    return make


@pytest.fixture(scope="session")
def sim() -> SimpleNamespace:
    """The helpers of this file, for tests that need more than a run folder."""
    return SimpleNamespace(
        Simulated=Simulated,
        history_rows=history_rows,
        guide_history=guide_history,
        dataset=simulate_dataset,
        images=simulate_images,
        predictions=simulate_predictions,
    )


@pytest.fixture(scope="session")
def good_run(make_run: Callable[..., Path]) -> Path:
    """A finished run with gallery, data plots and report. Read only."""
    what = Simulated(n_test=400)
    folder = make_run(what, history_rows(overfit_from=7))
    predictions, _ = simulate_predictions(what)
    images = simulate_images(len(predictions), predictions.targets)
    write_gallery(folder, lambda rows: images[rows], predictions)
    dataset, split = simulate_dataset(what)
    write_data_plots(dataset, split, folder / "plots")
    build_report(folder)
    return folder
