"""One metric of a recipe that was trained with several seeds: mean, 95 % interval, each seed's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scanwise.core.types import Interval
from scanwise.metrics.calibration import cross_entropy_by_image
from scanwise.metrics.differences import Evidence, seeds_test
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.inputs import Floats, Ints, one_hot
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    group_numbers,
    resample_weights,
)
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.resampled import one_value, prepare

LOSS = "cross_entropy_loss"


def over_seeds(
    parts: Sequence[Predictions],
    metric: str,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, tuple[float, ...]]:
    """The mean of a metric over seeds with an interval for other images and other seeds.

    Args:
        parts: One split's predictions by each of S seeds, of the same images in the same order.
        metric: A name of metrics.json, such as "accuracy", "auroc_macro" or "cross_entropy_loss".
        num_resamples: Of the bootstrap over images (whole groups where there are groups).
        seed: Of the bootstrap.

    Returns:
        The interval and the metric of each seed (NaN where not evaluable). One seed: exactly what
        metrics.json says. Several: `differences.seeds_test`.
    """
    if len(parts) == 1:
        entry = evaluate_predictions(parts[0], parts[0].split[0], num_resamples=num_resamples)
        interval = Interval.from_json(entry[metric])
        return interval, (float("nan") if interval.value is None else interval.value,)
    first = parts[0]
    values_of = [_valuer(part, metric) for part in parts]
    every = np.ones((len(first), 1))
    by_seed = np.array([float(value(every)[0]) for value in values_of])
    if np.isnan(by_seed).any():
        return Interval(None, reason="one class only"), tuple(by_seed.tolist())
    numbers = group_numbers(first.groups)
    strata = np.zeros(len(first), np.int64)
    resamples = np.concatenate(
        [
            np.mean([value(weights) for value in values_of], axis=0)
            for weights in resample_weights(strata, numbers, num_resamples, seed, 100)
        ]
    )
    units = len(first) if numbers is None else int(numbers.max()) + 1
    by_image = metric in (LOSS, "accuracy")
    rarest = units if by_image else min(_units_by_class(first, numbers), default=units)
    evidence = Evidence(
        units=units,
        noun="n" if numbers is None else "groups",
        freedom=max(1.0, rarest - 1.0),
        reach=np.inf if metric == LOSS else 1.0,
        rarest=rarest,
    )
    found = seeds_test(by_seed, resamples, evidence).interval
    return _within(found, metric), tuple(by_seed.tolist())


def _valuer(part: Predictions, metric: str) -> Callable[[Floats], Floats]:
    """From weights of the images (n, r) to the metric, (r,)."""
    if metric == LOSS:
        losses = cross_entropy_by_image(part.probabilities, part.targets, part.task)
        return lambda weights: losses @ weights / weights.sum(axis=0)
    if metric == "accuracy":
        same = (part.predicted == part.targets).reshape(len(part), -1).all(axis=1)
        return lambda weights: same @ weights / weights.sum(axis=0)
    scored = prepare(part.probabilities, part.targets, part.task)
    return lambda weights: one_value(scored, weights, metric)


def _units_by_class(part: Predictions, numbers: Ints | None) -> list[int]:
    """Images (or groups) that have each class or label that occurs."""
    units = np.arange(len(part)) if numbers is None else numbers
    truth = one_hot(part.targets, len(part.class_names), part.task).astype(bool)
    counts = [len(np.unique(units[column])) for column in truth.T]
    return [count for count in counts if count]


def _within(interval: Interval, metric: str) -> Interval:
    """No bound below 0, nor above 1 but for a loss."""
    if interval.low is None or interval.high is None:
        return interval
    high = interval.high if metric == LOSS else min(interval.high, 1.0)
    return Interval(interval.value, max(interval.low, 0.0), high, interval.reason)
