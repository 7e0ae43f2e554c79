"""What an ensemble's run folder says of its members, and what follows from it.

ensemble.yaml says which runs are averaged with which weights and why; answers/NN.csv are their
answers, in the form of predictions.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from scanwise.core.errors import IntegrityError, RunError
from scanwise.core.files import write_yaml
from scanwise.deploy.ensemble import weighted_mean
from scanwise.metrics.members import gain_over
from scanwise.metrics.predictions import Predictions, read_predictions, write_predictions
from scanwise.pipeline.runs import Run

FILE = "ensemble.yaml"
FOLDER = "answers"
# A GPU's arithmetic moves a probability by a few thousandths; more is another model.
AGREEMENT = 0.02


def write_members(run: Run, facts: dict[str, Any], answers: Sequence[Predictions | None]) -> None:
    """Write ensemble.yaml and answers/NN.csv (None: that member has no answers to keep)."""
    for number, part in enumerate(answers):
        if part is not None:
            write_predictions(run.path / FOLDER / f"{number:02d}.csv", part)
    write_yaml(run.path / FILE, facts)


def read_ensemble(run: Run) -> dict[str, Any]:
    """ensemble.yaml; {} where the run is no ensemble.

    Raises:
        RunError: If it can't be read.
    """
    file = run.path / FILE
    if not file.is_file():
        return {}
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"can't read {file}: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{file} must hold 'key: value' lines, not {type(found).__name__}.")
    return found


def members_document(run: Run, predictions: Predictions | None) -> dict[str, Any]:
    """`ensemble` of metrics.json: ensemble.yaml and the gain on test; {} where it is no ensemble.

    Raises:
        IntegrityError: If the answers are not the weighted mean of the members' answers.
    """
    facts = read_ensemble(run)
    if not facts:
        return {}
    answers = {} if predictions is None else _read_answers(run, predictions)
    difference = None
    if predictions is not None and len(answers) == len(facts["members"]):
        difference = _check_agreement(run, predictions, facts, answers)
    return {
        "ensemble": {
            **facts,
            "largest_difference": difference,
            "gain": _gain(predictions, facts, answers),
        }
    }


def _gain(
    predictions: Predictions | None, facts: dict[str, Any], answers: dict[int, Predictions]
) -> dict[str, Any]:
    if predictions is None or "test" not in predictions.split:
        why = "the folds share no test set" if facts["folds"] else "test was not opened"
        return {"value": None, "reason": why}
    compared = facts["compared_with"]["members"]
    if not all(number in answers and "test" in answers[number].split for number in compared):
        return {"value": None, "reason": "the members were not scored on test"}
    return gain_over(predictions, [answers[number] for number in compared], "test")


def _check_agreement(
    run: Run, predictions: Predictions, facts: dict[str, Any], answers: dict[int, Predictions]
) -> float | None:
    """Largest distance of a probability from the members' mean, on the splits that all have."""
    weights = [float(each["weight"]) for each in facts["members"]]
    shared = set(predictions.split).intersection(*(part.split for part in answers.values()))
    largest = None
    for name in sorted(shared):
        parts = [answers[number].of_split(name) for number in range(len(weights))]
        rows = predictions.of_split(name)
        if any(part.sample != rows.sample for part in parts):
            raise IntegrityError(f"{run.path}/{FOLDER}: the answers are not of the same images.")
        mean = weighted_mean([part.probabilities for part in parts], weights)
        largest = max(largest or 0.0, float(np.abs(rows.probabilities - mean).max()))
    if largest is not None and largest > AGREEMENT:
        raise IntegrityError(
            f"the members' bundles give other probabilities than their predictions.csv (by up to "
            f"{largest:.3f}): one of the two was changed. `scanwise evaluate` of each member "
            "makes its predictions.csv anew."
        )
    return largest


def _read_answers(run: Run, predictions: Predictions) -> dict[int, Predictions]:
    """answers/NN.csv by number, with the groups of the ensemble's predictions."""
    found = {}
    group_of = dict(zip(predictions.sample, predictions.groups or (), strict=False))
    for path in sorted((run.path / FOLDER).glob("*.csv")):
        part = read_predictions(path, task=predictions.task)
        if predictions.groups is not None:
            part = replace(part, groups=tuple(group_of.get(name, "") for name in part.sample))
        found[int(path.stem)] = part
    return found
