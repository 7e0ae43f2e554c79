"""How much of a score is left on worse pictures: paired with the clean ones, image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Interval, Task
from scanwise.metrics.baselines import strata_of
from scanwise.metrics.counts import ratio
from scanwise.metrics.differences import Evidence, freedom_of_classes, percentile_test
from scanwise.metrics.inputs import Floats, Ints, one_hot
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    group_numbers,
    logit_interval,
    resample_weights,
)
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.resampled import one_value, prepare

METRICS: Mapping[Task, tuple[str, ...]] = {
    "multiclass": ("balanced_accuracy", "accuracy"),
    "ordinal": ("balanced_accuracy", "accuracy", "kappa_quadratic"),
    "multilabel": ("auroc_macro", "label_accuracy"),
}
_LOWEST = {"kappa_quadratic": -1.0}
_MEANS_OF_IMAGES = ("accuracy", "label_accuracy")


@dataclass(frozen=True)
class Score:
    """One metric under one corruption and severity, beside the clean images."""

    value: Interval
    drop: Interval  # 1 - value / clean value; below 0 where it got better


@dataclass(frozen=True)
class Curve:
    """A metric over the severities of one corruption."""

    corruption: str
    metric: str
    scores: tuple[Score, ...]  # severity 1 to 5
    mean_drop: Interval  # over the severities

    def to_json(self) -> dict[str, Any]:
        return {
            "corruption": self.corruption,
            "metric": self.metric,
            "severities": [
                {"value": score.value.to_json(), "relative_drop": score.drop.to_json()}
                for score in self.scores
            ],
            "mean_relative_drop": self.mean_drop.to_json(),
        }


@dataclass(frozen=True)
class Robustness:
    """All curves, and the clean scores that they are measured by."""

    clean: Mapping[str, Interval]  # by metric
    curves: tuple[Curve, ...]
    overall_drop: Mapping[str, Interval]  # by metric: mean over all corruptions and severities
    n: int
    num_groups: int | None


def judge_robustness(
    clean: Predictions,
    corrupted: Mapping[str, Sequence[Predictions]],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Robustness:
    """Scores of corrupted images with intervals, and the relative drop paired with the clean ones.

    Args:
        clean: Of one split, with groups where there are any: then whole groups are resampled.
        corrupted: Of the same images in the same order, by corruption, mildest first.
        num_resamples: Of the bootstrap; the same resamples judge clean and corrupted images.
        seed: Of the bootstrap.

    Raises:
        DataError: If the images are not the same.
    """
    for name, parts in corrupted.items():
        if any(part.sample != clean.sample for part in parts):
            raise DataError(f"'{name}': the corrupted images are not the clean ones, in order.")
    numbers = group_numbers(clean.groups)
    weights = np.concatenate(
        list(resample_weights(strata_of(clean), numbers, num_resamples, seed)), axis=1
    )
    units = len(clean) if numbers is None else int(numbers.max()) + 1
    noun = "n" if numbers is None else "groups"
    by_class = _units_by_class(clean, np.arange(len(clean)) if numbers is None else numbers)
    bench = _Bench(weights, units, noun, by_class or (units,))
    names = METRICS[clean.task]
    values = {None: bench.values(clean, names)}
    curves, drops = [], dict[str, list[Floats]]({name: [] for name in names})
    for corruption, parts in corrupted.items():
        measured = [bench.values(part, names) for part in parts]
        for name in names:
            base = values[None][name]
            found = [1 - ratio(part[name], base) for part in measured]
            drops[name] += found
            scores = tuple(
                Score(bench.score(part[name], name), bench.drop(drop, name))
                for part, drop in zip(measured, found, strict=True)
            )
            mean = bench.drop(np.mean(found, axis=0), name)
            curves.append(Curve(corruption, name, scores, mean))
    return Robustness(
        clean={name: bench.score(values[None][name], name) for name in names},
        curves=tuple(curves),
        overall_drop={name: bench.drop(np.mean(drops[name], axis=0), name) for name in names},
        n=len(clean),
        num_groups=None if numbers is None else units,
    )


@dataclass(frozen=True, eq=False)
class _Bench:
    """The resamples that judge every set of answers; arrays (1 + r,) begin with the estimate."""

    weights: Floats  # (n, r)
    units: int  # images, or groups
    noun: str  # "n" or "groups"
    by_class: tuple[int, ...]  # units of each class that there is

    def freedom(self, name: str) -> float:
        """Degrees of freedom of a metric's variance; a mean over classes hangs on the rare ones."""
        if name in _MEANS_OF_IMAGES:
            return max(1.0, self.units - 1.0)
        return freedom_of_classes(self.by_class)

    def values(self, part: Predictions, names: Sequence[str]) -> dict[str, Floats]:
        scored = prepare(part.probabilities, part.targets, part.task)
        ones = np.ones((len(part), 1))
        return {
            name: np.concatenate(
                [one_value(scored, ones, name), one_value(scored, self.weights, name)]
            )
            for name in names
        }

    def score(self, values: Floats, name: str) -> Interval:
        if math.isnan(values[0]):
            return Interval(None, reason="only one class in this split")
        return logit_interval(
            float(values[0]),
            values[1:],
            units=self.units,
            noun=self.noun,
            lowest=_LOWEST.get(name, 0.0),
            freedom=self.freedom(name),
        )

    def drop(self, values: Floats, name: str) -> Interval:
        if math.isnan(values[0]):
            return Interval(None, reason="the clean score is 0 or not evaluable")
        rarest = self.units if name in _MEANS_OF_IMAGES else min(self.by_class)
        evidence = Evidence(self.units, self.noun, self.freedom(name), reach=1.0, rarest=rarest)
        return percentile_test(float(values[0]), values[1:], evidence).interval


def _units_by_class(part: Predictions, units: Ints) -> tuple[int, ...]:
    """Images (groups) of each class that there is; multi-label: of the rarer answer of a label."""
    truth = one_hot(part.targets, len(part.class_names), part.task) == 1
    found = [len(np.unique(units[of_class])) for of_class in truth.T]
    if part.task == "multilabel":
        others = [len(np.unique(units[~of_class])) for of_class in truth.T]
        found = [min(pair) for pair in zip(found, others, strict=True)]
    return tuple(m for m in found if m)
