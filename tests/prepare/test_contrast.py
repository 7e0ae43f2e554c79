"""Contrast: OpenCV's CLAHE image by image, the percentile stretch, and the words users may say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scanwise.core.errors import ConfigError
from scanwise.prepare.contrast import Contrast, in_blocks, parse_contrast


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    return np.random.default_rng(3).integers(60, 140, (40, 28, 28, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def colour() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("spec", ["none", "clahe", "clahe:grid=4", "clahe:clip=2.25,grid=3"])
def test_the_spelling_of_a_contrast_reads_back(spec: str):
    contrast = parse_contrast(spec)
    assert parse_contrast(str(contrast)) == contrast


def test_defaults_are_those_of_the_documentation():
    assert (parse_contrast("clahe").clip, parse_contrast("clahe").grid) == (1.5, 8)
    stretch = parse_contrast("percentile")
    assert (stretch.low, stretch.high) == (1, 99)
    assert parse_contrast("percentile:0.5, 99.5").high == 99.5


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("clah", "did you mean 'clahe'"),
        ("clahe:clp=2", "did you mean 'clip'"),
        ("clahe:clip=0", "clip='0'"),
        ("clahe:grid=many", "grid='many'"),
        ("percentile:5", "two percentiles"),
        ("percentile:90,10", "90 must be below 10"),
        ("percentile:1,101", "high='101'"),
        ("none:1", "takes no options"),
    ],
)
def test_a_mistake_is_named(spec: str, words: str):
    with pytest.raises(ConfigError) as caught:
        parse_contrast(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_clahe_on_grey_is_opencvs(grey: np.ndarray):
    ours = parse_contrast("clahe:clip=3,grid=4").apply(grey)
    clahe = cv2.createCLAHE(clipLimit=3, tileGridSize=(4, 4))
    np.testing.assert_array_equal(ours[..., 0], [clahe.apply(image[..., 0]) for image in grey])
    assert not np.array_equal(ours, grey)


def test_clahe_on_colour_changes_lightness_only(colour: np.ndarray):
    ours = parse_contrast("clahe").apply(colour)
    lab = cv2.cvtColor(colour[0], cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=1.5, tileGridSize=(8, 8)).apply(lab[..., 0])
    np.testing.assert_array_equal(ours[0], cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def test_other_channel_counts_are_enhanced_one_by_one(grey: np.ndarray):
    five = np.concatenate([grey[:3]] * 5, axis=3)
    contrast = parse_contrast("clahe:grid=4")
    one = contrast.apply(grey[:3])
    np.testing.assert_array_equal(contrast.apply(five), np.concatenate([one] * 5, axis=3))


@pytest.mark.parametrize("spec", ["clahe", "percentile:2,98"])
def test_an_image_does_not_depend_on_its_neighbours_or_threads(spec: str, colour: np.ndarray):
    contrast = parse_contrast(spec)
    alone = np.concatenate([contrast.apply(image[None], num_threads=1) for image in colour])
    np.testing.assert_array_equal(contrast.apply(colour, num_threads=3), alone)


def test_none_hands_the_very_images_back(grey: np.ndarray):
    assert Contrast().apply(grey) is grey


def test_a_grid_too_fine_is_clamped_and_said(grey: np.ndarray):
    contrast = parse_contrast("clahe:grid=20")
    assert contrast.tiles((28, 28)) == 14
    note = contrast.note((28, 28))
    assert note is not None
    assert "grid 20" in note
    assert "14" in note
    np.testing.assert_array_equal(contrast.apply(grey), parse_contrast("clahe:grid=14").apply(grey))
    # The default eight tiles fit 28 px, and the shorter side counts.
    assert parse_contrast("clahe").note((28, 28)) is None
    assert parse_contrast("clahe").tiles((64, 10)) == 5


def test_percentiles_become_black_and_white():
    image = np.arange(100, 200, dtype=np.uint8).reshape(1, 10, 10, 1)
    stretched = parse_contrast("percentile:10,90").apply(image)
    low, high = np.percentile(image, (10, 90))
    expected = np.clip(np.rint((image - low) * 255 / (high - low)), 0, 255)
    np.testing.assert_array_equal(stretched, expected)
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_the_stretch_keeps_hues():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[..., 0] = np.linspace(50, 200, 64).reshape(8, 8)
    image[..., 1] = image[..., 0] // 2
    stretched = parse_contrast("percentile:0,100").apply(image)
    np.testing.assert_allclose(stretched[..., 1] / 255, image[..., 1] / image.max(), atol=0.01)


def test_a_flat_image_is_left_alone():
    flat = np.full((2, 8, 8, 1), 77, np.uint8)
    np.testing.assert_array_equal(parse_contrast("percentile").apply(flat), flat)


def test_blocks_cover_every_row_once_in_order():
    seen = in_blocks(lambda start, stop: list(range(start, stop)), 1003, 9000, num_threads=3)
    assert [row for part in seen for row in part] == list(range(1003))
    assert len(seen) > 3
    assert in_blocks(lambda start, stop: stop, 0, 9000) == []
    before = cv2.getNumThreads()
    with pytest.raises(ZeroDivisionError):
        in_blocks(lambda start, stop: 1 // start, 10, 1 << 20, num_threads=2)
    assert cv2.getNumThreads() == before
