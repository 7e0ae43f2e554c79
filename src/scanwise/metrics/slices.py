"""Is the model as good on each part of the images? Scores by sex, site, age, …, beside the rest.

A slice is compared with all other images of its split. Slices differ in their mix of classes, and
classes differ in how hard they are, so the difference that is tested is taken within each class and
then averaged over the classes that both sides have (Mantel-Haenszel weights).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scanwise.core.errors import DataError
from scanwise.core.types import Interval, Task
from scanwise.metrics.baselines import right_by_image, strata_of
from scanwise.metrics.counts import ratio
from scanwise.metrics.differences import ALPHA, Evidence, Tested, percentile_test
from scanwise.metrics.evaluate import evaluate_rows
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import NUM_RESAMPLES, group_numbers, resample_weights
from scanwise.metrics.multiplicity import holm
from scanwise.metrics.predictions import Predictions

MIN_IMAGES = 10  # a smaller slice is shown, and neither ranked nor tested (CAPABILITIES E10)
MAX_VALUES = 30  # of a column of words; more are names rather than slices
MAX_LEVELS = 6  # of a column of numbers that is taken value by value
NUM_BINS = 4
EMPTY = "(empty)"
_NO_VALUE = {"", "nan", "na", "n/a", "none", "null"}
PER_CLASS = ("sensitivity", "specificity", "auroc")


@dataclass(frozen=True, eq=False)
class Cut:
    """A column cut into slices."""

    column: str
    values: tuple[str, ...]  # s names in order; of quantile bins "30 to 45", both ends included
    member: Ints  # (n,) slice of each image, in [0, s)
    binned: bool  # numbers in quantile bins


@dataclass(frozen=True, eq=False)
class Slice:
    """One slice and how it differs from the rest of the split."""

    column: str
    value: str
    n: int
    num_groups: int | None  # None where each image stands alone
    scores: Mapping[str, Any]  # JSON entries of overall metrics
    per_class: Sequence[Mapping[str, Any]]
    difference: Interval  # share right, slice minus rest
    within_class: Interval  # the same within classes; equal to it in multi-label tasks
    p_value: float | None  # of `within_class`
    corrected_p: float | None  # Holm, over all ranked slices of all columns

    @property
    def ranked(self) -> bool:
        return self.n >= MIN_IMAGES

    @property
    def verdict(self) -> str:
        """'worse', 'better', 'not distinguishable' or 'not tested', against the rest."""
        gap = self.within_class.value
        if not self.ranked or gap is None or self.corrected_p is None:
            return "not tested"
        if self.corrected_p >= ALPHA or gap == 0:
            return "not distinguishable"
        return "worse" if gap < 0 else "better"

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "value": self.value,
            "n": self.n,
            "num_groups": self.num_groups,
            "ranked": self.ranked,
            **self.scores,
            "difference": self.difference.to_json(),
            "difference_within_class": self.within_class.to_json(),
            "p_value": self.p_value,
            "corrected_p": self.corrected_p,
            "verdict": self.verdict,
            "per_class": [dict(entry) for entry in self.per_class],
        }


def cut_column(column: str, cells: Sequence[str]) -> Cut:
    """Slices of a column: its values; of numbers with more than MAX_LEVELS values, quarters.

    Quarters are cut at the quantiles of these cells; equal numbers stay together, so there may be
    fewer or unequal ones. Empty cells (also "nan", "none", …) are a slice of their own.

    Raises:
        DataError: If there is one value only, or more than MAX_VALUES words.
    """
    given = [EMPTY if cell.strip().lower() in _NO_VALUE else cell.strip() for cell in cells]
    distinct = sorted(set(given) - {EMPTY})
    numbers = _numbers(distinct)
    binned = numbers is not None and len(set(numbers.values())) > MAX_LEVELS
    if numbers is not None and binned:
        names = _quartiles([numbers[cell] for cell in given if cell != EMPTY])
        given = [cell if cell == EMPTY else names[numbers[cell]] for cell in given]
        values = list(dict.fromkeys(names[number] for number in sorted(names)))
    elif numbers is not None:
        values = sorted(distinct, key=lambda cell: (numbers[cell], cell))
    else:
        values = distinct
    values += [EMPTY] if EMPTY in given else []
    if len(values) < 2:
        said = f"the one value '{values[0]}'" if values else "no rows"
        raise DataError(f"column '{column}' has {said} in {len(given)} images; nothing to compare.")
    if len(values) > MAX_VALUES:
        raise DataError(
            f"column '{column}' has {len(values)} different values, such as '{values[0]}'; slices "
            f"need at most {MAX_VALUES}."
        )
    index = {value: i for i, value in enumerate(values)}
    member = np.array([index[cell] for cell in given], dtype=np.int64)
    return Cut(column, tuple(values), member, binned)


def judge_slices(
    predictions: Predictions,
    cuts: Sequence[Cut],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[Slice, ...]:
    """Scores of every slice, and its difference to the rest of the images.

    Args:
        predictions: Of one split, with groups where there are any: then whole groups are resampled.
        cuts: Of the same n images; at least one.
        num_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Slices in the order of columns and values. p values are two-sided, of the difference within
        classes, corrected together by Holm's method; the two halves of a column count once.

    Raises:
        DataError: If a cut is not of n images.

    Source:
        Differences within strata: Greenland and Robins, Biometrics 41, 1985 (Mantel-Haenszel risk
        difference).
    """
    for cut in cuts:
        if len(cut.member) != len(predictions):
            raise DataError(
                f"column '{cut.column}' has {len(cut.member)} cells, predictions have "
                f"{len(predictions)}."
            )
    numbers = group_numbers(predictions.groups)
    blocks = resample_weights(strata_of(predictions), numbers, num_resamples, seed)
    sums = [_Sums.of(cut, predictions) for cut in cuts]
    whole = [part.differences(np.ones((len(predictions), 1))) for part in sums]
    drawn = [[part.differences(weights) for part in sums] for weights in blocks]
    found: list[Slice] = []
    for c, cut in enumerate(cuts):
        resampled = np.concatenate([block[c] for block in drawn], axis=-1)
        for s in range(len(cut.values)):
            chosen = cut.member == s
            evidence = _evidence(chosen, numbers)
            plain, within = (
                _tested(whole[c][kind, s, 0], resampled[kind, s], evidence) for kind in (0, 1)
            )
            found.append(_slice(predictions, cut, s, plain, within, num_resamples, seed))
    return _corrected(found)


def worst_slice(slices: Sequence[Slice]) -> Slice | None:
    """The ranked slice that lies furthest below the rest, at the same classes; None without one."""
    ranked = [part for part in slices if part.ranked and part.corrected_p is not None]
    return min(ranked, key=lambda part: part.within_class.value or 0.0, default=None)


def num_comparisons(slices: Sequence[Slice]) -> int:
    """Comparisons that the corrected p values count."""
    return len(_family(slices))


def headline_names(task: Task) -> tuple[str, ...]:
    """Overall metrics that are kept of each slice, as metrics.json names them."""
    more = {
        "multilabel": ("label_accuracy",),
        "ordinal": ("kappa_quadratic", "mean_absolute_grade_error"),
        "multiclass": (),
    }[task]
    return ("accuracy", "balanced_accuracy", "auroc_macro", *more)


@dataclass(frozen=True, eq=False)
class _Sums:
    """What adds up images (or right ones) of each slice and class."""

    images: Any  # sparse (s * k, n)
    right: Any  # the same times how right each image is
    shape: tuple[int, int]  # s, k

    @classmethod
    def of(cls, cut: Cut, predictions: Predictions) -> _Sums:
        strata = strata_of(predictions)
        shape = (len(cut.values), int(strata.max()) + 1)
        n = len(strata)
        cells = (cut.member * shape[1] + strata, np.arange(n))
        right = right_by_image(predictions)
        size = (shape[0] * shape[1], n)
        return cls(
            sparse.csr_matrix((np.ones(n), cells), shape=size),
            sparse.csr_matrix((right, cells), shape=size),
            shape,
        )

    def differences(self, weights: Floats) -> Floats:
        """Plain and within-class difference of each slice, (2, s, r), NaN where there is none."""
        inside = np.asarray(self.images @ weights).reshape(*self.shape, -1)
        right = np.asarray(self.right @ weights).reshape(*self.shape, -1)
        outside, right_outside = inside.sum(axis=0) - inside, right.sum(axis=0) - right
        plain = ratio(right.sum(axis=1), inside.sum(axis=1)) - ratio(
            right_outside.sum(axis=1), outside.sum(axis=1)
        )
        gaps = np.nan_to_num(ratio(right * outside - right_outside * inside, inside + outside))
        shared = np.nan_to_num(ratio(inside * outside, inside + outside))
        return np.stack([plain, ratio(gaps.sum(axis=1), shared.sum(axis=1))])


def _evidence(chosen: NDArray[np.bool_], groups: Ints | None) -> Evidence:
    """The smaller of the two sides decides how much is known."""
    if groups is None:
        units, noun = min(int(chosen.sum()), int((~chosen).sum())), "n"
    else:
        sides = (len(np.unique(groups[side])) for side in (chosen, ~chosen))
        units, noun = min(sides), "groups"
    return Evidence(units, noun, freedom=max(units - 1, 1), reach=1.0, rarest=max(units, 1))


def _tested(value: float, resamples: Floats, evidence: Evidence) -> Tested:
    if math.isnan(value):
        return Tested(Interval(None, reason="no class in common with the rest"), None)
    return percentile_test(float(value), resamples, evidence)


def _slice(
    predictions: Predictions,
    cut: Cut,
    index: int,
    plain: Tested,
    within: Tested,
    num_resamples: int,
    seed: int,
) -> Slice:
    part = predictions.rows(cut.member == index)
    judged = evaluate_rows(part, num_resamples=num_resamples, seed=seed)
    return Slice(
        column=cut.column,
        value=cut.values[index],
        n=len(part),
        num_groups=judged["num_groups"],
        scores={name: _unsure(judged[name]) for name in headline_names(part.task)},
        per_class=[
            {"name": entry["name"], "n": entry["n"], **{key: entry[key] for key in PER_CLASS}}
            for entry in judged["per_class"]
        ],
        difference=plain.interval,
        within_class=within.interval,
        p_value=within.p_value if len(part) >= MIN_IMAGES else None,
        corrected_p=None,
    )


def _unsure(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Without an interval of no width: of a handful of images all resamples can agree."""
    low, high = entry.get("ci95") or (0.0, 1.0)
    if high - low > 1e-9:
        return dict(entry)
    return {"value": entry["value"], "ci95": None, "reason": "no interval: no resample differs"}


def _family(slices: Sequence[Slice]) -> dict[tuple[str, str], float]:
    """p of each comparison; the two halves of a column are one."""
    return {_key(part, slices): part.p_value for part in slices if part.p_value is not None}


def _key(part: Slice, slices: Sequence[Slice]) -> tuple[str, str]:
    siblings = sum(other.column == part.column for other in slices)
    return part.column, "" if siblings == 2 else part.value


def _corrected(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """With Holm's p over the ranked slices."""
    family = _family(slices)
    corrected = dict(zip(family, holm(list(family.values())).tolist(), strict=True))
    return tuple(
        part if part.p_value is None else replace(part, corrected_p=corrected[_key(part, slices)])
        for part in slices
    )


def _numbers(cells: Sequence[str]) -> dict[str, float] | None:
    """Cell -> number, or None if one is no finite number (or there is none)."""
    try:
        found = {cell: float(cell) for cell in cells}
    except ValueError:
        return None
    return found if found and all(map(math.isfinite, found.values())) else None


def _quartiles(numbers: Sequence[float]) -> dict[float, str]:
    """Number -> name of its bin, by the quantiles of all numbers."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    distinct = np.unique(numbers)
    place = np.searchsorted(edges, distinct, side="left")
    names: dict[float, str] = {}
    for bin_number in np.unique(place):
        inside = distinct[place == bin_number]
        low, high = inside[0], inside[-1]
        said = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        names |= dict.fromkeys(inside.tolist(), said)
    return names
