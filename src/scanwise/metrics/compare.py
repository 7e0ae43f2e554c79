"""Is a variant better than its base on the same images? A difference, an interval, p, a verdict.

The same resampled images judge both models, so that hard images cancel out; whole groups are drawn
where images come in groups. With one seed each, the answer is about these two trained models; with
several, the spread between seeds counts too and the answer is about training them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, nearest
from scanwise.core.types import Interval, finite_or_none
from scanwise.metrics.calibration import brier_by_image, cross_entropy_by_image
from scanwise.metrics.delong import delong_test
from scanwise.metrics.differences import (
    ALPHA,
    Evidence,
    Tested,
    freedom_of_classes,
    percentile_test,
    seeds_test,
)
from scanwise.metrics.inputs import Floats, one_hot, predict_classes
from scanwise.metrics.intervals import NUM_RESAMPLES, resample_weights
from scanwise.metrics.mcnemar import McNemar, mcnemar_exact
from scanwise.metrics.multiplicity import holm
from scanwise.metrics.pairing import Paired, pair
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.resampled import one_value, prepare

Verdict = Literal["better", "worse", "not distinguishable", "not measured"]

# Names as in metrics.json, and the largest size that a difference can have.
REACH = {
    "accuracy": 1.0,
    "balanced_accuracy": 1.0,
    "f1_macro": 1.0,
    "auroc_macro": 1.0,
    "auprc_macro": 1.0,
    "mcc": 2.0,
    "kappa_quadratic": 2.0,
    "cross_entropy_loss": math.inf,
    "brier": 2.0,
}
_MEANS_OF_IMAGES = ("accuracy", "cross_entropy_loss", "brier")
_LOWER_IS_BETTER = ("cross_entropy_loss", "brier")
MIN_RESAMPLES = 99


@dataclass(frozen=True)
class Comparison:
    """What was found when a variant was compared with its base.

    `difference` is variant minus base with the 95 % interval of this comparison alone; the verdict
    rests on `corrected_p`, which also counts how many comparisons there were. So in a family an
    interval can leave out 0 while the verdict is "not distinguishable".
    """

    metric: str
    split: str
    base_values: tuple[float, ...]  # of each seed; NaN where not evaluable
    variant_values: tuple[float, ...]
    difference: Interval
    p_value: float | None  # two-sided, in (0, 1]; None where nothing can be tested
    corrected_p: float | None  # Holm, over num_comparisons
    num_comparisons: int
    method: str  # in words
    scope: str  # what is concluded on, in words
    n: int  # images
    num_groups: int | None  # None where each image stands alone
    num_seeds: int

    @property
    def higher_is_better(self) -> bool:
        return self.metric not in _LOWER_IS_BETTER

    @property
    def verdict(self) -> Verdict:
        """Better or worse where the corrected p is below 0.05."""
        gap = self.difference.value
        if gap is None:
            return "not measured"
        if self.corrected_p is None or self.corrected_p >= ALPHA or gap == 0:
            return "not distinguishable"
        return "better" if (gap > 0) == self.higher_is_better else "worse"

    def __str__(self) -> str:
        """The verdict with all that it rests on, in one sentence."""
        if self.difference.value is None:
            return f"{self.verdict}: {self.metric} ({self.difference.reason})"
        lower = "" if self.higher_is_better else " (lower is better)"
        groups = "" if self.num_groups is None else f" in {self.num_groups} groups"
        seeds = "1 seed" if self.num_seeds == 1 else f"{self.num_seeds} seeds"
        variant, base = np.mean(self.variant_values), np.mean(self.base_values)
        return (
            f"{self.verdict}: {self.metric}{lower} on {self.split} was {variant:.3f}, the base's "
            f"{base:.3f}, difference {self.difference.signed()} (n={self.n}{groups}, {seeds}, "
            f"{self._p_words()}; {self.method}; about {self.scope})"
        )

    def short(self) -> str:
        """'+0.012 [-0.003, +0.027], p=0.120, not distinguishable', beside a name."""
        if self.difference.value is None:
            return f"{self.verdict} ({self.difference.reason})"
        note = f"; {self.difference.reason}" if self.difference.reason else ""
        if self.corrected_p is None:
            return f"{self.difference.signed()}, not tested, {self.verdict}{note}"
        of = "" if self.num_comparisons == 1 else f" (Holm, {self.num_comparisons} comparisons)"
        p_value = p_words(self.corrected_p)
        return f"{self.difference.signed()}, {p_value}{of}, {self.verdict}{note}"

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "split": self.split,
            "verdict": self.verdict,
            "base_values": [finite_or_none(value) for value in self.base_values],
            "variant_values": [finite_or_none(value) for value in self.variant_values],
            "difference": self.difference.to_json(),
            "p_value": self.p_value,
            "corrected_p": self.corrected_p,
            "num_comparisons": self.num_comparisons,
            "correction": "holm",
            "method": self.method,
            "scope": self.scope,
            "n": self.n,
            "num_groups": self.num_groups,
            "num_seeds": self.num_seeds,
            "higher_is_better": self.higher_is_better,
        }

    def _p_words(self) -> str:
        if self.p_value is None or self.corrected_p is None:
            return f"not tested: {self.difference.reason}"
        if self.num_comparisons == 1:
            return p_words(self.p_value)
        return (
            f"{p_words(self.corrected_p)} after Holm's correction for {self.num_comparisons} "
            "comparisons"
        )


def compare(
    base: Sequence[Predictions],
    variant: Sequence[Predictions],
    metric: str = "accuracy",
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare a variant with its base on the same rows, by one metric.

    One seed: independent images are judged by the exact McNemar test (accuracy) or DeLong's test
    (AUROC of two classes); all else by a paired bootstrap over images, or whole groups, whose
    expanded percentiles give interval and p alike. McNemar's interval is the bootstrap's; where the
    two disagree on 0, its bound towards 0 is the exact test's. Several seeds: see
    `differences.seeds_test`.

    Args:
        base, variant: One split, by S seeds each, S >= 1; the i-th of one is paired with the i-th
            of the other, and rows are matched by sample name.
        metric: A name in `REACH`, as in metrics.json: decisions are argmax (multi-label: p > 0.5).
            A constant score has an AUROC of 0.5 here.
        num_resamples: Of the bootstrap, at least 99.
        seed: Of the bootstrap.

    Returns:
        A family of one comparison; see `correct_family` for several.

    Raises:
        DataError: If the metric is unknown or not of this task, or the two are not about the same
            rows (`pairing.pair` says in what they differ).
    """
    paired = pair(base, variant)
    _check(metric, paired, num_resamples)
    values_of = _valuer(paired, metric)
    s = paired.num_seeds
    estimates = values_of(np.ones((len(paired), 1)))[:, 0]
    found: Tested
    if np.isnan(estimates).any():
        found, method = Tested(Interval(None, reason=_why_undefined(paired)), None), "none"
    elif s == 1 and metric == "auroc_macro" and _binary(paired) and paired.groups is None:
        found, method = _delong(paired), "DeLong's paired test"
    else:
        resamples = _resample(paired, values_of, num_resamples, seed)
        by_seed = estimates[s:] - estimates[:s]
        found, method = _judge(paired, metric, by_seed, resamples)
    return Comparison(
        metric=metric,
        split=paired.split,
        base_values=tuple(estimates[:s].tolist()),
        variant_values=tuple(estimates[s:].tolist()),
        difference=found.interval,
        p_value=found.p_value,
        corrected_p=found.p_value,
        num_comparisons=1,
        method=method,
        scope=_scope(paired),
        n=len(paired),
        num_groups=None if paired.groups is None else paired.units,
        num_seeds=s,
    )


def correct_family(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The comparisons of one study, each judged with Holm's correction for all that were tested."""
    p_values = {i: one.p_value for i, one in enumerate(comparisons) if one.p_value is not None}
    corrected = dict(zip(p_values, holm(list(p_values.values())).tolist(), strict=True))
    return tuple(
        replace(one, corrected_p=corrected.get(i), num_comparisons=max(1, len(p_values)))
        for i, one in enumerate(comparisons)
    )


def p_words(p_value: float) -> str:
    """'p=0.012', or 'p<0.001' where it is smaller."""
    return "p<0.001" if p_value < 0.001 else f"p={p_value:.3f}"


def _check(metric: str, paired: Paired, num_resamples: int) -> None:
    if metric not in REACH:
        raise DataError(f"unknown metric '{metric}'; {nearest(metric, REACH)}")
    if metric == "kappa_quadratic" and paired.task != "ordinal":
        raise DataError(f"kappa_quadratic is for ordinal tasks; this one is {paired.task}.")
    if num_resamples < MIN_RESAMPLES:
        raise DataError(f"num_resamples must be at least {MIN_RESAMPLES}, got {num_resamples}.")


def _valuer(paired: Paired, metric: str) -> Callable[[Floats], Floats]:
    """From weights (n, r) to the metric of each model, (2S, r): the base's seeds come first."""
    models = (*paired.base, *paired.variant)
    if metric in _MEANS_OF_IMAGES:
        scores = np.stack([_by_image(one, paired, metric) for one in models])
        return lambda weights: scores @ weights / weights.sum(axis=0)
    scored = [prepare(one, paired.targets, paired.task) for one in models]
    return lambda weights: np.stack([one_value(one, weights, metric) for one in scored])


def _by_image(probabilities: Floats, paired: Paired, metric: str) -> Floats:
    """What each image adds to a metric that is a mean over images, (n,)."""
    if metric == "accuracy":
        return _right(probabilities, paired).astype(np.float64)
    by_image = brier_by_image if metric == "brier" else cross_entropy_by_image
    return np.asarray(by_image(probabilities, paired.targets, paired.task))


def _right(probabilities: Floats, paired: Paired) -> NDArray[np.bool_]:
    """Whether each image, with all of its labels, is right (n,)."""
    same = np.equal(predict_classes(probabilities, paired.task), paired.targets)
    return np.asarray(same.reshape(len(same), -1).all(axis=1))


def _resample(
    paired: Paired, values_of: Callable[[Floats], Floats], num_resamples: int, seed: int
) -> Floats:
    """Mean difference over seeds in each resample of the images, (r,).

    Not stratified by class: a resample may lack a rare class, and so shows how little one image of
    it proves.
    """
    strata = np.zeros(len(paired), dtype=np.int64)
    s, k = paired.num_seeds, len(paired.class_names)
    means = []
    for weights in resample_weights(strata, paired.groups, num_resamples, seed, k**2):
        found = values_of(weights)
        means.append((found[s:] - found[:s]).mean(axis=0))
    return np.concatenate(means)


def _judge(paired: Paired, metric: str, by_seed: Floats, resamples: Floats) -> tuple[Tested, str]:
    noun = "images" if paired.groups is None else "groups"
    evidence = Evidence(
        units=paired.units,
        noun="n" if paired.groups is None else "groups",
        freedom=_freedom(paired, metric),
        reach=REACH[metric],
        rarest=paired.units if metric in _MEANS_OF_IMAGES else min(_units_by_class(paired)),
    )
    if len(by_seed) > 1:
        words = f"t interval, bootstrap over {noun} and spread of {len(by_seed)} seeds"
        return seeds_test(by_seed, resamples, evidence), words
    found = percentile_test(float(by_seed[0]), resamples, evidence)
    if metric != "accuracy" or paired.groups is not None:
        return found, f"paired bootstrap over {noun}"
    exact = mcnemar_exact(_right(paired.base[0], paired), _right(paired.variant[0], paired))
    words = "exact McNemar test, interval of a paired bootstrap over images"
    return Tested(_told_alike(found.interval, exact), exact.p_value), words


def _told_alike(found: Interval, exact: McNemar) -> Interval:
    """The interval, its bound towards 0 that of the exact test where the two disagree on 0."""
    if found.value is None or found.low is None or found.high is None:
        return found
    if (found.low <= 0 <= found.high) == (exact.low <= 0 <= exact.high):
        return found
    if found.value > 0:
        return replace(found, low=exact.low)
    return replace(found, high=exact.high)


def _delong(paired: Paired) -> Tested:
    first, second = paired.base[0][:, 1], paired.variant[0][:, 1]
    return delong_test(first, second, paired.targets).tested


def _freedom(paired: Paired, metric: str) -> float:
    """Degrees of freedom of the variance over images.

    A mean over classes hangs on the rare ones.
    """
    if metric in _MEANS_OF_IMAGES:
        return max(1.0, paired.units - 1.0)
    return freedom_of_classes(_units_by_class(paired))


def _units_by_class(paired: Paired) -> list[int]:
    """Images (groups) of each class that there is; multi-label: of the rarer answer of each label.

    Without any that could be told apart, all of them.
    """
    units = np.arange(len(paired)) if paired.groups is None else paired.groups
    truth = one_hot(paired.targets, len(paired.class_names), paired.task) == 1
    found = [len(np.unique(units[of_class])) for of_class in truth.T]
    if paired.task == "multilabel":
        others = [len(np.unique(units[~of_class])) for of_class in truth.T]
        found = [min(pair) for pair in zip(found, others, strict=True)]
    return [m for m in found if m] or [paired.units]


def _binary(paired: Paired) -> bool:
    return paired.task != "multilabel" and len(paired.class_names) == 2


def _scope(paired: Paired) -> str:
    if paired.num_seeds == 1:
        return "these two trained models; one seed: says nothing of training again"
    same = all(
        np.array_equal(one, models[0]) for models in (paired.base, paired.variant) for one in models
    )
    if same:
        return "these two trained models; all seeds answered alike: says nothing of training again"
    return "training again with other seeds and judging on other such images"


def _why_undefined(paired: Paired) -> str:
    if paired.task == "multilabel":
        return "no label has both positives and negatives in this split"
    return "only one class in this split"
