"""Every metric against scikit-learn, torchmetrics and MedMNIST's evaluator, to 1e-9.

Inputs are random, tied, degenerate (a class absent, one class only, constant scores) and real
(published scores). torchmetrics divides whole numbers in torch's default type, which is set to
float64 here. Its rates of counts and its calibration error go through float32 whatever is asked
for (`.float()` in its source): these agree to 1e-6, all others to 1e-9. The calibration error is
compared to 1e-12 with a plain loop in test_metric_calibration.py.

Where definitions differ, the test says so:
* A class without images has no sensitivity: we leave it out of averages; both libraries count 0
  (scikit-learn's balanced accuracy leaves it out too).
* A confidence on the edge of a calibration bin belongs to the lower bin here, to the upper one in
  torchmetrics.
* The Brier score is a sum over classes here, as in Brier 1950; scikit-learn's of two classes is
  that of one column.
* Kappa and MCC of one class only are undefined here, 0 or 1 elsewhere; AUROC and AUPRC likewise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics import functional as tm

from scanwise.metrics.medmnist import medmnist_acc, medmnist_auc, read_medmnist_csv
from scanwise.metrics.resampled import estimate, prepare

TOLERANCE = 1e-9
SINGLE = 1e-6  # where torchmetrics computes in float32
Case = tuple[np.ndarray, np.ndarray]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def ours(case: Case, task: str = "multiclass") -> dict[str, float]:
    found = estimate(prepare(*case, task))  # type: ignore[arg-type]
    return {name: float(value[0]) for name, value in found.items() if value.shape == (1,)}


def random(k: int, n: int = 500, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    odds = np.exp(rng.normal(size=(n, k)) + 1.2 * np.eye(k)[targets])
    return odds / odds.sum(axis=1, keepdims=True), targets


def tied(k: int) -> Case:
    """Scores in 16ths, which float64 holds exactly; at most one class is the largest."""
    probabilities, targets = random(k, seed=1)
    shares = np.floor(probabilities * 16) / 16
    shares[np.arange(len(shares)), probabilities.argmax(axis=1)] += 1 - shares.sum(axis=1)
    return shares, targets


def never_answered() -> Case:
    """A class that is never predicted."""
    probabilities, targets = random(4, seed=2)
    probabilities[:, 3] *= 1e-3
    return probabilities / probabilities.sum(axis=1, keepdims=True), targets


def read_published(path: Path, shared: Path) -> Case:
    flag = path.name.split("_")[0]
    with np.load(shared / "data" / "medmnist" / f"{flag}.npz") as arrays:
        targets = arrays["test_labels"][:, 0].astype(np.int64)
    scores = read_medmnist_csv(path)
    return scores / scores.sum(axis=1, keepdims=True), targets


MADE = {
    "two classes": random(2),
    "three classes": random(3),
    "nine classes": random(9),
    "two classes, tied": tied(2),
    "five classes, tied": tied(5),
    "a class never answered": never_answered(),
    "certain": (np.eye(3)[random(3)[0].argmax(axis=1)], random(3)[1]),
}
FLAGS = ("breastmnist", "pneumoniamnist", "dermamnist")


@pytest.fixture(params=[*MADE, *FLAGS])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param in MADE:
        return MADE[request.param]
    shared = request.getfixturevalue("shared")
    (path,) = (shared / "data" / "predictions").glob(f"{request.param}_test_*.csv")
    return read_published(path, shared)


def test_class_metrics_equal_scikit_learn(case: Case) -> None:
    probabilities, targets = case
    predicted = probabilities.argmax(axis=1)
    found = ours(case)
    k = probabilities.shape[1]
    specificity = [
        sk.recall_score(targets != i, predicted != i, zero_division=np.nan) for i in range(k)
    ]
    expected = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "f1_macro": sk.f1_score(targets, predicted, average="macro", zero_division=0),
        "f1_weighted": sk.f1_score(targets, predicted, average="weighted", zero_division=0),
        "specificity_macro": np.mean(specificity),
        "kappa": sk.cohen_kappa_score(targets, predicted),
        "mcc": sk.matthews_corrcoef(targets, predicted),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE), name
    quadratic = sk.cohen_kappa_score(targets, predicted, weights="quadratic")
    assert ours(case, "ordinal")["kappa_quadratic"] == pytest.approx(quadratic, abs=TOLERANCE)


def test_class_metrics_equal_torchmetrics(case: Case) -> None:
    probabilities, targets = case
    k = probabilities.shape[1]
    given, truth = torch.tensor(probabilities.argmax(axis=1)), torch.tensor(targets)
    found = ours(case)
    expected = {
        "accuracy": tm.classification.multiclass_accuracy(given, truth, k, average="micro"),
        "balanced_accuracy": tm.classification.multiclass_accuracy(given, truth, k),
        "f1_macro": tm.classification.multiclass_f1_score(given, truth, k),
        "f1_weighted": tm.classification.multiclass_f1_score(given, truth, k, average="weighted"),
        "specificity_macro": tm.classification.multiclass_specificity(given, truth, k),
        "kappa": tm.classification.multiclass_cohen_kappa(given, truth, k),
        "mcc": tm.classification.multiclass_matthews_corrcoef(given, truth, k),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), abs=SINGLE), name
    quadratic = tm.classification.multiclass_cohen_kappa(given, truth, k, weights="quadratic")
    graded = ours(case, "ordinal")["kappa_quadratic"]
    assert graded == pytest.approx(float(quadratic), abs=SINGLE)


def test_areas_equal_scikit_learn_and_torchmetrics(case: Case) -> None:
    probabilities, targets = case
    found, k = ours(case), probabilities.shape[1]
    given, truth = torch.tensor(probabilities), torch.tensor(targets)
    truths = np.eye(k, dtype=int)[targets]
    areas = [sk.roc_auc_score(truths[:, i], probabilities[:, i]) for i in range(k)]
    precision = [sk.average_precision_score(truths[:, i], probabilities[:, i]) for i in range(k)]
    assert found["auroc_macro"] == pytest.approx(np.mean(areas), abs=TOLERANCE)
    assert found["auprc_macro"] == pytest.approx(np.mean(precision), abs=TOLERANCE)
    theirs = tm.classification.multiclass_auroc(given, truth, k)
    assert found["auroc_macro"] == pytest.approx(float(theirs), abs=TOLERANCE)
    theirs = tm.classification.multiclass_average_precision(given, truth, k)
    assert found["auprc_macro"] == pytest.approx(float(theirs), abs=TOLERANCE)
    if k == 2:
        binary = tm.classification.binary_auroc(given[:, 1], truth)
        assert found["auroc_macro"] == pytest.approx(float(binary), abs=TOLERANCE)


def test_brier_and_log_loss_equal_scikit_learn(case: Case) -> None:
    probabilities, targets = case
    found, k = ours(case), probabilities.shape[1]
    columns = [
        sk.brier_score_loss((targets == i).astype(int), probabilities[:, i]) for i in range(k)
    ]
    assert found["brier"] == pytest.approx(sum(columns), abs=TOLERANCE)
    expected = sk.log_loss(targets, probabilities, labels=range(k))
    assert found["cross_entropy_loss"] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["two classes", "three classes", "nine classes", *FLAGS])
def test_calibration_error_equals_torchmetrics(name: str, request: pytest.FixtureRequest) -> None:
    """Of scores that lie on no edge of a bin (multiples of 1/15)."""
    if name in MADE:
        probabilities, targets = MADE[name]
    else:
        shared = request.getfixturevalue("shared")
        (path,) = (shared / "data" / "predictions").glob(f"{name}_test_*.csv")
        probabilities, targets = read_published(path, shared)
    theirs = tm.classification.multiclass_calibration_error(
        torch.tensor(probabilities),
        torch.tensor(targets),
        num_classes=probabilities.shape[1],
        n_bins=15,
        norm="l1",
    )
    found = ours((probabilities, targets))["ece"]
    assert found == pytest.approx(float(theirs), abs=SINGLE)


@pytest.mark.parametrize("rounded", [False, True])
def test_labels_equal_scikit_learn_and_torchmetrics(rounded: bool) -> None:
    rng = np.random.default_rng(5)
    targets = (rng.random((400, 6)) < [0.05, 0.2, 0.4, 0.5, 0.7, 0.9]).astype(np.int64)
    probabilities = np.clip(0.35 * targets + 0.6 * rng.random((400, 6)), 0, 1)
    if rounded:
        probabilities = np.round(probabilities * 8) / 8
    found = ours((probabilities, targets), "multilabel")
    given, truth = torch.tensor(probabilities), torch.tensor(targets)
    expected = {
        "auroc_macro": sk.roc_auc_score(targets, probabilities, average="macro"),
        "auprc_macro": sk.average_precision_score(targets, probabilities, average="macro"),
        "f1_macro": sk.f1_score(targets, probabilities > 0.5, average="macro"),
        "accuracy": sk.accuracy_score(targets, probabilities > 0.5),
        "brier": np.square(probabilities - targets).mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE), name
    auroc = tm.classification.multilabel_auroc(given, truth, 6)
    assert found["auroc_macro"] == pytest.approx(float(auroc), abs=TOLERANCE)
    auprc = tm.classification.multilabel_average_precision(given, truth, 6)
    assert found["auprc_macro"] == pytest.approx(float(auprc), abs=TOLERANCE)
    mcc = [sk.matthews_corrcoef(targets[:, i], probabilities[:, i] > 0.5) for i in range(6)]
    assert found["mcc"] == pytest.approx(np.mean(mcc), abs=TOLERANCE)


# --- degenerate ----------------------------------------------------------------------------------


def test_an_absent_class_is_left_out_here_and_counted_as_zero_elsewhere() -> None:
    probabilities, targets = random(4, seed=3)
    kept = targets != 3
    case = probabilities[kept], targets[kept]
    predicted = case[0].argmax(axis=1)
    found = ours(case)
    assert (predicted == 3).any()
    balanced = sk.recall_score(case[1], predicted, labels=range(3), average="macro")
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=TOLERANCE)
    for_three = sk.f1_score(case[1], predicted, labels=range(3), average="macro")
    for_four = sk.f1_score(case[1], predicted, labels=range(4), average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(for_three, abs=TOLERANCE)
    assert for_four == pytest.approx(for_three * 3 / 4, abs=TOLERANCE)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(case[1], predicted), abs=TOLERANCE)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(case[1], predicted), abs=TOLERANCE)
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(case[1], predicted), abs=TOLERANCE)


def test_one_class_only_has_accuracy_and_no_areas() -> None:
    probabilities, _ = random(3, seed=4)
    case = probabilities, np.zeros(len(probabilities), np.int64)
    predicted = probabilities.argmax(axis=1)
    found = ours(case)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(case[1], predicted), abs=TOLERANCE)
    for name in ("auroc_macro", "mcc", "kappa"):
        assert np.isnan(found[name]), name


def test_constant_scores_rank_nothing() -> None:
    targets = random(2)[1]
    constant = np.full(len(targets), 0.5)
    found = ours((np.column_stack([constant, constant]), targets))
    assert sk.roc_auc_score(targets, constant) == 0.5
    assert (
        float(tm.classification.binary_auroc(torch.tensor(constant), torch.tensor(targets))) == 0.5
    )
    assert found["auroc_macro"] == pytest.approx(0.5, abs=TOLERANCE)


# --- MedMNIST ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", FLAGS)
def test_medmnist_numbers_are_those_in_the_published_names(flag: str, shared: Path) -> None:
    (path,) = (shared / "data" / "predictions").glob(f"{flag}_test_*.csv")
    scores = read_medmnist_csv(path)
    with np.load(shared / "data" / "medmnist" / f"{flag}.npz") as arrays:
        labels = arrays["test_labels"]
    auc, acc = re.findall(r"\]([\d.]+?)(?:_|@)", path.name)
    found = medmnist_auc(labels, scores, "multiclass"), medmnist_acc(labels, scores, "multiclass")
    assert tuple(f"{value:.3f}" for value in found) == (auc, acc)
    truth = labels[:, 0]
    columns = range(1, 2) if scores.shape[1] == 2 else range(scores.shape[1])
    expected = np.mean([sk.roc_auc_score(truth == i, scores[:, i]) for i in columns])
    assert found[0] == pytest.approx(expected, abs=TOLERANCE)
