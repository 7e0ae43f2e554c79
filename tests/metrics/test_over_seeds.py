"""A metric over several seeds: one seed is metrics.json's, several count both kinds of chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.over_seeds import over_seeds
from scanwise.metrics.predictions import Predictions, make_predictions


def answers(rng: np.random.Generator, targets: np.ndarray, skill: float) -> Predictions:
    logits = rng.normal(0, 1, (len(targets), 3))
    logits[np.arange(len(targets)), targets] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = tuple(f"i{row}" for row in range(len(targets)))
    return make_predictions(
        names, ("test",) * len(targets), targets, probabilities, ("a", "b", "c")
    )


def test_one_seed_is_what_metrics_json_says() -> None:
    rng = np.random.default_rng(0)
    part = answers(rng, rng.integers(0, 3, 90), 1.0)
    document = evaluate_predictions(part, "test")
    for name in ("accuracy", "auroc_macro", "cross_entropy_loss", "balanced_accuracy"):
        interval, by_seed = over_seeds([part], name)
        assert interval.value == document[name]["value"] == by_seed[0]
        assert [interval.low, interval.high] == document[name]["ci95"]


def test_several_seeds_are_the_mean_of_each_by_other_libraries() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, 120)
    parts = [answers(rng, targets, skill) for skill in (0.8, 1.0, 1.2)]
    references = {
        "accuracy": [(part.predicted == targets).mean() for part in parts],
        "auroc_macro": [roc_auc_score(targets, p.probabilities, multi_class="ovr") for p in parts],
        "cross_entropy_loss": [log_loss(targets, part.probabilities) for part in parts],
    }
    for name, values in references.items():
        interval, by_seed = over_seeds(parts, name)
        assert by_seed == pytest.approx(values, abs=1e-9)
        assert interval.value == pytest.approx(np.mean(values))
        assert interval.low is not None
        assert interval.high is not None
        assert 0 <= interval.low < interval.value < interval.high


def test_seeds_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    targets = rng.integers(0, 3, 300)
    alike = [answers(np.random.default_rng(5), targets, 1.0)] * 3
    apart = [answers(np.random.default_rng(5), targets, skill) for skill in (0.2, 1.0, 1.8)]

    def width(parts: list[Predictions]) -> float:
        interval, _ = over_seeds(parts, "accuracy")
        assert interval.low is not None
        assert interval.high is not None
        return interval.high - interval.low

    assert width(apart) > 2 * width(alike)


def test_a_perfect_score_stays_within_its_range_and_claims_no_certainty() -> None:
    targets = np.tile([0, 1, 2], 20)
    probabilities = np.eye(3)[targets] * 0.98 + 0.01
    names = tuple(f"i{row}" for row in range(60))
    part = make_predictions(names, ("test",) * 60, targets, probabilities / 1.01, ("a", "b", "c"))
    interval, _ = over_seeds([part, part], "accuracy")
    assert interval.high == 1.0
    assert interval.low is not None
    assert interval.low < 1.0
