"""What the members of a study came to: their answers pooled over folds, and their facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.errors import DataError
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.pipeline.runs import Run
from scanwise.studies.members import Member

SCORED = "test"  # the split that pooled out-of-fold answers are said to be of
PRIOR = "prior"  # the training split's class shares, for every image


@dataclass(frozen=True, eq=False)
class Answers:
    """What one variant said with one seed: on test (out of fold with folds), and on validation."""

    seed: int
    members: tuple[Member, ...]  # one, or one a fold
    scored: Predictions
    validation: tuple[Predictions, ...]  # of each member

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(Run.open(member.folder) for member in self.members)


def answers_of(members: Sequence[Member], split: str, order: Sequence[str]) -> tuple[Answers, ...]:
    """The answers of one variant on one data set, by seed.

    Args:
        members: All members of the variant, finished.
        split: "test" or "val": what is scored. With folds the folds' parts are pooled.
        order: Sample names in the order of the data set.
    """
    place = {sample: row for row, sample in enumerate(order)}
    found = []
    for seed in sorted({member.seed for member in members}):
        own = tuple(member for member in members if member.seed == seed)
        parts = [_read(member, "predictions.csv") for member in own]
        scored = [part.of_split(split) for part in parts]
        validation = tuple(part.of_split("val") for part in parts)
        found.append(Answers(seed, own, pooled(scored, place, split), validation))
    return tuple(found)


def baselines_of(
    members: Sequence[Member], split: str, order: Sequence[str]
) -> dict[str, tuple[str, Predictions]]:
    """The simple models of the base's first seed, pooled over folds: name to (title, answers)."""
    place = {sample: row for row, sample in enumerate(order)}
    first = min(member.seed for member in members)
    own = [member for member in members if member.seed == first]
    documents = [Run.open(member.folder).metrics for member in own]
    priors = [
        _prior(_read(member, "predictions.csv").of_split(split), document, split)
        for member, document in zip(own, documents, strict=True)
    ]
    found = {}
    if all(prior is not None for prior in priors):
        parts = [prior for prior in priors if prior is not None]
        title = "commonest answer of train" if len(own) > 1 else _majority_title(documents[0])
        found[PRIOR] = (title, pooled(parts, place, split))
    for name, entry in (documents[0].get("baselines") or {}).items():
        files = [member.folder / "baselines" / f"{name}.csv" for member in own]
        if all(file.is_file() for file in files):
            parts = [_read(member, f"baselines/{name}.csv").of_split(split) for member in own]
            found[name] = (str(entry["title"]), pooled(parts, place, split))
    return found


def _majority_title(document: dict[str, Any]) -> str:
    majority = next(iter(document["splits"].values()))["trivial"]["majority"]
    name = majority.get("class")
    return f"always '{name}'" if name else "commonest answer of train"


def _prior(part: Predictions, document: dict[str, Any], split: str) -> Predictions | None:
    """Answers of someone who knows only the class shares of train."""
    shares = document["splits"][split]["trivial"].get("prior", {}).get("probabilities")
    if shares is None:
        return None
    probabilities = np.tile(np.asarray(shares, np.float64), (len(part), 1))
    if part.task == "multilabel":
        predicted = (probabilities > 0.5).astype(np.int64)
    else:
        predicted = probabilities.argmax(axis=1)
    return replace(part, probabilities=probabilities, predicted=predicted)


def _read(member: Member, name: str) -> Predictions:
    run = Run.open(member.folder)
    file: Path = run.path / name
    return read_predictions(file, run.path / "splits.csv", run.metrics["dataset"]["task"])


def pooled(parts: Sequence[Predictions], place: dict[str, int], split: str) -> Predictions:
    """Answers on disjoint sets of images as one, in the order of the data set.

    Raises:
        DataError: If an image is answered twice or is not of the data set.
    """
    first = parts[0]
    sample = [name for part in parts for name in part.sample]
    if len(set(sample)) < len(sample):
        raise DataError("an image was tested in more than one fold; the folds must be disjoint.")
    if unknown := [name for name in sample if name not in place]:
        raise DataError(f"'{unknown[0]}' is no image of the data set.")
    order = np.argsort([place[name] for name in sample], kind="stable")
    groups = None
    if all(part.groups is not None for part in parts):
        every = [name for part in parts for name in part.groups or ()]
        groups = tuple(every[i] for i in order)
    return Predictions(
        sample=tuple(sample[i] for i in order),
        split=(split,) * len(sample),
        targets=np.concatenate([part.targets for part in parts])[order],
        predicted=np.concatenate([part.predicted for part in parts])[order],
        probabilities=np.concatenate([part.probabilities for part in parts])[order],
        class_names=first.class_names,
        task=first.task,
        groups=groups,
    )
