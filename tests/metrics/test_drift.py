"""Drift tests: p values of scipy and statsmodels, right rates of false alarms, few images told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportions_chisquare

from scanwise.metrics.drift import corrected, score_drift, share_drift


def test_scores_of_one_distribution_and_of_two(rng):
    known, same, other = rng.normal(size=400), rng.normal(size=300), rng.normal(0.5, 1, 300)
    calm, moved = corrected([score_drift("s", known, same), score_drift("s", known, other)])
    assert calm.verdict == "no drift shown"
    assert moved.verdict == "drift"
    assert moved.statistic == pytest.approx(stats.ks_2samp(known, other).statistic)
    assert (moved.n_reference, moved.n_new) == (400, 300)


def test_unknown_scores_are_left_out(rng):
    known = rng.normal(size=100)
    test = score_drift("s", known, np.r_[known[:40], np.full(60, np.nan)])
    assert test.n_new == 40


def test_shares_are_pearsons_chi_square():
    known, new = np.array([50, 60, 90]), np.array([70, 50, 80])
    test = share_drift("kinds", known, new)
    expected = known + new  # of equal samples, half of each
    value = (((known - expected / 2) ** 2 + (new - expected / 2) ** 2) / (expected / 2)).sum()
    assert test.statistic == pytest.approx(value)
    assert test.p == pytest.approx(stats.chi2.sf(value, 2))


def test_two_kinds_go_to_fisher_and_agree_with_chi_square_in_large_samples():
    test = share_drift("share", np.array([300, 1700]), np.array([350, 1650]))
    assert test.statistic == pytest.approx(0.025)
    assert test.p == pytest.approx(proportions_chisquare([300, 350], [2000, 2000])[1], rel=0.15)
    rare = share_drift("share", np.array([4, 76]), np.array([0, 80]))
    assert rare.p == pytest.approx(2 * stats.hypergeom.sf(3, 160, 4, 80))


def test_rare_kinds_are_put_together():
    known, new = np.array([100, 80, 3, 3, 0]), np.array([90, 88, 3, 3, 0])
    pooled = share_drift("kinds", known, new)
    expected = stats.chi2_contingency([[100, 80, 6], [90, 88, 6]], correction=False)
    assert pooled.p == pytest.approx(expected.pvalue)


def test_few_images_are_not_judged():
    few = share_drift("kinds", np.array([100, 100]), np.array([20, 3]))
    assert few.p is None
    assert "n=23, 30 are needed" in few.reason
    one_kind = share_drift("kinds", np.array([100, 1, 0]), np.array([100, 0, 0]))
    assert "one kind" in one_kind.reason
    assert [test.verdict for test in corrected([few, one_kind])] == ["not measured"] * 2


def test_holm_counts_only_tests_that_were_made(rng):
    tests = [score_drift("s", rng.normal(size=200), rng.normal(d, 1, 200)) for d in (0, 0.2, 0.4)]
    few = score_drift("few", rng.normal(size=200), rng.normal(size=3))
    found = corrected([few, *tests])
    expected = multipletests([test.p for test in tests], method="holm")[1]
    assert found[0].p_corrected is None
    np.testing.assert_allclose([test.p_corrected for test in found[1:]], expected)


def test_false_alarms_stay_rare(rng):
    """Of 200 pairs without drift at most about 5 % are called so, over all tests of a pair."""
    alarms = 0
    for _ in range(200):
        kinds = [np.bincount(rng.integers(0, 4, 150), minlength=4) for _ in range(2)]
        tests = corrected(
            [
                score_drift("a", rng.normal(size=150), rng.normal(size=150)),
                score_drift("b", rng.uniform(size=150), rng.uniform(size=150)),
                share_drift("c", *kinds),
            ]
        )
        alarms += any(test.verdict == "drift" for test in tests)
    assert alarms <= 20  # binomial(200, 0.05): above 20 with p 0.001
