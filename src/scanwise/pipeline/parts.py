"""Closer looks at predictions.csv: by slice and by group; measured, measured again, verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scanwise.core.errors import DataError, RunError, nearest
from scanwise.metrics.grouped import AGGREGATES
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.verify import TOLERANCE, Mismatch, differences
from scanwise.pipeline.groups import GROUPS, groups_document, groups_text, measure_groups
from scanwise.pipeline.runs import Run
from scanwise.pipeline.slices import (
    METADATA,
    SLICES,
    judged_part,
    measure_slices,
    read_run_metadata,
    run_predictions,
    slices_document,
    slices_text,
)
from scanwise.report.build import build_report


@dataclass(frozen=True)
class CloserLook:
    """What was written, by file name."""

    run: Path
    documents: Mapping[str, Mapping[str, Any]]

    def text(self) -> str:
        words = {SLICES: slices_text, GROUPS: groups_text}
        parts = [words[name](document) for name, document in self.documents.items()]
        return "\n\n".join([*parts, f"report: {self.run / 'report.html'}"])

    def to_json(self) -> dict[str, Any]:
        return {"run": str(self.run), **self.documents}


def look_closer(
    path: Path, slices: Sequence[str] | None, meta: Path | None, aggregate: str | None
) -> CloserLook:
    """Measure slices and groups of a run, and write its report anew.

    Args:
        path: The run folder.
        slices: Metadata columns, () for all that can be sliced, None for none.
        meta: A table to take metadata from.
        aggregate: "mean", "max" or "vote", None for no verdict by group.

    Raises:
        ScanwiseError: As `measure_slices` and `measure_groups`; then nothing is written.
    """
    run = Run.open(path)
    if aggregate is not None and aggregate not in AGGREGATES:
        raise DataError(f"unknown aggregate '{aggregate}'; {nearest(aggregate, AGGREGATES)}")
    how = next((name for name in AGGREGATES if name == aggregate), None)
    documents: dict[str, Mapping[str, Any]] = {}
    if how is not None:
        documents[GROUPS] = measure_groups(run, how)
    if slices is not None:
        documents = {SLICES: measure_slices(run, slices, meta), **documents}
    for name, document in documents.items():
        run.write(name, document)
    if run.config.report:
        build_report(run.path)
    return CloserLook(run.path, documents)


def measure_parts(run: Run) -> None:
    """After an evaluation: slices where there is metadata, groups where some have several images.

    What was asked for by name before is measured again by the same names.
    """
    for name, measure in ((SLICES, _slices_again), (GROUPS, _groups_again)):
        try:
            document = measure(run)
        except DataError as error:
            run.log(f"{name} not written: {error}")
            document = None
        if document is None:
            (run.path / name).unlink(missing_ok=True)
        else:
            run.write(name, document)


def _slices_again(run: Run) -> dict[str, Any] | None:
    if not (run.path / METADATA).is_file():
        return None
    known = run.read_json(SLICES, "") if (run.path / SLICES).is_file() else {}
    return measure_slices(run, known.get("asked", ()))


def _groups_again(run: Run) -> dict[str, Any] | None:
    part = judged_part(run_predictions(run))
    if part.groups is None or len(set(part.groups)) == len(part):
        return None
    known = run.read_json(GROUPS, "") if (run.path / GROUPS).is_file() else {}
    return measure_groups(run, known.get("aggregate", "mean"))


def stated_parts(run: Run) -> list[dict[str, Any]]:
    """slices.json and groups.json, where the run has them."""
    return [run.read_json(name, "") for name in (SLICES, GROUPS) if (run.path / name).is_file()]


def verify_parts(run: Run, predictions: Predictions) -> list[Mismatch]:
    """Numbers of slices.json and groups.json that do not follow from predictions.csv."""
    found: list[Mismatch] = []
    task = run.dataset.get("task", predictions.task)
    for name in (SLICES, GROUPS):
        if not (run.path / name).is_file():
            continue
        stated = run.read_json(name, "")
        try:
            part = replace(predictions, task=task).of_split(stated["split"])
            truth = _restated(run, name, stated, part)
        except (DataError, RunError, KeyError, TypeError, ValueError) as error:
            found.append(Mismatch(name, "a table", f"can't be recomputed: {error}"))
            continue
        same = {key: stated.get(key) for key in truth}
        found += differences(name, same, truth, TOLERANCE)
    return found


def _restated(run: Run, name: str, stated: Mapping[str, Any], part: Predictions) -> dict[str, Any]:
    boot = stated["bootstrap"]
    settings = {"num_resamples": int(boot["resamples"]), "seed": int(boot["seed"])}
    if name == GROUPS:
        return groups_document(part, stated["aggregate"], **settings)
    columns = read_run_metadata(run, part.sample)
    if not columns:
        raise RunError(f"{METADATA} is missing")
    return slices_document(part, columns, stated["asked"], **settings)
