"""Slices against plain formulas and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from statsmodels.stats.multitest import multipletests

from scanwise.core.errors import DataError
from scanwise.metrics.intervals import wilson_interval
from scanwise.metrics.predictions import make_predictions
from scanwise.metrics.slices import cut_column, judge_slices, num_comparisons, worst_slice


def answers(n=240, k=3, seed=0, *, groups=None, weak=None, task="multiclass"):
    """Answers that are right four times in five; only two in five among `weak`."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, k, n)
    right = rng.random(n) < np.where(np.zeros(n, bool) if weak is None else weak, 0.4, 0.8)
    said = np.where(right, targets, (targets + 1) % k)
    probabilities = rng.dirichlet(np.ones(k), n) * 0.4
    probabilities[np.arange(n), said] += 0.6
    names = tuple("abcdefg"[:k])
    ids = tuple(f"i{row}" for row in range(n))
    return make_predictions(ids, ("test",) * n, targets, probabilities, names, task, groups)


def test_columns_are_cut_as_said():
    words = cut_column("sex", ["f", "m", "", "f", "NaN"])
    assert words.values == ("f", "m", "(empty)")
    assert words.member.tolist() == [0, 1, 2, 0, 2]
    few = cut_column("grade", ["10", "9", "10"])
    assert (few.values, few.binned) == (("9", "10"), False)
    ages = cut_column("age", [f"{age}.0" for age in range(1, 101)])
    assert ages.values == ("1 to 25", "26 to 50", "51 to 75", "76 to 100")
    assert np.bincount(ages.member).tolist() == [25] * 4
    assert ages.binned


@pytest.mark.parametrize(
    ("cells", "said"),
    [(["f"] * 5, "the one value 'f'"), ([f"id{i}" for i in range(31)], "31 different values")],
)
def test_columns_that_can_not_be_sliced(cells, said):
    with pytest.raises(DataError, match=said):
        cut_column("c", cells)


def test_scores_of_a_slice_are_those_of_its_images():
    part = answers()
    cells = ["x", "y", "y", "z"] * 60
    found = judge_slices(part, [cut_column("c", cells)], num_resamples=200)
    for one in found:
        rows = np.array(cells) == one.value
        truth, said = part.targets[rows], part.predicted[rows]
        assert one.n == rows.sum()
        assert one.scores["accuracy"]["value"] == pytest.approx(accuracy_score(truth, said))
        balanced = balanced_accuracy_score(truth, said)
        assert one.scores["balanced_accuracy"]["value"] == pytest.approx(balanced)
        area = roc_auc_score(truth, part.probabilities[rows], multi_class="ovr")
        assert one.scores["auroc_macro"]["value"] == pytest.approx(area)
        wilson = wilson_interval(int((truth == said).sum()), len(truth))
        assert one.scores["accuracy"]["ci95"] == [wilson.low, wilson.high]
        plain = accuracy_score(truth, said) - accuracy_score(
            part.targets[~rows], part.predicted[~rows]
        )
        assert one.difference.value == pytest.approx(plain)


def test_difference_within_classes_is_mantel_haenszels():
    part = answers()
    cells = np.array(["x", "y", "y", "y"] * 60)
    found = judge_slices(part, [cut_column("c", cells.tolist())], num_resamples=200)[0]
    above = below = 0.0
    right = part.predicted == part.targets
    for c in range(3):
        inside = (part.targets == c) & (cells == "x")
        outside = (part.targets == c) & (cells != "x")
        weight = inside.sum() * outside.sum() / (inside.sum() + outside.sum())
        above += weight * (right[inside].mean() - right[outside].mean())
        below += weight
    assert found.within_class.value == pytest.approx(above / below)


def test_another_mix_of_classes_is_no_difference():
    """Class b is hard everywhere, and fills one slice: raw worse, within classes equal."""
    n = 400
    targets = np.repeat([0, 1], n // 2)
    right = np.where(targets == 0, True, np.arange(n) % 2 == 0)
    hard = np.where(targets == 1, np.arange(n) % 10 < 8, np.arange(n) % 10 < 2)
    said = np.where(right, targets, 1 - targets)
    probabilities = np.eye(2)[said] * 0.8 + 0.1
    ids = tuple(map(str, range(n)))
    part = make_predictions(ids, ("val",) * n, targets, probabilities, ("a", "b"))
    cells = ["hard" if one else "easy" for one in hard]
    slices = judge_slices(part, [cut_column("c", cells)], num_resamples=400)
    one = next(each for each in slices if each.value == "hard")
    assert one.difference.value < -0.25
    assert one.within_class.value == pytest.approx(0, abs=1e-12)
    assert one.verdict == "not distinguishable"


def test_a_weak_slice_is_found_and_small_ones_are_not_ranked():
    weak = np.arange(400) % 4 == 0
    part = answers(400, weak=weak, seed=3)
    cells = np.where(weak, "old", "young")
    cells[:6] = "rare"
    other = ["p", "q"] * 200
    slices = judge_slices(
        part, [cut_column("age", cells.tolist()), cut_column("z", other)], num_resamples=999
    )
    by_value = {one.value: one for one in slices}
    assert worst_slice(slices) is by_value["old"]
    assert by_value["old"].verdict == "worse"
    assert by_value["young"].verdict == "better"
    assert by_value["rare"].verdict == "not tested"
    assert by_value["rare"].corrected_p is None
    assert num_comparisons(slices) == 3  # old, young, and p against q once
    assert by_value["p"].corrected_p == by_value["q"].corrected_p
    family = [by_value[value].p_value for value in ("old", "young", "p")]
    stated = [by_value[value].corrected_p for value in ("old", "young", "p")]
    expected = multipletests(family, method="holm")[1]
    np.testing.assert_allclose(stated, expected)
    for one in slices:
        if one.corrected_p is not None:
            rejects = one.p_value < 0.05
            outside = not one.within_class.low <= 0 <= one.within_class.high
            assert rejects == outside


def test_groups_widen_the_interval():
    """Every image ten times over: the same scores, and no more known than of one each."""
    one = answers(60)
    rows = np.repeat(np.arange(60), 10)
    many = one.rows(rows)
    many = make_predictions(
        tuple(map(str, range(600))), many.split, many.targets, many.probabilities,
        many.class_names, groups=tuple(str(row) for row in rows),
    )  # fmt: skip
    cells = ["x", "y", "y"] * 20
    cut = cut_column("c", [cells[row] for row in rows])
    single, grouped = (
        judge_slices(part, [c], num_resamples=999)[0].within_class
        for part, c in ((one, cut_column("c", cells)), (many, cut))
    )
    assert grouped.value == pytest.approx(single.value)
    assert grouped.high - grouped.low > 0.8 * (single.high - single.low)


def test_a_slice_without_a_class_in_common_is_not_tested():
    part = answers(60, k=2)
    cells = [("a", "b")[target] for target in part.targets]
    one = judge_slices(part, [cut_column("dx", cells)], num_resamples=100)[0]
    assert one.within_class.value is None
    assert one.verdict == "not tested"
    assert one.per_class[1]["sensitivity"]["value"] is None  # no image of class b in it


def test_several_labels_count_the_share_of_right_ones():
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (90, 4))
    probabilities = np.clip(targets * 0.6 + 0.1 + rng.normal(0, 0.3, (90, 4)), 0, 1)
    ids = tuple(map(str, range(90)))
    part = make_predictions(
        ids, ("test",) * 90, targets, probabilities, tuple("abcd"), "multilabel"
    )
    cells = np.array(["x", "y", "y"] * 30)
    one = judge_slices(part, [cut_column("c", cells.tolist())], num_resamples=100)[0]
    right = (part.predicted == targets).mean(axis=1)
    expected = right[cells == "x"].mean() - right[cells != "x"].mean()
    assert one.difference.value == pytest.approx(expected)
    assert one.within_class.value == pytest.approx(expected)
    assert one.scores["label_accuracy"]["value"] == pytest.approx(right[cells == "x"].mean())
