"""Before and after the temperature: the numbers of metrics.json, with intervals for both."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.metrics.calibration import apply_temperature, calibrate, probability_quality
from scanwise.metrics.calibration_effect import QUALITIES, calibration_effect
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.predictions import make_predictions


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_accuracy_stays_and_both_sides_are_what_they_say(task: str, grouped: bool) -> None:
    rng = np.random.default_rng(0)
    n, k = 300, 3
    if task == "multilabel":
        targets = rng.integers(0, 2, (n, k))
        logits = 6 * (rng.normal(size=(n, k)) + targets - 0.5)
    else:
        targets = rng.integers(0, k, n)
        logits = 4 * (rng.normal(size=(n, k)) + np.eye(k)[targets])
    fitted = calibrate(logits, targets, task)
    assert fitted.applied
    probabilities = apply_temperature(logits, fitted.temperature, task)
    groups = tuple(f"p{i // 4}" for i in range(n)) if grouped else None
    rows = make_predictions(
        tuple(map(str, range(n))), ("test",) * n, targets, probabilities, ("a", "b", "c"), task,
        groups,
    )  # fmt: skip
    found = calibration_effect(rows, fitted.temperature, num_resamples=200)
    assert found["decisions_changed"] == 0
    assert found["accuracy"]["before"] == found["accuracy"]["after"]
    raw = probability_quality(apply_temperature(logits, 1.0, task), targets, task)
    stated = evaluate_predictions(rows, "test", num_resamples=200)
    assert found["accuracy"]["after"] == stated["accuracy"]["value"]
    for name in QUALITIES:
        assert found[name]["before"]["value"] == pytest.approx(raw[name], abs=1e-9)
        assert found[name]["after"]["value"] == pytest.approx(stated[name]["value"])
        assert found[name]["after"]["ci95"] == pytest.approx(stated[name]["ci95"])
        low, high = found[name]["before"]["ci95"]
        assert low < raw[name] < high
        assert found[name]["after"]["value"] < found[name]["before"]["value"]
