"""Operating thresholds: from which probability on is an image called a class?

One class stands against all others (a label: against its absence). An image is called the class
where its probability is at least the threshold. A threshold is chosen on validation, never on test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import group_numbers
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.shares import Mask, share_interval

Kind = Literal["sensitivity", "specificity", "youden", "cost"]

# A target is refused if less than a tenth of a mistake would be allowed among the images that
# decide it: 0.999 of 20 says no more than "all of these 20".
FEWEST_ALLOWED_MISTAKES = 0.1


@dataclass(frozen=True)
class Rule:
    """How a threshold is to be chosen.

    Raises:
        DataError: If a target is not inside (0, 1), or a cost not above 0.
    """

    kind: Kind
    target: float | None = None  # of "sensitivity" and "specificity"
    miss: float | None = None  # of "cost": what overlooking an image of the class costs,
    false_alarm: float | None = None  # and what calling another image the class costs

    def __post_init__(self) -> None:
        if self.kind in ("sensitivity", "specificity"):
            if self.target is None or not 0 < self.target < 1:
                raise DataError(
                    f"a {self.kind} of {self.target} can't be a target: give a number above 0 and "
                    "below 1, such as 0.95. No number of images supports 1."
                )
        elif self.kind == "cost":
            for name, value in (("miss", self.miss), ("false alarm", self.false_alarm)):
                if value is None or not (value > 0 and math.isfinite(value)):
                    raise DataError(f"the cost of a {name} must be a number above 0, got {value}.")

    def words(self) -> str:
        if self.kind == "youden":
            return "largest sensitivity + specificity - 1 (Youden)"
        if self.kind == "cost":
            return f"a miss costs {self.miss:g}, a false alarm {self.false_alarm:g}"
        return f"{self.kind} of at least {self.target:g}"

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rule:
        return cls(**value)


@dataclass(frozen=True)
class Chosen:
    """A threshold in [0, 1], how it was found, and what to mind."""

    value: float
    how: str
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Cuts:
    """Every threshold that parts the scores, rising; c of them, with the images on each side."""

    value: Floats  # (c,) midway between neighbouring scores
    tp: Ints  # (c,)
    tn: Ints  # (c,)
    positives: int
    negatives: int


def choose_threshold(
    scores: Floats, positive: Mask, rule: Rule, name: str, *, calibrated: bool = False
) -> Chosen:
    """The threshold that the rule asks for, from validation images.

    A sensitivity takes the highest threshold that reaches it, a specificity the lowest, so that the
    other rate is as high as it can be. Youden takes the largest sum of both; of equals, the one
    that finds more. Costs take Elkan's threshold, false alarm / (false alarm + miss), where
    probabilities were calibrated, else the threshold of least cost on these images.

    Args:
        scores: Probability of the class, float (n,).
        positive: Which images are of the class, bool (n,).
        rule: What is wanted.
        name: Of the class, for messages.
        calibrated: Whether a temperature was fitted, so that a probability can be taken at its
            word.

    Raises:
        DataError: If there are no images of the class (or of others), all scores are equal, or
            no threshold reaches the target; says the best that is reachable.

    Source:
        Youden, Cancer 3, 1950; Elkan, IJCAI 2001 (equation 4, correct decisions costing nothing).
    """
    _check_both_sides(scores, positive, name)
    if rule.kind == "cost" and calibrated:
        return _elkan(scores, rule)
    cuts = _cuts(scores, positive)
    if rule.kind == "cost":
        return _cheapest(cuts, rule, name)
    if rule.kind == "youden":
        return _youden(cuts, name)
    return _reach(cuts, rule, name)


def one_vs_rest(predictions: Predictions, index: int) -> tuple[Floats, Mask]:
    """Probability of a class (n,), and which images are of it (n,)."""
    if predictions.task == "multilabel":
        return predictions.probabilities[:, index], predictions.targets[:, index] == 1
    return predictions.probabilities[:, index], predictions.targets == index


def rates_at(predictions: Predictions, index: int, said: Mask, *, seed: int = 0) -> dict[str, Any]:
    """Sensitivity and specificity of calling images a class, each with n and 95 % interval.

    Args:
        predictions: Of one split.
        index: The class.
        said: Which images are called it, bool (n,).
        seed: Of the bootstrap, which draws whole groups where images have groups.
    """
    _, positive = one_vs_rest(predictions, index)
    groups = group_numbers(predictions.groups)
    return {
        "n": len(predictions),
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "true_positives": int((positive & said).sum()),
        "true_negatives": int((~positive & ~said).sum()),
        "sensitivity": share_interval(said, positive, groups, seed=seed).to_json(),
        "specificity": share_interval(~said, ~positive, groups, seed=seed).to_json(),
    }


def threshold_document(
    val: Predictions, index: int, rule: Rule, parts: Mapping[str, Predictions], *, calibrated: bool
) -> dict[str, Any]:
    """A threshold chosen on `val`, and what it achieves on each part; JSON-ready.

    Raises:
        DataError: As `choose_threshold`.
    """
    name = val.class_names[index]
    scores, positive = one_vs_rest(val, index)
    chosen = choose_threshold(scores, positive, rule, name, calibrated=calibrated)
    achieved = {
        part: rates_at(rows, index, one_vs_rest(rows, index)[0] >= chosen.value)
        for part, rows in parts.items()
    }
    return {
        "class": name,
        "threshold": chosen.value,
        "rule": rule.to_json(),
        "rule_words": rule.words(),
        "how": chosen.how,
        "chosen_on": "val",
        "cautions": [*chosen.cautions, *_missed_on_test(rule, achieved)],
        "splits": achieved,
    }


def _missed_on_test(rule: Rule, achieved: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Says so where the test interval lies below the target."""
    if rule.target is None or "test" not in achieved:
        return []
    found = Interval.from_json(achieved["test"][rule.kind])
    if found.high is None or found.high >= rule.target:
        return []
    return [f"test did not keep it: {rule.kind} {found} lies below the target of {rule.target:g}"]


def _check_both_sides(scores: Floats, positive: Mask, name: str) -> None:
    for count, what in ((positive.sum(), f"of '{name}'"), ((~positive).sum(), "of anything else")):
        if not count:
            raise DataError(
                f"validation has no image {what} ({len(scores):,} in all), so no threshold of "
                f"'{name}' can be chosen; a split with such images is needed."
            )
    if (scores == scores[0]).all():
        raise DataError(
            f"all {len(scores):,} validation images have the same probability of '{name}' "
            f"({scores[0]:.4g}): no threshold separates anything. Train a better model first."
        )


def _cuts(scores: Floats, positive: Mask) -> _Cuts:
    """The thresholds between neighbouring scores; those that call all or none are left out."""
    distinct, place = np.unique(scores, return_inverse=True)
    hits = np.bincount(place, weights=positive, minlength=len(distinct)).astype(np.int64)
    others = np.bincount(place, minlength=len(distinct)) - hits
    middle = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    # Between two neighbouring floats there is no third: then the upper one.
    value = np.where(middle > distinct[:-1], middle, distinct[1:])
    tp = hits.sum() - np.cumsum(hits)[:-1]
    return _Cuts(value, tp, np.cumsum(others)[:-1], int(hits.sum()), int(others.sum()))


def _reach(cuts: _Cuts, rule: Rule, name: str) -> Chosen:
    """The target met by thresholds that find one image at least and clear one at least."""
    assert rule.target is not None
    found = rule.kind == "sensitivity"
    counts, n = (cuts.tp, cuts.positives) if found else (cuts.tn, cuts.negatives)
    which = f"images of '{name}'" if found else f"images that are not '{name}'"
    _check_fine_enough(rule, n, which)
    useful = np.flatnonzero((cuts.tp > 0) & (cuts.tn > 0))
    enough = useful[counts[useful] >= rule.target * n - 1e-9]
    if not len(enough):
        best = int(counts[useful].max()) if len(useful) else 0
        side = "all images" if found else "no image"
        raise DataError(
            f"a {rule.kind} of {rule.target:g} is not reachable for '{name}': the best on "
            f"validation is {best / n:.3f} ({best} of {n} {which}); beyond it a threshold would "
            f"call {side} '{name}'. Ask for at most {math.floor(best / n * 1000) / 1000:g}, or "
            "train a better model."
        )
    place = enough[-1] if found else enough[0]
    cautions = []
    if n * (1 - rule.target) < 1:
        needed = math.ceil(1 / (1 - rule.target) - 1e-9)
        cautions.append(
            f"{n} {which} are too few to tell a {rule.kind} of {rule.target:g} from 1: it asked "
            f"for all {n}; only from {needed} on is a single mistake allowed. Read the interval"
        )
    how = f"{'highest' if found else 'lowest'} threshold on validation that reaches the target"
    return Chosen(float(cuts.value[place]), how, tuple(cautions))


def _check_fine_enough(rule: Rule, n: int, which: str) -> None:
    assert rule.target is not None
    if n * (1 - rule.target) >= FEWEST_ALLOWED_MISTAKES:
        return
    needed = math.ceil(1 / (1 - rule.target) - 1e-9)
    raise DataError(
        f"a {rule.kind} of {rule.target:g} can't be reached knowingly with {n} {which} in "
        f"validation: one mistake among them is {(n - 1) / n:.3f} already, so the best reachable "
        f"below 1 is {(n - 1) / n:.3f}. Ask for that or less, or validate on {needed:,} or more."
    )


def _youden(cuts: _Cuts, name: str) -> Chosen:
    gain = cuts.tp / cuts.positives + cuts.tn / cuts.negatives - 1
    best = int(np.argmax(gain))  # the lowest of equals
    if gain[best] <= 1e-12:
        raise DataError(
            f"no threshold of '{name}' is better than calling all images alike: the best "
            f"sensitivity + specificity - 1 on validation is {gain[best]:.3f}."
        )
    return Chosen(float(cuts.value[best]), "largest sum on validation")


def _elkan(scores: Floats, rule: Rule) -> Chosen:
    assert rule.miss is not None
    assert rule.false_alarm is not None
    value = rule.false_alarm / (rule.false_alarm + rule.miss)
    how = (
        "false alarm / (false alarm + miss) (Elkan 2001), which takes calibrated probabilities at "
        "their word: right while the class is as frequent as in validation"
    )
    above = int((scores >= value).sum())
    lonely = {0: "no image", len(scores): "every image"}.get(above)
    cautions = (f"{lonely} of validation reaches it",) if lonely else ()
    return Chosen(value, how, cautions)


def _cheapest(cuts: _Cuts, rule: Rule, name: str) -> Chosen:
    assert rule.miss is not None
    assert rule.false_alarm is not None
    cost = rule.miss * (cuts.positives - cuts.tp) + rule.false_alarm * (cuts.negatives - cuts.tn)
    best = int(np.argmin(cost))
    flat = {
        f"calling every image '{name}'": rule.false_alarm * cuts.negatives,
        f"calling no image '{name}'": rule.miss * cuts.positives,
    }
    n = cuts.positives + cuts.negatives
    for words, price in flat.items():
        if price <= cost[best]:
            raise DataError(
                f"at these costs {words} is the cheapest on validation ({price / n:.3g} an image, "
                f"the best threshold {cost[best] / n:.3g}): no threshold helps. Give other costs, "
                "or train a better model."
            )
    how = (
        f"least cost on validation ({cost[best] / n:.3g} an image), since probabilities were not "
        "calibrated"
    )
    return Chosen(float(cuts.value[best]), how)
