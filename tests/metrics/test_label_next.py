"""What to label next: uncertain and different."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from scanwise.core.errors import DataError
from scanwise.metrics.label_next import choose_different, uncertainty


def test_uncertainty_is_scipys_entropy_as_a_share() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    np.testing.assert_allclose(uncertainty(p), entropy(p, axis=1) / np.log(4))
    assert uncertainty(np.full((1, 4), 0.25))[0] == pytest.approx(1)


def test_several_labels_are_averaged() -> None:
    np.testing.assert_allclose(uncertainty(np.array([[0.5, 1.0], [0.0, 1.0]]), "multilabel"),
                               [0.5, 0.0])  # fmt: skip


def test_the_most_uncertain_comes_first_and_its_neighbours_wait() -> None:
    features = np.array([[0.0], [0.01], [10.0], [10.01], [5.0]], np.float32)
    unsure = np.array([1.0, 0.99, 0.8, 0.7, 0.1])
    # 0; then 2 (0.8 x 10); then of 1 (0.0099), 3 (0.007), 4 (0.1 x 5) the last.
    np.testing.assert_array_equal(choose_different(unsure, features, 3), [0, 2, 4])


def test_with_equal_uncertainty_it_is_k_centre_greedy() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 3)).astype(np.float32)
    chosen = choose_different(np.ones(60), features, 8)
    for step in range(1, 8):
        distances = np.linalg.norm(features[:, None] - features[chosen[:step]], axis=2).min(axis=1)
        assert distances[chosen[step]] == pytest.approx(distances.max())


def test_no_row_comes_twice_even_where_all_are_alike() -> None:
    chosen = choose_different(np.zeros(5), np.zeros((5, 2), np.float32), 9)
    np.testing.assert_array_equal(np.sort(chosen), np.arange(5))


def test_nothing_asked_is_refused() -> None:
    with pytest.raises(DataError, match="n=0"):
        choose_different(np.ones(2), np.ones((2, 1), np.float32), 0)
    with pytest.raises(DataError, match="2 uncertainties for 3"):
        choose_different(np.ones(2), np.ones((3, 1), np.float32), 1)
