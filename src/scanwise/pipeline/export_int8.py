"""The int8 copy of an exported model: made from training images, judged on validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.files import sha256_bytes
from scanwise.core.types import Dataset
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.onnx_bundle import OnnxBundle
from scanwise.deploy.onnx_export import graph_bytes, metadata_of, sealed
from scanwise.deploy.onnx_int8 import int8_bytes
from scanwise.deploy.serving_graph import ServingGraph
from scanwise.metrics.compare import Comparison, compare
from scanwise.pipeline.export_check import Answers, Images, Parity, answers_of, compare_answers
from scanwise.prepare.rows import PixelRows

CALIBRATION_IMAGES = 256
JUDGED_BY = ("accuracy", "auroc_macro")
_BATCH = 32
METHOD = "ONNX Runtime, static: int8 weights by channel (7 bits used), uint8 activations"


@dataclass(frozen=True, eq=False)
class Rounded:
    """An int8 file and what it costs."""

    path: Path
    model: OnnxBundle
    parity: Parity  # with the bundle; no gate, but told
    comparisons: tuple[Comparison, ...]  # int8 minus bundle, on validation
    num_calibration: int
    max_drop: float
    seed: int

    @property
    def failure(self) -> str:
        """Which score dropped by more than was allowed; '' where none did."""
        drops = [
            f"{one.metric} dropped by {-one.difference.value:.3f} on {one.split} "
            f"(n = {one.n:,}), at most {self.max_drop:g} is allowed"
            for one in self.comparisons
            if one.difference.value is not None and -one.difference.value > self.max_drop
        ]
        return "; ".join(drops)

    @property
    def ruled_out(self) -> bool:
        """Whether the intervals leave no room for a larger loss than was allowed."""
        lows = [one.difference.low for one in self.comparisons]
        return all(low is not None and -low <= self.max_drop for low in lows)

    def to_json(self) -> dict[str, Any]:
        data = self.path.read_bytes()
        return {
            "status": "FAILED" if self.failure else "ok",
            "reason": self.failure,
            "file": self.path.name,
            "bytes": len(data),
            "sha256": sha256_bytes(data),
            "method": METHOD,
            "calibration": {"split": "train", "n": self.num_calibration, "seed": self.seed},
            **self.parity.to_json(),
            "max_drop": self.max_drop,
            "larger_drop_ruled_out": self.ruled_out,
            "differences": [one.to_json() for one in self.comparisons],
        }


def round_to_int8(
    bundle: Bundle,
    graph: ServingGraph,
    dataset: Dataset,
    train: NDArray[np.int64],
    images: Images,
    answers: Answers,
    target: Path,
    *,
    max_drop: float,
    seed: int,
) -> Rounded:
    """Write the int8 file and compare it with the bundle.

    Args:
        dataset: Of the run.
        train: Training rows; a few hundred, drawn by the seed, give the ranges. No other row does.
        images: Validation, on which both are scored.
        answers: The bundle's, to `images`.
        target: Where to write.
        max_drop: Largest loss of accuracy or AUROC that is accepted.
    """
    drawn = np.random.default_rng(seed).permutation(train)[:CALIBRATION_IMAGES]
    rounded = int8_bytes(graph_bytes(graph), _batches(graph, dataset, np.sort(drawn)))
    target.write_bytes(sealed(rounded, metadata_of(bundle, graph, rounded_to="int8")))
    model = OnnxBundle.from_file(target)
    found = answers_of(model, images)
    base, variant = answers.predictions(images), found.predictions(images)
    return Rounded(
        target,
        model,
        compare_answers(answers, found),
        tuple(compare([base], [variant], metric, seed=seed) for metric in JUDGED_BY),
        len(drawn),
        max_drop,
        seed,
    )


def _batches(
    graph: ServingGraph, dataset: Dataset, rows: NDArray[np.int64]
) -> Iterator[dict[str, NDArray[np.uint8]]]:
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        yield {
            each.name: PixelRows(each.preprocessing, dataset.images, some)[:]
            for each in graph.inputs
        }
