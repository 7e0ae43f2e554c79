"""Every check: what fires it, what it says, and whether it stops."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from scanwise.core.errors import DataError, IntegrityError
from scanwise.core.types import Dataset, Provenance, Split, Unreadable
from scanwise.data.advisories import advisories
from scanwise.data.checks import CHECKS, CheckReport, check_dataset, sensitivity_half_width
from scanwise.data.demo import load_demo
from scanwise.data.duplicates import Duplicates, duplicate_groups, find_duplicates
from scanwise.data.fingerprint import content_sha256, dataset_fingerprint
from scanwise.data.load import load
from scanwise.data.splits import make_split

N = 90


@pytest.fixture(scope="module")
def cells() -> Dataset:
    """90 grey pictures in three classes, 30 each, no groups."""
    demo = load_demo("demo:cells?n=90&seed=5")
    return Dataset(
        name="cells",
        images=demo.images[..., :1].copy(),
        targets=np.arange(N) % 3,
        class_names=("round", "long", "split"),
        sample_ids=tuple(f"cells#{row}" for row in range(N)),
        sha256=tuple(f"{row:064x}" for row in range(N)),
    )


@pytest.fixture(scope="module")
def nothing(cells: Dataset) -> Duplicates:
    """What the search finds in them; handed on where a test is about something else."""
    found = find_duplicates(cells.images, cells.targets)
    assert not found.clusters
    return found


def split_of(origin: str = "user") -> Split:
    rows = np.arange(N)
    return Split(rows[:60], rows[60:75], rows[75:], origin=origin)  # type: ignore[arg-type]


def with_copy(dataset: Dataset, first: int, second: int) -> Dataset:
    """The second row becomes the mirror image of the first, with its label."""
    images, targets = dataset.images.copy(), dataset.targets.copy()
    images[second] = images[first, :, ::-1]
    targets[second] = targets[first]
    return replace(dataset, images=images, targets=targets)


def codes(report: CheckReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def evidence(report: CheckReport, code: str) -> str:
    return next(finding.evidence for finding in report.findings if finding.code == code)


def test_clean_data_pass(cells: Dataset) -> None:
    report = check_dataset(cells, split_of())
    assert report.stop is None
    assert not report.leaky
    assert not [f for f in report.findings if f.severity == "error"]
    report.raise_if_stopped()
    assert report.leaks == {"train-val": 0, "train-test": 0, "val-test": 0}
    assert len({check.__doc__.split(":")[0] for check in CHECKS if check.__doc__}) == len(CHECKS)


# --- D004: leaks ---------------------------------------------------------------------------------


def test_a_leak_between_the_users_splits_stops_with_exit_3(cells: Dataset) -> None:
    report = check_dataset(with_copy(cells, 5, 80), split_of("user"))
    assert report.leaks["train-test"] == 1
    assert report.test_share == pytest.approx(1 / 15)
    assert codes(report)["D004"] == "error"
    with pytest.raises(IntegrityError, match=r"1 of 15 test images \(6.7%\).*cells#5 and cells#80"):
        report.raise_if_stopped()
    assert report.stop is not None
    assert report.stop.exit_code == 3
    assert "--accept-leak" in str(report.stop)


def test_an_accepted_leak_is_stamped(cells: Dataset) -> None:
    report = check_dataset(with_copy(cells, 5, 80), split_of("user"), accept_leak=True)
    assert report.stop is None
    assert report.leaky
    assert codes(report)["D004"] == "warning"
    assert "leaky" in next(f.advice for f in report.findings if f.code == "D004")


def test_an_official_split_is_never_refused(cells: Dataset) -> None:
    report = check_dataset(with_copy(cells, 5, 80), split_of("official"))
    assert report.stop is None
    assert report.leaky
    assert report.leaked["test"].tolist() == [80]
    assert "clean part" in next(f.advice for f in report.findings if f.code == "D004")


@pytest.mark.parametrize("origin", ["random", "group", "file"])
def test_a_leak_in_any_other_split_stops_too(cells: Dataset, origin: str) -> None:
    assert isinstance(check_dataset(with_copy(cells, 5, 80), split_of(origin)).stop, IntegrityError)


def test_copies_in_one_split_are_no_leak(cells: Dataset) -> None:
    report = check_dataset(with_copy(cells, 5, 8), split_of())
    assert not report.leaky
    assert codes(report)["D006"] == "info"


def test_a_folder_augmented_before_the_split_is_caught() -> None:
    """P6: the copies of one picture are spread over train, val and test."""
    demo = load_demo("demo:cells?n=80&seed=9")
    rng = np.random.default_rng(0)
    images, targets = [demo.images], [demo.targets]
    for _ in range(2):
        images.append(np.stack([augmented(image, rng) for image in demo.images]))
        targets.append(demo.targets)
    many = 3 * len(demo)
    dataset = replace(
        demo,
        images=np.concatenate(images),
        targets=np.concatenate(targets),
        sample_ids=tuple(f"augmented#{row}" for row in range(many)),
        sha256=tuple(f"{row:064x}" for row in range(many)),
        groups=None,
        metadata={},
        original_sizes=None,
    )
    order = rng.permutation(many)
    split = Split(np.sort(order[:168]), np.sort(order[168:204]), np.sort(order[204:]), "user")
    report = check_dataset(dataset, split)
    assert isinstance(report.stop, IntegrityError)
    assert report.test_share > 0.6
    # The way out: a split that keeps the copies of a picture together.
    groups = duplicate_groups(report.duplicates, many)
    ours = make_split(dataset.with_groups(groups), seed=0)
    together = check_dataset(dataset, ours, duplicates=report.duplicates)
    assert together.stop is None
    assert together.leaks["train-test"] == 0


def augmented(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a notebook does before it splits: flip, turn by up to 15°, zoom, change the light."""
    side = image.shape[0]
    zoom, angle_deg = rng.uniform(1, 1.1), rng.uniform(-15, 15)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2,) * 2, angle_deg, zoom)
    turned = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    turned = turned[:, ::-1] if rng.random() < 0.5 else turned
    return np.clip(turned * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8)


# --- D007 and D010: groups -----------------------------------------------------------------------


def test_a_patient_in_two_splits_is_a_leak(cells: Dataset, nothing: Duplicates) -> None:
    groups = tuple(f"p{row // 3}" for row in range(N))
    assert "0 shared" in evidence(
        check_dataset(cells.with_groups(groups), split_of(), duplicates=nothing), "D010"
    )
    cut = ("p26", *groups[1:])  # p26 has rows 78 to 80, in test
    report = check_dataset(cells.with_groups(cut), split_of(), duplicates=nothing)
    assert isinstance(report.stop, IntegrityError)
    assert "1 of 30 ('p26')" in evidence(report, "D007")
    assert report.leaked["test"].tolist() == [78, 79, 80]
    accepted = check_dataset(
        cells.with_groups(cut), split_of(), accept_leak=True, duplicates=nothing
    )
    assert accepted.stop is None
    assert accepted.leaky


# --- D001: unreadable files ----------------------------------------------------------------------


def test_unreadable_files_stop_unless_few_and_skipped(cells: Dataset, nothing: Duplicates) -> None:
    few = tuple(Unreadable(f"round/{i}.png", "round", "is truncated") for i in range(4))
    report = check_dataset(replace(cells, unreadable=few), split_of(), duplicates=nothing)
    with pytest.raises(DataError, match=r"4 of 94 files \(4.3%\).*round/0.png \(round: is trunc"):
        report.raise_if_stopped()
    assert "--skip-unreadable" in str(report.stop)
    skipped = check_dataset(
        replace(cells, unreadable=few), split_of(), skip_unreadable=True, duplicates=nothing
    )
    assert skipped.stop is None
    assert codes(skipped)["D001"] == "warning"
    many = tuple(Unreadable(f"round/{i}.png", "round", "is truncated") for i in range(30))
    report = check_dataset(
        replace(cells, unreadable=many), split_of(), skip_unreadable=True, duplicates=nothing
    )
    with pytest.raises(DataError, match="and 10 more"):
        report.raise_if_stopped()
    assert report.stop is not None
    assert report.stop.exit_code == 2
    assert str(report.stop).count("is truncated") == 20


# --- D002, D003, D009: classes -------------------------------------------------------------------


def test_a_class_of_four_stops_and_a_class_of_twenty_is_named(
    cells: Dataset, nothing: Duplicates
) -> None:
    targets = np.where(np.arange(N) < 20, 1, 0)
    targets[-4:] = 2
    report = check_dataset(replace(cells, targets=targets), split_of(), duplicates=nothing)
    with pytest.raises(DataError, match=r"at least 5 images.*'split' has 4"):
        report.raise_if_stopped()
    targets[-6:] = 2
    report = check_dataset(replace(cells, targets=targets), split_of(), duplicates=nothing)
    assert report.stop is None
    assert "'split' 6, 'long' 20" in evidence(report, "D002")
    assert "30 to 50" in evidence(report, "D002")
    told = next(f for f in report.findings if f.code == "D003")
    assert "10.7 to 1" in told.evidence  # 64 round, 6 split
    assert "--class-weights balanced" in told.command


def test_precision_is_the_wilson_half_width() -> None:
    interval = binomtest(27, 30).proportion_ci(method="wilson")
    low, high = interval.low, interval.high
    assert sensitivity_half_width(30) == pytest.approx((high - low) / 2)


def test_class_rows(cells: Dataset, nothing: Duplicates) -> None:
    rows = check_dataset(cells, split_of(), duplicates=nothing).classes
    assert [row["images"] for row in rows] == [30, 30, 30]
    assert [row["test"] for row in rows] == [5, 5, 5]
    assert rows[0]["share"] == pytest.approx(1 / 3, abs=1e-4)
    assert rows[0]["sensitivity_half_width"] == round(sensitivity_half_width(5) or 0, 3)
    assert sensitivity_half_width(0) is None


def test_a_label_without_positives_in_train(cells: Dataset, nothing: Duplicates) -> None:
    targets = np.eye(3, dtype=np.int64)[cells.targets]
    targets[:60, 2] = 0
    several = replace(cells, targets=targets, task="multilabel")
    report = check_dataset(several, split_of(), duplicates=nothing)
    assert report.stop is None
    assert "'split'" in evidence(report, "D009")
    manifest = replace(several, provenance=Provenance(source="a.csv", kind="manifest"))
    with pytest.raises(DataError, match="0 positive images in train"):
        check_dataset(manifest, split_of(), duplicates=nothing).raise_if_stopped()
    rare = targets.copy()
    rare[:, 2] = 0
    rare[0, 2] = 1  # under 5 positives: a warning, labels are judged one by one
    assert (
        check_dataset(replace(several, targets=rare), split_of(), duplicates=nothing).stop is None
    )


# --- D005, D008, the report ----------------------------------------------------------------------


def test_a_conflict_names_files_and_labels(cells: Dataset) -> None:
    dataset = with_copy(cells, 3, 7)
    targets = dataset.targets.copy()
    targets[7] = 1
    report = check_dataset(replace(dataset, targets=targets), split_of())
    assert "cells#3 is 'round', cells#7 is 'long'" in evidence(report, "D005")
    assert report.to_json()["duplicates"]["conflicts"] == [
        {"samples": ["cells#3", "cells#7"], "rows": [3, 7], "labels": ["round", "long"]}
    ]


def test_quality_outliers_are_reported(cells: Dataset, nothing: Duplicates) -> None:
    images = cells.images.copy()
    images[4] = 0
    report = check_dataset(replace(cells, images=images), split_of(), duplicates=nothing)
    assert "cells#4 of a single colour" in evidence(report, "D008")


def test_the_report_is_json(cells: Dataset) -> None:
    report = check_dataset(with_copy(cells, 5, 80), split_of("official"))
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert written["duplicates"]["exact_pairs"] == 1
    assert written["duplicates"]["examples"][0] == {
        "first": "cells#5",
        "second": "cells#80",
        "rows": [5, 80],
        "kind": "exact",
        "similarity": 1.0,
        "splits": ["train", "test"],
    }
    assert {"findings", "quality", "classes"} < set(written)
    found = find_duplicates(cells.images, cells.targets)
    assert check_dataset(cells, split_of(), duplicates=found).duplicates is found


def test_data_without_content_stop(cells: Dataset) -> None:
    blank = replace(cells, images=np.full_like(cells.images, 3))
    with pytest.raises(DataError, match="single colour"):
        check_dataset(blank, split_of())


# --- known sets ----------------------------------------------------------------------------------


def test_advisories_fire_by_flag_and_by_counts_and_are_silent_otherwise(cells: Dataset) -> None:
    assert advisories(cells) == ()
    known = replace(cells, provenance=Provenance("x", "medmnist", benchmark="chestmnist"))
    assert "0.947" in advisories(known)[0].evidence
    n = 546 + 78 + 156
    breast = Dataset(
        name="ultrasound",
        images=np.zeros((n, 8, 8, 1), np.uint8),
        targets=np.zeros(n, np.int64),
        class_names=("malignant", "other"),
        sample_ids=("",) * n,
        sha256=("",) * n,
        given_split=np.repeat(["train", "val", "test"], [546, 78, 156]),
    )
    assert "±5.4 points" in advisories(breast)[0].evidence
    tissue = Provenance("x", "medmnist", benchmark="tissuemnist")
    assert advisories(replace(breast, provenance=tissue)) == ()
    large = replace(breast, images=np.zeros((n, 224, 1, 1), np.uint8), provenance=tissue)
    assert "32x32" in advisories(large)[0].evidence


def test_the_advisory_of_dermamnist_holds_on_the_real_set(shared: Path) -> None:
    path = shared / "data" / "medmnist" / "dermamnist_split_ids.csv"
    with path.open(newline="") as stream:
        rows = [(row["split"], row["lesion_id"]) for row in csv.DictReader(stream)]
    of = {name: {lesion for part, lesion in rows if part == name} for name, _ in rows}
    said = advisories(load(str(shared / "data" / "medmnist" / "dermamnist.npz")))[0].evidence
    assert f"{len(of['train'] & of['test'])} lesions" in said
    assert f"{len(of['train'] & of['val'])} train and val" in said
    assert f"{len(of['val'] & of['test'])} val" in said
    assert f"{len(set.union(*of.values())):,} lesions" in said


# --- fingerprint ---------------------------------------------------------------------------------


def test_fingerprint(cells: Dataset) -> None:
    sizes = np.tile([[40, 50]], (N, 1))
    sizes[0] = (10, 20)
    groups = tuple(f"p{row // 3}" for row in range(N))
    dataset = replace(cells, original_sizes=sizes, groups=groups)
    facts = json.loads(json.dumps(dataset_fingerprint(dataset, split_of()), allow_nan=False))
    assert facts["schema"] == 1
    assert facts["counts"] == {
        "all": [30, 30, 30],
        "train": [20, 20, 20],
        "val": [5, 5, 5],
        "test": [5, 5, 5],
    }
    assert facts["imbalance_ratio"] == 1.0
    assert facts["image"] == {"height": 48, "width": 48, "channels": 1, "dtype": "uint8"}
    assert facts["original_sizes"] == {"min": [10, 20], "median": [40, 50], "max": [40, 50]}
    assert facts["groups"]["n"] == 30
    assert facts["groups"]["shared"] == 0
    assert facts["split"]["n"] == {"train": 60, "val": 15, "test": 15}
    assert facts["channel_mean"] == pytest.approx([cells.images.mean()])
    assert facts["intensity_range"] == [int(cells.images.min()), int(cells.images.max())]
    assert facts["grey_as_rgb"] is False
    assert facts["content_sha256"] == content_sha256(dataset)


def test_fingerprint_sees_order_and_grey_saved_as_colour(cells: Dataset) -> None:
    turned = replace(cells, sha256=cells.sha256[::-1])
    assert content_sha256(turned) != content_sha256(cells)
    colour = replace(cells, images=np.repeat(cells.images, 3, axis=3))
    assert dataset_fingerprint(colour, split_of())["grey_as_rgb"] is True
    tinted = colour.images.copy()
    tinted[-1, 0, 0, 2] ^= 1
    assert dataset_fingerprint(replace(colour, images=tinted), split_of())["grey_as_rgb"] is False


def test_without_a_test_set_it_is_said(cells: Dataset, nothing: Duplicates) -> None:
    rows = np.arange(N)
    split = Split(rows[:60], rows[60:], rows[:0], origin="user")
    report = check_dataset(cells, split, duplicates=nothing)
    assert report.stop is None
    assert "60 training and 30 validation images" in evidence(report, "D011")
    assert "without a test set" in evidence(report, "D003")
    whole = check_dataset(cells, split_of(), duplicates=nothing)
    assert "D011" not in {finding.code for finding in whole.findings}


def test_equal_classes_are_counted_once(cells: Dataset, nothing: Duplicates) -> None:
    said = evidence(check_dataset(cells, split_of(), duplicates=nothing), "D003")
    assert said.startswith("each class has 30 images: 1.0 to 1; 5 test images support")
