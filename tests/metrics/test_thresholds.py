"""Thresholds against scikit-learn's ROC, refusals in words, and rates by group."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from scanwise.core.errors import DataError
from scanwise.metrics.intervals import wilson_interval
from scanwise.metrics.predictions import make_predictions
from scanwise.metrics.shares import mean_interval, share_interval
from scanwise.metrics.thresholds import Rule, choose_threshold, rates_at, threshold_document


def scores_of(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rounded scores with ties; a third positive."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    return (1 / (1 + np.exp(-rng.normal(1.2 * positive - 0.5, 1)))).round(2), positive


def rates(scores, positive, threshold) -> tuple[float, float]:
    said = scores >= threshold
    return said[positive].mean(), (~said)[~positive].mean()


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.98])
def test_a_sensitivity_takes_the_point_of_the_roc_that_has_the_best_specificity(target) -> None:
    scores, positive = scores_of()
    chosen = choose_threshold(scores, positive, Rule("sensitivity", target), "ill")
    sensitivity, specificity = rates(scores, positive, chosen.value)
    false_alarms, found, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert sensitivity >= target
    assert specificity == pytest.approx(1 - false_alarms[found >= target].min())


@pytest.mark.parametrize("target", [0.5, 0.9, 0.97])
def test_a_specificity_takes_the_point_that_finds_most(target) -> None:
    scores, positive = scores_of()
    chosen = choose_threshold(scores, positive, Rule("specificity", target), "ill")
    sensitivity, specificity = rates(scores, positive, chosen.value)
    false_alarms, found, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert specificity >= target
    assert sensitivity == pytest.approx(found[1 - false_alarms >= target - 1e-12].max())


def test_youden_is_the_largest_gap_of_the_roc() -> None:
    scores, positive = scores_of()
    chosen = choose_threshold(scores, positive, Rule("youden"), "ill")
    false_alarms, found, _ = roc_curve(positive, scores)
    assert sum(rates(scores, positive, chosen.value)) - 1 == pytest.approx(
        (found - false_alarms).max()
    )


def test_costs_take_elkan_where_calibrated_and_the_least_cost_elsewhere() -> None:
    scores, positive = scores_of()
    rule = Rule("cost", miss=4, false_alarm=1)
    elkan = choose_threshold(scores, positive, rule, "ill", calibrated=True)
    assert elkan.value == pytest.approx(0.2)
    assert "Elkan" in elkan.how
    counted = choose_threshold(scores, positive, rule, "ill")
    assert "not calibrated" in counted.how

    def cost(threshold: float) -> float:
        said = scores >= threshold
        return 4 * (positive & ~said).sum() + (~positive & said).sum()

    assert cost(counted.value) == min(cost(value) for value in np.append(np.unique(scores), 2.0))


def test_the_threshold_lies_between_two_scores_so_that_last_digits_decide_nothing() -> None:
    scores = np.array([0.1, 0.2, 0.4, 0.8])
    positive = np.array([False, False, True, True])
    chosen = choose_threshold(scores, positive, Rule("youden"), "ill")
    assert chosen.value == pytest.approx(0.3)
    near = np.array([0.5, np.nextafter(0.5, 1)])
    chosen = choose_threshold(near, np.array([False, True]), Rule("youden"), "ill")
    assert rates(near, np.array([False, True]), chosen.value) == (1.0, 1.0)


def test_what_can_not_be_reached_is_refused_with_the_best_that_can() -> None:
    scores = np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.05, 0.15])
    positive = np.arange(12) % 2 == 1  # 0.9, the highest, is a negative
    with pytest.raises(DataError, match=r"best on validation is 0\.833 \(5 of 6"):
        choose_threshold(scores, positive, Rule("specificity", 0.95), "ill")
    # 0.05, the lowest, is a negative: all positives can be found.
    assert choose_threshold(scores, positive, Rule("sensitivity", 0.9), "ill").cautions
    with pytest.raises(DataError, match=r"best on validation is 0\.833 \(5 of 6"):
        choose_threshold(-scores, ~positive, Rule("sensitivity", 0.95), "ill")


def test_a_target_finer_than_the_images_is_refused_and_a_coarse_one_cautioned() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(40) < 20
    scores = np.where(positive, 0.8, 0.2) + rng.uniform(0, 0.1, 40)
    with pytest.raises(DataError, match=r"best reachable below 1 is 0\.950.*1,000 or more"):
        choose_threshold(scores, positive, Rule("specificity", 0.999), "ill")
    eight = choose_threshold(scores[12:], positive[12:], Rule("sensitivity", 0.95), "ill")
    assert "asked for all 8; only from 20 on" in eight.cautions[0]
    assert not choose_threshold(scores, positive, Rule("sensitivity", 0.95), "ill").cautions


@pytest.mark.parametrize(
    ("scores", "positive", "words"),
    [
        ([0.4, 0.4, 0.4], [True, False, False], "same probability of 'ill' .0.4"),
        ([0.4, 0.3, 0.2], [False, False, False], "no image of 'ill'"),
        ([0.4, 0.3, 0.2], [True, True, True], "no image of anything else"),
    ],
)
def test_nothing_to_choose_from_is_said(scores, positive, words) -> None:
    with pytest.raises(DataError, match=words):
        choose_threshold(np.array(scores), np.array(positive), Rule("youden"), "ill")


def test_a_model_that_is_upside_down_gets_no_youden_and_no_cost() -> None:
    scores, positive = np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False])
    with pytest.raises(DataError, match="no threshold of 'ill' is better"):
        choose_threshold(scores, positive, Rule("youden"), "ill")
    with pytest.raises(DataError, match="calling every image 'ill' is the cheapest"):
        choose_threshold(scores, positive, Rule("cost", miss=50, false_alarm=1), "ill")


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, 1.5, float("nan"), None])
def test_targets_outside_of_0_and_1_are_refused(target) -> None:
    with pytest.raises(DataError, match="above 0 and below 1"):
        Rule("sensitivity", target)


@pytest.mark.parametrize("cost", [0.0, -1.0, float("inf"), None])
def test_costs_that_are_none_are_refused(cost) -> None:
    with pytest.raises(DataError, match="must be a number above 0"):
        Rule("cost", miss=cost, false_alarm=1.0)


def test_rules_survive_json() -> None:
    for rule in (Rule("youden"), Rule("sensitivity", 0.9), Rule("cost", miss=3, false_alarm=1)):
        assert Rule.from_json(rule.to_json()) == rule


def predictions_of(seed: int, groups: bool = False, split: str = "val"):
    scores, positive = scores_of(240, seed)
    names = tuple(f"p{i // 6}" for i in range(240)) if groups else None
    return make_predictions(
        tuple(f"{split}{i}" for i in range(240)),
        (split,) * 240,
        positive.astype(int),
        np.stack([1 - scores, scores], axis=1),
        ("well", "ill"),
        groups=names,
    )


def test_the_document_chooses_on_validation_and_only_tells_of_test() -> None:
    val, test = predictions_of(1), predictions_of(2, split="test")
    rule = Rule("sensitivity", 0.9)
    found = threshold_document(val, 1, rule, {"val": val, "test": test}, calibrated=True)
    alone = threshold_document(val, 1, rule, {"val": val}, calibrated=True)
    assert found["threshold"] == alone["threshold"]
    part = found["splits"]["test"]
    expected = wilson_interval(part["true_positives"], part["positives"])
    assert part["sensitivity"] == expected.to_json()
    assert part["positives"] + part["negatives"] == part["n"] == 240


def test_groups_widen_the_interval_and_are_counted() -> None:
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(40), 6)
    found = rng.random(40)[group] < 0.7  # all images of a patient alike
    among = np.ones(240, dtype=bool)
    alone, together = share_interval(found, among, None), share_interval(found, among, group)
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    few = share_interval(found[:60], among[:60], group[:60])
    assert few.reason == "too few to conclude (groups=10)"
    assert rates_at(predictions_of(1, groups=True), 1, found)["sensitivity"]["value"] is not None


def test_labels_have_thresholds_of_their_own() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random((200, 3)) < 0.3).astype(int)
    probabilities = np.clip(0.4 * targets + 0.6 * rng.random((200, 3)), 0, 1)
    rows = make_predictions(
        tuple(map(str, range(200))), ("val",) * 200, targets, probabilities, ("a", "b", "c"),
        "multilabel",
    )  # fmt: skip
    found = threshold_document(rows, 1, Rule("youden"), {"val": rows}, calibrated=False)
    assert found["splits"]["val"]["positives"] == targets[:, 1].sum()


def test_a_mean_lies_inside_its_interval() -> None:
    values = np.array([1.0, 1, 2, 1, 3] * 20)
    found = mean_interval(values, None, highest=3.0)
    assert found.value == pytest.approx(1.6)
    assert found.low < 1.6 < found.high
