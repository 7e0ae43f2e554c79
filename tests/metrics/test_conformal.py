"""Prediction sets: the quantile, the promise in simulations, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.core.errors import DataError
from scanwise.metrics.conformal import (
    SetRule,
    describe_sets,
    fit_bars,
    in_sets,
    lowest_kept,
    quantile_rank,
    sets_document,
)
from scanwise.metrics.predictions import make_predictions

NAMES = ("a", "b", "c")
SHARES = (0.6, 0.3, 0.1)


def draw(n: int, rng: np.random.Generator, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of an over-confident model, and the truth."""
    targets = rng.choice(3, n, p=SHARES)
    logits = 2 * (rng.normal(size=(n, 3)) + skill * np.eye(3)[targets])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True), targets


def predictions(n: int, seed: int, split: str, task: str = "multiclass", groups=None):
    probabilities, targets = draw(n, np.random.default_rng(seed))
    return make_predictions(
        tuple(f"{split}{i}" for i in range(n)),
        (split,) * n, targets, probabilities, NAMES, task, groups,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(9, 0.1, 9), (10, 0.1, 10), (99, 0.1, 90), (100, 0.1, 91),
                             (29, 0.1, 27), (19, 0.05, 19), (199, 0.3, 140), (8, 0.1, 9)],
)  # fmt: skip
def test_the_rank_is_the_finite_sample_one_without_rounding_errors(n, alpha, rank) -> None:
    assert quantile_rank(n, alpha) == rank


def test_the_bar_keeps_exactly_rank_images() -> None:
    own = np.random.default_rng(0).random(100)
    bar = lowest_kept(own, 0.1)
    assert (own >= bar).sum() == 91
    score = np.quantile(1 - own, 91 / 100, method="inverted_cdf")
    assert 1 - bar == pytest.approx(score)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_marginal_coverage_is_the_promised_one(alpha: float) -> None:
    """Over 2,000 calibrations of n = 60 it is rank / (n + 1), never below 1 - alpha."""
    rng = np.random.default_rng(1)
    n, trials = 60, 2000
    rule = SetRule(alpha)
    covered = 0
    for _ in range(trials):
        probabilities, targets = draw(n + 1, rng)
        bars = fit_bars(probabilities[:n], targets[:n], NAMES, rule)
        covered += in_sets(probabilities[n:], bars, NAMES)[0, targets[n]]
    expected = quantile_rank(n, alpha) / (n + 1)
    error = np.sqrt(expected * (1 - expected) / trials)
    assert expected >= 1 - alpha
    assert abs(covered / trials - expected) < 3.3 * error


def test_the_rare_class_is_left_short_unless_the_promise_is_for_each_class() -> None:
    rng = np.random.default_rng(2)
    probabilities, targets = draw(20_000, rng)
    probabilities[:, 2] *= 0.4  # a model that does not like the rare class
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    half = slice(0, 10_000)
    coverage = {}
    for each in (False, True):
        bars = fit_bars(probabilities[half], targets[half], NAMES, SetRule(0.1, each))
        inside = in_sets(probabilities[10_000:], bars, NAMES)
        rest = targets[10_000:]
        coverage[each] = [inside[rest == i, i].mean() for i in range(3)]
    assert coverage[False][2] < 0.85
    np.testing.assert_allclose(coverage[True], 0.9, atol=0.03)


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    probabilities, targets = draw(9, np.random.default_rng(0))
    with pytest.raises(DataError, match="at least 10 validation images, there are 9 in all"):
        fit_bars(probabilities, targets, NAMES, SetRule(0.1))
    probabilities, targets = draw(60, np.random.default_rng(0))
    fit_bars(probabilities, targets, NAMES, SetRule(0.1))
    few = int((targets == 2).sum())
    assert few < 10
    with pytest.raises(DataError, match=f"of each, there are 'c' {few}"):
        fit_bars(probabilities, targets, NAMES, SetRule(0.1, class_conditional=True))


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_alpha_outside_of_0_and_1_is_refused(alpha: float) -> None:
    with pytest.raises(DataError, match="must lie between 0 and 1"):
        SetRule(alpha)


def test_the_description_counts_what_the_sets_hold() -> None:
    val, test = predictions(300, 1, "val"), predictions(500, 2, "test")
    found = sets_document(val, SetRule(), {"test": test})
    inside = in_sets(test.probabilities, found["min_probability"], NAMES)
    part = found["splits"]["test"]
    assert part["coverage"]["value"] == inside[np.arange(500), test.targets].mean()
    assert part["mean_size"]["value"] == inside.sum(axis=1).mean()
    assert part["single"]["value"] == (inside.sum(axis=1) == 1).mean()
    assert part["empty"]["value"] == (inside.sum(axis=1) == 0).mean()
    assert [each["n"] for each in part["per_class"]] == np.bincount(test.targets).tolist()
    low, high = part["coverage"]["ci95"]
    assert low < 0.9 < high


def test_groups_are_said_to_weaken_the_promise() -> None:
    groups = tuple(f"p{i // 5}" for i in range(300))
    val = predictions(300, 1, "val", groups=groups)
    found = sets_document(val, SetRule(), {})
    assert "group" in " ".join(found["notes"])
    assert "group" not in " ".join(
        sets_document(predictions(300, 1, "val"), SetRule(), {})["notes"]
    )
    assert describe_sets(val, found["min_probability"])["n"] == 300


def test_labels_and_missing_validation_are_refused() -> None:
    labels = make_predictions(
        ("x", "y"), ("val", "val"), [[0, 1], [1, 1]], [[0.1, 0.9], [0.8, 0.7]], ("a", "b"),
        "multilabel",
    )  # fmt: skip
    with pytest.raises(DataError, match="several labels"):
        sets_document(labels, SetRule(), {})
    with pytest.raises(DataError, match="no predictions of validation"):
        sets_document(None, SetRule(), {})


def test_unreadable_images_have_no_class_in_their_set() -> None:
    bars = dict.fromkeys(NAMES, 0.0)
    assert not in_sets(np.full((1, 3), np.nan), bars, NAMES).any()
