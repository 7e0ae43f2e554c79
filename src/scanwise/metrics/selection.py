"""The measure that a search is judged by, with its interval, and what choosing the best costs.

The best of many models on the same images looks better than it is: some of its lead is luck with
these images. How much is estimated by choosing anew in each bootstrap resample and scoring what was
chosen on the images that the resample left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scanwise.core.config import Monitor
from scanwise.core.types import Interval, Task
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    caution,
    group_numbers,
    percentile_interval,
    resample_weights,
    wilson_interval,
)
from scanwise.metrics.resampled import prepare, values

CHOOSING_RESAMPLES = 500
_NAMES = {
    "val_accuracy": "accuracy",
    "val_balanced_acc": "balanced_accuracy",
    "val_auc": "auroc_macro",
}


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model said about the n images that all models are judged by."""

    probabilities: Floats  # (n, k)
    losses: Floats  # (n,) the training's own loss of each image


@dataclass(frozen=True, eq=False)
class Chosen:
    """The winner's score with the luck of being chosen taken off."""

    value: Interval
    optimism: float  # how much better the winner looks than that; above 0 is too good


@dataclass(frozen=True, eq=False)
class Judge:
    """The monitored measure on fixed images.

    Attributes:
        monitor: Which measure.
        higher: True where more is better.
        targets: Int (n,), multi-label (n, k).
        task: Of the data.
        groups: Group of each image (n,), or None; whole groups are resampled then.
        seed: Of the resampling.
    """

    monitor: Monitor
    higher: bool
    targets: Ints
    task: Task
    groups: tuple[str, ...] | None = None
    seed: int = 0

    @property
    def units(self) -> int:
        """Independent units: images, or groups where there are any."""
        numbers = group_numbers(self.groups)
        return len(self.targets) if numbers is None else int(numbers.max()) + 1

    def scorer(self, answers: Answers) -> Callable[[Floats], Floats]:
        """The measure as a function of weights (n, r), to (r,); NaN where it can't be computed."""
        if self.monitor == "val_loss":
            return lambda weights: answers.losses @ weights / weights.sum(axis=0)
        scored = prepare(answers.probabilities, self.targets, self.task)
        name = _NAMES[self.monitor]
        if name == "accuracy" and self.task == "multilabel":
            name = "label_accuracy"  # as training counts it
        return lambda weights: np.asarray(values(scored, weights)[name], np.float64)

    def value(self, answers: Answers) -> float:
        """The measure over all images."""
        return float(self.scorer(answers)(np.ones((len(self.targets), 1)))[0])

    def interval(self, answers: Answers) -> Interval:
        """The measure with its 95 % interval: Wilson for plain accuracy, else bootstrap."""
        plain = self.task != "multilabel" and group_numbers(self.groups) is None
        if self.monitor == "val_accuracy" and plain:
            right = answers.probabilities.argmax(axis=1) == self.targets
            return wilson_interval(int(right.sum()), len(right))
        score = self.scorer(answers)
        drawn = np.concatenate([score(weights) for weights in self._resamples()])
        top = np.inf if self.monitor == "val_loss" else 1.0
        return percentile_interval(
            self.value(answers), drawn, units=self.units, noun=self._noun, highest=top
        )

    def gain(self, first: Answers, second: Answers) -> Interval:
        """How much better `second` is on the same images, above 0 where it is; paired bootstrap."""
        scores = self.scorer(first), self.scorer(second)
        sign = 1.0 if self.higher else -1.0
        drawn = np.concatenate(
            [sign * (scores[1](weights) - scores[0](weights)) for weights in self._resamples()]
        )
        value = sign * (self.value(second) - self.value(first))
        return percentile_interval(
            value, drawn, units=self.units, noun=self._noun, lowest=-np.inf, highest=np.inf
        )

    def chosen(self, candidates: Sequence[Answers]) -> Chosen:
        """What the best of several models scores on images that did not choose it.

        In each resample the best model by the drawn images is scored on those not drawn; the mean
        is the estimate, its percentiles the interval.

        Args:
            candidates: Answers of each model; the best one on all images is the winner.

        Source:
            Tsamardinos, Greasidou and Borboudakis, Machine Learning 107, 2018 (bootstrap bias
            corrected cross-validation); here on one set of validation images.
        """
        scores = [self.scorer(answers) for answers in candidates]
        found = []
        for weights in self._resamples(CHOOSING_RESAMPLES):
            drawn = np.stack([score(weights) for score in scores])  # (t, r)
            left_out = (weights == 0).astype(np.float64)
            usable = left_out.any(axis=0) & ~np.isnan(drawn).all(axis=0)
            if not usable.any():
                continue
            best = _best(drawn[:, usable], self.higher)
            outside = np.stack([score(left_out[:, usable]) for score in scores])
            found.append(outside[best, np.arange(len(best))])
        outside_all = np.concatenate(found) if found else np.empty(0)
        outside_all = outside_all[~np.isnan(outside_all)]
        if len(outside_all) < CHOOSING_RESAMPLES / 2:
            reason = f"too few images to choose and to score apart ({self._noun}={self.units})"
            return Chosen(Interval(None, reason=reason), float("nan"))
        value = float(outside_all.mean())
        low, high = (float(bound) for bound in np.quantile(outside_all, [0.025, 0.975]))
        every = np.array([self.value(answers) for answers in candidates])
        winner = float(every[_best(every[:, None], self.higher)[0]])
        optimism = winner - value if self.higher else value - winner
        return Chosen(Interval(value, low, high, caution(self.units, self._noun)), optimism)

    @property
    def _noun(self) -> str:
        return "n" if group_numbers(self.groups) is None else "groups"

    def _resamples(self, how_many: int = NUM_RESAMPLES) -> Iterator[Floats]:
        strata = self.targets
        if self.task == "multilabel":
            strata = np.zeros(len(self.targets), np.int64)
        _, strata = np.unique(strata, return_inverse=True)
        width = int(self.targets.max(initial=1) + 1) ** 2
        numbers = group_numbers(self.groups)
        return resample_weights(strata, numbers, how_many, self.seed, width)


def _best(drawn: Floats, higher: bool) -> Ints:
    """Row of the best value in each column (t, r); NaN is never best, of equals the first is."""
    worst = -np.inf if higher else np.inf
    known = np.where(np.isnan(drawn), worst, drawn)
    return np.asarray(known.argmax(axis=0) if higher else known.argmin(axis=0))
