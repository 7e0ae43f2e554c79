"""Wilson against scipy, the bootstrap against a slow loop with the same draws, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats
from scipy.stats import binomtest
from sklearn import metrics as reference

from scanwise.core.errors import DataError
from scanwise.metrics import intervals
from scanwise.metrics.intervals import (
    LEVEL,
    Z,
    group_numbers,
    logit_interval,
    percentile_interval,
    resample_weights,
    wilson_interval,
)
from scanwise.metrics.resampled import prepare, resample, values


def test_z_is_the_quantile_of_the_level() -> None:
    assert special.ndtri(0.5 + LEVEL / 2) == Z


@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (0, 40), (7, 9), (30, 30), (531, 624), (250, 1000)]
)
def test_wilson_equals_scipy(hits: int, n: int) -> None:
    ours = wilson_interval(hits, n)
    theirs = binomtest(hits, n).proportion_ci(method="wilson")
    assert ours.value == hits / n
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_says_when_there_is_nothing_or_little() -> None:
    assert wilson_interval(0, 0).to_json() == {"value": None, "reason": "n=0"}
    assert "too few to conclude (n=12)" in str(wilson_interval(9, 12).reason)
    assert wilson_interval(25, 30).reason is None
    with pytest.raises(DataError, match=r"\[0, 5\], got 6"):
        wilson_interval(6, 5)


def test_stratified_resamples_keep_class_counts_and_seed_decides() -> None:
    strata = np.array([2, 0, 0, 1, 1, 1, 0, 2, 1])
    weights = np.concatenate(list(resample_weights(strata, None, 500, seed=3)), axis=1)
    assert weights.shape == (9, 500)
    for stratum in range(3):
        assert (weights[strata == stratum].sum(axis=0) == (strata == stratum).sum()).all()
    # Each image is drawn once on average, and not always.
    np.testing.assert_allclose(weights.mean(axis=1), 1, atol=0.15)
    assert weights.std() > 0.5
    again = np.concatenate(list(resample_weights(strata, None, 500, seed=3)), axis=1)
    other = np.concatenate(list(resample_weights(strata, None, 500, seed=4)), axis=1)
    np.testing.assert_array_equal(weights, again)
    assert (weights != other).any()


def test_block_size_does_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = np.arange(50) % 4
    whole = np.concatenate(list(resample_weights(strata, None, 100, seed=0)), axis=1)
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 700)
    blocks = list(resample_weights(strata, None, 100, seed=0))
    assert len(blocks) > 5
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def test_group_resamples_draw_whole_groups() -> None:
    groups = group_numbers(("a", "b", "a", "c", "b", "a"))
    assert groups is not None
    weights = np.concatenate(
        list(resample_weights(np.zeros(6, dtype=np.int64), groups, 300, seed=1)), axis=1
    )
    for group in range(3):
        rows = weights[groups == group]
        assert (rows == rows[0]).all()
    firsts = weights[[0, 1, 3]]
    assert (firsts.sum(axis=0) == 3).all()


def test_single_image_groups_are_no_groups_and_empty_names_stand_alone() -> None:
    assert group_numbers(("a", "b", "c")) is None
    assert group_numbers(None) is None
    assert group_numbers(("", "", "")) is None
    numbers = group_numbers(("", "x", "", "x"))
    assert numbers is not None
    assert len(np.unique(numbers)) == 3


def _predictions(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += 1
    probabilities = np.exp(logits).round(1) + 0.05  # rounded: ties
    return probabilities / probabilities.sum(axis=1, keepdims=True), targets


@pytest.mark.parametrize("grouped", [False, True])
def test_vectorised_resamples_equal_a_loop_over_scikit_learn(grouped: bool) -> None:
    probabilities, targets = _predictions(0, 90, 3)
    groups = np.arange(90) // 5 if grouped else None
    scored = prepare(probabilities, targets, "multiclass")
    fast = resample(scored, groups, 25, seed=5)
    (weights,) = resample_weights(targets, groups, 25, seed=5)
    predicted = probabilities.argmax(axis=1)
    for r in range(25):
        rows = np.repeat(np.arange(90), weights[:, r].astype(int))
        truth, said, p = targets[rows], predicted[rows], probabilities[rows]
        slow = {
            "accuracy": reference.accuracy_score(truth, said),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, said),
            "f1_macro": reference.f1_score(truth, said, average="macro", zero_division=0),
            "precision_weighted": reference.precision_score(
                truth, said, average="weighted", zero_division=0
            ),
            "mcc": reference.matthews_corrcoef(truth, said),
            "kappa": reference.cohen_kappa_score(truth, said),
            "auroc_macro": reference.roc_auc_score(truth, p, multi_class="ovr"),
            "auprc_macro": reference.average_precision_score(np.eye(3)[truth], p),
            "auprc_micro": reference.average_precision_score(np.eye(3)[truth], p, average="micro"),
            "cross_entropy_loss": reference.log_loss(truth, p, labels=[0, 1, 2]),
            "brier": np.mean(np.sum((p - np.eye(3)[truth]) ** 2, axis=1)),
        }
        for name, value in slow.items():
            assert fast[name][r] == pytest.approx(value, abs=1e-9), (name, r)


def test_multilabel_resamples_equal_repeated_rows() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.random((40, 3)).round(2)
    targets = (rng.random((40, 3)) < probabilities).astype(np.int64)
    scored = prepare(probabilities, targets, "multilabel")
    fast = resample(scored, None, 10, seed=0)
    (weights,) = resample_weights(np.zeros(40, dtype=np.int64), None, 10, seed=0)
    for r in range(10):
        rows = np.repeat(np.arange(40), weights[:, r].astype(int))
        again = prepare(probabilities[rows], targets[rows], "multilabel")
        slow = values(again, np.ones((40, 1)))
        for name, value in slow.items():
            np.testing.assert_allclose(fast[name][..., r], value[..., 0], atol=1e-9, err_msg=name)


def test_percentiles_are_the_plain_ones() -> None:
    draws = np.linspace(0.2, 0.8, 2001)
    interval = percentile_interval(0.5, draws, units=100)
    assert (interval.low, interval.high) == pytest.approx((0.215, 0.785))
    assert interval.reason is None


def test_recentring_brings_an_upward_biased_quantity_back_around_its_estimate() -> None:
    draws = np.linspace(0.05, 0.09, 1001)
    plain = percentile_interval(0.03, draws, units=100)
    moved = percentile_interval(0.03, draws, units=100, recentre=True)
    assert plain.low == 0.03  # would lie above the estimate, and is stretched to reach it
    assert (moved.low, moved.high) == pytest.approx((0.011, 0.049))


def test_a_perfect_score_claims_no_certainty() -> None:
    interval = percentile_interval(1.0, np.ones(200), units=50)
    assert interval.high == 1.0
    assert interval.low == pytest.approx(wilson_interval(50, 50).low)
    nothing = percentile_interval(0.0, np.zeros(200), units=50)
    assert nothing.high == pytest.approx(wilson_interval(0, 50).high)


def test_no_interval_without_resamples_or_units() -> None:
    lost = np.full(100, np.nan)
    assert "lack the class" in str(percentile_interval(0.5, lost, units=40).reason)
    alone = percentile_interval(0.5, np.full(100, 0.5), units=1, noun="groups")
    assert alone.to_json() == {"value": 0.5, "ci95": None, "reason": "no interval: groups=1"}
    few = percentile_interval(0.5, np.linspace(0.4, 0.6, 100), units=12)
    assert few.to_json()["note"] == "too few to conclude (n=12)"


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """True AUROC of N(1, 1) against N(0, 1) is Φ(1/√2) = 0.7602; 200 simulated test sets."""
    rng = np.random.default_rng(11)
    truth, inside = 0.7602499, 0
    targets = np.repeat([0, 1], [90, 60])
    for trial in range(200):
        score = rng.normal(size=150) + targets
        positive = 1 / (1 + np.exp(-score))
        scored = prepare(np.stack([1 - positive, positive], axis=1), targets, "multiclass")
        draws = resample(scored, None, 200, seed=trial)["auroc_macro"]
        interval = percentile_interval(float(np.median(draws)), draws, units=150)
        assert interval.low is not None
        assert interval.high is not None
        inside += interval.low <= truth <= interval.high
    assert 0.90 <= inside / 200 <= 0.99


# --- the logit's t interval ---------------------------------------------------------------------


def test_the_logit_interval_of_a_share_is_the_closed_form() -> None:
    """Bootstrap SD of a share is sqrt(p q / n); on the logit's scale that is 1 / sqrt(n p q)."""
    n, p = 400, 0.9
    shares = np.random.default_rng(0).binomial(n, p, 200_000) / n
    found = logit_interval(p, shares, units=n)
    half = stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1)) / np.sqrt(n * p * (1 - p))
    expected = special.expit(special.logit(p) + np.array([-half, half]))
    np.testing.assert_allclose([found.low, found.high], expected, atol=2e-4)


def test_the_logit_interval_is_lopsided_and_stays_in_its_range() -> None:
    resamples = np.random.default_rng(0).normal(0.97, 0.02, 4000).clip(0, 1)
    found = logit_interval(0.97, resamples, units=50)
    assert 0 < found.low < 0.97 - 0.04 < 0.97 < found.high < 1
    assert found.value - found.low > 2 * (found.high - found.value)


def test_the_logit_interval_follows_its_range() -> None:
    resamples = np.random.default_rng(0).normal(0.7, 0.05, 1000)
    of_share = logit_interval(0.7, resamples, units=80)
    of_kappa = logit_interval(0.4, 2 * resamples - 1, units=80, lowest=-1.0)
    np.testing.assert_allclose(
        [of_kappa.low, of_kappa.high], [2 * of_share.low - 1, 2 * of_share.high - 1]
    )


def test_few_degrees_of_freedom_widen_the_logit_interval() -> None:
    resamples = np.random.default_rng(0).normal(0.7, 0.05, 1000)
    wide = logit_interval(0.7, resamples, units=80, freedom=4)
    narrow = logit_interval(0.7, resamples, units=80)
    ratio = (special.logit(wide.high) - special.logit(0.7)) / (
        special.logit(narrow.high) - special.logit(0.7)
    )
    expected = stats.t.ppf(0.975, 4) * np.sqrt(5 / 4)
    expected /= stats.t.ppf(0.975, 79) * np.sqrt(80 / 79)
    assert ratio == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_at_an_end_the_logit_interval_is_the_opened_one(value: float) -> None:
    resamples = np.full(500, value)
    assert logit_interval(value, resamples, units=40) == percentile_interval(
        value, resamples, units=40
    )
    assert logit_interval(0.5, np.full(9, np.nan), units=40).low is None
