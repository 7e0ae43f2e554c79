"""Interval and p value of a difference, from the same resamples, so that they tell one story.

Resampling fewer than some hundred units understates what is not known: it lacks the factor
sqrt((f + 1) / f) and the longer tails of t with f degrees of freedom. Both are put in, in the
interval and in p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats
from scanwise.metrics.intervals import LEVEL, caution, never_seen

ALPHA = 1 - LEVEL
SMALLEST_P = float(np.finfo(np.float64).tiny)  # a p value is small, never 0
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Tested:
    """A difference and how surprising it is where there is none.

    `p_value` is in (0, 1], or None where nothing can be tested; `interval.reason` says why.
    """

    interval: Interval
    p_value: float | None

    def agreeing(self) -> Tested:
        """With an interval that reaches 0 wherever p does not reject at 0.05."""
        found = self.interval
        if self.p_value is None or self.p_value < ALPHA or found.low is None or found.high is None:
            return self
        opened = Interval(found.value, min(found.low, 0.0), max(found.high, 0.0), found.reason)
        return Tested(opened, self.p_value)


@dataclass(frozen=True)
class Evidence:
    """What stands behind a difference."""

    units: int  # independent ones: images, or groups
    noun: str  # "n" or "groups"
    freedom: float  # degrees of freedom of their variance, >= 1; units - 1 for a plain mean
    reach: float  # largest possible size of the difference; inf where unbounded
    rarest: int  # units of the rarest class, where the metric is a mean over classes; else units


def percentile_test(value: float, resamples: Floats, evidence: Evidence) -> Tested:
    """Expanded percentile interval of a difference, and the p value that goes with it.

    p is twice the smaller share of resamples on one side of 0, (r + 1) / (R + 1); resamples that
    can't be evaluated count against. The interval holds 0 exactly where p >= 0.05.

    Args:
        value: The difference; not NaN.
        resamples: The same in each of R bootstrap resamples, (R,); NaN where not evaluable.
        evidence: Units, and how far a difference that no resample moves is opened.

    Source:
        Efron and Tibshirani 1993, chapter 13; expansion Hesterberg, Am. Stat. 69, 2015, section
        4.1; (r + 1) / (R + 1) Davison and Hinkley, Bootstrap Methods, 1997, section 4.2.
    """
    usable = np.sort(resamples[~np.isnan(resamples)])
    lost = len(resamples) - len(usable)
    if refused := _refusal(value, len(usable), len(resamples), evidence):
        return refused
    if is_zero(float(usable[-1] - usable[0]), value):
        return _unmoved(value, evidence)
    freedom = evidence.freedom
    wider = math.sqrt((freedom + 1) / freedom)
    tail = float(ndtr(stdtrit(freedom, ALPHA / 2) * wider))
    k = max(math.ceil(tail * (len(usable) + 1)) - 1, 1) - 1
    low, high = min(float(usable[k]), value), max(float(usable[-1 - k]), value)
    contrary = min(int((usable <= 0).sum()), int((usable >= 0).sum())) + lost
    share = min(1.0, 2 * (contrary + 1) / (len(resamples) + 1))
    p_value = min(1.0, 2 * float(stdtr(freedom, float(ndtri(share / 2)) / wider)))
    note = caution(evidence.units, evidence.noun)
    return Tested(Interval(value, low, high, note), max(p_value, SMALLEST_P)).agreeing()


def seeds_test(by_seed: Floats, resamples: Floats, evidence: Evidence) -> Tested:
    """t interval and p of a mean difference over seeds: other images and other seeds count.

    Variance = bootstrap variance of the mean difference over images (groups) + variance of the
    differences of the seeds / S. What images and seeds do together is in both parts: slightly
    too wide rather than too narrow. Degrees of freedom after Satterthwaite, of those of the images
    and S - 1.

    Args:
        by_seed: Difference of each pair of seeds, (S,), S >= 2; not NaN.
        resamples: The mean difference in each of R bootstrap resamples, (R,), NaN allowed.
        evidence: As in `percentile_test`.

    Source:
        Satterthwaite, Biometrics Bull. 2, 1946. Both sources of variation: Bouthillier et al.,
        Accounting for Variance in Machine Learning Benchmarks, MLSys 2021.
    """
    value = float(by_seed.mean())
    usable = resamples[~np.isnan(resamples)]
    if refused := _refusal(value, len(usable), len(resamples), evidence):
        return refused
    images = float(usable.var(ddof=1)) * (evidence.freedom + 1) / evidence.freedom
    training = float(by_seed.var(ddof=1)) / len(by_seed)
    spread = math.sqrt(images + training)
    if is_zero(spread, value):
        return _unmoved(value, evidence)
    freedom = satterthwaite((images, training), (evidence.freedom, len(by_seed) - 1))
    half = -float(stdtrit(freedom, ALPHA / 2)) * spread
    low, high = max(value - half, -evidence.reach), min(value + half, evidence.reach)
    p_value = max(2 * float(stdtr(freedom, -abs(value) / spread)), SMALLEST_P)
    note = caution(evidence.units, evidence.noun)
    return Tested(Interval(value, low, high, note), p_value)


def satterthwaite(variances: Sequence[float], freedoms: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances, not all 0.

    >>> satterthwaite((1.0, 1.0), (9, 9))
    18.0
    """
    doubt = sum(part**2 / freedom for part, freedom in zip(variances, freedoms, strict=True))
    return float(sum(variances) ** 2 / doubt)


def freedom_of_classes(units: Sequence[int]) -> float:
    """Degrees of freedom of a mean over classes of so many units, whose variances are about 1 / m.

    >>> freedom_of_classes([11, 11])
    20.0
    """
    return satterthwaite([1 / m for m in units], [max(1, m - 1) for m in units])


def opened_interval(value: float, units: int, reach: float, note: str | None) -> Interval:
    """A difference that nothing moves, opened by what not one case in `units` leaves possible."""
    if math.isinf(reach):
        return Interval(value, reason="no interval: the same difference on every image")
    doubt = never_seen(units) * reach
    return Interval(value, max(value - doubt, -reach), min(value + doubt, reach), note)


def sign_p_value(value: float, units: int) -> float:
    """Two-sided sign test of `units` that all point one way; 1.0 for a difference of 0."""
    return 1.0 if is_zero(value, 1.0) else max(2 * 0.5**units, SMALLEST_P)


def is_zero(spread: float, value: float) -> bool:
    """Whether a spread is rounding only."""
    return abs(spread) <= _ROUNDING * max(1.0, abs(value))


def _unmoved(value: float, evidence: Evidence) -> Tested:
    note = caution(evidence.units, evidence.noun)
    interval = opened_interval(value, evidence.rarest, evidence.reach, note)
    return Tested(interval, sign_p_value(value, evidence.rarest)).agreeing()


def _refusal(value: float, usable: int, resamples: int, evidence: Evidence) -> Tested | None:
    if evidence.units < 2:
        return Tested(
            Interval(value, reason=f"no interval: {evidence.noun}={evidence.units}"), None
        )
    if usable < max(2, resamples / 2):
        return Tested(Interval(value, reason="no interval: most resamples lack a class"), None)
    return None
