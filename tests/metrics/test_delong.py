"""DeLong's test against scikit-learn, the definition, the bootstrap and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from scanwise.core.errors import DataError
from scanwise.metrics.delong import delong_test
from scanwise.metrics.intervals import never_seen, wilson_interval
from scanwise.metrics.ranks import auroc


@pytest.fixture
def rng() -> np.random.Generator:
    """Its own for each test, so that none depends on which others ran."""
    return np.random.default_rng(7)


def _variance(first: np.ndarray, second: np.ndarray, positive: np.ndarray) -> float:
    """By the definition: every positive beside every negative."""

    def wins(scores: np.ndarray) -> np.ndarray:
        gap = scores[positive][:, None] - scores[~positive][None, :]
        return (gap > 0) + 0.5 * (gap == 0)

    gain = wins(second) - wins(first)
    of_positives, of_negatives = gain.mean(axis=1), gain.mean(axis=0)
    return float(
        of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives)
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=4, max_size=40
    )
)
def test_areas_and_variance_equal_the_definition_with_ties(rows):
    first, second, positive = (np.array(column) for column in zip(*rows, strict=True))
    assume(2 <= positive.sum() <= len(positive) - 2)
    found = delong_test(first, second, positive)
    assert found.first == pytest.approx(roc_auc_score(positive, first), abs=1e-12)
    assert found.second == pytest.approx(roc_auc_score(positive, second), abs=1e-12)
    assert found.variance == pytest.approx(_variance(first, second, positive), abs=1e-12)
    assert found.tested.interval.low <= found.tested.interval.value <= found.tested.interval.high
    holds_0 = found.tested.interval.low <= 0 <= found.tested.interval.high
    assert holds_0 == (found.tested.p_value >= 0.05)


def _scores(rng: np.random.Generator, m: int, n: int, gap: float = 0.0) -> tuple[np.ndarray, ...]:
    positive = np.arange(m + n) < m
    shared = rng.normal(size=m + n)
    first = shared + rng.normal(size=m + n) + 1.5 * positive
    second = shared + rng.normal(size=m + n) + (1.5 + gap) * positive
    return first, second, positive


def test_interval_agrees_with_the_paired_bootstrap(rng):
    first, second, positive = _scores(rng, 150, 250, gap=0.5)
    found = delong_test(first, second, positive).tested.interval

    def gap(rows: np.ndarray) -> float:
        truth = positive[rows]
        return auroc(second[rows], truth) - auroc(first[rows], truth)

    reference = bootstrap(
        (np.arange(400),), gap, vectorized=False, n_resamples=999, method="percentile", rng=3
    ).confidence_interval
    assert found.low == pytest.approx(reference.low, abs=0.008)
    assert found.high == pytest.approx(reference.high, abs=0.008)


@pytest.mark.parametrize(("m", "n"), [(40, 110), (10, 140)])
def test_coverage_is_near_95_percent(m, n):
    """Also with few positives, where the normal distribution would be too sure."""
    rng = np.random.default_rng(11)
    tests = [delong_test(*_scores(rng, m, n)).tested for _ in range(800)]
    covered = sum(one.interval.low <= 0 <= one.interval.high for one in tests)
    bounds = wilson_interval(covered, len(tests))
    assert bounds.low < 0.95 + 0.03
    assert bounds.high > 0.95
    assert sum(one.p_value < 0.05 for one in tests) == len(tests) - covered


def test_swapping_the_models_swaps_the_signs(rng):
    first, second, positive = _scores(rng, 30, 50, gap=0.4)
    one, other = delong_test(first, second, positive), delong_test(second, first, positive)
    assert one.tested.p_value == pytest.approx(other.tested.p_value, rel=1e-9)
    assert one.tested.interval.low == pytest.approx(-other.tested.interval.high, abs=1e-12)
    assert one.z == pytest.approx(-other.z)


def test_equal_rankings_may_still_differ():
    scores = np.arange(20.0)
    found = delong_test(scores, 3 * scores, np.arange(20) >= 14)
    assert (found.variance, found.tested.p_value) == (0.0, 1.0)
    assert found.tested.interval.value == 0.0
    assert found.tested.interval.high == pytest.approx(never_seen(6))
    assert "too few" in found.tested.interval.reason


def test_perfect_beside_constant_is_no_certainty():
    """No variance is estimated here, yet three positives prove nothing."""
    positive = np.arange(50) < 3
    few = delong_test(np.zeros(50), positive.astype(float), positive).tested
    assert few.interval.value == 0.5
    assert few.p_value == pytest.approx(0.25)
    assert few.interval.low <= 0.0
    positive = np.arange(50) < 20
    many = delong_test(np.zeros(50), positive.astype(float), positive).tested
    assert many.p_value == pytest.approx(2 * 0.5**20)
    assert 0.0 < many.interval.low < 0.5 < many.interval.high


def test_one_positive_gives_a_difference_but_no_test():
    found = delong_test([0.1, 0.5, 0.3], [0.1, 0.5, 0.9], [0, 0, 1])
    assert found.tested.interval.value == 0.5
    assert (found.variance, found.z, found.tested.p_value) == (None, None, None)
    assert "1 positive" in found.tested.interval.reason


@pytest.mark.parametrize(
    ("first", "second", "positive", "message"),
    [
        ([0.1, 0.2], [0.1, 0.2], [1, 1], "both kinds"),
        ([0.1, 0.2], [0.1, np.nan], [0, 1], "score 1 is not finite"),
        ([0.1], [0.1, 0.2], [0, 1], "must both be"),
        ([0.1, 0.2], [0.1, 0.2], [0, 2], "0 and 1"),
    ],
)
def test_what_can_not_be_compared_is_refused(first, second, positive, message):
    with pytest.raises(DataError, match=message):
        delong_test(first, second, positive)
