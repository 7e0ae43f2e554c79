"""Corrected counts: closed form for two classes, exact without noise, and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.metrics.prevalence import corrected_counts, shares_behind


def test_two_classes_are_rogan_and_gladen() -> None:
    confusion = [[90, 10], [4, 16]]  # specificity 0.9, sensitivity 0.8
    found = corrected_counts(confusion, [700, 300])
    assert found[1].value == pytest.approx(1000 * (0.3 + 0.9 - 1) / (0.8 + 0.9 - 1))
    assert found[0].value + found[1].value == pytest.approx(1000)
    assert found[1].low < found[1].value < found[1].high
    assert found[0].reason is None
    assert found[1].reason == "too few to conclude (n=20 labelled)"


def test_without_noise_the_true_shares_come_back() -> None:
    rng = np.random.default_rng(0)
    called = rng.dirichlet([1, 1, 1, 1], 4) * 0.3 + 0.7 * np.eye(4)
    shares = np.array([0.0, 0.1, 0.3, 0.6])
    np.testing.assert_allclose(shares_behind(called, shares @ called), shares, atol=1e-9)


def test_fewer_alarms_than_false_ones_alone_give_none_not_a_negative_count() -> None:
    found = corrected_counts([[180, 20], [10, 90]], [480, 20])
    assert found[1].value == 0.0
    assert found[1].low == 0.0
    assert 0 < found[1].high < 50
    assert found[0].high == 500


def test_a_perfect_table_does_not_claim_certainty() -> None:
    few = corrected_counts([[40, 0], [0, 40]], [500, 500])
    many = corrected_counts([[4000, 0], [0, 4000]], [500, 500])
    assert few[1].value == pytest.approx(500)
    assert many[1].value == pytest.approx(500)
    assert few[1].high - few[1].low > 5 * (many[1].high - many[1].low)


def test_a_model_that_knows_nothing_gives_an_interval_that_says_so() -> None:
    found = corrected_counts([[50, 50], [50, 50]], [50, 50])
    assert found[0].high - found[0].low > 90


def test_same_seed_same_interval() -> None:
    table, counts = [[80, 20], [10, 90]], [300, 200]
    assert corrected_counts(table, counts, seed=1) == corrected_counts(table, counts, seed=1)
    assert corrected_counts(table, counts, seed=1) != corrected_counts(table, counts, seed=2)


def test_intervals_cover_the_true_counts_where_raw_counts_do_not() -> None:
    rng = np.random.default_rng(4)
    called = np.array([[0.9, 0.07, 0.03], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]])
    labelled, new, shares, trials = (80, 60, 40), 600, (0.85, 0.1, 0.05), 300
    inside, raw_inside = np.zeros(3), np.zeros(3)
    for trial in range(trials):
        pairs = zip(labelled, called, strict=True)
        table = np.stack([rng.multinomial(n, row) for n, row in pairs])
        truth = rng.multinomial(new, shares)
        counts = sum(rng.multinomial(n, row) for n, row in zip(truth, called, strict=True))
        found = corrected_counts(table, counts, num_resamples=400, seed=trial)
        inside += [each.low <= n <= each.high for each, n in zip(found, truth, strict=True)]
        spread = 1.96 * np.sqrt(counts * (1 - counts / new))
        raw_inside += np.abs(counts - truth) <= spread
    assert (inside / trials >= 0.93).all(), inside / trials
    assert (raw_inside / trials).min() < 0.5, raw_inside / trials


@pytest.mark.parametrize(
    ("confusion", "counts", "words"),
    [
        ([[1, 0], [0, 0]], [3, 4], "class 1 has no labelled image"),
        ([[1, 0], [0, 1]], [0, 0], "no new image"),
        ([[1, 0], [0, 1]], [3, 4, 5], r"\(2, 2\) and \(3,\)"),
        ([[1, -1], [0, 1]], [3, 4], "whole numbers from 0, got -1"),
        ([[1, 0.5], [0, 1]], [3, 4], "whole numbers"),
        ([[1, 0], [0, 1]], [3, np.nan], "finite"),
        ([[1]], [3], "k > 1"),
    ],
)
def test_what_can_not_be_corrected_is_refused(confusion, counts, words) -> None:
    with pytest.raises(DataError, match=words):
        corrected_counts(confusion, counts)
