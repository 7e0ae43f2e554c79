"""Does an exported model answer as its bundle does? And which of the two is faster here?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Dataset, Interval
from scanwise.deploy.answers import BundlePredictions
from scanwise.deploy.bundle import Bundle, Prepared
from scanwise.deploy.serving_graph import ServingGraph, members_of
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.metrics.shares import share_interval

TOLERANCE = 1e-4  # of a probability; CAPABILITIES K1
BLOCK = 256  # images in memory at a time
BATCHES = (1, 32)
_ROUNDS, _FEWEST, _BUDGET_S = 15, 3, 4.0
_OTHER_ANSWERS = ("above_threshold", "prediction_set", "in_distribution")


@dataclass(frozen=True, eq=False)
class Images:
    """What both answer: rows of a data set, or files."""

    split: str  # "val", or "given files"
    dataset: Dataset | None
    rows: NDArray[np.int64]
    paths: tuple[Path, ...]  # instead of the rows' pixels, where there are some

    def blocks(self) -> Iterator[NDArray[Any] | list[Path]]:
        for start in range(0, max(len(self.rows), len(self.paths)), BLOCK):
            if self.paths:
                yield list(self.paths[start : start + BLOCK])
            elif self.dataset is not None:
                yield self.dataset.images[self.rows[start : start + BLOCK]]


def images_of_rows(dataset: Dataset, rows: NDArray[np.int64], split: str, bundle: Bundle) -> Images:
    """A split as it is in memory; as files where members of an ensemble take other sizes."""
    sizes = {each.config.size_px for each in members_of(bundle)[0]}
    paths: tuple[Path, ...] = ()
    if sizes != {dataset.size_px} and dataset.paths is not None:
        paths = tuple(Path(dataset.paths[row]) for row in rows)
    return Images(split, dataset, rows, paths)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model said of n images that both could read."""

    probabilities: NDArray[np.float64]  # (n, k)
    predicted: tuple[str, ...]
    others: dict[str, tuple[Any, ...]]  # of _OTHER_ANSWERS
    num_unreadable: int

    def predictions(self, images: Images) -> Predictions:
        """With the truth, for metrics; of rows of a data set only."""
        dataset, rows = images.dataset, images.rows
        assert dataset is not None
        return make_predictions(
            tuple(dataset.sample_ids[row] for row in rows),
            (images.split,) * len(rows),
            dataset.targets[rows],
            self.probabilities,
            dataset.class_names,
            dataset.task,
            None if dataset.groups is None else tuple(dataset.groups[row] for row in rows),
        )


def answers_of(model: Bundle, images: Images) -> Answers:
    """Answers in blocks, so that memory stays bounded.

    Raises:
        DataError: If no image can be read, or the model gives NaN.
    """
    found: list[BundlePredictions] = [model.predict(block) for block in images.blocks()]
    rows = [answer for part in found for answer in part]
    readable = [answer for answer in rows if answer.ok]
    if not readable:
        reason = f": {rows[0].reason}" if rows else "."
        raise DataError(f"none of {len(rows)} files can be read{reason}")
    if images.dataset is not None and len(readable) < len(rows):
        reason = next(answer.reason for answer in rows if not answer.ok)
        raise DataError(f"{len(rows) - len(readable)} files can't be read any more: {reason}")
    return Answers(
        np.array([list(answer.probabilities.values()) for answer in readable]),
        tuple(answer.predicted for answer in readable),
        {name: tuple(getattr(answer, name) for answer in readable) for name in _OTHER_ANSWERS},
        len(rows) - len(readable),
    )


@dataclass(frozen=True)
class Parity:
    """How far an exported model is from its bundle, on n images."""

    n: int
    num_unreadable: int
    largest_difference: float  # of any probability
    labels_differing: int
    agreement: Interval  # share of equal labels
    others_differing: dict[str, int]

    @property
    def failure(self) -> str:
        """Why this is not the same model; '' where it is."""
        found = []
        if self.labels_differing:
            found.append(f"{self.labels_differing} of {self.n:,} labels differ")
        if not self.largest_difference <= TOLERANCE:
            found.append(
                f"a probability differs by {self.largest_difference:.2g}, at most "
                f"{TOLERANCE:g} is allowed"
            )
        return "; ".join(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "num_unreadable": self.num_unreadable,
            "max_probability_difference": self.largest_difference,
            "label_agreement": self.agreement.to_json(),
            "labels_differing": self.labels_differing,
            "other_answers_differing": self.others_differing,
        }


def compare_answers(bundle: Answers, exported: Answers) -> Parity:
    """Compare two answers to the same images.

    Thresholds and prediction sets are read off the probabilities by the same code: where these
    agree to TOLERANCE, an answer can differ only if a probability lies that near to its bar. Such
    answers are counted and do not fail the export.
    """
    same = np.array([a == b for a, b in zip(bundle.predicted, exported.predicted, strict=True)])
    others = {
        name: sum(a != b for a, b in zip(values, exported.others[name], strict=True))
        for name, values in bundle.others.items()
    }
    return Parity(
        len(same),
        bundle.num_unreadable,
        float(np.abs(bundle.probabilities - exported.probabilities).max()),
        int((~same).sum()),
        share_interval(same),
        others,
    )


def measure_latency(models: dict[str, Bundle], graph: ServingGraph) -> dict[str, Any]:
    """Milliseconds from prepared pixels to answers, by batch size and model; in turns, so that
    a neighbour's load meets all of them. The median of the rounds, the fastest and the slowest.
    """
    made: dict[str, Any] = {}
    for size in BATCHES:
        runs = {
            name: _run(model, _prepared(model, graph, size), size) for name, model in models.items()
        }
        seconds = _in_turns(runs)
        made[f"batch_{size}"] = {
            name: {
                "median_ms": round(1e3 * float(np.median(took)), 4),
                "range_ms": [round(1e3 * min(took), 4), round(1e3 * max(took), 4)],
                "rounds": len(took),
            }
            for name, took in seconds.items()
        }
    return made


def _prepared(model: Bundle, graph: ServingGraph, n: int) -> list[Prepared]:
    """Noise, as `model.prepare` would give it."""
    noise = [each.example(n) for each in graph.inputs]
    if getattr(model, "inputs", None) is None:  # a bundle: one for each member
        noise = [noise[which] for which in graph.input_of]
    return [tuple(part[row] for part in noise) for row in range(n)]


def _run(model: Bundle, prepared: Sequence[Prepared], n: int) -> Callable[[], object]:
    samples = [""] * n
    return lambda: model.predict_prepared(samples, prepared)


def _in_turns(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    began = time.perf_counter()
    for number in range(_ROUNDS):
        if number >= _FEWEST and time.perf_counter() - began > _BUDGET_S:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - start)
    return took
