"""`scanwise runs compare A B`: what was set differently, and what came out differently.

The differences are paired: both runs answered the same images, so hard images cancel out. Runs
whose test images differ are not compared at all.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.config import TrainConfig
from scanwise.core.errors import DataError, RunError
from scanwise.core.runtime import environment_changes
from scanwise.core.types import SPLIT_NAMES, Interval, SplitName
from scanwise.data.splits import UNUSED
from scanwise.metrics.compare import Comparison, compare, correct_family
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.pipeline.runs import Run
from scanwise.pipeline.summary import headlines
from scanwise.pipeline.tables import aligned

# Where a run went and how it was computed, and whether test was opened: these train nothing else.
NO_FACTOR = {
    "output", "force", "explain", "threads", "device", "deterministic", "no_test", "accept_leak",
    "skip_unreadable", "report",
}  # fmt: skip
# They only make the split, which is compared as such.
OF_THE_SPLIT = {"splits", "val_fraction", "test_fraction", "group", "group_regex"}
COMPARED: tuple[SplitName, ...] = ("val", "test")
FIRST = 3  # images named in a message


@dataclass(frozen=True)
class Difference:
    """A run beside the first one: what was set differently, and whether it was more accurate."""

    run: str
    factors: tuple[str, ...]
    environment: tuple[str, ...]  # packages and machines that differ
    # Accuracy on "val" and "test", where both runs answered the same images.
    comparisons: Mapping[str, Comparison]

    @property
    def label(self) -> str:
        """'differs in lr', 'confounded: differs in lr, model' or 'no setting differs'."""
        if not self.factors:
            return "no setting differs"
        confounded = "confounded: " if len(self.factors) > 1 else ""
        return f"{confounded}differs in {', '.join(self.factors)}"


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side, each against the first."""

    names: tuple[str, ...]
    settings: dict[str, tuple[str, ...]]  # that differ: the value in each run
    metrics: tuple[dict[str, Any], ...]  # `splits` of each run's metrics.json
    looks: tuple[int, ...]
    differences: tuple[Difference, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": list(self.names),
            "settings": {
                name: dict(zip(self.names, values, strict=True))
                for name, values in self.settings.items()
            },
            "metrics": {
                name: {
                    split: {"n": part["n"]} | {key: part[key] for _, key in headlines(part)}
                    for split, part in splits.items()
                }
                for name, splits in zip(self.names, self.metrics, strict=True)
            },
            "test_looks": dict(zip(self.names, self.looks, strict=True)),
            "differences": [
                {
                    "run": difference.run,
                    "to": self.names[0],
                    "label": difference.label,
                    "factors": list(difference.factors),
                    "environment": list(difference.environment),
                    "accuracy": {
                        split: found.to_json() for split, found in difference.comparisons.items()
                    },
                }
                for difference in self.differences
            ],
        }

    def text(self) -> str:
        lines = []
        if self.settings:
            rows = [("settings that differ", *self.names)]
            rows += [(f"  {name}", *values) for name, values in self.settings.items()]
            lines += [aligned(rows), ""]
        for split in COMPARED:
            lines += self._scores(split)
        lines.append(f"accuracy, paired difference to {self.names[0]} on the same images [95 %]")
        for difference in self.differences:
            lines.append(f"  {difference.run}: {difference.label}")
            lines += [f"    {self._comparison_text(name, difference)}" for name in COMPARED]
            if difference.environment:
                lines.append(f"    made with other versions: {'; '.join(difference.environment)}")
        return "\n".join(lines)

    def _scores(self, split: str) -> list[str]:
        parts = [splits.get(split) for splits in self.metrics]
        known = next((part for part in parts if part is not None), None)
        if known is None:
            return []
        numbers = {part["n"] for part in parts if part is not None}
        n = f"n = {known['n']:,}" if len(numbers) == 1 else "not the same images"
        looks = f"; looks {', '.join(map(str, self.looks))}" if split == "test" else ""
        rows: list[tuple[str, ...]] = [(f"{split} ({n}{looks})", *self.names)]
        for words, key in headlines(known):
            cells = ("not opened" if part is None else _value(part[key]) for part in parts)
            rows.append((f"  {words}", *cells))
        return [aligned(rows), ""]

    def _comparison_text(self, split: str, difference: Difference) -> str:
        found = difference.comparisons.get(split)
        if found is None:
            return f"{split}: not measured (not the same images, or not opened in both)"
        return f"{split} (n = {found.n:,}): {found.short()}"


@dataclass(frozen=True, eq=False)
class _Side:
    """One run as the comparison reads it."""

    name: str
    config: dict[str, Any]
    by_plan: frozenset[str]  # settings that the plan chose
    metrics: dict[str, Any]
    dataset: dict[str, Any]
    env: dict[str, Any]
    images: dict[str, dict[str, str]]  # split -> path -> SHA-256
    predictions: Predictions
    looks: int


def compare_runs(paths: Sequence[Path]) -> RunComparison:
    """Compare finished runs, each with the first.

    Raises:
        RunError: If a run can't be read or was never evaluated, fewer than two are named, or their
            test images, classes or labels differ; the message says how.
        ConfigError: If a config.yaml can't be read.
    """
    if len({path.resolve() for path in paths}) < 2 or len(set(paths)) < len(paths):
        raise RunError("name two or more different runs to compare.")
    sides = [_read(path) for path in paths]
    for other in sides[1:]:
        _refuse_other_images(sides[0], other)
    return RunComparison(
        names=tuple(side.name for side in sides),
        settings=_settings(sides),
        metrics=tuple(side.metrics["splits"] for side in sides),
        looks=tuple(side.looks for side in sides),
        differences=_corrected([_difference(sides[0], other) for other in sides[1:]]),
    )


def _read(path: Path) -> _Side:
    run = Run.open(path)
    splits_csv = path / "splits.csv"
    metrics = run.metrics
    try:
        plan = run.plan
        config = run.config.model_dump(exclude=NO_FACTOR)
        training = run.read_json("training.json", "its training was interrupted")
        return _Side(
            name=str(path),
            config=config | {"model": training["model"]},  # of one's own module too
            by_plan=frozenset(row["setting"] for row in plan if "preset" in str(row["source"])),
            metrics=metrics,
            dataset=run.dataset,
            env=run.read_json("env.json", "it was deleted"),
            images=_read_images(splits_csv),
            predictions=read_predictions(path / "predictions.csv", splits_csv),
            looks=len(run.test_looks()),
        )
    except (OSError, DataError, KeyError, TypeError) as error:
        raise RunError(f"can't compare {path}: {error}") from error


def _read_images(splits_csv: Path) -> dict[str, dict[str, str]]:
    images: dict[str, dict[str, str]] = {name: {} for name in (*SPLIT_NAMES, UNUSED)}
    with splits_csv.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            images[row["split"]][row["path"]] = row["sha256"]
    return images


def _refuse_other_images(first: _Side, other: _Side) -> None:
    """RunError unless both were judged on the same test images (or validation, without test)."""
    names = [list(side.metrics["dataset"]["class_names"]) for side in (first, other)]
    if names[0] != names[1]:
        raise RunError(
            f"{first.name} and {other.name} can't be compared: their classes differ ({names[0]} "
            f"and {names[1]})."
        )
    split = "test" if first.images["test"] or other.images["test"] else "val"
    mine, theirs = first.images[split], other.images[split]
    if mine != theirs:
        shared = [path for path in mine if theirs.get(path) == mine[path]]
        raise RunError(
            f"{first.name} and {other.name} can't be compared: their {split} images differ. "
            f"{len(shared)} are in both; {_only(mine, theirs, first.name)}; "
            f"{_only(theirs, mine, other.name)}. Train both on one split: "
            "--splits RUN/splits.csv."
        )
    for name in COMPARED:
        _refuse_other_labels(first, other, name)


def _only(mine: Mapping[str, str], theirs: Mapping[str, str], name: str) -> str:
    alone = sorted(path for path in mine if theirs.get(path) != mine[path])
    more = ", …" if len(alone) > FIRST else ""
    listed = f" ({', '.join(alone[:FIRST])}{more})" if alone else ""
    return f"{len(alone)} of {len(mine)} only in {name}{listed}"


def _refuse_other_labels(first: _Side, other: _Side, split: SplitName) -> None:
    pair = _same_rows(first, other, split)
    if pair is None:
        return
    mine, theirs = pair
    wrong = (mine.targets != theirs.targets).reshape(len(mine), -1).any(axis=1)
    if wrong.any():
        examples = [mine.sample[row] for row in np.flatnonzero(wrong)[:FIRST]]
        raise RunError(
            f"{first.name} and {other.name} can't be compared: {int(wrong.sum())} {split} images "
            f"have other labels in the two, first {', '.join(examples)}."
        )


def _same_rows(
    first: _Side, other: _Side, split: SplitName
) -> tuple[Predictions, Predictions] | None:
    """Answers of both to the same images in one order; None where they differ or are missing."""
    sides = (first, other)
    if first.images[split] != other.images[split]:
        return None
    if any(split not in side.predictions.split for side in sides):
        return None
    mine, theirs = (side.predictions.of_split(split) for side in sides)
    place = {sample: row for row, sample in enumerate(theirs.sample)}
    if set(place) != set(mine.sample):
        return None
    return mine, theirs.rows(np.array([place[sample] for sample in mine.sample], np.int64))


def _difference(first: _Side, other: _Side) -> Difference:
    comparisons: dict[str, Comparison] = {}
    for split in COMPARED:
        pair = _same_rows(first, other, split)
        if pair is not None:
            comparisons[split] = compare(pair[:1], pair[1:])
    factors = tuple(_factors(first, other))
    changes = environment_changes(first.env, other.env)
    versions = [words for words in changes if not words.startswith(("device ", "git commit "))]
    return Difference(other.name, factors, tuple(versions), comparisons)


def _corrected(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Each split's comparisons are one family: p is corrected for their number."""
    found: list[dict[str, Comparison]] = [{} for _ in differences]
    for split in COMPARED:
        places = [i for i, one in enumerate(differences) if split in one.comparisons]
        family = correct_family([differences[i].comparisons[split] for i in places])
        for i, one in zip(places, family, strict=True):
            found[i][split] = one
    return tuple(
        replace(one, comparisons=mine) for one, mine in zip(differences, found, strict=True)
    )


def _factors(first: _Side, other: _Side) -> list[str]:
    """Names of what was set differently; the data and the split count by content, not by name."""
    found = []
    if first.dataset["content_sha256"] != other.dataset["content_sha256"]:
        found.append("data")
    if first.metrics["split_sha256"] != other.metrics["split_sha256"]:
        found.append("split")
    for name in TrainConfig.model_fields:
        if name in NO_FACTOR | OF_THE_SPLIT | {"data"}:
            continue
        if first.config[name] != other.config[name]:
            found.append(name)
    return found


def _settings(sides: Sequence[_Side]) -> dict[str, tuple[str, ...]]:
    """Each factor that differs in some run, with its value in every run."""
    names = {name: None for other in sides[1:] for name in _factors(sides[0], other)}
    return {name: tuple(_setting(side, name) for side in sides) for name in names}


def _setting(side: _Side, name: str) -> str:
    if name == "split":
        return str(side.metrics["split_sha256"])[:12]
    value = side.config[name]
    words = "not set" if value is None else str(value)
    return f"{words} (plan)" if name in side.by_plan else words


def _value(entry: Mapping[str, Any]) -> str:
    return str(Interval.from_json(entry))
