"""All numbers of a split as metrics.json has them: estimate, 95 % interval or the reason for none.

Averages, said once: `macro` is the plain mean over classes that have images in the split
(`macro_over` names them), `weighted` weighs them by their images, `micro` pools all decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Interval, Task, finite_or_none
from scanwise.metrics.calibration import NUM_BINS, Calibration, describe_temperature
from scanwise.metrics.differences import freedom_of_classes
from scanwise.metrics.inputs import Floats, Ints, check_inputs
from scanwise.metrics.intervals import (
    MIN_UNITS,
    NUM_RESAMPLES,
    group_numbers,
    logit_interval,
    never_seen,
    percentile_interval,
    wilson_interval,
)
from scanwise.metrics.medmnist import medmnist_acc, medmnist_auc
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.resampled import (
    Scored,
    Values,
    confusion_counts,
    estimate,
    prepare,
    resample,
)
from scanwise.metrics.trivial import judge_classes, judge_labels, make_prior, trivial_baselines

SCHEMA = 1
HEADLINE = (
    "accuracy",
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "specificity_macro",
    "mcc",
    "kappa",
    "auroc_macro",
    "auprc_macro",
    "ece",
    "brier",
)
_EXTRAS = ("auroc_micro", "auprc_micro", "cross_entropy_loss")
_LABEL_EXTRAS = ("label_accuracy", "precision_micro", "recall_micro", "f1_micro")
_GRADE_EXTRAS = ("kappa_quadratic", "mean_absolute_grade_error")
PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")

_LOWEST = {"mcc": -1.0, "kappa": -1.0, "kappa_quadratic": -1.0}
_CLASS_AVERAGES = {
    *("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "specificity_macro"),
    *("mcc", "kappa", "auroc_macro", "auprc_macro"),
}
_RANKS = {"auroc_macro", "auprc_macro", "auroc_micro", "auprc_micro"}


def evaluate_split(
    probabilities: ArrayLike,
    targets: ArrayLike,
    class_names: Sequence[str],
    task: Task,
    *,
    groups: Sequence[str] | None = None,
    train_counts: ArrayLike | None = None,
    train_images: int | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Judge the predictions of one split.

    Accuracy and the rates of each class get Wilson intervals; all else that has two ends a t
    interval of its logit whose spread is the bootstrap's (stratified by class; multi-label: plain);
    loss and calibration error bootstrap percentiles. With groups all is bootstrapped by group.

    Args:
        probabilities: float (n, k); each row sums to 1, multi-label each in [0, 1].
        targets: Class indices (n,); multi-label (n, k) of 0 and 1.
        class_names: k names, index order. Of two classes the second is the positive one.
        task: In "multilabel", `accuracy` is the exact match of all labels at threshold 0.5.
        groups: Patient, slide, … of each image, n names.
        train_counts: Images of each class (positives of each label) in the training split, (k,);
            the trivial baselines are made of them. Without, of this split itself.
        train_images: Training images; needed beside train_counts in multi-label tasks.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.

    Returns:
        One entry of `splits` in metrics.json; JSON-ready, without NaN.

    Raises:
        DataError: If shapes differ, a value is out of range or a row does not sum to 1.
    """
    given, truth = check_inputs(probabilities, targets, task)
    names = tuple(class_names)
    n, k = given.shape
    if len(names) != k:
        raise DataError(f"{len(names)} class names for {k} columns of probabilities: {names}.")
    if groups is not None and len(groups) != n:
        raise DataError(f"groups have {len(groups)} rows, probabilities have {n}.")
    if num_resamples < 1:
        raise DataError(f"num_resamples must be at least 1, got {num_resamples}.")
    scored = prepare(given, truth, task)
    numbers = group_numbers(None if groups is None else np.asarray(groups, dtype=str))
    judged = _Judged(
        scored=scored,
        estimates={name: value[..., 0] for name, value in estimate(scored).items()},
        resamples=resample(scored, numbers, num_resamples, seed),
        groups=numbers,
        support=truth.sum(axis=0) if task == "multilabel" else np.bincount(truth, minlength=k),
    )
    headline = {name: _headline(judged, name) for name in _overall_names(task)}
    prior = make_prior(truth, k, task, train_counts, train_images)
    trivial = trivial_baselines(truth, names, task, prior)
    if task == "multilabel":
        verdict = judge_labels(scored.predicted, truth, names, headline, trivial)
    else:
        verdict = judge_classes(scored.predicted, truth, names, headline, trivial)
    units = judged.units(np.ones(n, dtype=bool))
    return {
        "n": n,
        "num_groups": None if groups is None else len(set(groups)),
        "task": task,
        **{name: interval.to_json() for name, interval in headline.items()},
        **_medmnist(given, truth, task),
        "macro_over": [name for name, images in zip(names, judged.support, strict=True) if images],
        "per_class": [_per_class(judged, i, name) for i, name in enumerate(names)],
        "confusion_matrix": confusion_counts(scored).tolist(),
        "trivial": trivial,
        "skill": verdict.skill,
        "skill_reason": verdict.reason,
        "accuracy_above_trivial": verdict.accuracy_above_trivial,
        "too_few_to_conclude": units < MIN_UNITS,
        "ece_bins": NUM_BINS,
        "bootstrap": {
            "resamples": num_resamples,
            "seed": seed,
            "unit": "image" if numbers is None else "group",
            "stratified": numbers is None and task != "multilabel",
            "interval": "logit",
        },
    }


def evaluate_predictions(
    predictions: Predictions,
    split: str,
    *,
    excluded: Sequence[str] = (),
    train_counts: ArrayLike | None = None,
    train_images: int | None = None,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """`evaluate_split` of one split of predictions.csv, without the samples in `excluded`.

    What was left out (images that leaked, say) is kept as `excluded`, so that the numbers can be
    recomputed.

    Raises:
        DataError: If the split has no rows, an excluded sample is not in it, or none is left.
    """
    chosen = predictions.of_split(split)
    if unknown := set(excluded) - set(chosen.sample):
        raise DataError(f"'{min(unknown)}' is excluded, but is no sample of split '{split}'.")
    if excluded:
        left_out = set(excluded)
        chosen = chosen.rows(np.array([sample not in left_out for sample in chosen.sample]))
    found = evaluate_rows(
        chosen,
        train_counts=train_counts,
        train_images=train_images,
        seed=seed,
        num_resamples=num_resamples,
    )
    return {**found, "excluded": sorted(excluded)} if excluded else found


def evaluate_rows(rows: Predictions, **how: Any) -> dict[str, Any]:
    """`evaluate_split` of all rows at hand, whatever their split; `how` are its keywords."""
    return evaluate_split(
        rows.probabilities, rows.targets, rows.class_names, rows.task, groups=rows.groups, **how
    )


def metrics_document(
    dataset: Mapping[str, Any],
    split_sha256: str,
    splits: Mapping[str, Mapping[str, Any]],
    *,
    clean_splits: Mapping[str, Mapping[str, Any]] | None = None,
    calibration: Mapping[str, Any] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """metrics.json, whole.

    Args:
        dataset: Facts about the data: name, class names, …
        split_sha256: Of splits.csv.
        splits: `evaluate_split` of "val" and "test".
        clean_splits: `evaluate_predictions` of the splits without their leaked samples.
        calibration: `calibration_document`.
        extra: Facts of the run (its id, the command); not numbers, those are verified nowhere.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "dataset": dict(dataset),
        "split_sha256": split_sha256,
        "splits": {name: dict(entry) for name, entry in splits.items()},
    }
    if clean_splits:
        document["clean_splits"] = {name: dict(entry) for name, entry in clean_splits.items()}
    if calibration is not None:
        document["calibration"] = dict(calibration)
    return {**document, **extra}


def calibration_document(calibration: Calibration, predictions: Predictions) -> dict[str, Any]:
    """Calibration with its effect on every split, JSON-ready: `splits.test.before.ece`, ….

    `predictions` hold calibrated probabilities; those before are computed back from them.
    """
    effects = {}
    for name in sorted(set(predictions.split)):
        rows = predictions.of_split(name)
        effects[name] = describe_temperature(
            rows.probabilities, rows.targets, calibration.temperature, rows.task
        )
    return {**calibration.to_json(), "splits": effects}


@dataclass(frozen=True, eq=False)
class _Judged:
    """What the intervals of one split are made of."""

    scored: Scored
    estimates: Values  # scalars (), per class (k,)
    resamples: Values  # scalars (r,), per class (k, r)
    groups: Ints | None  # (n,)
    support: Ints  # (k,) images of each class

    @property
    def noun(self) -> str:
        return "n" if self.groups is None else "groups"

    def units(self, chosen: NDArray[np.bool_]) -> int:
        """Independent units among the chosen images: images, or groups where there are any."""
        if self.groups is None:
            return int(chosen.sum())
        return len(np.unique(self.groups[chosen]))

    def edge_doubt(self) -> float:
        """What a perfect average over classes leaves open: the mean of what each class does."""
        return float(np.mean([never_seen(units) for units in self.class_units()]))

    def freedom(self) -> float:
        """Degrees of freedom of an average over classes, whose variances are about 1 / units."""
        return freedom_of_classes(self.class_units())

    def class_units(self) -> list[int]:
        """Independent units of each class that there is."""
        return [
            self.units(_of_class(self.scored, self.scored.targets, i))
            for i in range(self.scored.k)
            if self.support[i]
        ]


def _overall_names(task: Task) -> tuple[str, ...]:
    more = {"multilabel": _LABEL_EXTRAS, "ordinal": _GRADE_EXTRAS, "multiclass": ()}[task]
    return (*HEADLINE, *_EXTRAS, *more)


def _headline(judged: _Judged, name: str) -> Interval:
    scored = judged.scored
    value = float(judged.estimates[name])
    if name in _RANKS and all(_constant(scored.ranked[:, i]) for i in range(scored.k)):
        return Interval(None, reason="constant scores")
    if math.isnan(value):
        return Interval(None, reason=_why_undefined(scored.task))
    exact = name == "accuracy" or (name == "recall_weighted" and scored.task != "multilabel")
    if exact and judged.groups is None:
        right = scored.predicted == scored.targets
        if scored.task == "multilabel":
            right = right.all(axis=1)
        return wilson_interval(int(right.sum()), len(right))
    resamples, highest = judged.resamples[name], _highest(name, scored)
    units = judged.units(np.ones(len(scored.targets), dtype=bool))
    if name == "ece" or math.isinf(highest):
        return percentile_interval(
            value, resamples, units=units, noun=judged.noun, highest=highest, recentre=name == "ece"
        )
    of_classes = name in _CLASS_AVERAGES
    return logit_interval(
        value,
        resamples,
        units=units,
        noun=judged.noun,
        lowest=_LOWEST.get(name, 0.0),
        highest=highest,
        freedom=judged.freedom() if of_classes else None,
        edge_doubt=judged.edge_doubt() if of_classes else None,
    )


def _highest(name: str, scored: Scored) -> float:
    if name == "cross_entropy_loss":
        return math.inf
    if name == "mean_absolute_grade_error":
        return scored.k - 1.0
    if name == "brier" and scored.task != "multilabel":
        return 2.0
    return 1.0


def _why_undefined(task: Task) -> str:
    if task == "multilabel":
        return "no label has both positives and negatives in this split"
    return "only one class in this split"


def _per_class(judged: _Judged, index: int, class_name: str) -> dict[str, Any]:
    """One class (or label) against the rest."""
    found = {name: _class_interval(judged, index, name) for name in PER_CLASS}
    return {
        "name": class_name,
        "n": int(judged.support[index]),
        **{name: interval.to_json() for name, interval in found.items()},
    }


def _class_interval(judged: _Judged, index: int, name: str) -> Interval:
    scored = judged.scored
    truth, said = (
        _of_class(scored, scored.targets, index),
        _of_class(scored, scored.predicted, index),
    )
    if not truth.any():
        return Interval(None, reason="n=0")
    value = float(judged.estimates[name][index])
    rank = name in ("auroc", "auprc") and not math.isnan(value)
    if rank and _constant(scored.ranked[:, index]):
        return Interval(None, reason="constant scores")
    # The images that a rate is a share of, and those of them that count.
    shares = {
        "sensitivity": (truth, said),
        "specificity": (~truth, ~said),
        "ppv": (said, truth),
        "npv": (~said, ~truth),
    }
    if math.isnan(value):
        reasons = {"ppv": "never predicted", "npv": "always predicted"}
        return Interval(None, reason=reasons.get(name, "all images are of this class"))
    if name in shares:
        among, counted = shares[name]
        if judged.groups is None:
            return wilson_interval(int((among & counted).sum()), int(among.sum()))
        units = judged.units(among)
    elif name == "f1":
        units = judged.units(truth)
    else:
        units = min(judged.units(truth), judged.units(~truth))
    return logit_interval(value, judged.resamples[name][index], units=units, noun=judged.noun)


def _of_class(scored: Scored, indices: Ints, index: int) -> NDArray[np.bool_]:
    if scored.task == "multilabel":
        return np.asarray(indices[:, index] == 1)
    return np.asarray(indices == index)


def _constant(scores: Floats) -> bool:
    return bool((scores == scores[0]).all())


def _medmnist(probabilities: Floats, targets: Ints, task: Task) -> dict[str, Any]:
    """MedMNIST's own numbers, plain; null with the reason where its evaluator refuses."""
    auc = finite_or_none(medmnist_auc(targets, probabilities, task))
    refused = {"value": None, "reason": "a class is absent or universal in this split"}
    return {
        "medmnist_auc": refused if auc is None else auc,
        "medmnist_acc": medmnist_acc(targets, probabilities, task),
    }
