"""The measure that trials are judged by: as metrics.json has it, paired, and freed of luck."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.metrics.evaluate import evaluate_split
from scanwise.metrics.paired import paired_gain
from scanwise.metrics.selection import Answers, Judge

NAMES = {
    "val_accuracy": "accuracy",
    "val_balanced_acc": "balanced_accuracy",
    "val_auc": "auroc_macro",
}


def answers(rng, targets, skill: float, classes: int = 3) -> Answers:
    logits = rng.normal(size=(len(targets), classes))
    logits[np.arange(len(targets)), targets] += skill
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Answers(shares, -np.log(shares[np.arange(len(targets)), targets]))


@pytest.fixture(scope="module")
def targets():
    return np.random.default_rng(0).integers(0, 3, 150)


@pytest.mark.parametrize("monitor", list(NAMES))
@pytest.mark.parametrize("grouped", [False, True])
def test_measures_and_intervals_are_those_of_metrics_json(targets, monitor, grouped):
    said = answers(np.random.default_rng(1), targets, 1.0)
    groups = tuple(f"g{i // 3}" for i in range(150)) if grouped else None
    metrics = evaluate_split(
        said.probabilities, targets, ("a", "b", "c"), "multiclass", groups=groups
    )
    found = Judge(monitor, True, targets, "multiclass", groups).interval(said)
    expected = metrics[NAMES[monitor]]
    assert found.value == pytest.approx(expected["value"])
    np.testing.assert_allclose((found.low, found.high), expected["ci95"], atol=0.005)


def test_a_gain_in_loss_is_the_paired_gain(targets):
    rng = np.random.default_rng(2)
    first, second = answers(rng, targets, 0.5), answers(rng, targets, 2.0)
    found = Judge("val_loss", False, targets, "multiclass").gain(first, second)
    expected = paired_gain(-first.losses, -second.losses, targets)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert found.low > 0


def test_the_best_of_many_guessers_is_told_to_be_lucky(targets):
    rng = np.random.default_rng(3)
    guessers = [answers(rng, targets, 0.0) for _ in range(30)]
    judge = Judge("val_accuracy", True, targets, "multiclass")
    found = judge.chosen(guessers)
    winner = max(judge.value(one) for one in guessers)
    assert found.value.value == pytest.approx(1 / 3, abs=0.04)
    assert found.optimism == pytest.approx(winner - found.value.value)
    assert found.optimism > 0.03


def test_without_a_choice_there_is_no_luck(targets):
    said = answers(np.random.default_rng(4), targets, 1.0)
    judge = Judge("val_loss", False, targets, "multiclass")
    assert judge.chosen([said]).optimism == pytest.approx(0, abs=0.01)
    better = answers(np.random.default_rng(5), targets, 6.0)
    found = judge.chosen([said, better])
    assert found.value.value == pytest.approx(judge.value(better), abs=0.01)


def test_multilabel_counts_labels_as_training_does():
    rng = np.random.default_rng(6)
    truth = rng.integers(0, 2, (80, 3))
    shares = rng.random((80, 3))
    judge = Judge("val_accuracy", True, truth, "multilabel")
    expected = ((shares > 0.5) == (truth == 1)).mean()
    assert judge.value(Answers(shares, rng.random(80))) == pytest.approx(expected)
    assert judge.chosen([Answers(shares, rng.random(80))]).value.low is not None


def test_one_image_can_not_choose_and_score():
    judge = Judge("val_loss", False, np.zeros(1, np.int64), "multiclass")
    found = judge.chosen([Answers(np.ones((1, 2)) / 2, np.ones(1))])
    assert found.value.value is None
    assert "too few" in found.value.reason
