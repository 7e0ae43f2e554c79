"""Do probabilities mean what they say? Calibration errors, and temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are loaded at first use
from numpy.typing import ArrayLike

from scanwise.core.errors import DataError
from scanwise.core.types import Task
from scanwise.metrics.counts import ratio
from scanwise.metrics.inputs import (
    Floats,
    Ints,
    check_inputs,
    check_targets,
    one_hot,
    predict_classes,
)

NUM_BINS = 15  # Guo et al. 2017
MIN_CALIBRATION_IMAGES = 50  # CAPABILITIES E4
# Beyond these the likelihood no longer knows the temperature, it only says "sharper" or "flatter".
TEMPERATURE_RANGE = (0.1, 100.0)
_SMALLEST = float(np.finfo(np.float64).eps)  # scikit-learn's log_loss clips here too


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Confidence against accuracy by bin of confidence; b bins of equal width on [0, 1]."""

    edges: Floats  # (b + 1,)
    confidence: Floats  # (b,) mean confidence; NaN in an empty bin
    accuracy: Floats  # (b,) share correct (multi-label: share positive); NaN in an empty bin
    counts: Ints  # (b,) decisions


@dataclass(frozen=True)
class Calibration:
    """The temperature that validation chose, or why there is none.

    `before` and `after` hold ece, brier and cross_entropy_loss of validation; equal where nothing
    was applied.
    """

    temperature: float
    applied: bool
    reason: str
    n: int
    before: dict[str, float]
    after: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "applied": self.applied,
            "reason": self.reason,
            "fitted_on": "val",
            "n": self.n,
            "num_bins": NUM_BINS,
            "before": self.before,
            "after": self.after,
        }


def expected_calibration_error(
    probabilities: ArrayLike,
    targets: ArrayLike,
    num_bins: int = NUM_BINS,
    task: Task = "multiclass",
) -> float:
    """Average gap between confidence and accuracy over equal-width bins (top-label ECE).

    Args:
        probabilities: Class probabilities, float (n, k); each row sums to 1. Not logits.
        targets: True class indices, int (n,), values in [0, k); multi-label (n, k) of 0 and 1.
        num_bins: Number of confidence bins on [0, 1], each open below and closed above.
        task: In "multilabel" tasks all n·k probabilities are pooled, and compared with the share
            of positives instead of the accuracy.

    Returns:
        ECE in [0, 1]; 0 is perfect, lower is better. Depends on num_bins: report both.

    Raises:
        DataError: If shapes differ or a row does not sum to 1.

    Source:
        Naeini et al., AAAI 2015; Guo et al., ICML 2017, arXiv:1706.04599.

    >>> expected_calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    0.0
    """
    given, truth = check_inputs(probabilities, targets, task)
    confidence, correct = confidences(given, truth, task)
    gaps = np.bincount(
        confidence_bins(confidence, num_bins), weights=correct - confidence, minlength=num_bins
    )
    return float(np.abs(gaps).sum() / len(confidence))


def reliability_curve(
    probabilities: ArrayLike,
    targets: ArrayLike,
    task: Task = "multiclass",
    num_bins: int = NUM_BINS,
) -> ReliabilityCurve:
    """The bins behind `expected_calibration_error`, for drawing; takes what it takes.

    Source:
        DeGroot and Fienberg, The Statistician 32, 1983 (reliability diagram).
    """
    given, truth = check_inputs(probabilities, targets, task)
    confidence, correct = confidences(given, truth, task)
    bins = confidence_bins(confidence, num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    return ReliabilityCurve(
        edges=np.linspace(0.0, 1.0, num_bins + 1),
        confidence=ratio(np.bincount(bins, weights=confidence, minlength=num_bins), counts),
        accuracy=ratio(np.bincount(bins, weights=correct, minlength=num_bins), counts),
        counts=counts.astype(np.int64),
    )


def brier_score(probabilities: ArrayLike, targets: ArrayLike, task: Task = "multiclass") -> float:
    """Mean squared distance between probabilities and truth; lower is better.

    Args:
        probabilities: float (n, k); each row sums to 1, except in multi-label tasks.
        targets: Class indices (n,); multi-label (n, k) of 0 and 1.
        task: Decides the form: a sum over the k classes, in [0, 2] and for k = 2 twice the
            one-column form; for "multilabel" the mean over labels, in [0, 1].

    Source:
        Brier, Mon. Weather Rev. 78, 1950 (the sum form).
    """
    given, truth = check_inputs(probabilities, targets, task)
    return float(brier_by_image(given, truth, task).mean())


def cross_entropy_loss(
    probabilities: ArrayLike, targets: ArrayLike, task: Task = "multiclass"
) -> float:
    """Mean negative log-likelihood in nats (multi-label: mean over labels); lower is better.

    Probabilities under 2e-16 count as that, so that one certain mistake costs 36, not infinity.
    """
    given, truth = check_inputs(probabilities, targets, task)
    return float(cross_entropy_by_image(given, truth, task).mean())


def confidences(probabilities: Floats, targets: Ints, task: Task) -> tuple[Floats, Floats]:
    """Confidence of each decision and whether it came true, both (n,); multi-label (n·k,)."""
    if task == "multilabel":
        return probabilities.ravel(), targets.ravel().astype(np.float64)
    correct = predict_classes(probabilities, task) == targets
    return probabilities.max(axis=1), correct.astype(np.float64)


def confidence_bins(confidence: Floats, num_bins: int) -> Ints:
    """Bin of each confidence in [0, num_bins); edges belong to the lower bin."""
    bins = np.ceil(confidence * num_bins) - 1
    return np.asarray(np.clip(bins, 0, num_bins - 1), dtype=np.int64)


def brier_by_image(probabilities: Floats, targets: Ints, task: Task) -> Floats:
    """Squared distance of each image (n,)."""
    squares = (probabilities - one_hot(targets, probabilities.shape[1], task)) ** 2
    return np.asarray(squares.mean(axis=1) if task == "multilabel" else squares.sum(axis=1))


def cross_entropy_by_image(probabilities: Floats, targets: Ints, task: Task) -> Floats:
    """Negative log-likelihood of each image (n,), nats."""
    given = np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)
    if task == "multilabel":
        chosen = np.where(targets == 1, given, 1 - given)
        return np.asarray(-np.log(chosen).mean(axis=1))
    return -np.log(given[np.arange(len(targets)), targets])


def _softmax(logits: Floats) -> Floats:
    """Of each row (n, k): scipy.special.softmax without the quarter of a second to import it."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def apply_temperature(logits: ArrayLike, temperature: float, task: Task) -> Floats:
    """Probabilities float64 (n, k) of logits (n, k) divided by a temperature > 0.

    1 gives the plain softmax (multi-label: sigmoid).

    Raises:
        DataError: If logits are not finite (n, k) or the temperature is not above 0.
    """
    given = _check_logits(logits)
    if not temperature > 0:
        raise DataError(f"temperature must be above 0, got {temperature}.")
    if task == "multilabel":
        return np.asarray(scipy.special.expit(given / temperature))
    return _softmax(given / temperature)


def raw_probabilities(probabilities: ArrayLike, temperature: float, task: Task) -> Floats:
    """Undo `apply_temperature`: what the model said before calibration, float64 (n, k).

    Exact to rounding, except where a calibrated probability was already rounded to 0 or 1.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if temperature == 1.0:
        return given
    with np.errstate(divide="ignore"):
        if task == "multilabel":
            return np.asarray(scipy.special.expit(scipy.special.logit(given) * temperature))
        return _softmax(np.log(given) * temperature)


def fit_temperature(logits: ArrayLike, targets: ArrayLike, task: Task) -> float:
    """The temperature that makes targets most likely: one number for all classes and images.

    The negative log-likelihood is convex in 1 / temperature, so its slope has one root at most and
    bisection finds it.

    Args:
        logits: Of validation, never of test; float (n, k), finite.
        targets: Class indices (n,); multi-label (n, k) of 0 and 1.
        task: Softmax or, for "multilabel", sigmoid.

    Returns:
        Temperature in [0.1, 100]; an end of it where the likelihood has no minimum inside.

    Raises:
        DataError: If shapes differ or a value is out of range.

    Source:
        Guo et al., ICML 2017, arXiv:1706.04599.
    """
    given = _check_logits(logits)
    truth = one_hot(
        check_targets(targets, given.shape[0], given.shape[1], task), given.shape[1], task
    )

    def slope(sharpness: float) -> float:
        scaled = sharpness * given
        expected = scipy.special.expit(scaled) if task == "multilabel" else _softmax(scaled)
        return float(((expected - truth) * given).sum() / len(given))

    flattest, sharpest = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    if slope(flattest) >= 0:
        return TEMPERATURE_RANGE[1]
    if slope(sharpest) <= 0:
        return TEMPERATURE_RANGE[0]
    return float(1 / scipy.optimize.brentq(slope, flattest, sharpest, xtol=1e-12, rtol=1e-12))


def calibrate(val_logits: ArrayLike, val_targets: ArrayLike, task: Task) -> Calibration:
    """Fit the temperature on validation, or say why probabilities stay as they are.

    Skipped with under 50 images, and where validation is separated perfectly (any sharper
    temperature would be likelier still). Never changes a decision; that is checked.

    Raises:
        DataError: If shapes differ or a value is out of range.
    """
    logits = _check_logits(val_logits)
    targets = check_targets(val_targets, logits.shape[0], logits.shape[1], task)
    raw = apply_temperature(logits, 1.0, task)
    before = probability_quality(raw, targets, task)
    n = len(logits)
    if n < MIN_CALIBRATION_IMAGES:
        reason = f"skipped: {n} validation images, at least {MIN_CALIBRATION_IMAGES} needed"
        return Calibration(1.0, False, reason, n, before, before)
    temperature = fit_temperature(logits, targets, task)
    if temperature <= TEMPERATURE_RANGE[0]:
        reason = "skipped: validation is separated perfectly, so it can't tell the temperature"
        return Calibration(1.0, False, reason, n, before, before)
    calibrated = apply_temperature(logits, temperature, task)
    if not np.array_equal(predict_classes(raw, task), predict_classes(calibrated, task)):
        # Only two logits that are equal to the last bits can do this; then rather leave them be.
        reason = f"skipped: temperature {temperature:.3f} would change a decision"
        return Calibration(1.0, False, reason, n, before, before)
    how = "less" if temperature > 1 else "more"
    reason = f"temperature {temperature:.3f} from {n} validation images: {how} confident"
    return Calibration(
        temperature, True, reason, n, before, probability_quality(calibrated, targets, task)
    )


def not_calibrated(
    probabilities: ArrayLike, targets: ArrayLike, task: Task, reason: str
) -> Calibration:
    """The calibration of validation probabilities (n, k) that stay as they are."""
    quality = probability_quality(probabilities, targets, task)
    return Calibration(1.0, False, reason, len(np.asarray(targets)), quality, quality)


def describe_temperature(
    probabilities: ArrayLike, targets: ArrayLike, temperature: float, task: Task
) -> dict[str, dict[str, float]]:
    """ece, brier and cross_entropy_loss "before" and "after", from calibrated probabilities."""
    raw = raw_probabilities(probabilities, temperature, task)
    return {
        "before": probability_quality(raw, targets, task),
        "after": probability_quality(probabilities, targets, task),
    }


def probability_quality(
    probabilities: ArrayLike, targets: ArrayLike, task: Task
) -> dict[str, float]:
    """The numbers that calibration is to improve: ece, brier and cross_entropy_loss."""
    return {
        "ece": expected_calibration_error(probabilities, targets, task=task),
        "brier": brier_score(probabilities, targets, task),
        "cross_entropy_loss": cross_entropy_loss(probabilities, targets, task),
    }


def _check_logits(logits: ArrayLike) -> Floats:
    given = np.asarray(logits, dtype=np.float64)
    if given.ndim != 2 or given.size == 0:
        raise DataError(f"logits must be (n, k) with n, k > 0, got shape {given.shape}.")
    if not np.isfinite(given).all():
        row = int(np.flatnonzero(~np.isfinite(given).all(axis=1))[0])
        raise DataError(f"logits of row {row} are not finite.")
    return given
