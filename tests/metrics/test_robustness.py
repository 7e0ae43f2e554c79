"""Relative drops, paired with the clean images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from scanwise.core.errors import DataError
from scanwise.metrics.predictions import make_predictions
from scanwise.metrics.robustness import judge_robustness


def answers(wrong: int, n: int = 200, groups=None):
    """Two classes; the first `wrong` images of each hundred are taken for the other class."""
    targets = np.arange(n) % 2
    miss = np.arange(n) % 100 < wrong
    probabilities = np.eye(2)[np.where(miss, 1 - targets, targets)] * 0.8 + 0.1
    ids = tuple(map(str, range(n)))
    return make_predictions(ids, ("val",) * n, targets, probabilities, ("a", "b"), groups=groups)


def test_drops_are_plain_ratios_and_paired():
    clean, worse = answers(10), [answers(10), answers(10), answers(20), answers(20), answers(50)]
    found = judge_robustness(clean, {"blur": worse}, num_resamples=500)
    curve = found.curves[0]
    assert curve.metric == "balanced_accuracy"
    for score, part in zip(curve.scores, worse, strict=True):
        value = balanced_accuracy_score(part.targets, part.predicted)
        assert score.value.value == pytest.approx(value)
        assert score.drop.value == pytest.approx(1 - value / 0.9)
        assert score.drop.low <= score.drop.value <= score.drop.high
    assert curve.mean_drop.value == pytest.approx(np.mean([s.drop.value for s in curve.scores]))
    assert found.overall_drop["accuracy"].value == pytest.approx(curve.mean_drop.value)
    # The same images lost: the drop is known better than either score is.
    known = curve.scores[2].drop
    single = curve.scores[2].value
    assert 0.9 * (known.high - known.low) < single.high - single.low
    # No image changed its answer: that none ever would is not known.
    assert curve.scores[0].drop.low < 0 < curve.scores[0].drop.high
    assert curve.scores[4].drop.low > 0.3


def test_several_labels_are_judged_by_auroc():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (80, 3))
    ids = tuple(map(str, range(80)))

    def part(noise):
        scores = np.clip(targets * 0.4 + 0.3 + rng.normal(0, noise, (80, 3)), 0, 1)
        return make_predictions(ids, ("val",) * 80, targets, scores, tuple("abc"), "multilabel")

    worse = part(0.6)
    found = judge_robustness(part(0.2), {"noise": [worse]}, num_resamples=100)
    area = roc_auc_score(targets, worse.probabilities)
    assert found.curves[0].metric == "auroc_macro"
    assert found.curves[0].scores[0].value.value == pytest.approx(area)


def test_other_images_are_refused():
    with pytest.raises(DataError, match="not the clean ones"):
        judge_robustness(answers(1), {"blur": [answers(1, n=100)]})
