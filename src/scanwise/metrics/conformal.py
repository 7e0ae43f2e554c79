"""Prediction sets that hold the true class with a promised probability (split conformal).

The set of an image is every class whose probability reaches a bar; the bar comes from validation
(least ambiguous sets, "LAC"). With exchangeable images the set of a new image holds its true class
with probability at least 1 - alpha: on average over images (marginal), or, with one bar a class,
over the images of each class. It is no promise about a single image, and none where new images
come from another scanner, hospital or mix of patients.

Source:
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Sadinle, Lei and
    Wasserman, J. Am. Stat. Assoc. 114, 2019 (LAC, and one bar a class).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import group_numbers
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.shares import Mask, mean_interval, share_interval

ALPHA = 0.1
PROMISE = (
    "coverage is an average over images like those of validation (exchangeable), no promise about "
    "one image"
)
GROUPS = (
    "images of one group are not independent, so the promise holds less exactly: it counts images, "
    "while new images come in new groups"
)
CHOSEN = "validation also chose the epoch and the temperature, which may cost a little coverage"


@dataclass(frozen=True)
class SetRule:
    """What sets are to promise.

    Raises:
        DataError: If alpha is not inside (0, 1).
    """

    alpha: float = ALPHA
    class_conditional: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise DataError(
                f"alpha={self.alpha} must lie between 0 and 1; 0.1 promises that 90 % of sets hold "
                "the true class."
            )

    @property
    def needed(self) -> int:
        """Images (of each class, where it is class-conditional) that calibration needs."""
        return math.ceil(1 / _exact(self.alpha))

    def to_json(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "class_conditional": self.class_conditional}


def quantile_rank(n: int, alpha: float) -> int:
    """Which of n sorted scores is the conformal quantile: ceil((n + 1)(1 - alpha)), from 1.

    Exact for alpha as it is written (0.1 is a tenth). Above n there is no bound: n is too small.

    >>> quantile_rank(9, 0.1), quantile_rank(100, 0.1)
    (9, 91)
    """
    return n + 1 - math.floor((n + 1) * _exact(alpha))


def _exact(alpha: float) -> Fraction:
    return Fraction(str(alpha))


def lowest_kept(probabilities: ArrayLike, alpha: float) -> float:
    """The bar: the conformal quantile of 1 - p, as the probability p that it leaves in the set.

    Args:
        probabilities: Of the true class of each calibration image, (n,) with n >= 1 / alpha.
        alpha: Allowed share of sets without the true class.

    Raises:
        DataError: If there are too few images.
    """
    given = np.sort(np.asarray(probabilities, dtype=np.float64))[::-1]
    rank = quantile_rank(len(given), alpha)
    if rank > len(given) or len(given) < 1 / _exact(alpha):
        raise DataError(
            f"{len(given)} images can't promise 1 - {alpha:g}: at least "
            f"{math.ceil(1 / _exact(alpha))} are needed."
        )
    return float(given[rank - 1])


def fit_bars(
    probabilities: Floats, targets: Ints, class_names: Sequence[str], rule: SetRule
) -> dict[str, float]:
    """The bar of each class, by name; one and the same for all unless class-conditional.

    Args:
        probabilities: Of validation, float (n, k).
        targets: Class indices (n,).
        class_names: k names.
        rule: What is to be promised.

    Raises:
        DataError: If validation (or one of its classes) has fewer than 1 / alpha images.
    """
    if len(targets) < rule.needed:
        each = " of each class" if rule.class_conditional else ""
        raise DataError(
            f"alpha={rule.alpha:g} needs at least {rule.needed} validation images{each}, there are "
            f"{len(targets)} in all; take a larger alpha."
        )
    own = probabilities[np.arange(len(targets)), targets]
    if not rule.class_conditional:
        return dict.fromkeys(class_names, lowest_kept(own, rule.alpha))
    counts = np.bincount(targets, minlength=len(class_names))
    few = [f"'{name}' {n}" for name, n in zip(class_names, counts, strict=True) if n < rule.needed]
    if few:
        raise DataError(
            f"a promise for each class with alpha={rule.alpha:g} needs at least {rule.needed} "
            f"validation images of each, there are {', '.join(few)}. Take a larger alpha, or leave "
            "out --class-conditional: then the promise is for all images together."
        )
    return {
        name: lowest_kept(own[targets == index], rule.alpha)
        for index, name in enumerate(class_names)
    }


def in_sets(
    probabilities: Floats, bars: Mapping[str, float], class_names: Sequence[str]
) -> NDArray[np.bool_]:
    """Which classes are in the set of each image, bool (n, k); NaN probabilities are in none."""
    return probabilities >= np.array([bars[name] for name in class_names])


def sets_document(
    val: Predictions | None, rule: SetRule, parts: Mapping[str, Predictions]
) -> dict[str, Any]:
    """Bars from validation, and what their sets achieve on each part; JSON-ready.

    Raises:
        DataError: If there is nothing to calibrate with, or too little; multi-label.
    """
    if val is None:
        raise DataError("there are no predictions of validation images to calibrate sets with.")
    if val.task == "multilabel":
        raise DataError(
            "prediction sets name the one true class; with several labels an image has no such "
            "class. Use a threshold for each label: `scanwise thresholds RUN --class NAME ...`."
        )
    bars = fit_bars(val.probabilities, val.targets, val.class_names, rule)
    grouped = group_numbers(val.groups) is not None
    return {
        "fitted": True,
        "method": "lac",
        **rule.to_json(),
        "fitted_on": "val",
        "n": len(val),
        "min_probability": bars,
        "notes": [PROMISE, *([GROUPS] if grouped else []), CHOSEN],
        "splits": {name: describe_sets(rows, bars) for name, rows in parts.items()},
    }


def describe_sets(
    predictions: Predictions, bars: Mapping[str, float], *, seed: int = 0
) -> dict[str, Any]:
    """Coverage, mean size, shares of single and empty sets, overall and by class of one split."""
    inside = in_sets(predictions.probabilities, bars, predictions.class_names)
    groups = group_numbers(predictions.groups)
    size = inside.sum(axis=1)
    covered = inside[np.arange(len(size)), predictions.targets]
    every = np.ones(len(size), dtype=bool)

    def share(counted: Mask, among: Mask) -> dict[str, Any]:
        return share_interval(counted, among, groups, seed=seed).to_json()

    per_class = []
    for index, name in enumerate(predictions.class_names):
        own = predictions.targets == index
        per_class.append({"name": name, "n": int(own.sum()), "coverage": share(covered, own)})
    highest = float(len(predictions.class_names))
    mean_size = mean_interval(size.astype(np.float64), groups, highest=highest, seed=seed)
    return {
        "n": len(size),
        "coverage": share(covered, every),
        "mean_size": mean_size.to_json(),
        "single": share(size == 1, every),
        "single_right": share(covered, size == 1),
        "empty": share(size == 0, every),
        "per_class": per_class,
    }
