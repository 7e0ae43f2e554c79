"""Thresholds, prediction sets and clinical tables of a finished run, from its predictions.csv.

No image is read and test is not opened: the answers are there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scanwise.core.errors import DataError, RunError
from scanwise.deploy.bundle import Bundle, read_config, update_config
from scanwise.metrics.clinical import check_prevalence
from scanwise.metrics.conformal import SetRule
from scanwise.metrics.decisions import (
    Asked,
    bundle_fields,
    class_index,
    decisions_document,
    require_sets,
)
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.metrics.thresholds import Rule
from scanwise.metrics.verify import TOLERANCE, Mismatch, differences
from scanwise.pipeline.runs import Run, command_line
from scanwise.report.build import build_report

FILE = "decisions.json"


def set_threshold(path: Path, name: str | None, rule: Rule) -> dict[str, Any]:
    """Choose the threshold of a class on validation and store it in the run and its bundle.

    Returns:
        Its entry in decisions.json.

    Raises:
        RunError: If the run was not evaluated, or has no bundle.
        DataError: If the class is unknown or no threshold does what is asked.
    """
    run, predictions = _open(path)
    asked = asked_of(run)
    name = _class_name(predictions, name)
    asked = replace(asked, thresholds={**asked.thresholds, name: rule})
    entry: dict[str, Any] = _store(run, predictions, asked)["thresholds"][name]
    return entry


def clear_threshold(path: Path, name: str | None) -> str:
    """Forget the threshold of a class; returns the class.

    Raises:
        RunError: If it has none.
    """
    run, predictions = _open(path)
    asked = asked_of(run)
    name = _class_name(predictions, name, asked.thresholds)
    if name not in asked.thresholds:
        known = ", ".join(f"'{each}'" for each in asked.thresholds) or "no class"
        raise RunError(f"{path} has no threshold of '{name}'; it has one of {known}.")
    left = {each: rule for each, rule in asked.thresholds.items() if each != name}
    _store(run, predictions, replace(asked, thresholds=left))
    return name


def fit_sets(path: Path, rule: SetRule) -> dict[str, Any]:
    """Calibrate prediction sets on validation and store them in the run and its bundle.

    Returns:
        `sets` of decisions.json.

    Raises:
        RunError: If the run was not evaluated, or has no bundle.
        DataError: If validation is too small for the promise, or labels are several an image.
    """
    run, predictions = _open(path)
    sets: dict[str, Any] = _store(run, predictions, replace(asked_of(run), sets=rule), sets=True)[
        "sets"
    ]
    return sets


def judge_at_prevalence(path: Path, name: str | None, prevalence: float) -> dict[str, Any]:
    """The clinical table of a class, and its decision curve.

    Returns:
        Its entry in decisions.json.

    Raises:
        RunError: If the run was not evaluated, or has no bundle.
        DataError: If the prevalence is outside (0, 1), or the class is unknown or absent.
    """
    check_prevalence(prevalence)
    run, predictions = _open(path)
    asked = asked_of(run)
    name = _class_name(predictions, name, asked.thresholds)
    asked = replace(asked, prevalence={**asked.prevalence, name: prevalence})
    entry: dict[str, Any] = _store(run, predictions, asked)["prevalence"][name]
    return entry


def decide(run: Run, predictions: Predictions, metrics: Mapping[str, Any], bundle: Bundle) -> None:
    """At the end of an evaluation: what was asked before (else the default sets), decided anew.

    Writes decisions.json and changes the config of `bundle`, which the caller saves.
    """
    document = decisions_document(predictions, metrics, asked_of(run))
    bundle.config = replace(bundle.config, **bundle_fields(document))
    run.write(FILE, document | {"command": command_line()})


def asked_of(run: Run) -> Asked:
    """What decisions.json was made for; the default sets where there is none.

    Raises:
        RunError: If the file is damaged.
    """
    if not (run.path / FILE).is_file():
        return Asked()
    try:
        return Asked.from_json(run.read_json(FILE, "it was deleted")["asked"])
    except (KeyError, TypeError, AttributeError, DataError) as error:
        raise RunError(
            f"{run.path / FILE} is damaged ({error!r}); delete it, and `scanwise evaluate "
            f"{run.path}` writes it anew."
        ) from error


def verify_decisions(
    run: Run, predictions: Predictions, metrics: Mapping[str, Any]
) -> Iterator[Mismatch]:
    """Numbers of decisions.json that do not follow from predictions.csv, or that the bundle lacks.

    Nothing is yielded where there is no such file.
    """
    if not (run.path / FILE).is_file():
        return
    stated = run.read_json(FILE, "it was deleted")
    try:
        truth = decisions_document(_as_task(predictions, metrics), metrics, asked_of(run))
    except (DataError, RunError, ValueError) as error:
        yield Mismatch(FILE, "decisions", f"can't be recomputed: {error}")
        return
    numbers = {key: value for key, value in stated.items() if key != "command"}
    yield from differences(FILE, numbers, truth, TOLERANCE)
    if run.bundle.is_dir():
        known = read_config(run.bundle)
        for key, value in bundle_fields(truth).items():
            yield from differences(f"bundle.config.{key}", known.get(key), value, TOLERANCE)


def _open(path: Path) -> tuple[Run, Predictions]:
    """The run, and its predictions of validation and test.

    Raises:
        RunError: If there are none, or no bundle to store a decision in.
    """
    run = Run.open(path)
    metrics = run.metrics
    if not run.bundle.is_dir():
        raise RunError(f"{path} has no bundle; `scanwise train --resume {path}` finishes the run.")
    for name in ("predictions.csv", "splits.csv"):
        if not (run.path / name).is_file():
            raise RunError(f"{path} has no {name}; copy the whole run folder.")
    read = read_predictions(run.path / "predictions.csv", run.path / "splits.csv")
    return run, _as_task(read, metrics)


def _as_task(predictions: Predictions, metrics: Mapping[str, Any]) -> Predictions:
    """predictions.csv can't tell ordinal from multi-class; metrics.json can."""
    ordinal = (metrics.get("dataset") or {}).get("task") == "ordinal"
    return replace(predictions, task="ordinal") if ordinal else predictions


def _class_name(
    predictions: Predictions, name: str | None, stored: Mapping[str, Any] | None = None
) -> str:
    """The class that is meant: the one named, else the one that has a threshold."""
    names = predictions.class_names
    if name is None and len(stored or {}) == 1:
        return next(iter(stored or {}))
    return names[class_index(names, name, predictions.task)]


def _store(
    run: Run, predictions: Predictions, asked: Asked, *, sets: bool = False
) -> dict[str, Any]:
    """Decide, then write bundle, decisions.json and report; nothing if it can't be decided."""
    document = decisions_document(predictions, run.metrics, asked)
    if sets:
        require_sets(document)
    update_config(run.bundle, bundle_fields(document))
    run.write(FILE, document | {"command": command_line()})
    if (run.path / "report.json").is_file():
        build_report(run.path)
    return document
