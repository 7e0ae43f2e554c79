"""The shortcut probe: planted shortcuts fire and are named, real signal does not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scanwise.core.types import Dataset
from scanwise.data.checks import check_dataset
from scanwise.data.demo import load_demo
from scanwise.data.load import load
from scanwise.data.shortcuts import probe_shortcuts
from scanwise.data.splits import make_split


@pytest.fixture(scope="module")
def cells() -> Dataset:
    """Painted cells on one kind of ground: 300 pictures, no shortcut."""
    return load_demo("demo:cells?n=300&seed=2")


def every_row(dataset: Dataset) -> np.ndarray:
    return np.arange(len(dataset))


def marked(dataset: Dataset, side: int, *, target: int = 0) -> Dataset:
    images = np.array(dataset.images)
    images[dataset.targets == target, :side, :side] = 255
    return replace(dataset, images=images)


def write_folder(
    folder: Path, dataset: Dataset, name_of=lambda row, label: f"{row:04}.png", grey: str = ""
) -> Path:
    """Class folders of a data set; `name_of` names a file, the class `grey` loses its colour."""
    for row, target in enumerate(dataset.targets.tolist()):
        label = dataset.class_names[target]
        image = np.array(dataset.images[row])
        if label == grey:
            image = np.repeat(image.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        path = folder / label / name_of(row, label)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image[..., ::-1])
    return folder


def test_pictures_without_a_shortcut_raise_no_alarm(cells: Dataset) -> None:
    found = probe_shortcuts(cells, every_row(cells), cells.groups)
    assert not found.alarming()
    border = next(probe for probe in found.probes if probe.family == "border")
    assert border.auroc.low < 0.6 < 0.75  # type: ignore[operator]


@pytest.mark.parametrize("change", ["corner mark", "brighter border"])
def test_a_planted_border_is_found_and_named(cells: Dataset, change: str) -> None:
    if change == "corner mark":
        dataset = marked(cells, 3)
    else:
        images = np.array(cells.images).astype(int)
        mine = cells.targets == 0
        for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
            images[edge] += 50 * mine[:, None, None]
        dataset = replace(cells, images=images.clip(0, 255).astype(np.uint8))
    probe, name, area = probe_shortcuts(dataset, every_row(cells), cells.groups).alarming()[
        "border"
    ]
    assert name == cells.class_names[0]
    assert area.value is not None
    assert area.value > 0.95
    feature, alone = probe.carriers[name]
    assert alone > 0.8
    assert "edge" in feature or feature.startswith("top left corner")


def test_one_marked_class_of_many_is_seen_though_the_mean_hides_it(cells: Dataset) -> None:
    found = probe_shortcuts(marked(cells, 3), every_row(cells), cells.groups)
    border = next(probe for probe in found.probes if probe.family == "border")
    assert border.auroc.value is not None
    assert border.auroc.value < 0.9
    assert "border" in found.alarming()


def test_a_brighter_class_is_shown_and_not_alarming(cells: Dataset) -> None:
    """Brightness of the whole picture may be the disease: border and inside tell it alike."""
    images = np.array(cells.images).astype(int) + 60 * (cells.targets == 0)[:, None, None, None]
    bright = replace(cells, images=images.clip(0, 255).astype(np.uint8))
    found = probe_shortcuts(bright, every_row(cells), cells.groups)
    thumbnail = next(probe for probe in found.probes if probe.family == "thumbnail")
    assert thumbnail.by_class[cells.class_names[0]].value > 0.9  # type: ignore[operator]
    assert not found.alarming()


def test_png_beside_jpeg_is_found(tmp_path: Path, cells: Dataset) -> None:
    first = cells.class_names[0]
    folder = write_folder(
        tmp_path, cells, lambda row, label: f"{row:04}.{'jpg' if label == first else 'png'}"
    )
    probe, name, _ = load_and_probe(folder).alarming()["metadata"]
    assert name == first
    assert probe.carriers[name][0].startswith(("format", "bytes", "ending"))


def test_a_grey_class_among_coloured_ones_is_found(tmp_path: Path, cells: Dataset) -> None:
    grey = cells.class_names[1]
    probe, name, _ = load_and_probe(write_folder(tmp_path, cells, grey=grey)).alarming()["metadata"]
    assert name == grey
    assert probe.carriers[name][0] in ("grey without colour", "bytes a pixel")


def test_the_camera_is_read(tmp_path: Path, cells: Dataset) -> None:
    folder = write_folder(tmp_path, cells, lambda row, label: f"{row:04}.jpg")
    for path in sorted((folder / cells.class_names[0]).iterdir()):
        with Image.open(path) as image:
            exif = Image.Exif()
            exif[272] = "Scope X"
            image.save(path, exif=exif, quality=95)
    found = load_and_probe(folder).alarming()["metadata"]
    assert found[1] == cells.class_names[0]


def test_a_name_that_says_the_class_is_no_shortcut_and_another_prefix_is(
    tmp_path: Path, cells: Dataset
) -> None:
    named = write_folder(tmp_path / "a", cells, lambda row, label: f"{label}_{row:04}.png")
    assert "metadata" not in load_and_probe(named).alarming()
    first = cells.class_names[0]
    prefixed = write_folder(
        tmp_path / "b", cells, lambda row, label: f"{'old' if label == first else 'new'}{row}.png"
    )
    probe, _, _ = load_and_probe(prefixed).alarming()["metadata"]
    feature, alone = probe.carriers[first]
    assert feature.startswith("first letters of the name")
    assert alone == 1.0


def load_and_probe(folder: Path):
    dataset = load(folder)
    return probe_shortcuts(dataset, every_row(dataset))


def test_rows_of_a_group_are_never_in_two_folds(cells: Dataset) -> None:
    """A background that is one patient's tells the class only to who has seen the patient."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 10)
    targets = rng.permutation(np.arange(30) % 2)[group]
    light = rng.integers(60, 200, (30, 1, 1, 3))[group]
    images = np.clip(light + rng.normal(0, 2, (300, 16, 16, 3)), 0, 255).astype(np.uint8)
    dataset = replace(
        cells, images=images, targets=targets, class_names=("a", "b"), groups=None, given_split=None
    )
    names = tuple(f"p{each}" for each in group)
    loose, held = (
        probe_shortcuts(dataset, every_row(dataset), g).probes[1].auroc for g in (None, names)
    )
    assert loose.value is not None
    assert held.value is not None
    assert held.value < loose.value + 0.05
    assert held.high - held.low > 1.5 * (loose.high - loose.low)  # type: ignore[operator]


def test_too_few_images_are_skipped_with_the_reason(cells: Dataset) -> None:
    found = probe_shortcuts(cells, np.arange(8))
    assert not found.probes
    assert "10 training images" in found.reason
    assert found.to_json()["alarming"] == []


def test_labels_are_probed_one_by_one(cells: Dataset) -> None:
    rng = np.random.default_rng(1)
    targets = (rng.random((300, 3)) < 0.4).astype(np.int64)
    images = np.array(cells.images)
    images[targets[:, 2] == 1, -3:, -3:] = 255
    several = replace(
        cells, images=images, targets=targets, class_names=("x", "y", "z"), task="multilabel"
    )
    _, name, _ = probe_shortcuts(several, every_row(several)).alarming()["border"]
    assert name == "z"


def test_many_images_are_capped_and_quick(cells: Dataset) -> None:
    rows = np.tile(np.arange(300), 40)
    started = time.process_time()
    assert probe_shortcuts(cells, rows).n == 2000
    assert time.process_time() - started < 15


def test_same_seed_same_numbers(cells: Dataset) -> None:
    first, second = (probe_shortcuts(cells, every_row(cells), seed=3).to_json() for _ in range(2))
    assert first == second


def test_the_finding_warns_and_does_not_stop(cells: Dataset) -> None:
    report = check_dataset(marked(cells, 3), make_split(cells))
    finding = next(each for each in report.findings if each.code == "D012")
    assert finding.severity == "warning"
    assert cells.class_names[0] in finding.evidence
    assert report.stop is None
    assert report.to_json()["shortcuts"]["alarming"] == ["border"]


@pytest.mark.parametrize(("name", "alarms"), [("pneumoniamnist", []), ("breastmnist", [])])
def test_real_chest_and_breast_images_raise_no_alarm(
    shared: Path, name: str, alarms: list[str]
) -> None:
    dataset = load(shared / "data" / "medmnist" / f"{name}.npz")
    found = probe_shortcuts(dataset, make_split(dataset).train)
    assert list(found.alarming()) == alarms


def test_the_size_of_a_blood_cells_crop_is_a_shortcut(shared: Path) -> None:
    dataset = load(shared / "data" / "folders" / "bccd_287")
    probe, _, _ = probe_shortcuts(dataset, every_row(dataset)).alarming()["metadata"]
    feature, alone = probe.carriers["Platelets"]
    assert feature in ("height", "width")
    assert alone > 0.99
