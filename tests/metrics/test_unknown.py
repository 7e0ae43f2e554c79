"""Unknown-input scores against their formulas; thresholds, shares and AUROC with intervals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from scanwise.core.errors import DataError
from scanwise.metrics.confusions import confusions_document
from scanwise.metrics.neighbours import nearest_neighbours
from scanwise.metrics.predictions import make_predictions
from scanwise.metrics.shares import share_interval
from scanwise.metrics.unknown import fit_gaussians, fit_knn, known_threshold, separation


def clouds(rng: np.random.Generator, m: int = 90, d: int = 6):
    classes = np.arange(m) % 3
    return rng.normal(0, 1, (m, d)) @ rng.normal(0, 1, (d, d)) + 4 * classes[:, None], classes


@pytest.mark.parametrize(("m", "d"), [(90, 6), (24, 40)])
def test_mahalanobis_is_the_textbook_distance(rng, m, d):
    features, classes = clouds(rng, m, d)
    asked = rng.normal(0, 5, (15, d))
    means = np.stack([features[classes == c].mean(axis=0) for c in range(3)])
    fitted = LedoitWolf(assume_centered=True).fit(features - means[classes])
    expected = cdist(asked, means, "mahalanobis", VI=np.linalg.inv(fitted.covariance_)).min(axis=1)
    assert_allclose(fit_gaussians(features, classes).scores(asked), expected, rtol=1e-4)


def test_fewer_directions_keep_far_images_far(rng):
    features, classes = clouds(rng)
    cut = fit_gaussians(features, classes, 2)
    assert cut.directions.shape == (2, 6)
    assert cut.scores(features + 100).min() > 5 * cut.scores(features).max()


def test_features_that_never_differ_are_no_division_by_zero(rng):
    reference = fit_gaussians(np.ones((30, 4)), np.zeros(30, np.int64))
    found = reference.scores(np.array([[1.0, 1, 1, 1], [1, 1, 1, 2]]))
    assert np.isfinite(found).all()
    assert found[0] < 1e-3 < found[1]


def test_knn_is_the_distance_to_the_kth_unit_vector(rng):
    features, _ = clouds(rng)
    asked = rng.normal(0, 5, (15, 6))
    apart = cdist(
        asked / np.linalg.norm(asked, axis=1, keepdims=True),
        features / np.linalg.norm(features, axis=1, keepdims=True),
    )
    expected = np.sort(apart, axis=1)[:, 3]
    assert_allclose(fit_knn(features, 4).scores(asked), expected, atol=2e-3)  # kept in 16 bits


def test_neighbours_are_those_of_the_cosine(rng):
    features, _ = clouds(rng)
    found = nearest_neighbours(features, features[:10])
    assert found.rows[:, 0].tolist() == list(range(10))
    assert_allclose(found.distances[:, 0], 0, atol=1e-7)
    asked = rng.normal(0, 5, (7, 6))
    apart = cdist(asked, features, "cosine")
    found = nearest_neighbours(features, asked)
    assert_allclose(found.distances, np.sort(apart, axis=1)[:, :3], atol=1e-5)
    assert nearest_neighbours(features[:2], asked).rows.shape == (7, 2)


def test_the_threshold_keeps_at_least_95_percent(rng):
    for n in (20, 77, 400):
        scores = rng.normal(0, 1, n)
        threshold = known_threshold(scores)
        kept = (scores <= threshold).mean()
        assert 0.95 <= kept <= 0.95 + 1 / n + 1e-9
        assert np.abs(scores - threshold).min() > 1e-9  # on no image: rounding decides nothing
    assert 7 < known_threshold(np.full(20, 7.0)) < 7.001
    with pytest.raises(DataError, match="19 images; 20 are needed"):
        known_threshold(np.arange(19))


def test_features_of_a_diverged_network_are_refused(rng):
    features, classes = clouds(rng)
    features[3, 1] = np.nan
    with pytest.raises(DataError, match="diverged"):
        fit_gaussians(features, classes)


def test_separation_is_the_auroc_with_an_interval_around_it(rng):
    known, foreign = rng.normal(0, 1, 80), rng.normal(1, 1, 60)
    found = separation(known, foreign)
    truth = np.r_[np.zeros(80), np.ones(60)]
    assert found.value == pytest.approx(roc_auc_score(truth, np.r_[known, foreign]))
    assert found.low < found.value < found.high
    apart = separation(known, known + 100)
    assert apart.value == apart.high == 1
    assert apart.low < 1  # no interval claims certainty
    in_groups = separation(known, foreign, tuple(f"p{i % 8}" for i in range(80)))
    assert in_groups.value == found.value
    assert separation(known, np.empty(0)).value is None


def test_shares_of_grouped_images_are_less_sure():
    flagged = np.repeat([True, False, False, False, False, True, False, False], 10)
    alone = share_interval(flagged)
    grouped = share_interval(flagged, groups=np.arange(80) // 10)
    assert alone.value == grouped.value == 0.25
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    few = share_interval(flagged, np.arange(80) < 10)
    assert (few.value, "too few" in few.reason) == (1.0, True)


def rows_of(matrix: list[list[int]]):
    """Predictions with this confusion matrix."""
    pairs = [(a, b) for a, row in enumerate(matrix) for b, n in enumerate(row) for _ in range(n)]
    targets = [a for a, _ in pairs]
    names = tuple(f"s{i}" for i in range(len(pairs)))
    given = np.eye(len(matrix))[[b for _, b in pairs]]
    return make_predictions(names, ("test",) * len(pairs), targets, given, ("a", "b", "c"))


def test_pairs_are_ranked_by_count_and_by_recall():
    found = confusions_document(rows_of([[80, 20, 0], [3, 37, 0], [0, 9, 3]]))
    assert found["mistakes"]["count"] == 32
    pairs = [(p["actual"], p["said"], p["count"], p["rank_by_recall_lost"]) for p in found["pairs"]]
    assert pairs == [("a", "b", 20, 2), ("c", "b", 9, 1), ("b", "a", 3, 3)]
    assert found["pairs"][1]["recall_lost"]["value"] == 0.75
    assert found["fix_first"]["class"] == "c"
    assert found["classes"][1]["false_alarms"] == 29


def test_one_missed_image_of_one_is_not_fixed_first():
    found = confusions_document(rows_of([[50, 50, 0], [0, 40, 0], [0, 1, 0]]))
    assert found["fix_first"]["class"] == "a"
    assert confusions_document(rows_of([[5, 0, 0], [0, 5, 0], [0, 0, 5]]))["fix_first"] is None


def test_labels_have_misses_and_false_alarms():
    targets = np.array([[1, 0], [1, 0], [0, 1], [0, 0]])
    given = np.array([[0.9, 0.9], [0.2, 0.1], [0.1, 0.8], [0.7, 0.2]])
    made = make_predictions(
        tuple("wxyz"), ("val",) * 4, targets, given, ("mass", "nodule"), "multilabel"
    )
    found = confusions_document(made)
    assert found["pairs"] is None
    mass, nodule = found["classes"]
    assert (mass["missed"], mass["n"], mass["false_alarms"], mass["n_others"]) == (1, 2, 1, 2)
    assert (nodule["missed"], nodule["false_alarms"]) == (0, 1)
    assert found["mistakes"]["count"] == 3
