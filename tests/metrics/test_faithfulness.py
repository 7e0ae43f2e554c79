"""Areas and correlations against scikit-learn and scipy; verdicts by their rules."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import auc

from scanwise.core.errors import DataError
from scanwise.metrics.faithfulness import (
    FAITHFUL,
    NOT_FAITHFUL,
    TOO_FEW,
    MapScores,
    curve_area,
    judge_maps,
    rank_correlation,
)


def scores(n: int, gain: float, correlation: float = 0.1, spread: float = 0.05) -> MapScores:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, spread, (2, n))
    half = np.full(n, 0.5)
    return MapScores(
        deletion=half - gain + noise[0],
        deletion_random=half,
        insertion=half + gain + noise[1],
        insertion_random=half,
        correlation=np.full(n, correlation),
    )


def names(n: int) -> list[str]:
    return [f"image {i}" for i in range(n)]


def test_area_is_the_trapezoid():
    curves = np.random.default_rng(1).random((5, 17))
    expected = [auc(np.linspace(0, 1, 17), curve) for curve in curves]
    np.testing.assert_allclose(curve_area(curves), expected)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 5, (2, 4, 6, 6)).astype(float)  # with many ties
    pairs = zip(first, second, strict=True)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]
    np.testing.assert_allclose(rank_correlation(first, second), expected)


def test_flat_maps_have_no_ranks():
    flat, other = np.zeros((1, 3, 3)), np.arange(9.0).reshape(1, 3, 3)
    assert rank_correlation(flat, other)[0] == 0
    assert rank_correlation(flat, flat)[0] == 1


def test_better_than_random_and_changed_is_faithful():
    found = judge_maps(scores(20, 0.1), names(20))
    assert (found.verdict, found.reasons) == (FAITHFUL, ())
    assert found.deletion_gain.value == pytest.approx(found.deletion_random - found.deletion)
    assert found.insertion_gain.low > 0
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("given", "skill", "reason"),
    [
        (scores(20, 0.0), None, "deletion"),
        (scores(20, -0.1), None, "insertion"),
        (scores(20, 0.1, correlation=0.9), None, "weight randomisation"),
        (scores(20, 0.1), "it always says 'well'", "no skill"),
        (scores(20, 0.0, spread=0.0), None, "deletion"),
    ],
)
def test_what_fails_is_named(given, skill, reason):
    found = judge_maps(given, names(20), no_skill=skill)
    assert found.verdict == NOT_FAITHFUL
    assert any(reason in text for text in found.reasons)


def test_under_ten_images_nothing_is_judged():
    assert judge_maps(scores(9, 0.1), names(9)).verdict == TOO_FEW
    # Twelve maps of six images are six images.
    found = judge_maps(scores(12, 0.1), names(6) * 2)
    assert (found.verdict, found.n, found.images) == (TOO_FEW, 12, 6)
    assert judge_maps(scores(1, 0.1), names(1)).deletion_gain.low is None
    with pytest.raises(DataError):
        judge_maps(scores(0, 0.1), [])


def test_scores_survive_json():
    given = scores(3, 0.1)
    again = MapScores.from_rows(json.loads(json.dumps([given.row(i) for i in range(3)])))
    np.testing.assert_array_equal(again.deletion, given.deletion)
