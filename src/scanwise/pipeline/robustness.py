"""`scanwise robustness RUN`: the model on blurred, noisy, compressed, … copies of its images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import ConfigError, RunError
from scanwise.core.types import Dataset, Interval
from scanwise.data.splits import draw_part
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.intervals import NUM_RESAMPLES
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.metrics.robustness import judge_robustness
from scanwise.pipeline.runs import Run
from scanwise.pipeline.slices import facts_of
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import reload_data
from scanwise.prepare.corruptions import CORRUPTIONS, NUM_SEVERITIES, corrupt, intensity_span
from scanwise.report.build import build_report
from scanwise.report.slices_words import drop_cell, score_cell

ROBUSTNESS = "robustness.json"
MAX_IMAGES = 1000


@dataclass(frozen=True)
class RobustnessFound:
    """What robustness.json says."""

    run: Path
    document: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"run": str(self.run), **self.document}

    def text(self) -> str:
        document = self.document
        main = document["main_metric"]
        said = main.replace("_", " ")
        rows = [("corruption", *(f"severity {i + 1}" for i in range(NUM_SEVERITIES)),
                 "mean relative drop")]  # fmt: skip
        for curve in document["curves"]:
            if curve["metric"] == main:
                cells = [score_cell(score["value"]) for score in curve["severities"]]
                drop = Interval.from_json(curve["mean_relative_drop"])
                rows.append((curve["corruption"], *cells, drop_cell(drop)))
        groups = document["num_groups"]
        among = f" in {groups:,} groups" if groups else ""
        overall = drop_cell(Interval.from_json(document["overall_relative_drop"][main]))
        return "\n".join(
            [
                f"{said} on {document['split']} (n = {document['n']:,}{among}), 95 % intervals",
                f"clean images: {score_cell(document['clean'][main])}",
                aligned(rows),
                f"over all: {overall} relative drop, paired with the clean images",
                f"report: {self.run / 'report.html'}",
            ]
        )


def measure_robustness(
    path: Path,
    *,
    split: Literal["val", "test"] = "val",
    max_images: int = MAX_IMAGES,
    seed: int = 0,
    device: str = "cpu",
    num_resamples: int = NUM_RESAMPLES,
) -> RobustnessFound:
    """Score a run's model on corrupted copies of its images; write robustness.json and the report.

    Args:
        path: A finished run.
        split: "val"; "test" is a look at the test split and goes into the ledger.
        max_images: A larger split is drawn from by chance: each class in its share, whole groups.
        seed: Of that draw, of the noise and of the bootstrap.
        device: Where to compute.
        num_resamples: Of the bootstrap.

    Raises:
        RunError: If the run is not finished, or was told not to open test.
        ConfigError: If the split has no images, or `max_images` is below 2.
        SplitError: If the data changed since.
    """
    run = Run.open(path)
    if max_images < 2:
        raise ConfigError(f"max_images={max_images} must be 2 or more.")
    if not run.bundle.is_dir():
        raise RunError(f"{path} has no bundle: its training was interrupted.")
    dataset, parts = reload_data(run, run.config)
    rows = parts.rows(split)
    if not len(rows):
        raise ConfigError(f"{path} has no {split} images; choose the other --split.")
    if len(rows) > max_images:
        rows = draw_part(dataset, rows, max_images / len(rows), seed=seed)
    bundle = Bundle.from_pretrained(run.path)
    if split == "test":
        run.log(f"test split opened: look number {run.record_test_look()}")
    document = _document(bundle, dataset, rows, split, seed, device, num_resamples)
    document["n_split"] = len(parts.rows(split))
    run.write(ROBUSTNESS, facts_of(run) | document)
    build_report(run.path)
    return RobustnessFound(run.path, document)


def _document(
    bundle: Bundle,
    dataset: Dataset,
    rows: NDArray[np.int64],
    split: str,
    seed: int,
    device: str,
    num_resamples: int,
) -> dict[str, Any]:
    side = min(dataset.size_px)
    span = intensity_span(dataset.images[rows])
    clean = _predict(bundle, dataset, rows, split, device, None, 0, span, seed)
    corrupted = {}
    for name in CORRUPTIONS:
        sys.stderr.write(f"{name} …\n")
        corrupted[name] = [
            _predict(bundle, dataset, rows, split, device, name, severity, span, seed)
            for severity in range(1, NUM_SEVERITIES + 1)
        ]
    found = judge_robustness(clean, corrupted, num_resamples=num_resamples, seed=seed)
    return {
        "split": split,
        "n": found.n,
        "num_groups": found.num_groups,
        "task": dataset.task,
        "main_metric": next(iter(found.clean)),
        "side_px": side,
        "corruptions": [
            {"name": each.name, "what": each.what, "unit": each.unit,
             "strengths": list(each.strengths(side))}
            for each in CORRUPTIONS.values()
        ],
        "clean": {name: value.to_json() for name, value in found.clean.items()},
        "curves": [curve.to_json() for curve in found.curves],
        "overall_relative_drop": {
            name: value.to_json() for name, value in found.overall_drop.items()
        },
        "seed": seed,
        "bootstrap": {
            "resamples": num_resamples,
            "seed": seed,
            "unit": "image" if found.num_groups is None else "group",
        },
    }  # fmt: skip


def _predict(
    bundle: Bundle,
    dataset: Dataset,
    rows: NDArray[np.int64],
    split: str,
    device: str,
    name: str | None,
    severity: int,
    span: tuple[float, float],
    seed: int,
) -> Predictions:
    """The bundle's answers on images after one corruption; None leaves them as they are."""
    images = dataset.images[rows]
    if name is not None:
        images = corrupt(images, name, severity, span=span, seed=seed)
    part = Dataset(
        name=dataset.name,
        images=images,
        targets=dataset.targets[rows],
        class_names=dataset.class_names,
        sample_ids=tuple(dataset.sample_ids[row] for row in rows),
        sha256=tuple(dataset.sha256[row] for row in rows),
        task=dataset.task,
    )
    return make_predictions(
        sample=part.sample_ids,
        split=(split,) * len(rows),
        targets=part.targets,
        probabilities=bundle.probabilities_of_rows(part, np.arange(len(rows)), device=device),
        class_names=part.class_names,
        task=part.task,
        groups=None if dataset.groups is None else tuple(dataset.groups[row] for row in rows),
    )
