"""Every overall and per-class number of a split, for one weighting of its images or thousands.

The estimate is the case in which every image weighs 1; a bootstrap resample weighs it by how often
it was drawn. Both go through the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from scanwise.core.types import Task
from scanwise.metrics import counts as rates
from scanwise.metrics.calibration import (
    NUM_BINS,
    brier_by_image,
    confidence_bins,
    confidences,
    cross_entropy_by_image,
)
from scanwise.metrics.counts import Counts
from scanwise.metrics.inputs import Floats, Ints, one_hot, predict_classes
from scanwise.metrics.intervals import resample_weights
from scanwise.metrics.ranks import Ranking, make_ranking, rank_areas, roc_areas

Values = dict[str, Floats]  # name -> (r,), per-class names -> (k, r)


@dataclass(frozen=True, eq=False)
class Scored:
    """Predictions of a split, sorted and binned once; n images, k classes or labels."""

    task: Task
    k: int
    targets: Ints  # (n,), multi-label (n, k)
    predicted: Ints  # like targets
    cells: Any  # multi-class: sparse (k * k, n), which confusion cell each image falls in
    gaps: Any  # sparse (bins, n): summed truth minus confidence
    decisions: int  # that an image brings to the calibration error: 1, multi-label k
    brier: Floats  # (n,)
    cross_entropy: Floats  # (n,)
    ranked: Floats  # (n, k): what each class is ranked by
    rankings: tuple[Ranking, ...]  # of each class
    micro: Ranking  # all classes pooled


def prepare(probabilities: Floats, targets: Ints, task: Task) -> Scored:
    """Sort and bin checked predictions once."""
    n, k = probabilities.shape
    predicted = predict_classes(probabilities, task)
    truth = one_hot(targets, k, task).astype(bool)
    images = np.arange(n)
    ranked = _ranked_by(probabilities, task)
    confidence, correct = confidences(probabilities, targets, task)
    decisions = len(confidence) // n
    cells = None if task == "multilabel" else _sums(targets * k + predicted, images, k * k)
    return Scored(
        task=task,
        k=k,
        targets=targets,
        predicted=predicted,
        cells=cells,
        gaps=_sums(
            confidence_bins(confidence, NUM_BINS),
            np.repeat(images, decisions),
            NUM_BINS,
            correct - confidence,
        ),
        decisions=decisions,
        brier=brier_by_image(probabilities, targets, task),
        cross_entropy=cross_entropy_by_image(probabilities, targets, task),
        ranked=ranked,
        rankings=tuple(make_ranking(ranked[:, i], truth[:, i], images, n) for i in range(k)),
        micro=make_ranking(probabilities.ravel(), truth.ravel(), np.repeat(images, k), n),
    )


def estimate(scored: Scored) -> Values:
    """All numbers of the split itself; scalars have shape (1,)."""
    return values(scored, np.ones((len(scored.targets), 1)))


def resample(scored: Scored, groups: Ints | None, num_resamples: int, seed: int) -> Values:
    """All numbers in each of r bootstrap resamples; scalars have shape (r,)."""
    strata = np.zeros(len(scored.targets), dtype=np.int64)
    if scored.task != "multilabel":
        strata = scored.targets
    blocks = [
        values(scored, weights)
        for weights in resample_weights(strata, groups, num_resamples, seed, scored.k**2)
    ]
    return {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}


def values(scored: Scored, weights: Floats) -> Values:
    """All numbers under r weightings of the images, (n, r)."""
    total = weights.sum(axis=0)
    if scored.task == "multilabel":
        found = _label_values(scored, weights, total)
    else:
        found = matrix_values(_matrix(scored, weights), ordinal=scored.task == "ordinal")
    gaps = np.abs(np.asarray(scored.gaps @ weights)).sum(axis=0)
    found["ece"] = gaps / (total * scored.decisions)
    found["brier"] = scored.brier @ weights / total
    found["cross_entropy_loss"] = scored.cross_entropy @ weights / total
    found.update(_rank_values(scored, weights))
    return found


def one_value(scored: Scored, weights: Floats, name: str) -> Floats:
    """One overall number of decisions or of ranks, as `values` has it, without the others: (r,)."""
    if name == "auroc_macro":
        areas = np.stack([roc_areas(ranking, weights) for ranking in scored.rankings])
        return rates.macro(areas, ~np.isnan(areas))
    if name == "auprc_macro":
        return _class_areas(scored, weights)[name]
    if scored.task == "multilabel":
        return _label_values(scored, weights, weights.sum(axis=0))[name]
    return matrix_values(_matrix(scored, weights), ordinal=scored.task == "ordinal")[name]


def matrix_values(matrix: Floats, ordinal: bool = False) -> Values:
    """What follows from confusion matrices (k, k, r) alone."""
    every = rates.all_class_counts(matrix)
    found = _averages(every)
    found["accuracy"] = rates.ratio(every.tp.sum(axis=0), matrix.sum(axis=(0, 1)))
    found["balanced_accuracy"] = found["recall_macro"]
    # The same quotient as accuracy; kept identical to the last digit.
    found["recall_weighted"] = found["accuracy"]
    found["mcc"] = rates.mcc(matrix)
    found["kappa"] = rates.kappa(matrix)
    if ordinal:
        found["kappa_quadratic"] = rates.kappa_quadratic(matrix)
        found["mean_absolute_grade_error"] = rates.mean_absolute_grade_error(matrix)
    return found


def confusion_counts(scored: Scored) -> Ints:
    """Whole-number confusion matrix (k, k); multi-label one 2×2 per label, (k, 2, 2)."""
    if scored.task != "multilabel":
        return rates.confusion_matrix(scored.targets, scored.predicted, scored.k)
    return np.stack(
        [
            rates.confusion_matrix(scored.targets[:, i], scored.predicted[:, i], 2)
            for i in range(scored.k)
        ]
    )


def _averages(every: Counts) -> Values:
    """Per-class rates and their averages, from counts (k, r)."""
    support = every.support
    found = {
        "sensitivity": rates.sensitivity(every),
        "specificity": rates.specificity(every),
        "ppv": rates.ppv(every),
        "npv": rates.npv(every),
        "f1": rates.f1(every),
    }
    for name, rate in (("precision", "ppv"), ("recall", "sensitivity"), ("f1", "f1")):
        found[f"{name}_macro"] = rates.macro(found[rate], support)
        found[f"{name}_weighted"] = rates.weighted(found[rate], support)
    found["specificity_macro"] = rates.macro_defined(found["specificity"], support)
    return found


def _label_values(scored: Scored, weights: Floats, total: Floats) -> Values:
    """Rates of labels that are decided one by one."""
    truth, said = scored.targets == 1, scored.predicted == 1

    def count(chosen: Any) -> Floats:
        return np.asarray(chosen.T.astype(np.float64) @ weights)

    every = Counts(
        count(truth & said), count(~truth & said), count(truth & ~said), count(~truth & ~said)
    )
    found = _averages(every)
    support = every.support
    found["accuracy"] = (truth == said).all(axis=1).astype(np.float64) @ weights / total
    found["label_accuracy"] = (every.tp + every.tn).sum(axis=0) / (total * scored.k)
    both = (found["sensitivity"] + found["specificity"]) / 2
    for name, score in (
        ("balanced_accuracy", both),
        ("mcc", rates.binary_mcc(every)),
        ("kappa", rates.binary_kappa(every)),
    ):
        found[name] = rates.macro_defined(score, support)
    tp, fp, fn = every.tp.sum(axis=0), every.fp.sum(axis=0), every.fn.sum(axis=0)
    found["precision_micro"] = np.nan_to_num(rates.ratio(tp, tp + fp))
    found["recall_micro"] = rates.ratio(tp, tp + fn)
    found["f1_micro"] = rates.ratio(2 * tp, 2 * tp + fp + fn)
    return found


def _rank_values(scored: Scored, weights: Floats) -> Values:
    micro_roc, micro_pr = rank_areas(scored.micro, weights)
    areas = _class_areas(scored, weights)
    return {**areas, "auroc_micro": micro_roc, "auprc_micro": micro_pr}


def _class_areas(scored: Scored, weights: Floats) -> Values:
    """AUROC and AUPRC of each class and their means."""
    areas = [rank_areas(ranking, weights) for ranking in scored.rankings]
    roc, pr = np.stack([area[0] for area in areas]), np.stack([area[1] for area in areas])
    # A class that fills a whole resample has no AUROC and an AUPRC of 1 that says nothing.
    evaluable = ~np.isnan(roc)
    return {
        "auroc": roc,
        "auprc": np.where(evaluable, pr, np.nan),
        "auroc_macro": rates.macro(roc, evaluable),
        "auprc_macro": rates.macro(pr, evaluable),
    }


def _ranked_by(probabilities: Floats, task: Task) -> Floats:
    """Scores by which each class is ranked, (n, k).

    With two classes both are ranked by the column of class 1 (MedMNIST's and scikit-learn's
    positive class), so that their AUROC is one number even where rounding ties one column only.
    """
    if task != "multilabel" and probabilities.shape[1] == 2:
        return np.stack([-probabilities[:, 1], probabilities[:, 1]], axis=1)
    return probabilities


def _matrix(scored: Scored, weights: Floats) -> Floats:
    return np.asarray(scored.cells @ weights).reshape(scored.k, scored.k, -1)


def _sums(rows: Ints, images: Ints, num_rows: int, amounts: Floats | None = None) -> Any:
    """Sparse (num_rows, n) that adds `amounts` (or 1) of each image to its row."""
    data = np.ones(len(rows)) if amounts is None else amounts
    return sparse.csr_matrix((data, (rows, images)), shape=(num_rows, int(images.max()) + 1))
