"""decisions.json: thresholds, prediction sets and clinical tables, all from predictions.csv.

What was asked for is kept beside what came out, so that the whole file can be computed again: when
a run is evaluated anew, and by verify-report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scanwise.core.errors import DataError
from scanwise.metrics.calibration_effect import calibration_effect
from scanwise.metrics.clinical import prevalence_document
from scanwise.metrics.conformal import SetRule, sets_document
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.thresholds import Rule, threshold_document

SCHEMA = 1
CLEAN = "test without leaked images"


@dataclass(frozen=True)
class Asked:
    """What the user wants decided."""

    thresholds: Mapping[str, Rule] = field(default_factory=dict)  # by class name
    sets: SetRule = field(default_factory=SetRule)
    prevalence: Mapping[str, float] = field(default_factory=dict)  # by class name

    def to_json(self) -> dict[str, Any]:
        return {
            "thresholds": {name: rule.to_json() for name, rule in self.thresholds.items()},
            "sets": self.sets.to_json(),
            "prevalence": dict(self.prevalence),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Asked:
        return cls(
            {name: Rule.from_json(rule) for name, rule in value["thresholds"].items()},
            SetRule(**value["sets"]),
            dict(value["prevalence"]),
        )


def decisions_document(
    predictions: Predictions, metrics: Mapping[str, Any], asked: Asked
) -> dict[str, Any]:
    """Everything in decisions.json but the command.

    Args:
        predictions: Of validation and test, with groups where there are any.
        metrics: metrics.json, for the temperature, the split's hash and the leaked samples.
        asked: What is to be decided.

    Raises:
        DataError: If a threshold or table can't be had. Sets that can't be had are no error: the
            reason stands in their place (`require_sets` makes it one).
    """
    calibration = metrics.get("calibration") or {}
    calibrated = bool(calibration.get("applied"))
    parts = _parts(predictions, metrics)
    names = predictions.class_names
    tables = {}
    thresholds = {}
    for name, rule in asked.thresholds.items():
        thresholds[name] = threshold_document(
            _validation(parts), names.index(name), rule, parts, calibrated=calibrated
        )
    judged = "test" if "test" in parts else "val"
    for name, prevalence in asked.prevalence.items():
        threshold = thresholds[name]["threshold"] if name in thresholds else None
        tables[name] = {
            "split": judged,
            **prevalence_document(parts[judged], names.index(name), prevalence, threshold),
        }
    return {
        "schema": SCHEMA,
        "split_sha256": metrics.get("split_sha256"),
        "leaky": bool(metrics.get("leaky")),
        "asked": asked.to_json(),
        "calibration": _calibration(parts, calibration),
        "thresholds": thresholds,
        "sets": _sets(parts, asked.sets),
        "prevalence": tables,
    }


def require_sets(document: Mapping[str, Any]) -> None:
    """DataError with the reason where there are no sets."""
    if not document["sets"]["fitted"]:
        raise DataError(document["sets"]["reason"])


def bundle_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of it goes into a bundle's config.json."""
    sets = document["sets"]
    keys = ("method", "alpha", "class_conditional", "fitted_on", "n", "min_probability")
    return {
        "thresholds": {name: entry["threshold"] for name, entry in document["thresholds"].items()},
        "conformal": {key: sets[key] for key in keys} if sets["fitted"] else None,
    }


def class_index(class_names: tuple[str, ...], name: str | None, task: str) -> int:
    """Index of the class that is meant; of two classes the second one is meant by default.

    Raises:
        DataError: If the name is unknown, or missing where there are more than two classes.
    """
    choices = ", ".join(f"'{each}'" for each in class_names)
    if name is None:
        if len(class_names) == 2 and task != "multilabel":
            return 1
        raise DataError(f"say which class is meant with --class; there are {choices}.")
    if name not in class_names:
        raise DataError(f"there is no class '{name}'; there are {choices}.")
    return class_names.index(name)


def _parts(predictions: Predictions, metrics: Mapping[str, Any]) -> dict[str, Predictions]:
    """Validation and test as they are there, and test without its leaked samples."""
    parts: dict[str, Predictions] = {
        name: predictions.of_split(name) for name in ("val", "test") if name in predictions.split
    }
    clean = (metrics.get("clean_splits") or {}).get("test") or {}
    if "test" in parts and clean.get("excluded"):
        leaked = set(clean["excluded"])
        rows = parts["test"]
        parts[CLEAN] = rows.rows(np.array([sample not in leaked for sample in rows.sample]))
    return parts


def _validation(parts: Mapping[str, Predictions]) -> Predictions:
    if "val" not in parts:
        raise DataError(
            "there are no predictions of validation images, and a threshold is never chosen on "
            "test."
        )
    return parts["val"]


def _sets(parts: Mapping[str, Predictions], rule: SetRule) -> dict[str, Any]:
    tested = {name: rows for name, rows in parts.items() if name != "val"}
    try:
        return sets_document(parts.get("val"), rule, tested)
    except DataError as error:
        return {"fitted": False, "reason": str(error), **rule.to_json()}


def _calibration(
    parts: Mapping[str, Predictions], calibration: Mapping[str, Any]
) -> dict[str, Any]:
    """Before and after the temperature, with intervals; the reason where there is none."""
    if not calibration.get("applied"):
        return {"applied": False, "reason": calibration.get("reason") or "not measured"}
    temperature = float(calibration["temperature"])
    return {
        "applied": True,
        "temperature": temperature,
        "fitted_on": "val",
        "splits": {name: calibration_effect(rows, temperature) for name, rows in parts.items()},
    }
