"""predictions.csv: the contract's columns, and nothing lost on the way."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scanwise.core.errors import DataError
from scanwise.metrics.predictions import (
    Predictions,
    make_predictions,
    read_predictions,
    write_predictions,
)


def _make(names: tuple[str, ...], task: Any = "multiclass", n: int = 12) -> Predictions:
    rng = np.random.default_rng(len(names))
    k = len(names)
    if task == "multilabel":
        probabilities, targets = rng.random((n, k)), rng.integers(0, 2, (n, k))
    else:
        probabilities, targets = rng.dirichlet(np.ones(k), size=n), rng.integers(0, k, n)
    return make_predictions(
        tuple(f"a/{i}.png" for i in range(n)),
        tuple("val" if i % 3 else "test" for i in range(n)),
        targets,
        probabilities,
        names,
        task,
    )


def _assert_same(left: Predictions, right: Predictions) -> None:
    assert (left.sample, left.split) == (right.sample, right.split)
    assert (left.class_names, left.task) == (right.class_names, right.task)
    for name in ("targets", "predicted", "probabilities"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    predictions = _make(("ill", "well"))
    path = tmp_path / "predictions.csv"
    write_predictions(path, predictions)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["sample", "split", "target", "predicted", "prob_ill", "prob_well"]
    assert [row["sample"] for row in rows] == list(predictions.sample)  # input order
    assert rows[3]["target"] == predictions.class_names[predictions.targets[3]]
    assert rows[3]["predicted"] == predictions.class_names[predictions.probabilities[3].argmax()]
    assert float(rows[3]["prob_ill"]) == predictions.probabilities[3, 0]


def test_multilabel_has_a_target_column_per_label(tmp_path: Path) -> None:
    predictions = _make(("mass", "nodule", "hernia"), "multilabel")
    path = tmp_path / "predictions.csv"
    write_predictions(path, predictions)
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0])[2:6] == ["target_mass", "target_nodule", "target_hernia", "predicted"]
    said = [name for name in predictions.class_names if float(rows[1][f"prob_{name}"]) > 0.5]
    assert rows[1]["predicted"] == "|".join(said)
    _assert_same(read_predictions(path), predictions)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_odd_names_survive(tmp_path: Path, task: str) -> None:
    names = ("a, b", 'the "c"', "línea\nzwei", "prob_x", "target_y", " 肺 ", "predicted", "r\rn")
    predictions = _make(names, task, n=20)
    write_predictions(tmp_path / "p.csv", predictions)
    _assert_same(read_predictions(tmp_path / "p.csv"), predictions)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="|\0"), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_text, min_size=2, max_size=4, unique=True),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    _text,
    st.booleans(),
)
def test_every_float_and_name_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    floats: list[float],
    sample: str,
    many: bool,
) -> None:
    k = len(names)
    row = np.array(floats[:k])
    if many:
        targets: Any = np.arange(k)[None] % 2
    else:
        row = row / row.sum() if row.sum() > 1e-3 else np.full(k, 1 / k)
        targets = [k - 1]
    made = make_predictions(
        (sample,),
        ("val",),
        targets,
        row[None],
        tuple(names),
        "multilabel" if many else "multiclass",
    )
    path = tmp_path_factory.mktemp("round") / "p.csv"
    write_predictions(path, made)
    _assert_same(read_predictions(path), made)


def test_groups_are_joined_from_the_splits_file_by_name(tmp_path: Path) -> None:
    predictions = _make(("x", "y"), n=3)
    write_predictions(tmp_path / "p.csv", predictions)
    splits = tmp_path / "splits.csv"
    splits.write_text(
        "path,sha256,split,group\na/2.png,0,val,p2\na/0.png,0,test,p0\na/1.png,0,val,p0\n"
    )
    read = read_predictions(tmp_path / "p.csv", splits)
    assert read.groups == ("p0", "p0", "p2")
    assert read.of_split("val").groups == ("p0", "p2")
    splits.write_text(
        "path,sha256,split,group\n" + "".join(f"a/{i}.png,0,val,\n" for i in range(3))
    )
    assert read_predictions(tmp_path / "p.csv", splits).groups is None
    splits.write_text("path,sha256,split,group\na/0.png,0,test,p0\n")
    with pytest.raises(DataError, match=r"lacks 2 predicted samples, first 'a/1\.png'"):
        read_predictions(tmp_path / "p.csv", splits)


def test_rows_of_a_split() -> None:
    predictions = _make(("x", "y"))
    test = predictions.of_split("test")
    assert test.sample == ("a/0.png", "a/3.png", "a/6.png", "a/9.png")
    np.testing.assert_array_equal(test.probabilities, predictions.probabilities[[0, 3, 6, 9]])
    with pytest.raises(DataError, match="no predictions of split 'train'"):
        predictions.of_split("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("sample,split,target,predicted,prob_a,prob_b\n", "has no rows"),
        ("path,label\n1,2\n", "must have columns sample,split,target"),
        (
            "sample,split,target,predicted,prob_a,prob_b\ns,val,a,c,0.5,0.5\n",
            "line 2: unknown class 'c'",
        ),
        ("sample,split,target,predicted,prob_a,prob_b\ns,val,a,a,0.5\n", "line 2: 5 cells, 6"),
        ("sample,split,target,predicted,prob_a,prob_b\ns,val,a,a,x,0.5\n", "line 2: could not"),
        ("sample,split,target,predicted,prob_a,prob_b\ns,val,a,a,0.9,0.5\n", "row 0 sums to 1.4"),
        (
            "sample,split,target,predicted,prob_a,prob_b\ns,dev,a,a,0.5,0.5\n",
            "split must be one of",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_a_missing_file_and_a_wrong_task_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't read"):
        read_predictions(tmp_path / "none.csv")
    write_predictions(tmp_path / "p.csv", _make(("x", "y")))
    assert read_predictions(tmp_path / "p.csv", task="ordinal").task == "ordinal"
    with pytest.raises(DataError, match="holds multiclass predictions, not multilabel"):
        read_predictions(tmp_path / "p.csv", task="multilabel")


def test_names_that_can_not_be_told_apart_are_refused() -> None:
    with pytest.raises(DataError, match="different class names"):
        _make(("x", "x"))
    with pytest.raises(DataError, match=r"label 'a\|b' must not"):
        _make(("a|b", "c"), "multilabel")
