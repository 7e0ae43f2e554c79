"""K folds: disjoint, complete, stratified, whole groups, and refusals that name the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scanwise.core.errors import SplitError
from scanwise.core.types import Dataset
from scanwise.data.folds import make_folds
from scanwise.data.splits import read_splits, write_splits


def dataset_of(
    targets: np.ndarray,
    groups: list[str] | None = None,
    given: list[str] | None = None,
    k: int | None = None,
) -> Dataset:
    n = len(targets)
    rng = np.random.default_rng(0)
    many = targets.ndim == 2
    k = k or (targets.shape[1] if many else int(targets.max()) + 1)
    return Dataset(
        name="toy",
        images=rng.integers(0, 255, (n, 4, 4, 1)).astype(np.uint8),
        targets=targets,
        class_names=tuple(f"c{i}" for i in range(k)),
        sample_ids=tuple(f"image{i:04d}" for i in range(n)),
        sha256=tuple(f"{i:064x}" for i in range(n)),
        task="multilabel" if many else "multiclass",
        groups=None if groups is None else tuple(groups),
        given_split=None if given is None else np.array(given),
        split_origin=None if given is None else "user",
    )


@pytest.mark.parametrize("k", [2, 5, 10])
def test_each_image_is_tested_once_and_classes_keep_their_shares(k: int) -> None:
    targets = np.repeat([0, 1, 2], [150, 90, 20])
    dataset = dataset_of(targets)
    folds = make_folds(dataset, k, seed=3)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(260))
    for fold in folds:
        parts = [fold.train, fold.val, fold.test]
        assert sorted(np.concatenate(parts)) == list(range(260))
        counts = dataset.class_counts(fold.test)
        assert np.abs(counts - np.array([150, 90, 20]) / k).max() <= 1
        assert abs(len(fold.val) - 0.15 * 260) <= 3
        assert dataset.class_counts(fold.train).min() > 0


def test_groups_are_never_cut_and_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, 300)
    groups = [f"p{i}" for i in rng.integers(0, 60, 300)]
    dataset = dataset_of(targets, groups)
    folds = make_folds(dataset, 5, seed=1)
    named = np.array(groups)
    for fold in folds:
        for one, other in ((fold.train, fold.test), (fold.val, fold.test), (fold.train, fold.val)):
            assert not set(named[one]) & set(named[other])
        assert 40 <= len(fold.test) <= 80
    again = make_folds(dataset, 5, seed=1)
    assert all((a.test == b.test).all() for a, b in zip(folds, again, strict=True))
    others = make_folds(dataset, 5, seed=2)
    assert any(list(a.test) != list(b.test) for a, b in zip(folds, others, strict=True))


def test_a_delivered_test_split_is_in_no_fold_and_survives_the_file(tmp_path: Path) -> None:
    given = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    dataset = dataset_of(np.tile([0, 1], 50), given=given)
    folds = make_folds(dataset, 4)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(80))
    assert "20 images of the delivered test split are left alone" in folds[0].note
    written = write_splits(tmp_path / "fold.csv", dataset, folds[0])
    read = read_splits(tmp_path / "fold.csv", dataset)
    assert (read.test == folds[0].test).all()
    assert read.sha256 == written.sha256
    assert len(read.train) + len(read.val) + len(read.test) == 80


def test_labels_are_shared_out_too() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 3)) < [0.5, 0.2, 0.1]).astype(np.int64)
    dataset = dataset_of(targets)
    for fold in make_folds(dataset, 5):
        assert np.abs(dataset.class_counts(fold.test) - targets.sum(axis=0) / 5).max() <= 2


@pytest.mark.parametrize(
    ("targets", "groups", "k", "message"),
    [
        (np.repeat([0, 1], [20, 3]), None, 5, "class 'c1' has 3 images.*use at most 3 folds"),
        (np.tile([0, 1], 10), ["a", "b", "c", "a"] * 5, 4, "class 'c0' has 2 groups"),
        (np.tile([0, 1], 10), None, 1, "cv=1: the number of folds must lie between 2 and"),
        (np.tile([0, 1], 10), None, 101, "between 2 and 100"),
        (np.ones((3, 2), np.int64), None, 5, "has 3 images, too few for 5 folds"),
    ],
)
def test_too_many_folds(
    targets: np.ndarray, groups: list[str] | None, k: int, message: str
) -> None:
    with pytest.raises(SplitError, match=message):
        make_folds(dataset_of(targets, groups), k)


def test_a_large_validation_share_is_refused() -> None:
    with pytest.raises(SplitError, match="leaves nothing to train on"):
        make_folds(dataset_of(np.tile([0, 1], 50)), 2, val_fraction=0.5)


def test_few_groups_and_many_folds_end_in_time() -> None:
    # 10 groups in 5 folds have ten million ways; they must not be listed.
    targets = np.repeat(np.arange(2), 50)
    groups = [f"g{i % 5}" for i in range(50)] + [f"h{i % 5}" for i in range(50)]
    folds = make_folds(dataset_of(targets, groups), 5)
    assert sorted(len(fold.test) for fold in folds) == [20] * 5
