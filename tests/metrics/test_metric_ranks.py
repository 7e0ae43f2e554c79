"""AUROC and AUPRC against scikit-learn, with ties and with weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from scanwise.core.errors import DataError
from scanwise.metrics.ranks import auroc, average_precision, make_ranking, rank_areas
from scanwise.metrics.resampled import one_value, prepare, values

_scored = st.lists(
    st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=2, max_size=60
)


@settings(max_examples=150, deadline=None)
@given(_scored)
def test_areas_equal_scikit_learn_with_many_ties(rows: list[tuple[int, bool, int]]) -> None:
    scores, truth, _ = (np.array(column) for column in zip(*rows, strict=True))
    assume(truth.any() and not truth.all())
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert average_precision(scores, truth) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )


@settings(max_examples=150, deadline=None)
@given(_scored)
def test_weights_mean_repeated_images(rows: list[tuple[int, bool, int]]) -> None:
    scores, truth, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated, kinds = np.repeat(scores, weights), np.repeat(truth, weights)
    assume(kinds.any() and not kinds.all())
    ranking = make_ranking(scores.astype(float), truth, np.arange(len(scores)), len(scores))
    roc, pr = rank_areas(ranking, weights[:, None].astype(float))
    assert roc[0] == pytest.approx(roc_auc_score(kinds, repeated), abs=1e-12)
    assert pr[0] == pytest.approx(average_precision_score(kinds, repeated), abs=1e-12)


def test_continuous_scores_equal_scikit_learn(rng: np.random.Generator) -> None:
    truth = rng.random(2000) < 0.1
    scores = rng.normal(size=2000) + truth
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert average_precision(scores, truth) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )


def test_reversed_scores_mirror_the_area_and_constant_scores_give_half() -> None:
    truth = np.array([0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.1, 0.7, 0.4, 0.9])
    assert auroc(-scores, truth) == pytest.approx(1 - auroc(scores, truth))
    assert auroc(np.ones(5), truth) == 0.5
    assert average_precision(np.ones(5), truth) == pytest.approx(0.6)


def test_one_kind_only_is_nan() -> None:
    assert np.isnan(auroc([0.1, 0.2], [1, 1]))
    assert np.isnan(auroc([0.1, 0.2], [0, 0]))
    assert np.isnan(average_precision([0.1, 0.2], [0, 0]))


def test_bad_scores_are_refused() -> None:
    with pytest.raises(DataError, match="score 1 is not finite"):
        auroc([0.1, np.nan], [0, 1])
    with pytest.raises(DataError, match="must both be"):
        auroc([0.1, 0.2], [0, 1, 1])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_value_is_that_of_all_values(task: str) -> None:
    """Also where a resample lacks a class, and with ties."""
    rng = np.random.default_rng(0)
    raw = rng.random((40, 3)).round(1) + 0.05
    probabilities = raw / raw.sum(axis=1, keepdims=True) if task == "multiclass" else raw.clip(0, 1)
    targets = rng.integers(0, 3, 40) if task == "multiclass" else rng.integers(0, 2, (40, 3))
    weights = rng.integers(0, 3, (40, 20)).astype(float)
    if task == "multiclass":
        weights[targets == 0, 0] = 0
    scored = prepare(probabilities, targets, task)
    everything = values(scored, weights)
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "auprc_macro"):
        np.testing.assert_array_equal(one_value(scored, weights, name), everything[name])
