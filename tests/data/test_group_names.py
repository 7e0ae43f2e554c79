"""Groups read from file names: what is found, what is left alone, what is not sure."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from scanwise.core.commands import completed
from scanwise.core.types import Dataset, Provenance
from scanwise.data.assemble import groups_from_regex
from scanwise.data.checks import check_dataset
from scanwise.data.demo import load_demo
from scanwise.data.group_names import GroupGuesses, guess_from_names, guess_groups
from scanwise.data.load import load
from scanwise.data.splits import make_split

CLASSES = ("ill", "well")


def label(i: int) -> str:
    return CLASSES[i % 2]


def guess(names: list[str]) -> GroupGuesses | None:
    return guess_from_names(names, CLASSES, folders=1)


CLEAR = {
    "number, image": ([f"{label(p)}/p{p:03}_{j:02}.png" for p in range(40) for j in (1, 2, 3)], 40),
    "two words": (
        [f"{label(p)}/patient{p}-img{j}.tif" for p in range(40) for j in range(1 + p % 4)],
        40,
    ),
    "slides, running number": ([f"{label(i)}/slide{i % 7:02}_{i:04}.png" for i in range(120)], 7),
    "word and number apart": (
        [f"{label(i)}/BloodImage_{i % 30:05}_{i // 30:02}.png" for i in range(150)],
        30,
    ),
    "class in the name": (
        [f"{label(j)}/{label(j)}-p{p:02}-{j}.png" for p in range(30) for j in range(4)],
        30,
    ),
    "left and right": ([f"{label(i)}/{i}_{s}.jpeg" for i in range(50) for s in "lr"], 50),
    "folders": ([f"{label(i)}/case{i:02}/im{j}.png" for i in range(20) for j in range(4)], 20),
    "hexadecimal": (
        [f"{label(i)}/{i * 77777777 + 12345678:09x}a-{j}.png" for i in range(30) for j in range(3)],
        30,
    ),
    "sites and patients": (
        [
            f"{label(p)}/TCGA-{site}-{p:04}-{j:02}.png"
            for site in ("AB", "CD")
            for p in range(20)
            for j in range(3)
        ],
        40,
    ),
}


@pytest.mark.parametrize("case", CLEAR)
def test_clear_names_give_one_guess_whose_pattern_does_what_it_says(case: str) -> None:
    names, number = CLEAR[case]
    found = guess(names)
    assert found is not None
    assert found.doubt == ""
    (only,) = found.guesses
    assert only.number == number
    assert groups_from_regex(names, only.regex) == only.groups  # as --group-regex reads it


NO_GROUPS = {
    "counter": [f"{label(i)}/img_{i:04}.png" for i in range(100)],
    "bare counter": [f"{label(i)}/{i}.png" for i in range(100)],
    "class and counter": [f"{label(i)}/{label(i)}_{i:03}.png" for i in range(100)],
    "timestamps": [f"{label(i)}/IMG_202304{1 + i % 20:02}_{153000 + i}.jpg" for i in range(100)],
    "dates and times": [f"{label(i)}/2023-04-{1 + i % 20:02} 12.{i:03}.png" for i in range(100)],
    "hashes": [f"{label(i)}/{(i * 2654435761) % 2**32:08x}ab.png" for i in range(100)],
    "three large batches": [f"{label(i)}/batch{i % 3}_{i:03}.png" for i in range(90)],
    "few images": [f"{label(i)}/p{i // 2}_{i % 2}.png" for i in range(12)],
    "mostly alone": [f"{label(i)}/p{max(i, 10)}_{i}.png" for i in range(100)],
    "public archive": [f"{label(i)}/ISIC_{24000 + 7 * i:07}.jpg" for i in range(100)],
}


@pytest.mark.parametrize("case", NO_GROUPS)
def test_counters_dates_and_hashes_are_no_groups(case: str) -> None:
    assert guess(NO_GROUPS[case]) is None


def test_a_grid_of_tiles_is_not_sure() -> None:
    found = guess([f"ill/tile_{x}_{y}.png" for x in range(10) for y in range(10)])
    assert found is not None
    assert "grid" in found.doubt


def test_two_readings_are_not_sure_and_both_are_named() -> None:
    names = [
        f"ill/s{s}_p{s * 10 + p}_{j}.png" for s in range(6) for p in range(8) for j in range(3)
    ]
    found = guess(names)
    assert found is not None
    assert "2 ways" in found.doubt
    assert [each.number for each in found.guesses] == [6, 48]


def test_groups_that_are_known_are_not_guessed(tmp_path: Path) -> None:
    demo = load_demo("demo:cells?n=60")
    assert guess_groups(demo) is None  # arrays, with groups of their own


# --- the findings --------------------------------------------------------------------------------


def dataset_of(names: list[str]) -> Dataset:
    images = np.random.default_rng(0).integers(0, 255, (len(names), 8, 8, 1)).astype(np.uint8)
    return Dataset(
        name="named",
        images=images,
        targets=np.array([CLASSES.index(name.split("/")[0]) for name in names]),
        class_names=CLASSES,
        sample_ids=tuple(names),
        sha256=tuple(f"{row:064x}" for row in range(len(names))),
        provenance=Provenance("named", "folder", files=True),
    )


def test_a_guess_is_proposed_with_the_exact_command_and_not_used() -> None:
    dataset = dataset_of(CLEAR["number, image"][0])
    split = make_split(dataset)
    assert split.origin == "random"
    report = check_dataset(dataset, split)
    finding = next(each for each in report.findings if each.code == "D013")
    assert finding.severity == "warning"
    assert "40 groups of 3 images: `p(\\d+)`" in finding.evidence
    assert re.search(r"\b[1-9]\d* of 40 such groups", finding.evidence)
    command = completed(finding.command, {"data": "my folder"})
    assert shlex.split(command) == ["scanwise", "train", "my folder", "--group-regex", r"p(\d+)"]


def test_what_is_not_sure_states_the_risk() -> None:
    names = [f"{label(x)}/tile_{x}_{y}.png" for x in range(10) for y in range(10)]
    report = check_dataset(dataset_of(names), make_split(dataset_of(names)))
    finding = next(each for each in report.findings if each.code == "D014")
    assert finding.severity == "warning"
    assert "not sure" in finding.evidence
    assert "too good" in finding.advice


def test_a_split_that_cuts_no_guessed_group_is_only_a_note() -> None:
    names = CLEAR["number, image"][0]
    dataset = dataset_of(names)
    grouped = make_split(dataset.with_groups(groups_from_regex(names, r"p(\d+)")))
    report = check_dataset(dataset, grouped)
    finding = next(each for each in report.findings if each.code == "D013")
    assert finding.severity == "info"
    assert "0 of 40" in finding.evidence


def test_real_names(shared: Path) -> None:
    folders = shared / "data" / "folders"
    blood = guess_groups(load(folders / "bccd_287"))
    assert blood is not None
    assert blood.doubt == ""
    assert blood.guesses[0].regex == r"BloodImage_(\d+)"
    assert guess_groups(load(folders / "ham_287")) is None
