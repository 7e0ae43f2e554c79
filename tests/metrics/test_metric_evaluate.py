"""One split of metrics.json: the contract, the reasons, the verdicts, the speed."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.evaluate import HEADLINE, PER_CLASS, evaluate_split, metrics_document
from scanwise.metrics.intervals import wilson_interval

CONTRACT = (
    *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"),
    *("precision_weighted", "recall_weighted", "f1_weighted", "specificity_macro"),
    *("mcc", "kappa", "auroc_macro", "auprc_macro", "ece", "brier"),
)


def _made(
    n: int = 400, k: int = 3, skill: float = 1.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), targets] += skill
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), targets


def _sure(predicted: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Probabilities with this argmax, and noise that says nothing."""
    noise = np.random.default_rng(seed).random((len(predicted), k)) * 0.2
    noise[np.arange(len(predicted)), predicted] += 1
    return noise / noise.sum(axis=1, keepdims=True)


def _evaluate(probabilities: Any, targets: Any, task: Any = "multiclass", **more: Any) -> Any:
    names = [f"class {i}" for i in range(np.shape(probabilities)[1])]
    return evaluate_split(probabilities, targets, names, task, **{"num_resamples": 200, **more})


@pytest.fixture(scope="module")
def entry() -> dict[str, Any]:
    return evaluate_split(*_made(), ["a", "b", "c"], "multiclass")


def test_the_contract_is_kept_and_json_can_carry_it(entry: dict[str, Any]) -> None:
    assert CONTRACT == HEADLINE
    for name in CONTRACT:
        low, high = entry[name]["ci95"]
        assert low <= entry[name]["value"] <= high, name
        assert low < high, name
    assert entry["n"] == 400
    assert entry["skill"] == "ok"
    assert isinstance(entry["medmnist_auc"], float)
    assert isinstance(entry["medmnist_acc"], float)
    assert {"majority", "prior"} <= set(entry["trivial"])
    assert [row["name"] for row in entry["per_class"]] == ["a", "b", "c"]
    assert all(set(PER_CLASS) | {"name", "n"} == set(row) for row in entry["per_class"])
    assert np.sum(entry["confusion_matrix"]) == 400
    assert entry["bootstrap"]["resamples"] == 2000
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry


def test_values_equal_scikit_learn(entry: dict[str, Any]) -> None:
    probabilities, targets = _made()
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": reference.accuracy_score(targets, predicted),
        "f1_macro": reference.f1_score(targets, predicted, average="macro"),
        "f1_weighted": reference.f1_score(targets, predicted, average="weighted"),
        "mcc": reference.matthews_corrcoef(targets, predicted),
        "auroc_macro": reference.roc_auc_score(targets, probabilities, multi_class="ovr"),
        "auroc_micro": reference.roc_auc_score(
            np.eye(3)[targets], probabilities, average="micro", multi_class="ovr"
        ),
        "auprc_macro": reference.average_precision_score(np.eye(3)[targets], probabilities),
        "cross_entropy_loss": reference.log_loss(targets, probabilities),
    }
    for name, value in expected.items():
        assert entry[name]["value"] == pytest.approx(value, abs=1e-9), name
    assert entry["recall_weighted"] == entry["accuracy"]
    assert entry["recall_macro"] == entry["balanced_accuracy"]


def test_proportions_have_wilson_intervals(entry: dict[str, Any]) -> None:
    probabilities, targets = _made()
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == targets).sum())
    assert entry["accuracy"] == wilson_interval(right, 400).to_json()
    found = int(((predicted == 1) & (targets == 1)).sum())
    row = entry["per_class"][1]
    assert row["sensitivity"] == wilson_interval(found, int((targets == 1).sum())).to_json()
    assert row["ppv"] == wilson_interval(found, int((predicted == 1).sum())).to_json()
    clear = int(((predicted != 1) & (targets != 1)).sum())
    assert row["specificity"] == wilson_interval(clear, int((targets != 1).sum())).to_json()
    assert row["npv"] == wilson_interval(clear, int((predicted != 1).sum())).to_json()


def test_same_seed_same_intervals() -> None:
    first, again, other = (_evaluate(*_made(), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["auroc_macro"]["value"] == other["auroc_macro"]["value"]
    assert first["auroc_macro"]["ci95"] != other["auroc_macro"]["ci95"]


def test_two_classes_have_one_auroc_even_where_one_column_is_rounded() -> None:
    probabilities, targets = _made(k=2, skill=6)
    probabilities[:, 1] = probabilities[:, 1].round(2)  # ties here, none in column 0
    probabilities[:, 0] = np.clip(1 - probabilities[:, 1] + 1e-6 * np.arange(400) / 400, 0, 1)
    found = _evaluate(probabilities, targets)
    aurocs = [row["auroc"]["value"] for row in found["per_class"]]
    expected = reference.roc_auc_score(targets, probabilities[:, 1])
    assert aurocs == pytest.approx([expected, expected], abs=1e-12)
    assert found["auroc_macro"]["value"] == pytest.approx(expected, abs=1e-12)


def test_a_class_without_images_is_null_with_the_reason_never_zero() -> None:
    probabilities, targets = _made(k=4)
    chosen = targets != 2
    found = _evaluate(probabilities[chosen], targets[chosen])
    row = found["per_class"][2]
    assert row["n"] == 0
    assert all(row[name] == {"value": None, "reason": "n=0"} for name in PER_CLASS)
    assert found["macro_over"] == ["class 0", "class 1", "class 3"]
    recalls = [found["per_class"][i]["sensitivity"]["value"] for i in (0, 1, 3)]
    assert found["recall_macro"]["value"] == pytest.approx(np.mean(recalls))
    assert found["medmnist_auc"]["value"] is None


def test_constant_scores_have_no_auroc() -> None:
    targets = np.arange(40) % 2
    found = _evaluate(np.full((40, 2), 0.5), targets)
    for name in ("auroc_macro", "auprc_macro"):
        assert found[name] == {"value": None, "reason": "constant scores"}
    assert found["per_class"][0]["auroc"]["reason"] == "constant scores"
    assert found["per_class"][1]["ppv"] == {"value": None, "reason": "never predicted"}
    assert found["skill"] == "collapsed"


def test_one_class_only_is_said_and_not_praised() -> None:
    found = _evaluate(_sure(np.zeros(50, int), 2), np.zeros(50, int))
    for name in ("mcc", "kappa", "auroc_macro"):
        assert found[name]["value"] is None, name
        assert "only one class" in found[name]["reason"], name
    assert found["accuracy"]["value"] == 1.0
    assert found["skill"] == "no_skill"
    assert "only one class" in found["skill_reason"]


def test_few_images_carry_the_caution() -> None:
    found = _evaluate(*_made(n=20))
    assert found["too_few_to_conclude"]
    assert "too few to conclude (n=20)" in found["accuracy"]["note"]
    assert "too few to conclude" in str(Interval.from_json(found["auroc_macro"]).reason)
    assert "note" not in _evaluate(*_made(n=200))["auroc_macro"]


def test_a_perfect_model_claims_no_certainty() -> None:
    targets = np.arange(90) % 3
    found = _evaluate(_sure(targets, 3), targets)
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "mcc", "auroc_macro"):
        assert found[name]["value"] == 1.0, name
        assert 0.7 < found[name]["ci95"][0] < 0.99, name


def test_the_ece_interval_contains_the_ece_of_a_calibrated_model() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=300)
    targets = (rng.random((300, 1)) > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)
    found = _evaluate(probabilities, targets)["ece"]
    # Resamples add the same upward noise again; uncorrected, the estimate lies near the low end.
    low, high = found["ci95"]
    assert 0.35 < (found["value"] - low) / (high - low) < 0.65


# Groups


def test_groups_widen_intervals_of_clustered_images_and_leave_values_alone() -> None:
    """Ten copies of each of 40 images are 40 images, not 400."""
    probabilities, targets = _made(n=40)
    many, truth = np.repeat(probabilities, 10, axis=0), np.repeat(targets, 10)
    groups = [f"patient {i // 10}" for i in range(400)]
    plain = _evaluate(many, truth, num_resamples=1000)
    grouped = _evaluate(many, truth, groups=groups, num_resamples=1000)
    single = _evaluate(probabilities, targets, num_resamples=1000)

    def width(found: Any, name: str) -> float:
        return float(found[name]["ci95"][1] - found[name]["ci95"][0])

    for name in ("accuracy", "balanced_accuracy", "auroc_macro", "mcc"):
        assert grouped[name]["value"] == pytest.approx(plain[name]["value"]), name
        assert width(grouped, name) > 2 * width(plain, name), name
        assert width(grouped, name) == pytest.approx(width(single, name), rel=0.35), name
    for name in ("sensitivity", "ppv"):
        rows = grouped["per_class"][0], plain["per_class"][0]
        assert width(rows[0], name) > 2 * width(rows[1], name), name
    assert grouped["num_groups"] == 40
    assert grouped["bootstrap"]["unit"] == "group"


def test_groups_of_one_image_change_nothing() -> None:
    probabilities, targets = _made(n=60)
    plain = _evaluate(probabilities, targets)
    alone = _evaluate(probabilities, targets, groups=[str(i) for i in range(60)])
    assert alone["num_groups"] == 60
    assert {**alone, "num_groups": None} == plain


def test_few_groups_carry_the_caution_and_one_group_has_no_interval() -> None:
    probabilities, targets = _made(n=300)
    few = _evaluate(probabilities, targets, groups=[f"g{i % 6}" for i in range(300)])
    assert few["accuracy"]["note"] == "too few to conclude (groups=6)"
    one = _evaluate(probabilities, targets, groups=["g"] * 300)
    assert one["accuracy"]["ci95"] is None
    assert one["accuracy"]["reason"] == "no interval: groups=1"
    assert one["skill"] == "no_skill"


# Verdicts


def test_the_25_percent_oct_model_has_collapsed() -> None:
    targets = np.repeat(np.arange(4), 250)
    found = _evaluate(_sure(np.full(1000, 3), 4), targets)
    assert found["accuracy"]["value"] == 0.25
    assert found["skill"] == "collapsed"
    assert "100.0% of predictions are 'class 3', which 25.0%" in found["skill_reason"]
    assert found["trivial"]["majority"]["accuracy"] == 0.25


def _derma(extra: int) -> tuple[np.ndarray, np.ndarray]:
    """DermaMNIST's test counts; the majority class is said except on `extra` right others."""
    counts = [66, 103, 220, 23, 223, 1341, 29]
    targets = np.repeat(np.arange(7), counts)
    predicted = np.full(len(targets), 5)
    rng = np.random.default_rng(0)
    others = np.flatnonzero(targets != 5)
    lucky = rng.choice(others, extra, replace=False)
    predicted[lucky] = targets[lucky]
    # Enough wrong exits from the majority that under 95 % of predictions are one class.
    nevi = np.flatnonzero(targets == 5)[:60]
    predicted[nevi] = 4
    return targets, predicted


def test_68_percent_beside_a_67_percent_majority_is_not_praised() -> None:
    targets, predicted = _derma(extra=90)
    found = _evaluate(_sure(predicted, 7), targets)
    assert found["accuracy"]["value"] == pytest.approx(0.684, abs=0.001)
    assert found["trivial"]["majority"]["accuracy"] == pytest.approx(0.669, abs=0.001)
    assert found["skill"] == "no_skill"
    assert "not above always saying 'class 5' (0.669)" in found["skill_reason"]
    assert not found["accuracy_above_trivial"]


def test_a_model_that_trades_accuracy_for_rare_classes_has_skill_but_is_told() -> None:
    targets, _ = _derma(extra=0)
    rng = np.random.default_rng(1)
    right = rng.random(len(targets)) < 0.62
    predicted = np.where(right, targets, rng.integers(0, 7, len(targets)))
    found = _evaluate(_sure(predicted, 7), targets)
    assert found["skill"] == "ok"
    assert not found["accuracy_above_trivial"]
    assert "but accuracy" in found["skill_reason"]


def test_noise_has_no_skill() -> None:
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(3), size=300)
    found = _evaluate(probabilities, rng.integers(0, 3, 300))
    assert found["skill"] == "no_skill"


def test_one_prediction_is_no_collapse_where_the_truth_is_that_too() -> None:
    targets = np.zeros(1000, dtype=int)
    targets[:30] = 1
    found = _evaluate(_sure(targets, 2), targets)
    assert found["skill"] == "ok"
    blind = _evaluate(_sure(np.zeros(1000, int), 2), targets)
    assert blind["skill"] == "no_skill"


def test_the_majority_class_is_that_of_train() -> None:
    probabilities, targets = _made(k=3)
    counts = np.bincount(targets)
    rarest = int(counts.argmin())
    train = np.full(3, 10)
    train[rarest] = 30
    found = _evaluate(probabilities, targets, train_counts=train)
    trivial = found["trivial"]
    assert trivial["majority"]["class"] == f"class {rarest}"
    assert trivial["majority"]["accuracy"] == pytest.approx(counts[rarest] / 400)
    assert trivial["majority"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert trivial["counts_from"] == "train"
    shares = train / 50
    assert trivial["prior"]["accuracy"] == pytest.approx((counts * shares).sum() / 400)
    assert trivial["prior"]["cross_entropy_loss"] == pytest.approx(
        -(counts * np.log(shares)).sum() / 400
    )
    own = _evaluate(probabilities, targets)["trivial"]
    assert own["majority"]["accuracy"] == pytest.approx(counts.max() / 400)
    assert own["counts_from"] == "this split"


# Multi-label and ordinal


def _labels(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(1, 2, size=(n, 3))
    return probabilities, (rng.random((n, 3)) < probabilities).astype(np.int64)


def test_multilabel_numbers_equal_scikit_learn() -> None:
    probabilities, targets = _labels()
    found = _evaluate(probabilities, targets, "multilabel")
    said = (probabilities > 0.5).astype(int)
    expected = {
        "accuracy": reference.accuracy_score(targets, said),  # exact match
        "label_accuracy": np.mean(targets == said),
        "auroc_macro": reference.roc_auc_score(targets, probabilities),
        "auroc_micro": reference.roc_auc_score(targets, probabilities, average="micro"),
        "auprc_macro": reference.average_precision_score(targets, probabilities),
        "mcc": np.mean([reference.matthews_corrcoef(targets[:, i], said[:, i]) for i in range(3)]),
        "kappa": np.mean(
            [reference.cohen_kappa_score(targets[:, i], said[:, i]) for i in range(3)]
        ),
        "balanced_accuracy": np.mean(
            [reference.balanced_accuracy_score(targets[:, i], said[:, i]) for i in range(3)]
        ),
    }
    for average in ("macro", "micro", "weighted"):
        triple = reference.precision_recall_fscore_support(targets, said, average=average)
        for name, value in zip(("precision", "recall", "f1"), triple[:3], strict=True):
            expected[f"{name}_{average}"] = value
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name
    np.testing.assert_array_equal(
        found["confusion_matrix"], reference.multilabel_confusion_matrix(targets, said)
    )
    assert found["medmnist_acc"] == pytest.approx(expected["label_accuracy"])
    assert found["skill"] == "ok"


def test_exact_match_stands_beside_the_all_negative_answer() -> None:
    probabilities, targets = _labels()
    found = _evaluate(
        probabilities, targets, "multilabel", train_counts=[300, 10, 20], train_images=400
    )
    trivial = found["trivial"]
    assert trivial["all_negative"]["accuracy"] == pytest.approx(np.mean(targets.sum(axis=1) == 0))
    assert trivial["all_negative"]["label_accuracy"] == pytest.approx(np.mean(targets == 0))
    assert trivial["majority"]["labels"] == ["class 0"]
    assert trivial["majority"]["accuracy"] == pytest.approx(
        np.mean((targets == [1, 0, 0]).all(axis=1))
    )
    with pytest.raises(DataError, match="need train_images"):
        _evaluate(probabilities, targets, "multilabel", train_counts=[300, 10, 20])


def test_a_label_without_positives_is_null() -> None:
    probabilities, targets = _labels()
    targets[:, 1] = 0
    found = _evaluate(probabilities, targets, "multilabel")
    assert found["per_class"][1]["auroc"] == {"value": None, "reason": "n=0"}
    assert found["macro_over"] == ["class 0", "class 2"]
    expected = reference.roc_auc_score(targets[:, [0, 2]], probabilities[:, [0, 2]])
    assert found["auroc_macro"]["value"] == pytest.approx(expected)


def test_labels_that_rank_by_chance_have_no_skill() -> None:
    _, targets = _labels()
    rng = np.random.default_rng(9)
    assert _evaluate(rng.random((500, 3)), targets, "multilabel")["skill"] == "no_skill"
    quiet = _evaluate(rng.random((500, 3)) * 0.3, targets, "multilabel")
    assert quiet["skill"] == "collapsed"
    assert "is not above chance" in quiet["skill_reason"]


def test_labels_that_are_never_named_have_collapsed_however_well_they_rank() -> None:
    probabilities, targets = _labels()
    shy = _evaluate(probabilities * 0.45, targets, "multilabel")
    assert shy["skill"] == "collapsed"
    assert shy["auroc_macro"]["ci95"][0] > 0.5
    for words in ("at threshold 0.5 100.0% of images get the answer 'none'", "only the ranking"):
        assert words in shy["skill_reason"]
    # Where nearly every image truly has no label, naming none is no collapse.
    rare = np.zeros_like(targets)
    rare[:8, 0] = 1
    assert _evaluate(0.3 * rare + 0.1, rare, "multilabel")["skill"] != "collapsed"


def test_ordinal_adds_grades() -> None:
    probabilities, targets = _made(k=5)
    found = _evaluate(probabilities, targets, "ordinal")
    predicted = probabilities.argmax(axis=1)
    assert found["kappa_quadratic"]["value"] == pytest.approx(
        reference.cohen_kappa_score(targets, predicted, weights="quadratic")
    )
    assert found["mean_absolute_grade_error"]["value"] == pytest.approx(
        np.abs(targets - predicted).mean()
    )
    assert found["trivial"]["majority"]["mean_absolute_grade_error"] > 0
    assert "kappa_quadratic" not in _evaluate(probabilities, targets)


# The door


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        ([[0.2, 0.2]], [0], "row 0 sums to 0.4; apply softmax"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 1], "row 1 are not finite"),
        ([[0.5, 0.5]], [2], r"target of row 0 is 2, but must be a whole number in \[0, 1\]"),
        ([[0.5, 0.5]], [0, 1], r"targets have shape \(2,\), \(1,\) expected"),
        ([[0.5, 0.5]], [0.5], "target of row 0 is 0.5"),
        ([[0.5, 0.5]], ["a"], "must be class indices"),
        (np.zeros((0, 2)), [], "must be .n, k."),
    ],
)
def test_bad_input_is_refused(probabilities: Any, targets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_split(probabilities, targets, ["a", "b"], "multiclass")


def test_names_groups_and_counts_must_fit() -> None:
    probabilities, targets = _made(k=2)
    with pytest.raises(DataError, match="3 class names for 2 columns"):
        evaluate_split(probabilities, targets, ["a", "b", "c"], "multiclass")
    with pytest.raises(DataError, match="groups have 1 rows"):
        _evaluate(probabilities, targets, groups=["x"])
    with pytest.raises(DataError, match="train_counts must be 2 whole numbers"):
        _evaluate(probabilities, targets, train_counts=[1, 2, 3])
    with pytest.raises(DataError, match="unknown task 'binary'"):
        _evaluate(probabilities, targets, "binary")


def test_the_document_has_the_contract_keys(entry: dict[str, Any]) -> None:
    document = metrics_document({"name": "cells"}, "abc", {"val": entry, "test": entry}, run="r1")
    assert list(document) == ["schema", "dataset", "split_sha256", "splits", "run"]
    assert document["schema"] == 1


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(2, 4),
    st.integers(0, 10**6),
    st.sampled_from(["multiclass", "ordinal", "multilabel"]),
    st.booleans(),
)
def test_any_small_split_gives_finite_json(
    n: int, k: int, seed: int, task: str, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.random((n, k)).round(1) + 0.01
    if task == "multilabel":
        probabilities, targets = probabilities / 1.01, rng.integers(0, 2, (n, k))
    else:
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        targets = rng.integers(0, k, n)
    groups = [f"g{i}" for i in rng.integers(0, 3, n)] if grouped else None
    found = _evaluate(probabilities, targets, task, groups=groups, num_resamples=30)
    json.dumps(found, allow_nan=False)
    for name in HEADLINE:
        value, bounds = found[name]["value"], found[name].get("ci95")
        assert value is not None or found[name]["reason"], name
        if bounds:
            assert bounds[0] <= value <= bounds[1], name


def test_two_thousand_resamples_are_quick() -> None:
    """A loop over scikit-learn would take minutes; generous, since machines differ."""
    probabilities, targets = _made(n=2005, k=7)
    start = time.perf_counter()
    _evaluate(probabilities, targets, num_resamples=2000)
    assert time.perf_counter() - start < 6
