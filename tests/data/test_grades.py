"""Ordered grades: their order from names, from the user, or from the data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import scanwise as sw
from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError, DataError
from scanwise.core.types import Dataset
from scanwise.data.grades import with_task


def graded(names: tuple[str, ...], task: str = "multiclass") -> Dataset:
    targets = np.arange(len(names), dtype=np.int64)
    if task == "multilabel":
        targets = np.eye(len(names), dtype=np.int64)
    ids = tuple(str(row) for row in range(len(names)))
    images = np.zeros((len(names), 8, 8, 1), np.uint8)
    return Dataset("x", images, targets, names, ids, ids, task=task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("0", "1", "2"), ("0", "1", "2")),
        (("-1", "0", "1"), ("-1", "0", "1")),
        (("grade 1", "grade 10", "grade 2", *(f"grade {g}" for g in range(3, 10))),
         tuple(f"grade {g}" for g in range(1, 11))),
        (("KL2", "kl1", "KL3"), ("kl1", "KL2", "KL3")),
        (("grade-1", "grade-2"), ("grade-1", "grade-2")),
    ],
)  # fmt: skip
def test_numbered_names_tell_their_order(names, order):
    found = with_task(graded(names), "ordinal")
    assert found.task == "ordinal"
    assert found.class_names == order
    assert [found.class_names[target] for target in found.targets] == list(names)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("mild", "none", "severe"), "tell no order"),
        (("grade 1", "stage 2"), "tell no order"),
        (("0", "1", "3"), "not consecutive"),
    ],
)
def test_other_names_ask_for_the_order(names, said):
    with pytest.raises(DataError, match=said) as error:
        with_task(graded(names), "ordinal")
    assert "--class-order" in str(error.value)


def test_the_users_order_is_the_order():
    found = with_task(graded(("a, b", "mild", "none")), class_order='none, mild,"a, b"')
    assert found.class_names == ("none", "mild", "a, b")
    assert found.targets.tolist() == [2, 1, 0]
    assert "trains on them as classes without an order" in found.notes[-1].evidence


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("none,milt,severe", "did you mean 'mild'"),
        ("none,mild", "lacks 'severe'"),
        ("none,mild,mild,severe", "twice"),
    ],
)
def test_an_order_of_other_classes_is_refused(order, said):
    with pytest.raises(DataError, match=said):
        with_task(graded(("mild", "none", "severe")), "ordinal", order)


def test_several_labels_have_no_order():
    with pytest.raises(DataError, match="several labels"):
        with_task(graded(("a", "b"), "multilabel"), "ordinal")
    with pytest.raises(ConfigError, match="class-order"):
        make_config({"task": "multiclass", "class_order": "a,b"})


def test_a_data_sets_own_order_stays_and_can_be_dropped():
    own = graded(("4", "0"), "ordinal")
    assert with_task(own).class_names == ("4", "0")
    assert with_task(own, "multiclass").task == "multiclass"
    own = replace(own, provenance=replace(own.provenance, benchmark="retinamnist"))
    assert with_task(own).provenance.benchmark == "retinamnist"
    assert with_task(own, class_order="0,4").provenance.benchmark is None


def test_a_graded_run_has_kappa_and_error_in_grades(tmp_path, rng):
    from sklearn.metrics import cohen_kappa_score

    from scanwise.metrics.predictions import read_predictions

    n = 120
    targets = np.arange(n) % 3
    images = rng.normal(60 + 50 * targets[:, None, None], 40, (n, 12, 12)).clip(0, 255)
    names = np.array(["mild", "none", "severe"])[[1, 0, 2]][targets]
    np.savez(tmp_path / "grades.npz", X=images.astype(np.uint8), y=names)
    run = sw.train(
        tmp_path / "grades.npz",
        class_order="none,mild,severe",
        model="mlp:8",
        epochs=2,
        output=str(tmp_path / "run"),
    )
    said = read_predictions(run.path / "predictions.csv").of_split("test")
    assert said.class_names == ("none", "mild", "severe")
    stated = run.metrics["splits"]["test"]
    kappa = cohen_kappa_score(said.targets, said.predicted, weights="quadratic", labels=range(3))
    assert stated["kappa_quadratic"]["value"] == pytest.approx(kappa, abs=1e-12)
    error = np.abs(said.targets - said.predicted).mean()
    assert stated["mean_absolute_grade_error"]["value"] == pytest.approx(error)
    for key in ("kappa_quadratic", "mean_absolute_grade_error"):
        low, high = stated[key]["ci95"]
        assert low <= stated[key]["value"] <= high
    report = (run.path / "report.md").read_text()
    assert "Kappa, quadratic weights" in report
    assert "Mean error in grades" in report

    from scanwise.pipeline.summary import run_summary

    assert "error in grades" in run_summary(run)
