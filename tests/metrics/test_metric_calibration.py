"""Calibration errors against closed forms and scikit-learn; temperature scaling against truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.metrics import brier_score_loss, log_loss

from scanwise.core.errors import DataError
from scanwise.metrics.calibration import (
    TEMPERATURE_RANGE,
    apply_temperature,
    brier_score,
    calibrate,
    cross_entropy_loss,
    expected_calibration_error,
    fit_temperature,
    raw_probabilities,
    reliability_curve,
)
from scanwise.metrics.inputs import predict_classes


def _logits(seed: int, n: int = 4000, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is exactly right, and targets drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, k))
    odds = softmax(logits, axis=1).cumsum(axis=1)
    return logits, (rng.random((n, 1)) > odds[:, :-1]).sum(axis=1)


def test_ece_of_a_hand_made_case() -> None:
    # Four images at 0.9 of which half are right, one sure and right: (4·0.4 + 1·0) / 5.
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.0, 1.0]])
    targets = np.array([0, 0, 1, 1, 1])
    assert expected_calibration_error(probabilities, targets) == pytest.approx(0.32)
    curve = reliability_curve(probabilities, targets)
    used = curve.counts > 0
    np.testing.assert_allclose(curve.confidence[used], [0.9, 1.0])
    np.testing.assert_allclose(curve.accuracy[used], [0.5, 1.0])
    assert curve.counts.sum() == 5
    assert np.isnan(curve.accuracy[~used]).all()


def test_curve_and_error_tell_the_same_and_bins_match_a_plain_loop() -> None:
    logits, targets = _logits(0, n=500)
    probabilities = softmax(2 * logits, axis=1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    error = expected_calibration_error(probabilities, targets)
    assert error == pytest.approx(total, abs=1e-12)
    curve = reliability_curve(probabilities, targets)
    gaps = np.nan_to_num(np.abs(curve.confidence - curve.accuracy))
    assert (gaps * curve.counts).sum() / 500 == pytest.approx(error, abs=1e-12)


def test_multilabel_ece_compares_probability_with_the_share_of_positives() -> None:
    probabilities = np.array([[0.2, 0.2], [0.2, 0.2]])
    targets = np.array([[0, 0], [0, 1]])
    assert expected_calibration_error(probabilities, targets, task="multilabel") == pytest.approx(
        0.05
    )


def test_brier_and_cross_entropy_equal_scikit_learn() -> None:
    logits, targets = _logits(1, n=300)
    probabilities = softmax(logits, axis=1)
    assert cross_entropy_loss(probabilities, targets) == pytest.approx(
        log_loss(targets, probabilities), abs=1e-12
    )
    summed = sum(brier_score_loss(targets == i, probabilities[:, i]) for i in range(4))
    assert brier_score(probabilities, targets) == pytest.approx(summed, abs=1e-12)
    labels = np.eye(4, dtype=np.int64)[targets]
    assert brier_score(probabilities, labels, "multilabel") == pytest.approx(summed / 4)
    mean = np.mean([log_loss(labels[:, i], probabilities[:, i]) for i in range(4)])
    assert cross_entropy_loss(probabilities, labels, "multilabel") == pytest.approx(mean)


def test_one_certain_mistake_is_finite() -> None:
    assert np.isfinite(cross_entropy_loss(np.array([[1.0, 0.0]]), np.array([1])))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    logits, targets = _logits(2)
    assert fit_temperature(logits * temperature, targets, "multiclass") == pytest.approx(
        temperature, rel=0.06
    )


def test_temperature_of_labels_is_recovered() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2, size=(3000, 3))
    targets = (rng.random((3000, 3)) < expit(logits)).astype(np.int64)
    assert fit_temperature(logits * 2, targets, "multilabel") == pytest.approx(2, rel=0.06)


def test_temperature_is_the_minimum_that_a_search_finds() -> None:
    logits, targets = _logits(4, n=200)

    def loss(temperature: float) -> float:
        return cross_entropy_loss(apply_temperature(logits, temperature, "multiclass"), targets)

    found = minimize_scalar(loss, bounds=(0.2, 10), method="bounded", options={"xatol": 1e-10})
    assert fit_temperature(logits, targets, "multiclass") == pytest.approx(found.x, rel=1e-5)


def test_logits_that_know_nothing_are_flattened() -> None:
    rng = np.random.default_rng(5)
    logits, targets = rng.normal(size=(2000, 3)) * 5, rng.integers(0, 3, 2000)
    assert fit_temperature(logits, targets, "multiclass") > 20
    # The flatter the better where the true class always has the lowest logit.
    wrong = -np.eye(3)[targets]
    assert fit_temperature(wrong, targets, "multiclass") == TEMPERATURE_RANGE[1]


def test_calibration_lowers_the_error_of_an_overconfident_model_and_keeps_decisions() -> None:
    logits, targets = _logits(6)
    result = calibrate(logits * 3, targets, "multiclass")
    assert result.applied
    assert result.temperature == pytest.approx(3, rel=0.06)
    assert result.after["ece"] < result.before["ece"] / 3
    assert result.after["cross_entropy_loss"] < result.before["cross_entropy_loss"]
    assert "less confident" in result.reason
    raw = apply_temperature(logits * 3, 1.0, "multiclass")
    calibrated = apply_temperature(logits * 3, result.temperature, "multiclass")
    np.testing.assert_array_equal(
        predict_classes(raw, "multiclass"), predict_classes(calibrated, "multiclass")
    )


def test_calibration_is_skipped_with_the_reason() -> None:
    logits, targets = _logits(7, n=49)
    few = calibrate(logits, targets, "multiclass")
    assert (few.temperature, few.applied) == (1.0, False)
    assert "49 validation images, at least 50" in few.reason
    assert few.before == few.after
    targets = np.arange(60) % 3
    perfect = calibrate(np.eye(3)[targets] * 0.9, targets, "multiclass")
    assert not perfect.applied
    assert "separated perfectly" in perfect.reason
    assert fit_temperature(np.eye(3)[targets], targets, "multiclass") == TEMPERATURE_RANGE[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1000), st.integers(1, 12))
def test_probabilities_are_scipys_to_the_bit(seed: int, scale: float, k: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=scale, size=(20, k))
    ours = apply_temperature(logits, 1.7, "multiclass")
    np.testing.assert_array_equal(ours, softmax(logits / 1.7, axis=1))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 20), st.sampled_from(["multiclass", "multilabel"]))
def test_raw_probabilities_come_back(seed: int, temperature: float, task: str) -> None:
    logits = np.random.default_rng(seed).normal(scale=3, size=(20, 4))
    calibrated = apply_temperature(logits, temperature, task)  # type: ignore[arg-type]
    raw = apply_temperature(logits, 1.0, task)  # type: ignore[arg-type]
    found = raw_probabilities(calibrated, temperature, task)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, raw, atol=1e-9)


def test_saturated_probabilities_come_back_without_warnings() -> None:
    given = np.array([[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(raw_probabilities(given, 2.0, "multiclass"), given)
    np.testing.assert_allclose(raw_probabilities(given, 2.0, "multilabel"), given)


def test_logits_instead_of_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match=r"row 0 lie outside \[0, 1\]; apply softmax"):
        expected_calibration_error(np.array([[3.0, -1.0]]), np.array([0]))
    with pytest.raises(DataError, match=r"row 1 sums to 1\.4"):
        brier_score(np.array([[0.5, 0.5], [0.7, 0.7]]), np.array([0, 1]))
    with pytest.raises(DataError, match="logits of row 1 are not finite"):
        fit_temperature(np.array([[0.0, 1.0], [np.inf, 0.0]]), np.array([0, 1]), "multiclass")
    with pytest.raises(DataError, match="temperature must be above 0"):
        apply_temperature(np.zeros((2, 2)), 0.0, "multiclass")
