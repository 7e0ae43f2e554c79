"""One verdict a group: each way of gathering by hand, and what has no verdict."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.metrics.grouped import group_predictions, grouped_scores
from scanwise.metrics.predictions import make_predictions

PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.3, 0.4, 0.3], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.6, 0.0]]
)


def images(groups, targets=(0, 0, 0, 2, 1), probabilities=PROBABILITIES, task="multiclass"):
    n = len(probabilities)
    ids = tuple(f"i{row}" for row in range(n))
    names = tuple("abc"[: probabilities.shape[1]])
    return make_predictions(
        ids, ("test",) * n, np.array(targets), probabilities, names, task, groups
    )


@pytest.mark.parametrize(
    ("how", "first", "decision"),
    [
        ("mean", [1.4 / 3, 1.0 / 3, 0.2], 0),
        ("max", [0.9 / 1.7, 0.5 / 1.7, 0.3 / 1.7], 0),
        ("vote", [1 / 3, 2 / 3, 0.0], 1),
    ],
)
def test_each_way_of_gathering(how, first, decision):
    found = group_predictions(images(("p", "p", "p", "q", "")), how)
    assert found.groups.sample == ("p", "q", "i4")
    np.testing.assert_allclose(found.groups.probabilities[0], first, atol=1e-5)
    np.testing.assert_allclose(found.groups.probabilities.sum(axis=1), 1)
    assert found.groups.predicted[0] == decision
    assert found.groups.targets.tolist() == [0, 2, 1]
    assert found.several == 1


def test_a_tied_vote_goes_to_the_larger_mean():
    probabilities = np.array([[0.55, 0.45], [0.05, 0.95], [0.5, 0.5]])
    part = images(("p", "p", "q"), (1, 1, 0), probabilities)
    assert group_predictions(part, "vote").groups.predicted[0] == 1


def test_mixed_groups_are_left_out_and_counted():
    part = images(("p", "p", "q", "r", "r"), (0, 0, 1, 2, 1))
    found = group_predictions(part, "mean")
    assert found.mixed == ("r",)
    assert found.mixed_images == 2
    scores = grouped_scores(found, num_resamples=50)
    assert (scores["n_images"], scores["n_groups"]) == (3, 2)
    assert scores["mixed"] == {"groups": 1, "images": 2, "first": ["r"]}
    assert scores["images"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert scores["groups"]["accuracy"]["value"] == 1.0


@pytest.mark.parametrize(
    ("groups", "targets", "said"),
    [
        (None, (0, 0, 0, 2, 1), "no groups"),
        (tuple("pqrst"), (0, 0, 0, 2, 1), "each of the 5 groups has one image"),
        (("p", "p", "q", "r", "s"), (0, 1, 0, 2, 1), "have different labels"),
    ],
)
def test_what_can_not_be_gathered(groups, targets, said):
    with pytest.raises(DataError, match=said):
        group_predictions(images(groups, targets), "mean")


def test_labels_are_gathered_one_by_one():
    probabilities = np.array([[0.2, 0.9], [0.6, 0.3], [0.1, 0.1]])
    part = images(("p", "p", "q"), ((1, 1), (1, 1), (0, 0)), probabilities, "multilabel")
    largest = group_predictions(part, "max").groups
    np.testing.assert_allclose(largest.probabilities[0], [0.6, 0.9])
    assert largest.predicted[0].tolist() == [1, 1]
    assert group_predictions(part, "vote").groups.predicted[0].tolist() == [0, 1]  # by the mean
