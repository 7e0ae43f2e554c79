"""Run folders made by hand with the numbers of their predictions, and two small real runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from scanwise.core.files import sha256_file, write_json, write_text
from scanwise.deploy.bundle import FILES
from scanwise.metrics.evaluate import evaluate_predictions, metrics_document
from scanwise.metrics.predictions import make_predictions, write_predictions
from scanwise.report.build import judge, report_json, said_sha256
from scanwise.report.run_files import read_run


def sure(classes: Any, k: int, p: float = 0.9) -> np.ndarray:
    """Probabilities (n, k) of a model that says these classes."""
    rest = np.full((len(classes), k), (1 - p) / (k - 1))
    rest[np.arange(len(classes)), classes] = p
    return rest


def with_errors(targets: np.ndarray, k: int, errors: list[int]) -> np.ndarray:
    """Probabilities of a model that is wrong on these images, and right on the others."""
    said = np.array(targets)
    said[errors] = (said[errors] + 1) % k
    return sure(said, k)


def make_run(
    folder: Path,
    targets: np.ndarray,
    probabilities: np.ndarray,
    *,
    name: str = "octmnist_like",
    prefix: str = "image",
    test: bool = True,
    finished: bool = True,
    origin: str = "user",
    benchmark: str | None = None,
    **config: Any,
) -> Path:
    """A run folder as `train` leaves it; the same images serve as validation and as test."""
    task = "multilabel" if targets.ndim == 2 else "multiclass"
    n, k = probabilities.shape
    names = tuple(f"class {i}" for i in range(k))
    parts = ("val", "test") if test else ("val",)
    samples = [f"{prefix}{part}#{i}" for part in parts for i in range(n)]
    splits = [part for part in parts for _ in range(n)]
    rows = "".join(f"{s},{'0' * 64},{p},\n" for s, p in zip(samples, splits, strict=True))
    write_text(folder / "splits.csv", "path,sha256,split,group\n" + rows)
    split_sha256 = sha256_file(folder / "splits.csv")
    counts = (
        targets.sum(0) if task == "multilabel" else np.bincount(targets, minlength=k)
    ).tolist()
    facts = {
        "name": name,
        "source": f"{name}.npz",
        "task": task,
        "n": 3 * n,
        "class_names": list(names),
        "benchmark": benchmark,
        "verified": None if benchmark is None else False,
        "synthetic": True,
        "image": {"height": 28, "width": 28, "channels": 1, "dtype": "uint8"},
        "counts": {"train": counts, "val": counts, "test": counts},
        "split": {"origin": origin, "n": {"train": n, "val": n, "test": n}, "sha256": split_sha256},
        "content_sha256": hashlib.sha256(name.encode()).hexdigest(),
    }
    settings = {"data": f"{name}.npz", "model": "mlp:8", "epochs": 2, "lr": 0.001, "seed": 0}
    settings |= {"optimizer": "adamw", "loss": "auto", "output": str(folder), **config}
    write_text(folder / "config.yaml", yaml.safe_dump(settings))
    write_text(folder / "plan.yaml", "[]\n")
    write_json(folder / "dataset.json", facts)
    if not finished:
        return folder
    write_json(folder / "training.json", {"model": settings["model"], "epochs_run": 2})
    together = make_predictions(
        tuple(samples), tuple(splits), np.concatenate([targets] * len(parts)),
        np.concatenate([probabilities] * len(parts)), names, task,
    )  # fmt: skip
    write_predictions(folder / "predictions.csv", together)
    given = {"train_counts": np.array(counts), "train_images": n, "num_resamples": 200}
    scores = {part: evaluate_predictions(together, part, **given) for part in parts}
    write_json(folder / "metrics.json", metrics_document(facts, split_sha256, scores))
    make_bundle(folder / "bundle")
    files = read_run(folder)
    said = report_json(files, judge(files, draw=False))
    write_json(folder / "report.json", said | {"sha256": {"report.json": said_sha256(said)}})
    return folder


def make_bundle(folder: Path) -> None:
    """Files with hashes; nothing that could predict."""
    sums = []
    for name in FILES:
        write_text(folder / name, f"{name} of {folder.parent.name}\n")
        sums.append(f"{sha256_file(folder / name)}  {name}\n")
    write_text(folder / "SHA256SUMS", "".join(sums))


@pytest.fixture(scope="session")
def cell_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two real runs of one method on one split of the demo, seeds 0 and 1. Never change them."""
    import scanwise as sw

    folder = tmp_path_factory.mktemp("cells")
    given = {"data": "demo:cells?n=240", "model": "mlp:8", "epochs": 1, "batch_size": 32}
    first = sw.train(**given, output=str(folder / "first"))
    second = sw.train(
        **given, output=str(folder / "second"), seed=1, splits=str(first.path / "splits.csv")
    )
    return first.path, second.path


def edit_json(path: Path, change: Any) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
