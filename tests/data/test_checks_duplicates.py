"""Exact and near duplicates, and what they mean for splits."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scanwise.core.types import Split
from scanwise.data import near_duplicates
from scanwise.data.copy_metric import recompressed
from scanwise.data.demo import load_demo
from scanwise.data.duplicates import (
    Duplicates,
    clean_test_rows,
    connected_rows,
    crossing_images,
    duplicate_groups,
    find_duplicates,
    leaked_rows,
)
from scanwise.data.near_duplicates import NearPairs, alike_cut, find_near_pairs
from scanwise.data.pair_cache import remembered_near_pairs
from scanwise.data.views import View, symmetries, to_8bit, warp, working_copies

Rows = NDArray[np.int64]


def cells(n: int) -> NDArray[np.uint8]:
    return load_demo(f"demo:cells?n={max(n, 60)}&seed=3").images[:n]


def no_targets(images: NDArray[np.generic]) -> Rows:
    return np.zeros(len(images), np.int64)


def pairs_of(rows: Rows) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in rows}


def of_clusters(*clusters: tuple[int, ...], n: int) -> Duplicates:
    """Findings that hold just these clusters."""
    pairs = [(rows[0], other) for rows in clusters for other in rows[1:]]
    exact = np.array(pairs, np.int64).reshape(-1, 2)
    nothing = np.empty((0, 2), np.int64)
    return Duplicates(
        n, exact, nothing, np.empty(0), np.empty(0, bool), None, connected_rows(n, exact), ()
    )


def split_of(train: list[int], val: list[int], test: list[int]) -> Split:
    return Split(*(np.array(rows, np.int64) for rows in (train, val, test)), origin="user")


# --- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_exact_copies_are_found_in_all_eight_symmetries(dtype: str) -> None:
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 60_000, (20, 9, 9, 3)) / (1 if dtype != "uint8" else 240)).astype(
        dtype
    )
    turned = [symmetric[0] for symmetric in symmetries(images[4:5])]
    found = find_duplicates(
        np.concatenate([images, np.stack(turned)]), no_targets(images[:1]).repeat(28), near=False
    )
    assert [rows.tolist() for rows in found.clusters] == [[4, *range(20, 28)]]
    assert pairs_of(found.exact) == {(4, row) for row in range(20, 28)}


def test_images_with_equal_sums_but_other_pixels_are_no_copies() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 1), np.uint8)
    shuffled = rng.permutation(image.ravel()).reshape(8, 8, 1)
    assert not len(find_duplicates(np.stack([image, shuffled]), np.zeros(2, int), near=False).exact)


def test_images_that_are_not_square_match_when_mirrored() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 8, 1), np.uint8)
    copies = np.concatenate([images, images[2:3, ::-1], images[3:4, :, ::-1]])
    found = find_duplicates(copies, no_targets(copies), near=False)
    assert pairs_of(found.exact) == {(2, 6), (3, 7)}


def test_blank_images_are_nobodys_copy() -> None:
    images = np.concatenate([cells(40), np.full((5, 48, 48, 3), 200, np.uint8)])
    assert not find_duplicates(images, no_targets(images)).clusters


def test_one_changed_pixel_is_near_not_exact() -> None:
    images = cells(60)[..., :1]
    copy = images[7:8].copy()
    copy[0, 10, 10, 0] ^= 1
    found = find_duplicates(np.concatenate([images, copy]), no_targets(images[:1]).repeat(61))
    assert not len(found.exact)
    assert pairs_of(found.near) == {(7, 60)}
    assert found.copies.all()


def test_a_memory_map_gives_the_same_as_an_array(tmp_path: Path) -> None:
    images = np.concatenate([cells(50), cells(50)[:3, :, ::-1]]).astype(np.uint16) * 200
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    ours, theirs = (find_duplicates(each, no_targets(images)) for each in (images, mapped))
    assert pairs_of(ours.exact) == pairs_of(theirs.exact) == {(0, 50), (1, 51), (2, 52)}
    assert ours.similarity.tolist() == theirs.similarity.tolist()


@pytest.mark.parametrize("shape", [(0, 28, 28, 1), (1, 28, 28, 1), (2, 28, 28, 3), (5, 2, 3, 1)])
def test_tiny_inputs_have_no_duplicates(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert not find_duplicates(images, no_targets(images)).clusters


# --- near ----------------------------------------------------------------------------------------


def warped(image: NDArray[np.uint8], zoom: float, angle_deg: float) -> NDArray[np.uint8]:
    side = image.shape[0]
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, angle_deg, zoom)
    result = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return result.reshape(image.shape)


WAYS = {
    "JPEG 90": lambda image: recompressed(image, 90),
    "JPEG 60": lambda image: recompressed(image, 60),
    "mirrored, JPEG 60": lambda image: recompressed(np.ascontiguousarray(image[:, ::-1]), 60),
    "quarter turn, darker": lambda image: (np.rot90(image) * 0.8).astype(np.uint8),
    "noise": lambda image: np.clip(
        image + np.random.default_rng(int(image[0, 0, 0])).normal(0, 4, image.shape), 0, 255
    ).astype(np.uint8),
    "middle 90 %": lambda image: warped(image, 1 / 0.9, 0),
    "turned by 5°": lambda image: warped(image, 1, 5),
    "mirrored, zoomed, turned": lambda image: warped(image[:, ::-1], 1.12, -4),
}


def planted(images: NDArray[np.uint8], each: int) -> tuple[NDArray[np.uint8], Rows]:
    """Images followed by copies, `each` of every way, and the row each copy was made from."""
    sources = np.random.default_rng(1).permutation(len(images))[: each * len(WAYS)]
    ways = [way for way in WAYS.values() for _ in range(each)]
    copies = [way(images[row]) for way, row in zip(ways, sources, strict=True)]
    return np.concatenate([images, np.stack(copies)]), sources


@pytest.mark.parametrize("name", ["demo", "breastmnist", "pneumoniamnist", "dermamnist"])
def test_planted_copies_are_found_and_nothing_else(
    name: str, request: pytest.FixtureRequest
) -> None:
    if name == "demo":
        images = cells(260)
    else:
        shared: Path = request.getfixturevalue("shared")
        with np.load(shared / "data" / "medmnist" / f"{name}.npz") as arrays:
            images = arrays["val_images"] if name != "breastmnist" else arrays["train_images"]
        images = images.reshape(*images.shape[:3], -1)[:500]
    before = find_duplicates(images, no_targets(images)).cluster_of_row()
    everything, sources = planted(images, each=20)
    found = find_duplicates(everything, no_targets(everything))
    cluster = found.cluster_of_row()
    hit = (cluster[sources] >= 0) & (cluster[sources] == cluster[len(images) :])
    by_way = dict(zip(WAYS, hit.reshape(len(WAYS), -1).mean(axis=1), strict=True))
    turned = by_way.pop("turned by 5°")  # mirrored-in corners are new content
    assert turned >= 0.8
    assert min(by_way.values()) >= 0.95, by_way  # one of 20 may be lost
    assert np.mean(list(by_way.values())) >= 0.99
    originals = found.near[(found.near < len(images)).all(axis=1)]
    known = (before[originals[:, 0]] >= 0) & (before[originals[:, 0]] == before[originals[:, 1]])
    assert (~known).sum() <= 1


def test_pictures_that_only_resemble_each_other_are_left_alone(shared: Path) -> None:
    """Chest X-rays all look alike, and the splits of this set share no patient."""
    with np.load(shared / "data" / "partial" / "chestmnist_subset1000.npz") as arrays:
        parts = [arrays[f"{name}_images"] for name in ("train", "val", "test")]
    images = np.concatenate(parts)[..., None]
    part_of = np.repeat(np.arange(3), [len(part) for part in parts])
    found = find_duplicates(images, no_targets(images))
    assert (part_of[found.near[:, 0]] == part_of[found.near[:, 1]]).all()
    assert len(found.near) < 30


def test_the_real_copy_in_breastmnist_is_found(shared: Path) -> None:
    """One test image of the official set is byte-identical to a training image."""
    with np.load(shared / "data" / "medmnist" / "breastmnist.npz") as arrays:
        images = np.concatenate([arrays["train_images"], arrays["test_images"]])[..., None]
    n_train = 546
    found = find_duplicates(images, no_targets(images), near=False)
    crossing = found.exact[(found.exact[:, 0] < n_train) & (found.exact[:, 1] >= n_train)]
    assert len(crossing) == 1
    first, second = crossing[0]
    assert images[first].tobytes() == images[second].tobytes()


def test_depth_and_colour_are_handled() -> None:
    grey = cells(60)[..., :1]
    deep = grey.astype(np.uint16) * 100 + 1000
    copies = np.concatenate([deep, (deep[3:5] * 0.9).astype(np.uint16)])
    assert pairs_of(find_duplicates(copies, no_targets(copies)).near) == {(3, 60), (4, 61)}
    as_colour = np.repeat(grey, 3, axis=3)
    assert working_copies(as_colour).shape[3] == 1
    assert working_copies(np.repeat(grey, 5, axis=3)).shape[3] == 1
    assert to_8bit(deep[:4]).dtype == np.uint8


def test_the_search_is_the_same_every_time() -> None:
    images = cells(60)[..., :1]
    first, second = (find_near_pairs(images, seed=5) for _ in range(2))
    assert first.rows.tolist() == second.rows.tolist()
    assert first.similarity.tolist() == second.similarity.tolist()


def stamps(n: int) -> NDArray[np.uint8]:
    """Black pictures but for a strip of coloured columns; none is another's copy."""
    rng = np.random.default_rng(0)
    images = np.zeros((n, 96, 96, 3), np.uint8)
    for image, place in zip(images, rng.integers(0, 48, n), strict=True):
        image[2 * place : 2 * place + 2] = rng.integers(0, 256, (16, 3), np.uint8).repeat(6, axis=0)
    return images


def test_maps_that_can_not_be_are_not_warped(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV took more than an hour for one map that sent a pixel 10⁹ px outside."""

    def watched(image: NDArray[np.uint8], matrix: NDArray[np.float64], **options: bool):
        assert np.abs(matrix).max() < 300  # and no NaN
        return warp(image, matrix, **options)

    monkeypatch.setattr(near_duplicates, "warp", watched)
    work = working_copies(stamps(200))
    believed = [near_duplicates.align(work[k], work[k + 1], View())[1] for k in range(199)]
    assert 0 < sum(believed) < 100
    dark, grey = work[:2]
    for value in (np.nan, np.inf, 1e9):
        exploded = np.array([[1, 0, value], [0, 1, 0]], np.float32)
        monkeypatch.setattr(cv2, "findTransformECC", lambda *_, to=exploded: (0.5, to))
        shown, held = near_duplicates.align(dark, grey, View())
        assert not held
        assert shown is grey


# --- how alike is enough -------------------------------------------------------------------------


def test_labels_vouch_for_a_cut_only_where_alike_pairs_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.5, 0.949, 4000)
    second_photos = rng.uniform(0.95, 1, 600)
    similarity = np.concatenate([chance, second_photos])
    mixed = np.concatenate([rng.random(4000) < 0.4, np.zeros(600, bool)])
    copies = np.zeros(len(similarity), bool)
    cut = alike_cut(similarity, mixed, copies)
    assert cut is not None
    assert 0.93 < cut <= 0.955
    mixed_too = np.concatenate([mixed[:4000], rng.random(600) < 0.4])
    assert alike_cut(similarity, mixed_too, copies) is None
    assert alike_cut(similarity, np.zeros(4600, bool), copies) is None  # one class can't vouch
    assert alike_cut(similarity[:50], mixed[:50], copies[:50]) is None


@pytest.mark.slow
def test_lesions_photographed_twice_are_found_on_dermamnist(shared: Path) -> None:
    folder = shared / "data" / "medmnist"
    with (folder / "dermamnist_split_ids.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    lesions = np.array([row["lesion_id"] for row in rows if row["split"] == "train"])[:3000]
    with np.load(folder / "dermamnist.npz") as arrays:
        images, targets = arrays["train_images"][:3000], arrays["train_labels"][:3000].ravel()
    found = find_duplicates(images, targets.astype(np.int64))
    right = lesions[found.near[:, 0]] == lesions[found.near[:, 1]]
    possible = len(lesions) - len(set(lesions))
    assert right[found.copies].mean() > 0.95
    assert right.mean() > 0.85
    assert right.sum() > 0.25 * possible


# --- splits --------------------------------------------------------------------------------------


def test_leaks_are_counted_by_pair_of_splits() -> None:
    found = of_clusters((0, 4, 8), (1, 2), (5, 9), n=12)
    split = split_of([0, 1, 2, 3], [4, 5, 6], [8, 9, 10])  # rows 7 and 11 are unused
    assert crossing_images(found, split) == {"train-val": 1, "train-test": 1, "val-test": 2}
    leaked = leaked_rows(found, split)
    assert leaked["val"].tolist() == [4]
    assert leaked["test"].tolist() == [8, 9]
    assert clean_test_rows(found, split).tolist() == [10]


def test_groups_leak_too() -> None:
    split = split_of([0, 1], [2], [3, 4, 5])
    groups = ("a", "b", "c", "a", "", "")
    assert leaked_rows(of_clusters(n=6), split, groups)["test"].tolist() == [3]
    assert clean_test_rows(of_clusters((1, 4), n=6), split, groups).tolist() == [5]


def test_no_cluster_and_no_group_is_cut_by_the_groups_made_of_both() -> None:
    found = of_clusters((0, 3), (3, 5), (1, 7), n=10)
    alone = duplicate_groups(found, 10)
    assert alone[0] == alone[3] == alone[5]
    assert len(set(alone)) == 7
    groups = ("p", "p", "q", "q", "r", "s", "s", "t", "", "")
    merged = duplicate_groups(found, 10, groups)
    # p-q by the copies 0 and 3, q-s by 3 and 5, p-t by 1 and 7; r and the nameless stay alone.
    assert len({merged[row] for row in (0, 1, 2, 3, 5, 6, 7)}) == 1
    assert len({merged[row] for row in (0, 4, 8, 9)}) == 4
    assert duplicate_groups(of_clusters(n=3), 3, ("a", "a", "b")) == ("a", "a", "b")


def test_copies_with_two_labels_are_conflicts() -> None:
    images = cells(60)[..., :1]
    both = np.concatenate([images, images[:1], WAYS["JPEG 90"](images[1])[None], images[2:3]])
    targets = np.zeros(63, np.int64)
    targets[[60, 61]] = 1
    conflicts = [rows.tolist() for rows in find_duplicates(both, targets).conflicts]
    assert sorted(conflicts) == [[0, 60], [1, 61]]
    several = np.zeros((63, 4), np.int64)
    several[62, 2] = 1
    assert [rows.tolist() for rows in find_duplicates(both, several).conflicts] == [[2, 62]]


def test_pairs_that_are_only_alike_form_clusters_but_no_conflicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = NearPairs(np.array([[1, 2]]), np.array([0.96]), np.array([False]), 0.95)
    monkeypatch.setattr("scanwise.data.duplicates.remembered_near_pairs", lambda *_, **__: one)
    found = find_duplicates(cells(5), np.arange(5))
    assert [rows.tolist() for rows in found.clusters] == [[1, 2]]
    assert found.conflicts == ()
    assert found.alike_cut == 0.95


# --- remembered ----------------------------------------------------------------------------------


@pytest.fixture
def searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A cache folder of its own; the list grows by one with every search that is made."""
    made: list[int] = []

    def counted(images: NDArray[np.generic], *args: object, **kwargs: int) -> NearPairs:
        made.append(len(images))
        return find_near_pairs(images, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path))
    monkeypatch.setattr("scanwise.data.pair_cache.find_near_pairs", counted)
    return made


def same_pairs(first: NearPairs, second: NearPairs) -> bool:
    return (
        np.array_equal(first.rows, second.rows)
        and np.array_equal(first.similarity, second.similarity)
        and np.array_equal(first.copies, second.copies)
        and first.alike_cut == second.alike_cut
    )


def test_the_same_images_are_searched_once(searches: list[int]) -> None:
    images = cells(60)
    images = np.concatenate([images, WAYS["JPEG 90"](images[1])[None]])
    targets = no_targets(images)
    first = remembered_near_pairs(images, targets)
    assert pairs_of(first.rows) == {(1, 60)}
    assert same_pairs(remembered_near_pairs(images.copy(), targets), first)
    assert searches == [61]
    changed = images.copy()
    changed[5, 0, 0] ^= 1
    remembered_near_pairs(changed, targets)
    remembered_near_pairs(images, np.arange(61) % 2)
    assert len(searches) == 3


@pytest.mark.parametrize("damage", ["cut", "garbage", "pickle", "other rows", "unwritable"])
def test_a_damaged_memory_is_made_anew(damage: str, searches: list[int], tmp_path: Path) -> None:
    images, targets = cells(60), np.zeros(60, np.int64)
    if damage == "unwritable":
        (tmp_path / "near").write_text("a file where the folder should be")
        remembered_near_pairs(images, targets)
        assert len(searches) == 1
        return
    first = remembered_near_pairs(images, targets)
    (entry,) = (tmp_path / "near").iterdir()
    if damage == "cut":
        entry.write_bytes(entry.read_bytes()[:-100])
    elif damage == "garbage":
        entry.write_bytes(b"x" * 500)
    elif damage == "pickle":
        np.savez(entry, rows=np.array([None]), allow_pickle=True)
    else:
        far = np.array([[0, 99]])
        np.savez(entry, rows=far, similarity=np.ones(1), copies=np.ones(1, bool), alike_cut=0.9)
    assert same_pairs(remembered_near_pairs(images, targets), first)
    assert same_pairs(remembered_near_pairs(images, targets), first)
    assert len(searches) == 2
    assert [path.name for path in (tmp_path / "near").iterdir()] == [entry.name]
