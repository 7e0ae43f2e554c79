"""What a model that never looks gets, and whether a model is better than that.

A score means nothing beside these: 25.0 % on four balanced classes is what one constant answer
gets, and 68.4 % beside a 66.9 % majority class is next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from scanwise.core.errors import DataError
from scanwise.core.types import Interval, Task, finite_or_none
from scanwise.metrics.calibration import brier_by_image, cross_entropy_by_image
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.resampled import matrix_values

Skill = Literal["ok", "no_skill", "collapsed"]

COLLAPSED_SHARE = 0.95  # of predictions that are one and the same (CAPABILITIES E6)
# A model may give up accuracy for the rare classes, and then accuracy is no longer above the
# majority's. It counts as skilled if its balanced accuracy is surely a tenth of the way from
# chance to perfect; a few lucky images beside the majority class do not reach that.
CLEAR_SHARE = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether a model may be praised, and why (not)."""

    skill: Skill
    reason: str
    accuracy_above_trivial: bool


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known without looking at an image: how frequent classes (labels) are."""

    counts: Ints  # (k,) images of each class, positives of each label
    images: int
    source: Literal["train", "this split"]

    @property
    def shares(self) -> Floats:
        """Share of images with each class or label, (k,)."""
        return self.counts / self.images


def make_prior(
    targets: Ints,
    k: int,
    task: Task,
    train_counts: ArrayLike | None = None,
    train_images: int | None = None,
) -> Prior:
    """Class frequencies of the training split where given, else of these targets.

    Raises:
        DataError: If the counts are not k whole numbers, all 0, or (multi-label) come without the
            number of training images.
    """
    if train_counts is None:
        counts = targets.sum(axis=0) if task == "multilabel" else np.bincount(targets, minlength=k)
        return Prior(counts.astype(np.int64), len(targets), "this split")
    given = np.asarray(train_counts)
    if given.shape != (k,) or given.dtype.kind not in "iu" or given.min() < 0:
        raise DataError(f"train_counts must be {k} whole numbers, got {given.tolist()}.")
    if task == "multilabel":
        if train_images is None or train_images < given.max():
            raise DataError(
                "multi-label train_counts need train_images, the number of training images "
                f"(at least {given.max()}), got {train_images}."
            )
        return Prior(given.astype(np.int64), train_images, "train")
    if given.sum() == 0:
        raise DataError("train_counts are all 0.")
    return Prior(given.astype(np.int64), int(given.sum()), "train")


def trivial_baselines(
    targets: Ints, class_names: tuple[str, ...], task: Task, prior: Prior
) -> dict[str, Any]:
    """Scores of models that never look at the image, JSON-ready.

    Args:
        targets: Checked truth of the split, (n,); multi-label (n, k).
        class_names: k names.
        task: Decides the baselines.
        prior: What the baselines may know.

    Returns:
        "majority": always the most frequent class (labels that more than half of the images
        have). "prior": guesses drawn by class frequency (accuracies are expected values), and the
        frequencies themselves given as probabilities (brier, cross_entropy_loss). Multi-label also
        "all_negative". And "counts", "images", "counts_from": what they were made of.

    Source:
        scikit-learn's DummyClassifier, strategies most_frequent, stratified and prior.
    """
    made_of = {
        "counts_from": prior.source,
        "counts": prior.counts.tolist(),
        "images": prior.images,
    }
    if task == "multilabel":
        often = prior.shares > 0.5
        labels = [name for name, chosen in zip(class_names, often, strict=True) if chosen]
        return {
            "majority": {"labels": labels, **_constant_labels(targets, often)},
            "all_negative": _constant_labels(targets, np.zeros_like(often)),
            "prior": _prior_labels(targets, prior.shares),
            **made_of,
        }
    majority = int(prior.counts.argmax())
    return {
        "majority": {
            "class": class_names[majority],
            **_constant_class(targets, majority, len(class_names), task),
        },
        "prior": _prior_classes(targets, prior.shares, task),
        **made_of,
    }


def judge_classes(
    predicted: Ints,
    targets: Ints,
    class_names: tuple[str, ...],
    headline: Mapping[str, Interval],
    trivial: Mapping[str, Any],
) -> Verdict:
    """Verdict on a model that gives one class per image.

    collapsed: at least 95 % of predictions are one class, and it is not 95 % of the truth too.
    no_skill: balanced accuracy or AUROC (95 % bound) is not above chance; or accuracy is not above
    the majority class, and balanced accuracy not clearly above chance either.

    The majority baseline is the same number in every stratified resample, so holding it against the
    bound of an interval is the paired comparison.
    """
    k = len(class_names)
    baseline = float(trivial["majority"]["accuracy"])
    accuracy, balanced = headline["accuracy"], headline["balanced_accuracy"]
    above = _low(accuracy) > baseline
    shares = np.bincount(predicted, minlength=k) / len(predicted)
    favourite = int(shares.argmax())
    true_share = float((targets == favourite).mean())
    if shares[favourite] >= COLLAPSED_SHARE > true_share:
        reason = (
            f"{shares[favourite]:.1%} of predictions are '{class_names[favourite]}', "
            f"which {true_share:.1%} of the images are"
        )
        return Verdict("collapsed", reason, above)
    evaluable = len(np.unique(targets))
    if evaluable < 2:
        return Verdict("no_skill", "can't be judged: only one class in this split", above)
    chance = 1 / evaluable
    auroc = headline["auroc_macro"]
    if _low(balanced) <= chance:
        reason = f"balanced accuracy {balanced} is not above chance ({chance:.3f})"
        return Verdict("no_skill", reason, above)
    if _low(auroc) <= 0.5:
        return Verdict("no_skill", f"AUROC {auroc} is not above chance (0.500)", above)
    majority = f"always saying '{trivial['majority']['class']}' ({baseline:.3f})"
    if above:
        return Verdict("ok", f"accuracy {accuracy} is above {majority}", above)
    clear = chance + CLEAR_SHARE * (1 - chance)
    if _low(balanced) <= clear:
        reason = (
            f"accuracy {accuracy} is not above {majority}, and balanced accuracy {balanced} "
            f"not clearly above chance ({chance:.3f})"
        )
        return Verdict("no_skill", reason, above)
    reason = (
        f"balanced accuracy {balanced} is clearly above chance ({chance:.3f}), but accuracy "
        f"{accuracy} is not above {majority}"
    )
    return Verdict("ok", reason, above)


def judge_labels(
    predicted: Ints,
    targets: Ints,
    class_names: tuple[str, ...],
    headline: Mapping[str, Interval],
    trivial: Mapping[str, Any],
) -> Verdict:
    """Verdict on a model that decides labels one by one.

    collapsed: at least 95 % of images get one and the same set of labels (mostly none), which
    95 % of them don't have. Rare labels seldom pass 0.5, so such a model may still rank well; the
    reason then says that only its ranking is above chance.
    no_skill: the ranking (macro AUROC, 95 % bound) is not above chance.
    """
    best = max(float(trivial[name]["accuracy"]) for name in ("majority", "all_negative"))
    accuracy, auroc = headline["accuracy"], headline["auroc_macro"]
    above = _low(accuracy) > best
    ranks = _low(auroc) > 0.5
    answer, share, true_share = _favourite_set(predicted, targets, class_names)
    if share >= COLLAPSED_SHARE > true_share:
        reason = (
            f"at threshold 0.5 {share:.1%} of images get the answer {answer}, which "
            f"{true_share:.1%} truly are; macro AUROC {auroc}"
        )
        rest = ": only the ranking is above chance" if ranks else " is not above chance (0.500)"
        return Verdict("collapsed", reason + rest, above)
    if not ranks:
        return Verdict("no_skill", f"macro AUROC {auroc} is not above chance (0.500)", above)
    reason = f"macro AUROC {auroc} is above chance (0.500)"
    if not above:
        reason += f", but exact match {accuracy} is not above the trivial answer ({best:.3f})"
    return Verdict("ok", reason, above)


def _low(interval: Interval) -> float:
    return -np.inf if interval.low is None else interval.low


def _favourite_set(
    predicted: Ints, targets: Ints, class_names: tuple[str, ...]
) -> tuple[str, float, float]:
    """The most frequent set of labels, its share of predictions, and its share of the truth."""
    sets, counts = np.unique(predicted, axis=0, return_counts=True)
    favourite = sets[counts.argmax()]
    names = [name for name, chosen in zip(class_names, favourite, strict=True) if chosen]
    answer = f"'{', '.join(names)}'" if names else "'none' (no label at all)"
    true_share = float((targets == favourite).all(axis=1).mean())
    return answer, float(counts.max() / len(predicted)), true_share


def _constant_class(targets: Ints, chosen: int, k: int, task: Task) -> dict[str, float | None]:
    matrix = np.zeros((k, k, 1))
    matrix[:, chosen, 0] = np.bincount(targets, minlength=k)
    found = matrix_values(matrix, ordinal=task == "ordinal")
    names = ["accuracy", "balanced_accuracy", "f1_macro", "mcc", "kappa"]
    if task == "ordinal":
        names += ["kappa_quadratic", "mean_absolute_grade_error"]
    scores = {name: finite_or_none(float(found[name][0])) for name in names}
    return {**scores, "auroc_macro": 0.5}


def _prior_classes(targets: Ints, shares: Floats, task: Task) -> dict[str, Any]:
    support = np.bincount(targets, minlength=len(shares)).astype(np.float64)
    found = matrix_values((support[:, None] * shares)[:, :, None])
    constant = np.broadcast_to(shares, (len(targets), len(shares)))
    present = support > 0
    return {
        "probabilities": shares.tolist(),
        "accuracy": float(found["accuracy"][0]),
        "balanced_accuracy": float(found["balanced_accuracy"][0]),
        "auroc_macro": 0.5,
        "auprc_macro": float(support[present].mean() / len(targets)),
        "brier": float(brier_by_image(constant, targets, task).mean()),
        "cross_entropy_loss": float(cross_entropy_by_image(constant, targets, task).mean()),
    }


def _constant_labels(targets: Ints, chosen: Any) -> dict[str, float]:
    right = targets == chosen
    return {
        "accuracy": float(right.all(axis=1).mean()),
        "label_accuracy": float(right.mean()),
        "balanced_accuracy": 0.5,
        "auroc_macro": 0.5,
    }


def _prior_labels(targets: Ints, shares: Floats) -> dict[str, Any]:
    chance = np.where(targets == 1, shares, 1 - shares)
    constant = np.broadcast_to(shares, targets.shape)
    positives = targets.mean(axis=0)
    both = (positives > 0) & (positives < 1)
    return {
        "probabilities": shares.tolist(),
        "accuracy": float(chance.prod(axis=1).mean()),
        "label_accuracy": float(chance.mean()),
        "balanced_accuracy": 0.5,
        "auroc_macro": 0.5,
        "auprc_macro": float(positives[both].mean()) if both.any() else None,
        "brier": float(brier_by_image(constant, targets, "multilabel").mean()),
        "cross_entropy_loss": float(cross_entropy_by_image(constant, targets, "multilabel").mean()),
    }
