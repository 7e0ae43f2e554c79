"""MedMNIST's own numbers: the published score files carry the true answers in their names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from scanwise.core.errors import DataError
from scanwise.metrics.evaluate import evaluate_split
from scanwise.metrics.medmnist import (
    medmnist_acc,
    medmnist_auc,
    read_medmnist_csv,
    write_medmnist_csv,
)

FLAGS = ("breastmnist", "pneumoniamnist", "dermamnist")


@pytest.fixture(scope="module", params=FLAGS)
def published(request: pytest.FixtureRequest, shared: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A published result file, its scores, and the labels of that test split (n, 1)."""
    (path,) = (shared / "data" / "predictions").glob(f"{request.param}_test_*.csv")
    with np.load(shared / "data" / "medmnist" / f"{request.param}.npz") as arrays:
        return path, read_medmnist_csv(path), arrays["test_labels"]


def test_published_files_give_the_numbers_in_their_names(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    path, scores, targets = published
    auc, acc = re.findall(r"\]([\d.]+?)(?:_|@)", path.name)
    assert f"{medmnist_auc(targets, scores, 'multiclass'):.3f}" == auc
    assert f"{medmnist_acc(targets, scores, 'multiclass'):.3f}" == acc


def test_our_split_entry_agrees_with_scikit_learn_on_published_scores(
    published: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    _, scores, labels = published
    targets, k = labels[:, 0].astype(np.int64), scores.shape[1]
    entry = evaluate_split(
        scores, targets, [str(i) for i in range(k)], "multiclass", num_resamples=50
    )
    assert entry["accuracy"]["value"] == pytest.approx(
        accuracy_score(targets, scores.argmax(axis=1)), abs=1e-12
    )
    per_class = [roc_auc_score(targets == i, scores[:, i]) for i in range(k)]
    expected = per_class[1] if k == 2 else np.mean(per_class)
    assert entry["auroc_macro"]["value"] == pytest.approx(expected, abs=1e-9)
    assert entry["medmnist_auc"] == pytest.approx(expected, abs=1e-9)
    assert entry["skill"] == "ok"


def _evaluate_as_medmnist_does(path: Path, targets: np.ndarray, task: str) -> tuple[float, float]:
    """Parse and judge a result file by the behaviour of medmnist's evaluator."""
    pandas = pytest.importorskip("pandas")
    flag, middle, *rest = path.name.split("_")
    split = middle if middle[0] in "tv" else rest[0]
    assert split == "test"
    assert flag.endswith("mnist")
    assert path.name.split("@")[-1].split(".")[0] == "run-1"
    frame = pandas.read_csv(path, index_col=0, header=None)
    y_score, y_true = frame.sort_index().to_numpy().squeeze(), targets.squeeze()
    if task == "multi-label, binary-class":
        columns = range(y_score.shape[1])
        auc = sum(roc_auc_score(y_true[:, i], y_score[:, i]) for i in columns) / len(columns)
        acc = sum(accuracy_score(y_true[:, i], y_score[:, i] > 0.5) for i in columns) / len(columns)
    elif task == "binary-class":
        positive = y_score[:, -1] if y_score.ndim == 2 else y_score
        auc, acc = roc_auc_score(y_true, positive), accuracy_score(y_true, positive > 0.5)
    else:
        columns = range(y_score.shape[1])
        auc = sum(roc_auc_score(y_true == i, y_score[:, i]) for i in columns) / len(columns)
        acc = accuracy_score(y_true, y_score.argmax(axis=-1))
    return float(auc), float(acc)


@pytest.mark.parametrize(
    ("flag", "size", "k", "theirs", "ours"),
    [
        ("octmnist", 28, 4, "multi-class", "multiclass"),
        ("retinamnist", 64, 5, "ordinal-regression", "ordinal"),
        ("breastmnist", 224, 2, "binary-class", "multiclass"),
        ("chestmnist", 28, 14, "multi-label, binary-class", "multilabel"),
    ],
)
def test_written_files_are_read_as_medmnist_reads_them(
    tmp_path: Path, flag: str, size: int, k: int, theirs: str, ours: str
) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((120, k))
    if ours == "multilabel":
        targets = (rng.random((120, k)) < scores * 0.5).astype(np.int64)
    else:
        scores /= scores.sum(axis=1, keepdims=True)
        targets = (np.arange(120) % k)[:, None]
    path = write_medmnist_csv(
        tmp_path,
        flag,
        size,
        "test",
        targets,
        scores,
        ours,
        "run-1",  # type: ignore[arg-type]
    )
    mark = "" if size == 28 else f"_{size}"
    assert path.name.startswith(f"{flag}{mark}_test_[AUC]")
    np.testing.assert_array_equal(read_medmnist_csv(path), scores)  # to the last bit
    auc, acc = _evaluate_as_medmnist_does(path, targets, theirs)
    # (120 images are enough for an AUC of exactly 0.4625, which the last bit rounds up or down.)
    assert path.name == f"{flag}{mark}_test_[AUC]{auc:.3f}_[ACC]{acc:.3f}@run-1.csv"
    assert medmnist_auc(targets, scores, ours) == pytest.approx(auc, abs=1e-12)  # type: ignore[arg-type]
    assert medmnist_acc(targets, scores, ours) == pytest.approx(acc, abs=1e-12)  # type: ignore[arg-type]


def test_two_classes_are_decided_by_the_second_column_strictly_above_a_half() -> None:
    scores = np.array([[0.5, 0.5], [0.4, 0.6], [0.9, 0.1]])
    assert medmnist_acc([0, 1, 0], scores, "multiclass") == 1.0
    assert medmnist_acc([0, 1, 0], scores[:, 1], "multiclass") == 1.0
    assert medmnist_auc([0, 1, 0], scores[:, 1:], "multiclass") == 1.0
    assert medmnist_auc([0, 1, 0], np.full((3, 2), 0.5), "multiclass") == 0.5


def test_an_absent_class_is_nan_and_writes_no_file(tmp_path: Path) -> None:
    scores = np.full((4, 3), 1 / 3)
    assert np.isnan(medmnist_auc([0, 1, 0, 1], scores, "multiclass"))
    with pytest.raises(DataError, match="AUC is undefined"):
        write_medmnist_csv(
            tmp_path, "octmnist", 28, "test", [0, 1, 0, 1], scores, "multiclass", "a"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flag", "run"), [("oct_mnist", "a"), ("octmnist", "a@b"), ("x", "1.5")])
def test_names_that_the_evaluator_would_misread_are_refused(
    tmp_path: Path, flag: str, run: str
) -> None:
    with pytest.raises(DataError, match="must be letters"):
        write_medmnist_csv(
            tmp_path, flag, 28, "val", [0, 1], [[0.6, 0.4], [0.1, 0.9]], "multiclass", run
        )


def test_rows_come_in_index_order_and_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("1,0.3,0.7\n0,0.9,0.1\n")
    np.testing.assert_array_equal(read_medmnist_csv(path), [[0.9, 0.1], [0.3, 0.7]])
    path.write_text("0,0.9,0.1\n1,0.3\n")
    with pytest.raises(DataError, match="line 2 has 1 scores, 2 expected"):
        read_medmnist_csv(path)
    path.write_text("id,a,b\n")
    with pytest.raises(DataError, match="line 1"):
        read_medmnist_csv(path)
    path.write_text("")
    with pytest.raises(DataError, match="is empty"):
        read_medmnist_csv(path)
