"""Rates and averages against scikit-learn, on random, rare-class and degenerate input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from scanwise.core.errors import DataError
from scanwise.metrics import counts as rates
from scanwise.metrics.resampled import matrix_values


def _random(seed: int, k: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(k))
    targets = np.concatenate([np.arange(k), rng.choice(k, n, p=shares)])
    right = rng.random(len(targets)) < 0.6
    return targets, np.where(right, targets, rng.integers(0, k, len(targets)))


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_all_matrix_metrics_equal_scikit_learn(seed: int, k: int) -> None:
    targets, predicted = _random(seed, k)
    matrix = rates.confusion_matrix(targets, predicted, k)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(targets, predicted))
    found = {
        name: value[..., 0]
        for name, value in matrix_values(matrix[..., None].astype(float), ordinal=True).items()
    }
    expected = {
        "accuracy": reference.accuracy_score(targets, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(targets, predicted),
        "mcc": reference.matthews_corrcoef(targets, predicted),
        "kappa": reference.cohen_kappa_score(targets, predicted),
        "kappa_quadratic": reference.cohen_kappa_score(targets, predicted, weights="quadratic"),
        "mean_absolute_grade_error": reference.mean_absolute_error(targets, predicted),
    }
    for average in ("macro", "weighted"):
        triple = reference.precision_recall_fscore_support(
            targets, predicted, average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), triple[:3], strict=True):
            expected[f"{name}_{average}"] = value
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    np.testing.assert_allclose(
        found["sensitivity"], reference.recall_score(targets, predicted, average=None)
    )
    np.testing.assert_allclose(
        found["ppv"],
        reference.precision_score(targets, predicted, average=None, zero_division=np.nan),
    )
    specificities = [
        reference.recall_score(targets != i, predicted != i, zero_division=np.nan) for i in range(k)
    ]
    np.testing.assert_allclose(found["specificity"], specificities)
    assert found["specificity_macro"] == pytest.approx(np.mean(specificities))


def test_binary_label_scores_equal_the_two_class_matrix() -> None:
    targets, predicted = _random(3, 2)
    counts = rates.class_counts(rates.confusion_matrix(targets, predicted, 2), 1)
    assert float(rates.binary_mcc(counts)) == pytest.approx(
        reference.matthews_corrcoef(targets, predicted)
    )
    assert float(rates.binary_kappa(counts)) == pytest.approx(
        reference.cohen_kappa_score(targets, predicted)
    )


def test_a_class_without_images_is_nan_and_left_out_of_averages() -> None:
    targets, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    found = matrix_values(rates.confusion_matrix(targets, predicted, 3)[..., None].astype(float))
    assert np.isnan(found["sensitivity"][2, 0])
    assert np.isnan(found["f1"][2, 0])
    assert found["recall_macro"][0] == pytest.approx(0.75)  # of two classes, not of three
    assert found["precision_macro"][0] == pytest.approx(1.0)


def test_a_class_that_is_never_predicted_counts_as_precision_zero() -> None:
    targets = np.repeat([0, 1, 2, 3], 5)
    found = matrix_values(
        rates.confusion_matrix(targets, np.zeros(20, int), 4)[..., None].astype(float)
    )
    assert np.isnan(found["ppv"][1, 0])
    assert found["precision_macro"][0] == pytest.approx(0.25 / 4)
    assert found["balanced_accuracy"][0] == 0.25
    assert found["mcc"][0] == 0.0
    assert found["kappa"][0] == 0.0


def test_agreement_is_undefined_when_all_images_are_of_one_class() -> None:
    found = matrix_values(np.array([[5.0, 2.0], [0.0, 0.0]])[..., None], ordinal=True)
    for name in ("mcc", "kappa", "kappa_quadratic"):
        assert np.isnan(found[name][0]), name


def test_a_perfect_matrix_is_perfect_even_when_large() -> None:
    found = matrix_values((np.eye(3) * [10**6, 3, 10**5])[..., None])
    assert found["mcc"][0] == pytest.approx(1.0, abs=1e-12)
    assert found["kappa"][0] == pytest.approx(1.0, abs=1e-12)


def test_bad_indices_are_refused_with_the_range() -> None:
    with pytest.raises(DataError, match=r"predicted lie in \[0, 3\], but there are 3"):
        rates.confusion_matrix(np.array([0, 1]), np.array([0, 3]), 3)
    with pytest.raises(DataError, match="must both be"):
        rates.confusion_matrix(np.array([0, 1]), np.array([0]), 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_every_rate_stays_in_range_or_is_nan(pairs: list[tuple[int, int]]) -> None:
    targets, predicted = np.array(pairs).T
    found = matrix_values(
        rates.confusion_matrix(targets, predicted, 4)[..., None].astype(float), ordinal=True
    )
    for name, value in found.items():
        low = -1 if name in ("mcc", "kappa", "kappa_quadratic") else 0
        high = 3 if name == "mean_absolute_grade_error" else 1
        defined = value[~np.isnan(value)]
        assert (defined >= low - 1e-12).all(), name
        assert (defined <= high + 1e-12).all(), name
    assert found["accuracy"][0] == np.mean(targets == predicted)
