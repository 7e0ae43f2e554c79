"""Confident learning against closed forms and against labels that are known to be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from scanwise.metrics.label_errors import (
    confident_joint,
    estimate_joint,
    find_label_errors,
    normalised_margin,
    prune_by_class,
    prune_by_noise_rate,
    thresholds,
)


def noisy(n: int, k: int, share: float, gap: float, seed: int):
    """Honest probabilities of n images, noisy labels, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % k
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), truth] += gap
    wrong = np.zeros(n, bool)
    wrong[rng.choice(n, round(share * n), replace=False)] = True
    labels = np.where(wrong, (truth + rng.integers(1, k, n)) % k, truth)
    return softmax(2 * logits, axis=1), labels, wrong


# Four images labelled 0, three labelled 1; by hand.
P0 = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.3, 0.8])
HAND = np.stack([P0, 1 - P0], axis=1)
LABELS = np.array([0, 0, 0, 0, 1, 1, 1])


def test_thresholds_are_mean_self_confidence() -> None:
    np.testing.assert_allclose(thresholds(HAND, LABELS), [0.65, (0.9 + 0.7 + 0.2) / 3])


def test_the_confident_joint_counted_by_hand() -> None:
    # t = 0.65, 0.6: every image is confidently of one class here.
    np.testing.assert_array_equal(confident_joint(HAND, LABELS), [[3, 1], [1, 2]])
    joint = estimate_joint(np.array([[3, 1], [1, 2]]), np.array([4, 3]))
    np.testing.assert_allclose(joint, np.array([[3, 1], [1, 2]]) / 7)


def test_the_joint_keeps_the_class_shares_where_images_are_not_counted() -> None:
    joint = estimate_joint(np.array([[2, 2], [0, 0]]), np.array([30, 10]))
    np.testing.assert_allclose(joint, [[15 / 40, 15 / 40], [0, 10 / 40]])


def test_both_prunings_find_the_two_images_found_by_hand() -> None:
    expected = [False, False, False, True, False, False, True]
    np.testing.assert_array_equal(prune_by_class(HAND, LABELS), expected)
    np.testing.assert_array_equal(prune_by_noise_rate(HAND, LABELS), expected)


def test_normalised_margin_is_the_formula() -> None:
    np.testing.assert_allclose(normalised_margin(HAND, LABELS)[[0, 3, 6]], [0.9, 0.2, 0.2])


@pytest.mark.parametrize("k", [2, 5])
def test_a_good_classifier_finds_planted_errors_and_their_share(k: int) -> None:
    probabilities, labels, wrong = noisy(1500, k, 0.1, 4.0, seed=k)
    found = find_label_errors(probabilities, labels, num_resamples=100)
    assert roc_auc_score(wrong, -found.score) > 0.97
    assert found.share.low < 0.1 < found.share.high  # type: ignore[operator]
    assert wrong[found.suspects].mean() > 0.85
    assert found.suspected[wrong].mean() > 0.85
    truth = np.arange(1500) % k
    hits = found.suspected & wrong
    assert (found.suggested[hits] == truth[hits]).mean() > 0.9
    assert (found.suggested[found.suspected] != labels[found.suspected]).all()
    assert (np.diff(found.score[found.suspects]) >= 0).all()


def test_clean_labels_and_a_good_classifier_give_few_suspects() -> None:
    probabilities, labels, _ = noisy(600, 3, 0.0, 6.0, seed=1)
    found = find_label_errors(probabilities, labels, num_resamples=50)
    assert found.suspected.mean() < 0.01
    assert found.share.value < 0.01  # type: ignore[operator]


def test_a_rare_class_is_neither_ranked_nor_suggested() -> None:
    probabilities, labels, _ = noisy(400, 4, 0.1, 3.0, seed=2)
    keep = np.concatenate([np.flatnonzero(labels != 3), np.flatnonzero(labels == 3)[:19]])
    found = find_label_errors(probabilities[keep], labels[keep], num_resamples=20)
    assert found.too_few == (3,)
    assert np.isnan(found.score[labels[keep] == 3]).all()
    assert not (labels[keep][found.ranking] == 3).any()
    assert not (found.suggested[found.suspected] == 3).any()


def test_twenty_images_are_enough_and_none_is_not_too_few() -> None:
    probabilities, labels, _ = noisy(60, 3, 0.0, 3.0, seed=2)
    assert find_label_errors(probabilities, labels, num_resamples=20).too_few == ()
    wider = np.hstack([probabilities, np.zeros((60, 1))])  # a class without images
    assert find_label_errors(wider, labels, num_resamples=20).too_few == ()


def test_where_every_class_is_rare_nothing_is_estimated() -> None:
    probabilities, labels, _ = noisy(30, 3, 0.1, 3.0, seed=2)
    found = find_label_errors(probabilities, labels)
    assert found.too_few == (0, 1, 2)
    assert len(found.ranking) == 0
    assert found.share.value is None
    assert "too few" in str(found.share.reason)


def test_labels_of_many_are_judged_one_by_one() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, (500, 3))
    truth[:, 2] = np.arange(500) < 10  # too rare
    probabilities = np.clip(np.where(truth == 1, 0.9, 0.1) + rng.normal(0, 0.05, (500, 3)), 0, 1)
    given = truth.copy()
    flipped = rng.choice(500, 40, replace=False)
    given[flipped, 0] = 1 - given[flipped, 0]
    found = find_label_errors(probabilities, given, "multilabel", num_resamples=20)
    assert found.too_few == (2,)
    assert found.joint is None
    suspects = np.flatnonzero(found.suspected)
    assert set(suspects) <= set(flipped)
    assert len(suspects) >= 34
    np.testing.assert_array_equal(found.suggested[suspects, :2], truth[suspects, :2])
    assert set(found.ranking[:40]) == set(flipped)
    assert found.share.value == pytest.approx(40 / 1000, abs=0.005)


def test_groups_widen_the_interval() -> None:
    probabilities, labels, _ = noisy(400, 2, 0.1, 2.0, seed=3)
    twice = np.repeat(probabilities, 4, axis=0), np.repeat(labels, 4)
    alone = find_label_errors(*twice, num_resamples=200).share
    grouped = find_label_errors(
        *twice, groups=np.repeat(np.arange(400), 4), num_resamples=200
    ).share
    assert alone.value == grouped.value
    assert (grouped.high - grouped.low) > 1.5 * (alone.high - alone.low)  # type: ignore[operator]
