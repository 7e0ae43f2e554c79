"""Methods on the same test images: means over seeds, and differences paired by image."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from scanwise.core.types import Interval
from scanwise.metrics.compare import Comparison, compare
from scanwise.metrics.inputs import Floats
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    group_numbers,
    logit_interval,
)
from scanwise.metrics.paired import paired_gain
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.resampled import estimate, prepare, resample
from scanwise.studies.run_set import Method, RunEntry


def ranking_metric(method: Method) -> str:
    """What methods are compared by: accuracy; of several labels an image macro AUROC.

    The exact match of many rare labels is nearly that of saying 'none' to every image, whatever
    the model is worth.
    """
    return "auroc_macro" if method.runs[0].test_rows().task == "multilabel" else "accuracy"


def mean_score(method: Method, metric: str) -> Interval:
    """Mean over the seeds with its 95 % interval over images; of one seed what metrics.json has.

    Accuracy is not resampled by class, so that its interval is that of one seed (Wilson) where all
    seeds agree.
    """
    if len(method.runs) == 1:
        return method.runs[0].score(metric)
    if metric == "accuracy":
        right, rows = _right(method), method.runs[0].test_rows()
        together = np.zeros(len(rows), np.int64)
        return paired_gain(np.zeros(len(rows)), right, together, groups=rows.groups)
    drawn = _drawn(method, metric)
    if np.isnan(drawn[0]):
        return Interval(None, reason="not evaluable for some seed")
    units, noun = _units(method)
    return logit_interval(float(drawn[0]), drawn[1:], units=units, noun=noun)


def compare_methods_by(metric: str, base: Method, variant: Method) -> Comparison:
    """Is `variant` better than `base` on the same test images? See `metrics.compare.compare`.

    Seeds are paired by their number where both methods have them, else in order; a method with more
    seeds than the other is judged by as many as the other has.
    """
    mine, theirs = _paired_seeds(base, variant)
    return compare([run.test_rows() for run in mine], [run.test_rows() for run in theirs], metric)


def _paired_seeds(first: Method, second: Method) -> tuple[list[RunEntry], list[RunEntry]]:
    ours = {run.seed: run for run in first.runs}
    others = {run.seed: run for run in second.runs}
    shared = [seed for seed in ours if seed in others]
    if shared:
        return [ours[seed] for seed in shared], [others[seed] for seed in shared]
    number = min(len(first.runs), len(second.runs))
    return list(first.runs[:number]), list(second.runs[:number])


def _right(method: Method) -> Floats:
    """Share of the seeds that are right (multi-label: about all labels) on each image, (n,)."""
    found = []
    for run in method.runs:
        rows = run.test_rows()
        same = rows.predicted == rows.targets
        found.append(same if same.ndim == 1 else same.all(axis=1))
    mean: Floats = np.mean(found, axis=0, dtype=np.float64)
    return mean


def _drawn(method: Method, metric: str) -> Floats:
    """Mean over seeds: the estimate, then its bootstrap resamples, (1 + r,)."""
    mean: Floats = np.mean([_drawn_of_run(run, metric) for run in method.runs], axis=0)
    return mean


@functools.lru_cache(maxsize=256)
def _drawn_of_run(run: RunEntry, metric: str) -> Floats:
    """The same images are drawn for every run of a test set: same strata, groups and seed."""
    rows = run.test_rows()
    scored = prepare(rows.probabilities, rows.targets, rows.task)
    resamples = resample(scored, group_numbers(rows.groups), NUM_RESAMPLES, seed=0)
    return np.concatenate([estimate(scored)[metric], resamples[metric]])


def _units(method: Method) -> tuple[int, str]:
    rows: Predictions = method.runs[0].test_rows()
    numbers = group_numbers(rows.groups)
    return (len(rows), "n") if numbers is None else (int(numbers.max()) + 1, "groups")


def leader_first(methods: Sequence[Method]) -> list[Method]:
    """Methods whose every seed shows skill, the one with the highest mean score first."""
    sound = [method for method in methods if method.is_sound]
    return sorted(sound, key=lambda method: -_mean(method))


def _mean(method: Method) -> float:
    values = method.values(ranking_metric(method))
    return float(np.mean(values)) if values else -np.inf
