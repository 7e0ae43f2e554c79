"""Which labels are probably wrong? Confident learning on out-of-fold probabilities.

A label is suspected where a classifier that never saw it is surer of another class than it is on
average of that class. Probabilities of images that the classifier was fitted on must not be given:
it has learned their wrong labels too.

Source:
    Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    J. Artif. Intell. Res. 70, 2021, sections 3.1 and 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.types import Interval, Task
from scanwise.metrics.inputs import Floats, Ints, check_inputs
from scanwise.metrics.intervals import logit_interval, resample_weights

MIN_IMAGES = 20  # of a class; fewer give no reliable ranking (CAPABILITIES C5)
TOO_FEW = "too few for a reliable ranking"
NUM_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """What confident learning says of n labels.

    `score` is the probability of the given label, its self-confidence: low is suspicious. For
    several labels an image has that of its worst ranked label. `suggested` is the most probable
    class, so it differs from the given one also for images that are doubtful but no suspects: there
    are only as many suspects as labels are estimated to be wrong.
    """

    score: Floats  # (n,) in [0, 1]; NaN where the image's class has too few images
    suspected: NDArray[np.bool_]  # (n,)
    suggested: Ints  # (n,) class; multi-label (n, k) of 0 and 1
    joint: Floats | None  # (k, k) estimated share of given (row) and true label; not multi-label
    share: Interval  # of labels that are wrong; multi-label: of all image-label pairs
    too_few: tuple[int, ...]  # classes (labels) that are not ranked

    @property
    def ranking(self) -> Ints:
        """Rows that are ranked, the most suspicious first."""
        ranked = np.flatnonzero(~np.isnan(self.score))
        return np.asarray(ranked[np.argsort(self.score[ranked], kind="stable")])

    @property
    def suspects(self) -> Ints:
        """The suspected rows, the most suspicious first."""
        return self.ranking[self.suspected[self.ranking]]


def find_label_errors(
    probabilities: ArrayLike,
    targets: ArrayLike,
    task: Task = "multiclass",
    *,
    groups: Ints | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> LabelErrors:
    """Rank labels by how probably they are wrong.

    Args:
        probabilities: Out-of-fold, float (n, k), rows sum to 1 (multi-label: each in [0, 1]).
        targets: Given labels, int (n,); multi-label (n, k) of 0 and 1.
        task: Multi-label sets are judged label by label, each as two classes.
        groups: Group number of each image, int (n,): whole groups are resampled.
        num_resamples: Of the bootstrap behind the interval of `share`.
        seed: Of the bootstrap.

    Returns:
        Scores, suspects and suggested labels. A class with under 20 images (a label with under 20
        images that have it, or lack it) is neither ranked nor suggested.

    Raises:
        DataError: If shapes differ or a value is out of range.
    """
    given, labels = check_inputs(probabilities, targets, task)
    if task == "multilabel":
        return _by_label(given, labels, groups, num_resamples, seed)
    counts = np.bincount(labels, minlength=given.shape[1])
    few = (counts > 0) & (counts < MIN_IMAGES)
    ranked = np.flatnonzero(~few[labels])
    score = np.full(len(labels), np.nan)
    suspected = np.zeros(len(labels), bool)
    suggested = labels.copy()
    usable = counts >= MIN_IMAGES
    if len(ranked):
        part, own = given[ranked], labels[ranked]
        score[ranked] = part[np.arange(len(own)), own]
        suspected[ranked] = prune_by_class(part, own, usable)
        suggested[ranked] = _suggested(part, own, usable)
    joint = estimate_joint(confident_joint(given[ranked], labels[ranked], usable), counts * usable)
    share = _share_wrong(given[ranked], labels[ranked], usable, joint, _part(groups, ranked),
                         num_resamples, seed)  # fmt: skip
    return LabelErrors(score, suspected, suggested, joint, share, tuple(np.flatnonzero(few)))


def thresholds(probabilities: Floats, targets: Ints) -> Floats:
    """Mean self-confidence of each class, (k,): t_j, mean of p_j over images labelled j.

    A class without images has NaN.
    """
    n, k = probabilities.shape
    own = probabilities[np.arange(n), targets]
    counts = np.bincount(targets, minlength=k)
    sums = np.bincount(targets, weights=own, minlength=k)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts, np.float64)


def confident_joint(
    probabilities: Floats, targets: Ints, usable: NDArray[np.bool_] | None = None
) -> Ints:
    """Images by given label (row) and by the class they are confidently of, int (k, k).

    An image is confidently of class j if p_j >= t_j; of several such classes it is of the most
    probable one; of none it is not counted (equation 1 of the paper).

    Args:
        probabilities: (n, k).
        targets: Given labels (n,).
        usable: Classes that may be counted, (k,); all if None.
    """
    k = probabilities.shape[1]
    where = _confident_class(probabilities, thresholds(probabilities, targets), usable)
    counted = where >= 0
    cells = targets[counted] * k + where[counted]
    return np.bincount(cells, minlength=k * k).reshape(k, k).astype(np.int64)


def estimate_joint(counts: Ints, of_class: Ints) -> Floats:
    """Share of images by given (row) and true label, (k, k), sums to 1 (equation 3 of the paper).

    Each row of the confident joint is brought to the number of images with that given label. A row
    that counts none is taken to be right.
    """
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.where(rows > 0, counts / np.maximum(rows, 1), np.eye(len(counts)))
    joint = shares * of_class[:, None]
    total = joint.sum()
    return np.asarray(joint / total if total else joint)


def prune_by_class(
    probabilities: Floats, targets: Ints, usable: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Suspects (n,): of each class as many as are estimated to be wrong, the least confident first.

    Method "PBC" of the paper's section 3.2. An image whose own label is the most probable of the
    usable classes is never a suspect.
    """
    n, k = probabilities.shape
    allowed = np.ones(k, bool) if usable is None else usable
    of_class = np.bincount(targets, minlength=k)
    joint = estimate_joint(confident_joint(probabilities, targets, usable), of_class)
    wrong = np.rint(len(targets) * (joint.sum(axis=1) - np.diag(joint))).astype(np.int64)
    own = probabilities[np.arange(n), targets]
    found = np.zeros(n, bool)
    for label in np.flatnonzero(wrong):
        rows = np.flatnonzero(targets == label)
        found[rows[np.argsort(own[rows], kind="stable")[: wrong[label]]]] = True
    return np.asarray(found & (_suggested(probabilities, targets, allowed) != targets))


def prune_by_noise_rate(
    probabilities: Floats, targets: Ints, usable: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Suspects (n,): for each given and other class as many as estimated, largest margin first.

    Method "PBNR" of the paper's section 3.2; the margin is p_other - p_given.
    """
    n, k = probabilities.shape
    allowed = np.ones(k, bool) if usable is None else usable
    of_class = np.bincount(targets, minlength=k)
    joint = estimate_joint(confident_joint(probabilities, targets, usable), of_class)
    wrong = np.rint(n * joint).astype(np.int64)
    found = np.zeros(n, bool)
    for label in np.flatnonzero(of_class):
        rows = np.flatnonzero(targets == label)
        for other in np.flatnonzero(wrong[label]):
            if other != label:
                margin = probabilities[rows, other] - probabilities[rows, label]
                found[rows[np.argsort(-margin, kind="stable")[: wrong[label, other]]]] = True
    return np.asarray(found & (_suggested(probabilities, targets, allowed) != targets))


def normalised_margin(probabilities: Floats, targets: Ints) -> Floats:
    """(p_given - highest other p + 1) / 2 of each image, (n,) in [0, 1]; low is suspicious."""
    rows = np.arange(len(targets))
    others = probabilities.copy()
    others[rows, targets] = -1
    margin = probabilities[rows, targets] - others.max(axis=1)
    return np.asarray((margin + 1) / 2)


def _confident_class(
    probabilities: Floats, least: Floats, usable: NDArray[np.bool_] | None
) -> Ints:
    """The most probable class that reaches its threshold, (n,); -1 where none does."""
    with np.errstate(invalid="ignore"):
        reached = probabilities >= least - 1e-12
    if usable is not None:
        reached &= usable
    best = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1).astype(np.int64)


def _suggested(probabilities: Floats, targets: Ints, usable: NDArray[np.bool_]) -> Ints:
    """The most probable usable class (n,); the given one in a tie."""
    shown = np.where(usable, probabilities, -1.0)
    rows = np.arange(len(targets))
    best = shown.argmax(axis=1)
    keep = shown[rows, best] <= probabilities[rows, targets]
    return np.where(keep, targets, best).astype(np.int64)


def _part(groups: Ints | None, rows: Ints) -> Ints | None:
    if groups is None:
        return None
    return np.unique(groups[rows], return_inverse=True)[1].astype(np.int64)


def _share_wrong(
    probabilities: Floats,
    targets: Ints,
    usable: NDArray[np.bool_],
    joint: Floats,
    groups: Ints | None,
    num_resamples: int,
    seed: int,
) -> Interval:
    """Share of wrong labels with its bootstrap interval: images (or groups) are drawn again."""
    if int(usable.sum()) < 2 or not len(targets):
        return Interval(None, reason=f"{TOO_FEW}: two classes of {MIN_IMAGES} images are needed")
    value = float(1 - np.trace(joint))
    resamples = [
        _weighted_share(probabilities, targets, usable, weights)
        for block in resample_weights(targets, groups, num_resamples, seed)
        for weights in block.T
    ]
    units = len(targets) if groups is None else int(groups.max()) + 1
    return logit_interval(value, np.array(resamples), units=units)


def _weighted_share(
    probabilities: Floats, targets: Ints, usable: NDArray[np.bool_], weights: Floats
) -> float:
    """1 - trace of the joint of a resample, whose images count `weights` times."""
    n, k = probabilities.shape
    of_class = np.bincount(targets, weights=weights, minlength=k)
    sums = np.bincount(targets, weights=weights * probabilities[np.arange(n), targets], minlength=k)
    with np.errstate(invalid="ignore"):
        where = _confident_class(probabilities, sums / of_class, usable & (of_class > 0))
    counted = where >= 0
    cells = targets[counted] * k + where[counted]
    table = np.bincount(cells, weights=weights[counted], minlength=k * k).reshape(k, k)
    rows = table.sum(axis=1)
    right = np.where(rows > 0, np.diag(table) / np.where(rows > 0, rows, 1), 1.0)
    total = of_class.sum()
    return float(1 - (right * of_class).sum() / total) if total else float("nan")


def _by_label(
    probabilities: Floats, targets: Ints, groups: Ints | None, num_resamples: int, seed: int
) -> LabelErrors:
    """Each label as two classes, lacking (0) and having it (1); an image is as bad as its worst."""
    n, k = targets.shape
    positives = targets.sum(axis=0)
    few = np.minimum(positives, n - positives) < MIN_IMAGES
    suspected = np.zeros((n, k), bool)
    suggested = targets.copy()
    score = np.full((n, k), np.nan)
    shares = []
    for label in np.flatnonzero(~few):
        own = targets[:, label]
        both = np.stack([1 - probabilities[:, label], probabilities[:, label]], axis=1)
        part = find_label_errors(both, own, groups=groups, num_resamples=num_resamples, seed=seed)
        suspected[:, label] = part.suspected
        suggested[:, label] = part.suggested
        score[:, label] = part.score
        shares.append(part.share)
    worst = np.full(n, np.nan)
    any_label: NDArray[np.bool_] = np.asarray(suspected.any(axis=1), bool).reshape(n)
    if shares:
        worst = np.nanmin(score, axis=1)
    return LabelErrors(
        score=worst,
        suspected=any_label,
        suggested=suggested,
        joint=None,
        share=_mean_share(shares),
        too_few=tuple(np.flatnonzero(few)),
    )


def _mean_share(shares: list[Interval]) -> Interval:
    """Mean over labels; each label's bounds averaged too, as if labels erred together."""
    known = [part for part in shares if part.value is not None]
    if not known:
        return Interval(
            None, reason=f"{TOO_FEW}: no label has {MIN_IMAGES} images with and without"
        )
    value = float(np.mean([part.value for part in known]))
    if any(part.low is None or part.high is None for part in known):
        return Interval(value, reason="no interval")
    low, high = np.mean([(part.low, part.high) for part in known], axis=0)  # type: ignore[arg-type]
    return Interval(value, float(low), float(high))
