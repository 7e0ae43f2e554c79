"""Predictive values against statsmodels and by simulation; net benefit against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from scanwise.core.errors import DataError
from scanwise.metrics.clinical import (
    CURVE_THRESHOLDS,
    Rate,
    effective_rate,
    net_benefit,
    net_benefit_curve,
    predictive_values,
    prevalence_document,
    ratio_interval,
)
from scanwise.metrics.predictions import make_predictions


@pytest.mark.parametrize(
    ("x1", "n1", "x0", "n0"), [(35, 42, 40, 114), (3, 20, 50, 60), (480, 500, 20, 500)]
)
def test_the_score_interval_of_a_ratio_equals_statsmodels(x1, n1, x0, n0) -> None:
    value, low, high = ratio_interval(Rate(x1, n1), Rate(x0, n0))
    theirs = confint_proportions_2indep(
        x1, n1, x0, n0, compare="ratio", method="score", correction=False
    )
    assert math.exp(value) == pytest.approx(x1 / n1 / (x0 / n0))
    assert math.exp(low) == pytest.approx(theirs[0], rel=1e-5)
    assert math.exp(high) == pytest.approx(theirs[1], rel=1e-5)


def test_predictive_values_follow_bayes() -> None:
    ppv, npv = predictive_values(Rate(90, 100), Rate(160, 200), 0.02)
    assert ppv.value == pytest.approx(0.02 * 0.9 / (0.02 * 0.9 + 0.98 * 0.2))
    assert npv.value == pytest.approx(0.98 * 0.8 / (0.98 * 0.8 + 0.02 * 0.1))
    assert ppv.low < ppv.value < ppv.high
    assert npv.low < npv.value < npv.high


def test_perfect_and_hopeless_rates_claim_no_certainty() -> None:
    ppv, npv = predictive_values(Rate(20, 20), Rate(60, 60), 0.02)
    assert (ppv.value, ppv.high) == (1.0, 1.0)
    assert 0.1 < ppv.low < 0.5
    assert (npv.value, npv.high) == (1.0, 1.0)
    assert 0.99 < npv.low < 1.0
    never, all_clear = predictive_values(Rate(0, 20), Rate(60, 60), 0.02)
    assert never.value is None
    assert never.reason == "never called"
    assert all_clear.value == pytest.approx(0.98)


@pytest.mark.parametrize(
    ("n1", "n0", "sensitivity", "specificity"),
    [(42, 114, 0.8, 0.7), (20, 60, 0.95, 0.9), (30, 300, 0.9, 0.99), (100, 100, 0.6, 0.97)],
)
def test_predictive_values_cover_the_truth(n1, n0, sensitivity, specificity) -> None:
    rng = np.random.default_rng(3)
    prevalence, trials = 0.02, 600
    sick, well = prevalence * sensitivity, (1 - prevalence) * specificity
    truth = (
        sick / (sick + (1 - prevalence) * (1 - specificity)),
        well / (well + prevalence * (1 - sensitivity)),
    )
    inside = np.zeros(2)
    for _ in range(trials):
        found, cleared = rng.binomial(n1, sensitivity), rng.binomial(n0, specificity)
        values = predictive_values(Rate(found, n1), Rate(cleared, n0), prevalence)
        inside += [
            v.value is None or v.low <= t <= v.high for v, t in zip(values, truth, strict=True)
        ]
    assert (inside / trials >= 0.92).all(), inside / trials
    assert (inside / trials <= 0.99).all(), inside / trials


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 1.2, float("nan")])
def test_a_prevalence_outside_of_0_and_1_is_refused(prevalence: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        predictive_values(Rate(9, 10), Rate(9, 10), prevalence)


def test_images_of_one_patient_count_for_less() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 5)
    alike = (rng.random(60) < 0.7)[group]
    own = rng.random(300) < 0.7
    among = np.ones(300, dtype=bool)
    assert effective_rate(own, among, None) == Rate(int(own.sum()), 300)
    assert 50 < effective_rate(alike, among, group).n < 75  # 60 patients
    assert effective_rate(own, among, group).n > 200
    assert effective_rate(among, among, group).n == 60


def scored(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    return 1 / (1 + np.exp(-rng.normal(2 * positive - 1.6, 1))), positive


def test_net_benefit_equals_the_definition() -> None:
    scores, positive = scored()
    scores[:3] = 0.25, 0.5, 0.75  # on a threshold: called
    found = net_benefit(scores, positive, CURVE_THRESHOLDS, np.ones((400, 1)))[:, 0]
    for threshold, value in zip(CURVE_THRESHOLDS, found, strict=True):
        said = scores >= threshold
        tp, fp = (said & positive).sum() / 400, (said & ~positive).sum() / 400
        assert value == pytest.approx(tp - fp * threshold / (1 - threshold), abs=1e-12)


def test_calling_all_is_the_line_that_everyone_knows_and_the_band_holds_the_curve() -> None:
    scores, positive = scored()
    curve = net_benefit_curve(scores, positive, None, num_resamples=200)
    share = positive.mean()
    crossing = np.interp(0, -np.array(curve["treat_all"]), curve["threshold"])
    assert crossing == pytest.approx(share, abs=0.01)
    low, value, high = (np.array(curve[key]) for key in ("low", "net_benefit", "high"))
    assert (low <= value).all()
    assert (value <= high).all()
    assert (high - low)[:40].min() > 0
    everyone = net_benefit(np.ones(400), positive, CURVE_THRESHOLDS, np.ones((400, 1)))[:, 0]
    np.testing.assert_allclose(everyone, curve["treat_all"], atol=1e-12)


def test_the_table_uses_the_threshold_or_the_decision_of_the_file() -> None:
    scores, positive = scored()
    rows = make_predictions(
        tuple(map(str, range(400))), ("test",) * 400, positive.astype(int),
        np.stack([1 - scores, scores], axis=1), ("well", "ill"),
    )  # fmt: skip
    by_argmax = prevalence_document(rows, 1, 0.02, None, num_resamples=50)
    by_threshold = prevalence_document(rows, 1, 0.02, 0.2, num_resamples=50)
    assert by_argmax["true_positives"] == ((scores > 0.5) & positive).sum()
    assert by_threshold["true_positives"] == ((scores >= 0.2) & positive).sum()
    assert by_threshold["sensitivity"]["value"] > by_argmax["sensitivity"]["value"]
    with pytest.raises(DataError, match="need images of the class and others"):
        prevalence_document(rows.rows(~positive), 1, 0.02, None)
