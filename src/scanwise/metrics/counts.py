"""Count once, then divide: confusion matrices and every rate that follows from them.

All functions take counts with any number of trailing axes, so that one call serves one matrix or
two thousand bootstrap resamples of it. An impossible rate is NaN here; the report says why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scanwise.core.errors import DataError
from scanwise.metrics.inputs import Floats, Ints


@dataclass(frozen=True, eq=False)
class Counts:
    """Images by truth and prediction, of one class against all others; arrays of equal shape."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats

    @property
    def support(self) -> Floats:
        """Images that are of the class."""
        return self.tp + self.fn


def confusion_matrix(targets: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Images by true class (row) and predicted class (column), int (k, k).

    Args:
        targets: True class indices, int (n,), values in [0, k).
        predicted: Predicted class indices, int (n,), values in [0, k).
        num_classes: k; classes without images keep their row and column.

    Raises:
        DataError: If lengths differ or an index is outside [0, k).
    """
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    if targets.shape != predicted.shape or targets.ndim != 1:
        raise DataError(
            f"targets {targets.shape} and predicted {predicted.shape} must both be (n,)."
        )
    for name, indices in (("targets", targets), ("predicted", predicted)):
        if indices.size and (indices.min() < 0 or indices.max() >= num_classes):
            raise DataError(
                f"{name} lie in [{indices.min()}, {indices.max()}], but there are "
                f"{num_classes} classes."
            )
    cells = np.bincount(targets * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_counts(matrix: ArrayLike, index: int) -> Counts:
    """Counts of one class against the others, from a confusion matrix (k, k, …)."""
    every = all_class_counts(matrix)
    return Counts(every.tp[index], every.fp[index], every.fn[index], every.tn[index])


def all_class_counts(matrix: ArrayLike) -> Counts:
    """Counts of each class against the others, (k, …), from a confusion matrix (k, k, …)."""
    cells = np.asarray(matrix, dtype=np.float64)
    tp = np.einsum("ii...->i...", cells).copy()
    fn = cells.sum(axis=1) - tp
    fp = cells.sum(axis=0) - tp
    return Counts(tp, fp, fn, cells.sum(axis=(0, 1)) - tp - fp - fn)


# Rates of one class; each takes the same Counts.


def sensitivity(counts: Counts) -> Floats:
    """Share of diseased images found, tp / (tp + fn); NaN if there are none."""
    return ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> Floats:
    """Share of other images left alone, tn / (tn + fp); NaN if there are none."""
    return ratio(counts.tn, counts.tn + counts.fp)


def ppv(counts: Counts) -> Floats:
    """Share of alarms that are true, tp / (tp + fp); NaN if the class is never predicted."""
    return ratio(counts.tp, counts.tp + counts.fp)


def npv(counts: Counts) -> Floats:
    """Share of all-clears that are true, tn / (tn + fn); NaN if there are none."""
    return ratio(counts.tn, counts.tn + counts.fn)


def f1(counts: Counts) -> Floats:
    """Harmonic mean of ppv and sensitivity, 2tp / (2tp + fp + fn); NaN without images."""
    score = ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)
    return np.where(counts.support > 0, score, np.nan)


def binary_mcc(counts: Counts) -> Floats:
    """Matthews correlation of one label; 0 where one answer is always given, NaN where all images
    agree."""
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    truth = (tp + fn) * (tn + fp)
    answers = (tp + fp) * (tn + fn)
    return _correlation(tp * tn - fp * fn, truth, answers)


def binary_kappa(counts: Counts) -> Floats:
    """Cohen's kappa of one label; NaN where all images agree."""
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    doubled = 2 * (tp * tn - fp * fn)
    score = ratio(doubled, (tp + fp) * (fp + tn) + (tp + fn) * (fn + tn))
    return np.where((tp + fn) * (tn + fp) > 0, score, np.nan)


# Averages over classes. A class without images is left out; one that is never predicted counts as
# ppv 0, so that predicting fewer classes can't raise the average.


def macro(rates: Floats, support: Floats) -> Floats:
    """Mean of rates (k, …) over the classes that have images; NaN counts as 0; shape (…)."""
    present = support > 0
    total = np.where(present, np.nan_to_num(rates), 0.0).sum(axis=0)
    return ratio(total, present.sum(axis=0))


def macro_defined(rates: Floats, support: Floats) -> Floats:
    """Mean of rates (k, …) over the classes that have images and a rate; shape (…)."""
    return macro(rates, np.where(np.isnan(rates), 0, support))


def weighted(rates: Floats, support: Floats) -> Floats:
    """Mean of rates (k, …) weighted by the images of each class; NaN counts as 0; shape (…)."""
    total = (np.nan_to_num(rates) * support).sum(axis=0)
    return ratio(total, support.sum(axis=0))


# Agreement of a whole matrix (k, k, …).


def mcc(matrix: Floats) -> Floats:
    """Matthews correlation of k classes, in [-1, 1]; shape (…).

    0 where one class is always predicted (its limit, as in scikit-learn); NaN where all images are
    of one class.

    Source:
        Gorodkin, Comput. Biol. Chem. 28, 2004 (R_K); for k = 2 Matthews 1975.
    """
    total, rows, columns = _margins(matrix)
    hits = np.einsum("ii...->...", matrix)
    covariance = hits * total - (rows * columns).sum(axis=0)
    truth = total**2 - (rows**2).sum(axis=0)
    answers = total**2 - (columns**2).sum(axis=0)
    return _correlation(covariance, truth, answers)


def kappa(matrix: Floats) -> Floats:
    """Cohen's kappa, chance-corrected agreement, in [-1, 1]; NaN where all images are of one class.

    Source:
        Cohen, Educ. Psychol. Meas. 20, 1960.
    """
    k = len(matrix)
    return _weighted_kappa(matrix, 1.0 - np.eye(k))


def kappa_quadratic(matrix: Floats) -> Floats:
    """Kappa with squared distance between grades as the cost; for ordinal classes.

    Source:
        Cohen, Psychol. Bull. 70, 1968.
    """
    return _weighted_kappa(matrix, _grade_distance(len(matrix)) ** 2)


def mean_absolute_grade_error(matrix: Floats) -> Floats:
    """Mean distance between true and predicted grade, in grades; lower is better."""
    distance = _grade_distance(len(matrix))
    return ratio(np.einsum("ij,ij...->...", distance, matrix), matrix.sum(axis=(0, 1)))


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """part / whole, NaN where whole is 0."""
    part, whole = np.broadcast_arrays(
        np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    )
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
    return quotient


def _weighted_kappa(matrix: Floats, cost: Floats) -> Floats:
    total, rows, columns = _margins(matrix)
    seen = np.einsum("ij,ij...->...", cost, matrix) * total
    by_chance = np.einsum("ij,i...,j...->...", cost, rows, columns, optimize=True)
    score = 1.0 - ratio(seen, by_chance)
    return np.where((rows > 0).sum(axis=0) > 1, score, np.nan)


def _margins(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    return matrix.sum(axis=(0, 1)), matrix.sum(axis=1), matrix.sum(axis=0)


def _correlation(covariance: Floats, truth: Floats, answers: Floats) -> Floats:
    """covariance / sqrt(truth · answers); 0 where answers do not vary, NaN where truth does not."""
    # One root of the product, not two: for a perfect answer it gives the covariance back exactly.
    score = np.nan_to_num(ratio(covariance, np.sqrt(truth * answers)))
    return np.where(truth > 0, score, np.nan)


def _grade_distance(k: int) -> Floats:
    grades = np.arange(k, dtype=np.float64)
    return np.abs(grades[:, None] - grades)
