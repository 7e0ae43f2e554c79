"""Kernel ridge regression: answers without a group equal a fit without it, by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel as reference_kernel
from sklearn.preprocessing import StandardScaler

from scanwise.training.kernel_ridge import OFFSET, answers_without, rbf_kernel


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_answers_equal_a_fit_without_the_group(rng: np.random.Generator, penalty: float) -> None:
    features, targets = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    kernel = rbf_kernel([features])
    number = np.array([0] * 7 + [1] * 2 + list(range(2, 23)))
    groups = [np.flatnonzero(number == each) for each in range(23)]
    found = answers_without(kernel, targets, groups, penalty)
    for asked in groups:
        learned = np.setdiff1d(np.arange(30), asked)
        model = KernelRidge(alpha=penalty, kernel="precomputed")
        model.fit(kernel[np.ix_(learned, learned)] + OFFSET, targets[learned])
        expected = model.predict(kernel[np.ix_(asked, learned)] + OFFSET)
        np.testing.assert_allclose(found[asked], expected, atol=1e-9)


def test_the_kernel_is_the_mean_of_both_descriptions(rng: np.random.Generator) -> None:
    one, other = rng.normal(size=(12, 4)), rng.normal(size=(12, 9)) * 50 + 3
    expected = [
        reference_kernel(StandardScaler().fit_transform(each), gamma=1 / each.shape[1])
        for each in (one, other)
    ]
    np.testing.assert_allclose(rbf_kernel([one, other]), np.mean(expected, axis=0), atol=1e-12)


def test_what_never_varies_tells_nothing(rng: np.random.Generator) -> None:
    features = rng.normal(size=(8, 3))
    wider = np.hstack([features, np.full((8, 2), 7.0)])
    np.testing.assert_allclose(rbf_kernel([wider]), rbf_kernel([features]))
    assert rbf_kernel([np.ones((4, 2))]).tolist() == np.ones((4, 4)).tolist()
