"""Splits: complete, disjoint, stratified, never through a group; written, read and compared."""

from __future__ import annotations

import csv
import io
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from scanwise.core.errors import SplitError
from scanwise.core.files import sha256_bytes
from scanwise.core.types import SPLIT_NAMES, Dataset, Split
from scanwise.data.splits import (
    absent_from_train,
    check_split,
    group_summary,
    make_split,
    read_split_groups,
    read_splits,
    shared_groups,
    splits_csv,
    write_splits,
)

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def data(
    targets: Sequence[int] | NDArray[np.int64],
    groups: Sequence[str] | None = None,
    *,
    given_split: Sequence[str] | None = None,
    official: bool = False,
    names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> Dataset:
    """A data set of one-pixel images; a split never looks at pixels."""
    values = np.asarray(targets, np.int64)
    n = len(values)
    k = num_classes or (values.shape[1] if values.ndim == 2 else int(values.max(initial=0)) + 1)
    origin = "official" if official else "user"
    return Dataset(
        name="cells",
        images=np.broadcast_to(np.uint8(0), (n, 1, 1, 1)),
        targets=values,
        class_names=tuple(f"class{i}" for i in range(k)),
        sample_ids=tuple(names or (f"img{i:06}.png" for i in range(n))),
        sha256=tuple(sha256_bytes(str(i).encode()) for i in range(n)),
        task="multilabel" if values.ndim == 2 else "multiclass",
        groups=None if groups is None else tuple(groups),
        given_split=None if given_split is None else np.array(given_split),
        split_origin=None if given_split is None else origin,
    )


def reordered(dataset: Dataset, order: NDArray[np.int64]) -> Dataset:
    """The same images in another order of rows."""
    return replace(
        dataset,
        targets=dataset.targets[order],
        sample_ids=tuple(dataset.sample_ids[i] for i in order),
        sha256=tuple(dataset.sha256[i] for i in order),
        groups=None if dataset.groups is None else tuple(dataset.groups[i] for i in order),
    )


def split_of_name(dataset: Dataset, split: Split) -> dict[str, str]:
    return {dataset.sample_ids[row]: name for name in SPLIT_NAMES for row in split.rows(name)}


def assert_is_partition(dataset: Dataset, split: Split) -> None:
    rows = np.concatenate([split.rows(name) for name in SPLIT_NAMES])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(dataset)))
    for name in SPLIT_NAMES:
        assert (np.diff(split.rows(name)) > 0).all()


# --- Random splits --------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(3, 200), min_size=2, max_size=8),
    val=st.floats(0.02, 0.44),
    test=st.floats(0.02, 0.44),
    seed=st.integers(0, 1000),
)
def test_a_random_split_gives_each_class_its_share(
    counts: list[int], val: float, test: float, seed: int
) -> None:
    dataset = data(
        np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    )
    split = make_split(dataset, seed=seed, val_fraction=val, test_fraction=test)
    assert_is_partition(dataset, split)
    assert split.origin == "random"
    wanted = {"train": 1 - val - test, "val": val, "test": test}
    for name in SPLIT_NAMES:
        got = dataset.class_counts(split.rows(name))
        assert (got >= 1).all()
        # One image of rounding; two where classes must give each split its one image.
        forced = min(counts) * min(val, test) < 1
        assert (np.abs(got - wanted[name] * np.array(counts)) <= 1.05 + forced).all()


def test_totals_are_close_too_and_the_note_says_them() -> None:
    dataset = data(np.repeat(np.arange(30), 10))  # 30 classes of which each has a half to round
    split = make_split(dataset)
    sizes = [len(split.rows(name)) for name in SPLIT_NAMES]
    np.testing.assert_allclose(sizes, [210, 45, 45], atol=1)
    assert "70.0 /" in split.note
    assert "70 / 15 / 15 % wanted" in split.note
    assert "seed 0" in split.note


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    rng = np.random.default_rng(0)
    for groups in (None, [f"p{i}" for i in rng.integers(0, 40, 300)]):
        dataset = data(rng.integers(0, 3, 300), groups)
        first, again, other = (make_split(dataset, seed=seed) for seed in (5, 5, 6))
        assert split_of_name(dataset, first) == split_of_name(dataset, again)
        assert split_of_name(dataset, first) != split_of_name(dataset, other)
        shuffled = reordered(dataset, rng.permutation(300))
        shuffled_split = make_split(shuffled, seed=5)
        assert split_of_name(shuffled, shuffled_split) == split_of_name(dataset, first)
        assert shuffled_split.sha256 == first.sha256 != other.sha256


def test_images_of_a_class_are_drawn_evenly_over_seeds() -> None:
    dataset = data(np.repeat([0, 1], [40, 10]))
    times = np.zeros(50)
    for seed in range(400):
        times[make_split(dataset, seed=seed).test] += 1
    # Binomial(400, 0.15) has standard deviation 7.1, of the rare class up to 9.
    assert np.abs(times[:40] - 400 * 0.15).max() < 4.5 * 7.2
    assert times[40:].min() > 25


def test_pixels_do_not_move_the_split() -> None:
    dataset = data(np.arange(200) % 4)
    poisoned = replace(dataset, images=np.full((200, 3, 3, 1), 255, np.uint8))
    assert make_split(dataset).sha256 == make_split(poisoned).sha256


@pytest.mark.parametrize(("count", "most"), [(1, "test 0.00"), (2, "test 0.50")])
def test_a_class_too_small_for_three_splits_is_named(count: int, most: str) -> None:
    with pytest.raises(SplitError, match=r"'class1' has \d image") as caught:
        make_split(data([0] * 50 + [1] * count))
    assert most in str(caught.value)
    assert caught.value.exit_code == 2


def test_three_images_are_enough_for_a_class() -> None:
    dataset = data([0] * 50 + [1] * 3)
    split = make_split(dataset)
    assert [dataset.class_counts(split.rows(name))[1] for name in SPLIT_NAMES] == [1, 1, 1]


def test_a_class_without_any_image_does_not_matter() -> None:
    dataset = data([0, 1] * 20, num_classes=3)
    assert_is_partition(dataset, make_split(dataset))


@pytest.mark.parametrize("fractions", [(0.0, 0.2), (0.2, -0.1), (0.5, 0.5), (float("nan"), 0.2)])
def test_fractions_must_leave_something_for_each(fractions: tuple[float, float]) -> None:
    with pytest.raises(SplitError, match="leave a rest for training"):
        make_split(data([0, 1] * 20), val_fraction=fractions[0], test_fraction=fractions[1])


# --- Groups ---------------------------------------------------------------------------------------


def a_way_exists(group_of: NDArray[np.int64], targets: NDArray[np.int64], num: int) -> bool:
    """Whether groups 0..num-1 can fill three splits with every class in train: all ways tried."""
    classes = [set(targets[group_of == group].tolist()) for group in range(num)]
    return any(
        set(way) == {0, 1, 2}
        and set().union(*(classes[i] for i in range(num) if way[i] == 0)) == set(targets.tolist())
        for way in itertools.product(range(3), repeat=num)
    )


@settings(max_examples=150, deadline=None)
@given(
    num_groups=st.integers(3, 60),
    num_classes=st.integers(1, 5),
    purity=st.floats(0, 1),
    seed=st.integers(0, 10_000),
)
def test_no_group_is_ever_cut(num_groups: int, num_classes: int, purity: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.ceil(rng.lognormal(1.5, 0.8, num_groups)).astype(int)
    group_of = np.repeat(np.arange(num_groups), sizes)
    own = rng.integers(0, num_classes, num_groups)[group_of]
    targets = np.where(rng.random(len(own)) < purity, own, rng.integers(0, num_classes, len(own)))
    groups_of_class = [np.unique(group_of[targets == i]) for i in range(num_classes)]
    assume(all(len(found) != 1 for found in groups_of_class))
    dataset = data(targets, [f"g{i}" for i in group_of], num_classes=num_classes)
    if num_groups <= 6 and not a_way_exists(group_of, targets, num_groups):
        with pytest.raises(SplitError, match="more groups are needed"):
            make_split(dataset, seed=seed)
        return
    split = make_split(dataset, seed=seed)
    assert_is_partition(dataset, split)
    assert split.origin == "group"
    split_of_group: dict[int, str] = {}
    for name in SPLIT_NAMES:
        for row in split.rows(name):
            assert split_of_group.setdefault(int(group_of[row]), name) == name
    assert shared_groups(dataset, split) == ()
    for name in SPLIT_NAMES:
        assert len(split.rows(name)) > 0
        # Whole groups can't do better than about the largest one; where classes must be in every
        # split with few groups, two of them.
        error = abs(len(split.rows(name)) - FRACTIONS[name] * len(dataset))
        assert error <= 2 * sizes.max()
    learned = dataset.class_counts(split.train)
    assert ((learned > 0) | (dataset.class_counts() == 0)).all()


def test_slides_with_all_classes_are_stratified_at_least_as_well_as_by_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    for seed in range(10):
        targets = rng.choice(4, 1500, p=[0.45, 0.28, 0.17, 0.1])
        group_of = rng.choice(20, 1500, p=rng.dirichlet(np.full(20, 8.0)))
        dataset = data(targets, [f"slide{i}" for i in group_of])
        split = make_split(dataset, seed=seed, val_fraction=0.2, test_fraction=0.2)
        share = dataset.class_counts(split.test) / dataset.class_counts()
        ours.append(np.abs(share - 0.2).mean())
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        _, test = next(folds.split(targets, targets, group_of))
        theirs.append(np.abs(dataset.class_counts(test) / dataset.class_counts() - 0.2).mean())
    assert np.mean(ours) < np.mean(theirs)
    assert max(ours) < 0.05


def test_a_huge_group_goes_to_train_and_small_ones_make_up_for_it() -> None:
    dataset = data([0] * 2000, ["big"] * 1000 + [f"s{i}" for i in range(1000)])
    split = make_split(dataset)
    assert 0 in split.train
    assert len(split.test) == len(split.val) == 300


def test_different_seeds_give_different_groups_to_test() -> None:
    group_of = np.random.default_rng(2).integers(0, 12, 600)
    dataset = data(np.arange(600) % 3, [f"slide{i}" for i in group_of])
    chosen = {
        frozenset(group_of[make_split(dataset, seed=seed).test].tolist()) for seed in range(12)
    }
    assert len(chosen) >= 4


def test_a_class_of_one_group_is_refused_with_examples() -> None:
    groups = ["mon"] * 20 + ["tue"] * 20 + ["wed"] * 20
    with pytest.raises(SplitError) as caught:
        make_split(data(np.repeat([0, 1, 2], 20), groups))
    for words in ("3 class(es)", "'class0' only in group 'mon'", "'class2' only in group 'wed'"):
        assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_class_of_two_groups_is_learned_and_tested_and_the_note_says_what_val_lacks() -> None:
    targets = [0] * 60 + [1] * 10
    groups = [f"p{i // 5}" for i in range(60)] + ["x"] * 5 + ["y"] * 5
    for seed in range(20):
        split = make_split(dataset := data(targets, groups), seed=seed)
        counts = {name: dataset.class_counts(split.rows(name))[1] for name in SPLIT_NAMES}
        assert counts == {"train": 5, "test": 5, "val": 0}
        assert "no 'class1' in val" in split.note


def test_every_class_reaches_every_split_where_groups_allow() -> None:
    # Class 2 lies in three groups only, each full of other classes.
    rng = np.random.default_rng(3)
    for seed in range(30):
        group_of = rng.integers(0, 15, 400)
        targets = rng.integers(0, 2, 400)
        for group in (1, 6, 11):
            targets[np.flatnonzero(group_of == group)[:3]] = 2
        dataset = data(targets, [f"p{i}" for i in group_of])
        split = make_split(dataset, seed=seed)
        assert [dataset.class_counts(split.rows(name))[2] for name in SPLIT_NAMES] == [3, 3, 3]


def test_of_three_groups_the_one_with_all_classes_goes_to_train() -> None:
    # The largest group would go to train, but lacks class 2.
    targets = [0, 1] * 10 + [0, 1, 2, 0, 1, 2] + [0, 2] * 4
    dataset = data(targets, ["a"] * 20 + ["b"] * 6 + ["c"] * 8)
    for seed in range(5):
        split = make_split(dataset, seed=seed)
        assert {dataset.groups[row] for row in split.train} == {"b"}  # type: ignore[index]
        assert len(split.val)
        assert len(split.test)


def test_groups_that_allow_no_split_are_refused() -> None:
    targets = [0, 1] * 5 + [1, 2] * 5 + [0, 2] * 5
    with pytest.raises(SplitError, match="more groups are needed"):
        make_split(data(targets, ["a"] * 10 + ["b"] * 10 + ["c"] * 10))


def test_two_groups_can_not_make_three_splits() -> None:
    with pytest.raises(SplitError, match="2 groups can't be divided"):
        make_split(data([0, 1] * 10, ["a", "b"] + ["a"] * 9 + ["b"] * 9))


def test_an_image_without_a_group_is_refused_by_name() -> None:
    with pytest.raises(SplitError, match=r"1 images have no group: img000003.png"):
        make_split(data([0, 1] * 10, ["a", "b", "c", "", *"abcdabcdabcdabcd"]))


# --- Labels that go together ----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(100, 500),
    rates=st.lists(st.floats(0.02, 0.6), min_size=2, max_size=8),
    seed=st.integers(0, 1000),
)
def test_each_label_gets_its_share(n: int, rates: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    dataset = data((rng.random((n, len(rates))) < rates).astype(np.int64))
    split = make_split(dataset, seed=seed)
    assert_is_partition(dataset, split)
    positives = dataset.class_counts()
    for name in SPLIT_NAMES:
        got = dataset.class_counts(split.rows(name))
        assert (np.abs(got - FRACTIONS[name] * positives) <= 2.5 + 0.02 * positives).all()
        assert ((got >= 1) | (positives < 3)).all()
        # With labels of two or three positives each, giving every split one of them comes first.
        assert abs(len(split.rows(name)) - FRACTIONS[name] * n) <= 2.5 + 0.02 * n + len(rates)
    assert absent_from_train(dataset, split) == ()


def test_a_single_positive_is_kept_for_train() -> None:
    targets = np.zeros((50, 2), np.int64)
    targets[:20, 0] = 1
    targets[33, 1] = 1
    split = make_split(data(targets))
    assert 33 in split.train
    assert "no 'class1' in val" in split.note


# --- Delivered splits -----------------------------------------------------------------------------


@pytest.mark.parametrize("official", [True, False])
def test_a_complete_split_is_used_as_delivered(official: bool) -> None:
    given_split = (["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 4
    dataset = data([0, 1] * 20, given_split=given_split, official=official)
    split = make_split(dataset, seed=9)
    for name in SPLIT_NAMES:
        np.testing.assert_array_equal(split.rows(name), np.flatnonzero(dataset.given_split == name))
    assert split.origin == ("official" if official else "user")
    assert split.seed is None
    assert "as delivered" in split.note


@pytest.mark.parametrize("grouped", [True, False])
def test_a_missing_val_is_taken_out_of_train(grouped: bool) -> None:
    given_split = np.array((["train"] * 4 + ["test"]) * 60)
    targets = np.repeat([0, 0, 1], 100)
    groups = [f"p{i // 5}" for i in range(300)] if grouped else None
    dataset = data(targets, groups, given_split=list(given_split))
    split = make_split(dataset, seed=1, val_fraction=0.25, test_fraction=0.25)
    assert_is_partition(dataset, split)
    np.testing.assert_array_equal(split.test, np.flatnonzero(given_split == "test"))
    np.testing.assert_array_equal(dataset.class_counts(split.val), [40, 20])
    assert "without 'val'" in split.note
    assert split.seed == 1
    if groups:
        assert not {groups[row] for row in split.val} & {groups[row] for row in split.train}


def test_train_and_val_without_test_have_no_test_set() -> None:
    dataset = data([0, 1] * 50, given_split=["train"] * 80 + ["val"] * 20)
    split = make_split(dataset)
    assert [len(split.rows(name)) for name in SPLIT_NAMES] == [80, 20, 0]
    assert "no test set" in split.note


@pytest.mark.parametrize("grouped", [True, False])
def test_only_training_rows_delivered_means_a_split_of_them(grouped: bool) -> None:
    groups = [f"p{i // 4}" for i in range(100)] if grouped else None
    dataset = data([0, 1] * 50, groups, given_split=["train"] * 100)
    split = make_split(dataset)
    assert_is_partition(dataset, split)
    assert split.origin == ("group" if grouped else "random")
    assert len(split.val) > 10
    assert len(split.test) > 10
    assert "delivered without 'val' and 'test'" in split.note


def test_a_class_too_rare_to_share_out_is_named_with_what_it_allows() -> None:
    message = (
        r"class 'class1' has 2 image\(s\), but train, val and test need one each. .* test 0.50 and"
    )
    with pytest.raises(SplitError, match=message):
        make_split(data([0] * 20 + [1] * 2))


def test_no_test_part_is_drawn_where_none_is_asked_for() -> None:
    split = make_split(data([0, 1] * 50), test_fraction=0.0)
    assert [len(split.rows(name)) for name in SPLIT_NAMES] == [85, 15, 0]


def test_a_delivered_split_may_cut_groups_and_that_is_reported() -> None:
    dataset = data(
        [0, 1] * 6,
        ["a", "a", "b", "b", "c", "c", "a", "d", "d", "e", "b", "a"],
        given_split=["train"] * 6 + ["val"] * 2 + ["test"] * 4,
    )
    split = make_split(dataset)
    found = shared_groups(dataset, split)
    assert [(item.group, dict(item.images)) for item in found] == [
        ("a", {"train": 2, "val": 1, "test": 1}),
        ("b", {"train": 2, "val": 0, "test": 1}),
        ("d", {"train": 0, "val": 1, "test": 1}),
    ]
    assert str(found[1]) == "b (2 train, 1 test)"
    summary = check_split(dataset, split).groups
    assert summary is not None
    assert summary == group_summary(dataset, split)
    assert str(summary) == "5 groups (train 3, val 2, test 4), 3 shared between splits"


def test_a_class_that_occurs_only_in_test_cannot_be_learned() -> None:
    dataset = data([0, 1, 0, 1, 0, 2], given_split=["train", "train", "val", "val", "test", "test"])
    with pytest.raises(SplitError, match=r"'class2' cannot be learned.*val 0, test 1"):
        make_split(dataset)


def test_a_class_absent_from_test_keeps_its_index() -> None:
    dataset = data([0, 1, 2, 0, 1, 0], given_split=["train"] * 3 + ["val"] * 2 + ["test"])
    facts = check_split(dataset, make_split(dataset))
    assert facts.class_counts["test"] == (1, 0, 0)


def test_delivered_splits_with_other_names_are_refused() -> None:
    with pytest.raises(SplitError, match=r"img000002.png: 'dev'"):
        make_split(data([0, 1, 0], given_split=["train", "val", "dev"]))
    with pytest.raises(SplitError, match="no 'train' rows"):
        make_split(data([0, 1, 0], given_split=["test", "val", "test"]))


# --- Checking -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (([0, 1, 2], [2, 3], [4, 5]), "1 images lie in several splits: img000002.png"),
        (([0, 1], [3], [4, 5]), "1 images lie in no split: img000002.png"),
        (([0, 1, 2], [3], [4, 5, 6]), "names row 6"),
        (([-1, 0, 1, 2], [3], [4, 5]), "names row -1"),
    ],
)
def test_what_is_no_split_is_refused(parts: tuple[list[int], ...], words: str) -> None:
    train, val, test = (np.array(rows) for rows in parts)
    with pytest.raises(SplitError, match=words):
        check_split(data([0, 1] * 3), Split(train, val, test, origin="user"))


def test_a_drawn_split_that_cuts_a_group_is_refused() -> None:
    dataset = data([0, 1] * 3, ["a", "a", "a", "b", "c", "c"])
    split = Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]), origin="group")
    with pytest.raises(SplitError, match=r"cuts 1 groups: a \(2 train, 1 val\)"):
        check_split(dataset, split)
    facts = check_split(dataset, replace(split, origin="file"))
    assert facts.groups is not None
    assert len(facts.groups.shared) == 1
    assert facts.images == {"train": 2, "val": 2, "test": 2}


# --- splits.csv -----------------------------------------------------------------------------------


@pytest.fixture
def grouped() -> Dataset:
    names = [f"sick, very/{i}.png" if i % 2 else f'"healthy"/é{i}.png' for i in range(60)]
    return data(np.arange(60) % 2, [f"p{i // 4}" for i in range(60)], names=names)


def test_splits_are_written_and_read_back(grouped: Dataset, tmp_path: Path) -> None:
    made = make_split(grouped)
    written = write_splits(tmp_path / "splits.csv", grouped, made)
    data_bytes = (tmp_path / "splits.csv").read_bytes()
    assert written.sha256 == made.sha256 == sha256_bytes(data_bytes)
    assert data_bytes.startswith(b"path,sha256,split,group\n")
    rows = list(csv.DictReader(io.StringIO(data_bytes.decode())))
    assert {row["path"]: row["split"] for row in rows} == split_of_name(grouped, made)
    assert all(row["sha256"] in grouped.sha256 for row in rows)

    back = read_splits(tmp_path / "splits.csv", grouped)
    assert back.origin == "file"
    assert back.sha256 == made.sha256
    for name in SPLIT_NAMES:
        np.testing.assert_array_equal(back.rows(name), made.rows(name))
    assert read_split_groups(tmp_path / "splits.csv", grouped) == grouped.groups


def test_the_order_of_rows_does_not_matter(grouped: Dataset, tmp_path: Path) -> None:
    made = make_split(grouped)
    head, *lines = splits_csv(grouped, made).splitlines(keepends=True)
    path = tmp_path / "splits.csv"
    path.write_text(head + "".join(reversed(lines)), encoding="utf-8")
    shuffled = reordered(grouped, np.random.default_rng(0).permutation(60))
    back = read_splits(path, shuffled)
    assert split_of_name(shuffled, back) == split_of_name(grouped, made)
    assert back.sha256 == made.sha256
    assert read_split_groups(path, shuffled) == shuffled.groups


def test_a_spreadsheet_may_have_saved_the_file(grouped: Dataset, tmp_path: Path) -> None:
    made = make_split(grouped)
    path = tmp_path / "splits.csv"
    path.write_bytes(b"\xef\xbb\xbf" + splits_csv(grouped, made).replace("\n", "\r\n").encode())
    assert read_splits(path, grouped).sha256 == made.sha256


def test_groups_that_a_file_does_not_name_are_none(tmp_path: Path) -> None:
    dataset = data([0, 1] * 20)
    write_splits(tmp_path / "splits.csv", dataset, make_split(dataset))
    assert read_split_groups(tmp_path / "splits.csv", dataset) is None


def test_all_differences_are_told(tmp_path: Path) -> None:
    dataset = data([0, 1] * 20)
    path = tmp_path / "splits.csv"
    text = splits_csv(dataset, make_split(dataset))
    head, *lines = text.splitlines(keepends=True)
    lines[3] = lines[3].replace(dataset.sha256[3], "ab" * 32)
    lines[5] = (
        lines[5].replace(",train,", ",dev,").replace(",val,", ",dev,").replace(",test,", ",dev,")
    )
    lines[7] = lines[7].replace("img000007", "img999999")
    path.write_text(head + "".join([*lines, lines[0]]), encoding="utf-8")
    with pytest.raises(SplitError) as caught:
        read_splits(path, dataset)
    message = str(caught.value)
    assert "5 differences" in message
    assert (
        f"img000003.png: changed (sha256 was abababababab…, is {dataset.sha256[3][:12]}…)"
        in message
    )
    assert "img000005.png: unknown split 'dev' (line 7" in message
    assert "img999999.png: missing in the data" in message
    assert "img000007.png: missing in the file" in message
    assert "img000000.png: twice in the file (line 42)" in message
    assert caught.value.exit_code == 2


def test_of_many_differences_the_first_twenty_are_listed(tmp_path: Path) -> None:
    dataset = data([0, 1] * 30)
    path = tmp_path / "splits.csv"
    write_splits(path, dataset, make_split(dataset))
    changed = replace(dataset, sha256=tuple(sha256_bytes(b"x") for _ in dataset.sha256))
    with pytest.raises(SplitError) as caught:
        read_splits(path, changed)
    message = str(caught.value)
    assert "60 differences" in message
    assert message.count("changed (") == 20
    assert "img000019.png" in message
    assert "img000020.png" not in message
    assert "and 40 more" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't read splits"),
        (b"\xff\xfe", "can't read splits"),
        (b"", "no column path and sha256 and split"),
        (b"path,split\n", "no column sha256"),
        (b"path,sha256,split,group\n", "has no rows"),
    ],
)
def test_a_file_of_another_form_is_refused(text: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(SplitError, match=words):
        read_splits(path, data([0, 1] * 5))


def test_a_file_must_fill_all_splits_and_teach_all_classes(tmp_path: Path) -> None:
    dataset = data([0, 1] * 20)
    path = tmp_path / "splits.csv"
    write_splits(path, dataset, make_split(dataset))
    path.write_text(path.read_text().replace(",val,", ",train,"))
    with pytest.raises(SplitError, match="no rows for val"):
        read_splits(path, dataset)

    unlearnable = Split(np.arange(0, 40, 2), np.array([1]), np.arange(3, 40, 2), origin="user")
    write_splits(path, dataset, unlearnable)
    with pytest.raises(SplitError, match="'class1' cannot be learned"):
        read_splits(path, dataset)


def test_names_that_occur_twice_can_not_be_matched(tmp_path: Path) -> None:
    dataset = data([0, 1] * 20)
    path = tmp_path / "splits.csv"
    write_splits(path, dataset, make_split(dataset))
    with pytest.raises(SplitError, match="not unique"):
        read_splits(path, replace(dataset, sample_ids=("same.png",) * 40))


# --- Size and the real thing ----------------------------------------------------------------------


def test_two_hundred_thousand_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    targets = rng.choice(5, 200_000, p=[0.6, 0.2, 0.1, 0.09, 0.01])
    dataset = data(targets, [f"lesion{i}" for i in rng.integers(0, 100_000, 200_000)])
    start = time.perf_counter()
    split = make_split(dataset)
    assert time.perf_counter() - start < 15  # about 1 s on an idle core
    share = dataset.class_counts(split.test) / dataset.class_counts()
    np.testing.assert_allclose(share, 0.15, atol=0.001)


@pytest.fixture(scope="module")
def lesions(shared: Path) -> Dataset:
    """DermaMNIST's rows with the lesion of each image, without pixels."""
    with (shared / "data/medmnist/dermamnist_split_ids.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return data(
        [int(row["label"]) for row in rows],
        [row["lesion_id"] for row in rows],
        names=[row["image_id"] for row in rows],
        given_split=[row["split"] for row in rows],
        official=True,
    )


def test_the_official_dermamnist_split_shares_641_lesions(lesions: Dataset) -> None:
    split = make_split(lesions)
    assert split.origin == "official"
    both = [g for g in shared_groups(lesions, split) if g.images["train"] and g.images["test"]]
    assert len(both) == 641


def test_dermamnist_by_lesions_is_stratified_and_shares_none(lesions: Dataset) -> None:
    free = replace(lesions, given_split=None, split_origin=None)
    split = make_split(free, seed=4)
    assert shared_groups(free, split) == ()
    for name in SPLIT_NAMES:
        share = free.class_counts(split.rows(name)) / free.class_counts()
        np.testing.assert_allclose(share, FRACTIONS[name], atol=0.01)
