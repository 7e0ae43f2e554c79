"""Recompute every number of metrics.json from predictions.csv and name those that differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scanwise.core.errors import DataError
from scanwise.core.types import Task
from scanwise.metrics.baselines import baseline_scores
from scanwise.metrics.calibration import describe_temperature
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.inputs import predict_classes
from scanwise.metrics.predictions import Predictions

# Sums in another order on another machine; far below the last digit that anyone prints.
TOLERANCE = 1e-9
# Probabilities before calibration are computed back, which loses some digits near 0 and 1.
CALIBRATION_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Mismatch:
    """A number that is not what predictions.csv gives."""

    where: str  # "splits.test.accuracy.value"
    stated: Any
    recomputed: Any

    def __str__(self) -> str:
        return f"{self.where}: stated {self.stated!r}, recomputed {self.recomputed!r}"


def verify_metrics(
    predictions: Predictions,
    metrics: Mapping[str, Any],
    *,
    split_sha256: str | None = None,
    baselines: Mapping[str, Predictions] | None = None,
) -> tuple[Mismatch, ...]:
    """Compare metrics.json with what its predictions give.

    Args:
        predictions: From `read_predictions(path, splits_csv)`: with groups, where there are any.
        metrics: The parsed metrics.json. Verified are `splits`, `clean_splits`, `calibration` and,
            if given, `split_sha256`; facts of the run are not numbers and are left alone. Seed,
            resamples and training counts are inputs and taken as stated.
        split_sha256: Of the splits.csv that lies beside.
        baselines: What lies in baselines/, by name; verified against `baselines`.

    Returns:
        One entry for every value that differs, is missing or can't be recomputed; empty if the
        file is true.

    Raises:
        DataError: If metrics.json has no splits.
    """
    splits = metrics.get("splits")
    if not isinstance(splits, Mapping) or not splits:
        raise DataError("metrics.json has no 'splits' to verify.")
    found: list[Mismatch] = []
    if split_sha256 is not None and metrics.get("split_sha256") != split_sha256:
        found.append(Mismatch("split_sha256", metrics.get("split_sha256"), split_sha256))
    found += _wrong_decisions(predictions)
    for section in ("splits", "clean_splits"):
        for name, stated in (metrics.get(section) or {}).items():
            where = f"{section}.{name}"
            try:
                truth = _recompute(predictions, name, stated)
            except (DataError, KeyError, TypeError, ValueError) as error:
                found.append(Mismatch(where, "a split", f"can't be recomputed: {error}"))
                continue
            found += differences(where, stated, truth, TOLERANCE)
    for name in sorted(set(predictions.split) - set(splits)):
        found.append(Mismatch(f"splits.{name}", None, "in predictions.csv"))
    if metrics.get("calibration") is not None:
        found += _verify_calibration(_as_task(predictions, metrics), metrics["calibration"])
    found += _verify_baselines(predictions, metrics.get("baselines") or {}, baselines or {})
    return tuple(found)


def _verify_baselines(
    predictions: Predictions, stated: Mapping[str, Any], files: Mapping[str, Predictions]
) -> Iterator[Mismatch]:
    for name, entry in stated.items():
        for split, scores in entry["splits"].items():
            where = f"baselines.{name}.splits.{split}"
            try:
                truth = baseline_scores(predictions, files[name], split)
            except (DataError, KeyError) as error:
                yield Mismatch(where, "a split", f"can't be recomputed: {error}")
                continue
            yield from differences(where, scores, truth, TOLERANCE)


def _recompute(predictions: Predictions, name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a split, from predictions and the inputs that the entry states."""
    trivial, bootstrap = stated["trivial"], stated["bootstrap"]
    from_train = trivial["counts_from"] == "train"
    return evaluate_predictions(
        replace(predictions, task=_task(predictions, stated)),
        name,
        excluded=stated.get("excluded", ()),
        train_counts=trivial["counts"] if from_train else None,
        train_images=trivial["images"] if from_train else None,
        seed=bootstrap["seed"],
        num_resamples=bootstrap["resamples"],
    )


def _task(predictions: Predictions, stated: Mapping[str, Any]) -> Task:
    """predictions.csv can't tell ordinal from multi-class; metrics.json can."""
    return "ordinal" if stated.get("task") == "ordinal" else predictions.task


def _as_task(predictions: Predictions, metrics: Mapping[str, Any]) -> Predictions:
    return replace(predictions, task=_task(predictions, next(iter(metrics["splits"].values()))))


def _wrong_decisions(predictions: Predictions) -> Iterator[Mismatch]:
    """Rows whose `predicted` is not what their probabilities say."""
    decided = predict_classes(predictions.probabilities, predictions.task)
    wrong = (decided != predictions.predicted).reshape(len(predictions), -1).any(axis=1)
    for row in wrong.nonzero()[0]:
        yield Mismatch(
            f"predictions.csv.{predictions.sample[row]}.predicted",
            predictions.predicted[row].tolist(),
            decided[row].tolist(),
        )


def _verify_calibration(predictions: Predictions, stated: Mapping[str, Any]) -> Iterator[Mismatch]:
    temperature = stated.get("temperature")
    if not isinstance(temperature, int | float) or not temperature > 0:
        yield Mismatch("calibration.temperature", temperature, "a number above 0")
        return
    present = set(predictions.split)
    for name, effect in (stated.get("splits") or {}).items():
        if name not in present:
            yield Mismatch(f"calibration.splits.{name}", effect, None)
            continue
        rows = predictions.of_split(name)
        truth = describe_temperature(rows.probabilities, rows.targets, temperature, rows.task)
        yield from differences(f"calibration.splits.{name}", effect, truth, CALIBRATION_TOLERANCE)
        if name == stated.get("fitted_on"):
            both = {key: stated.get(key) for key in ("before", "after")}
            yield from differences("calibration", both, truth, CALIBRATION_TOLERANCE)


def differences(where: str, stated: Any, truth: Any, tolerance: float) -> Iterator[Mismatch]:
    """Leaves that differ between two JSON values, with their path."""
    if isinstance(stated, Mapping) and isinstance(truth, Mapping):
        for key in [*truth, *(key for key in stated if key not in truth)]:
            path = f"{where}.{key}"
            if key not in truth:
                yield Mismatch(path, stated[key], "can't be recomputed")
            elif key not in stated:
                yield Mismatch(path, "missing", truth[key])
            else:
                yield from differences(path, stated[key], truth[key], tolerance)
    elif isinstance(stated, list) and isinstance(truth, list) and len(stated) == len(truth):
        for index, (left, right) in enumerate(zip(stated, truth, strict=True)):
            yield from differences(f"{where}.{index}", left, right, tolerance)
    elif not _same(stated, truth, tolerance):
        yield Mismatch(where, stated, truth)


def _same(stated: Any, truth: Any, tolerance: float) -> bool:
    if isinstance(stated, float) and isinstance(truth, int | float) and not isinstance(truth, bool):
        return math.isclose(stated, truth, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(truth, float) and isinstance(stated, int) and not isinstance(stated, bool):
        return math.isclose(stated, truth, rel_tol=tolerance, abs_tol=tolerance)
    return type(stated) is type(truth) and stated == truth
