"""The one preprocessing: fitted on train alone, exact in JSON, the same bits by every way in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scanwise.core.errors import ConfigError, DataError
from scanwise.core.types import Dataset
from scanwise.data.images import read_image
from scanwise.data.pixels import fit_to_square
from scanwise.prepare.balance import class_weights
from scanwise.prepare.contrast import parse_contrast
from scanwise.prepare.preprocessing import (
    FORMAT_VERSION,
    Intensity,
    Preprocessing,
    fit_preprocessing,
    is_grey,
)
from scanwise.prepare.smote import smote


def make_dataset(images: np.ndarray, targets: np.ndarray | None = None) -> Dataset:
    n = len(images)
    targets = np.arange(n) % 3 if targets is None else targets
    names = tuple(str(i) for i in range(n))
    return Dataset("toy", images, targets.astype(np.int64), ("a", "b", "c"), names, names)


def random_images(dtype: str, channels: int = 1, n: int = 60, size: int = 20) -> np.ndarray:
    rng = np.random.default_rng(11)
    base = rng.random((n, size, size, channels))
    if dtype == "float32":
        return (base * 2000 - 1000).astype(np.float32)
    return (base * (255 if dtype == "uint8" else 4000)).astype(dtype)


ROWS = np.arange(40)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_mean_and_std_are_those_of_train(channels: int):
    images = random_images("uint8", channels)
    fitted = fit_preprocessing(make_dataset(images), ROWS)
    train = images[ROWS].astype(np.float64) / 255
    np.testing.assert_allclose(fitted.mean, train.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(fitted.std, train.std(axis=(0, 1, 2)), rtol=1e-12)
    assert fitted.num_images == 40


def test_the_fit_has_the_same_bits_for_any_order_and_any_threads():
    dataset = make_dataset(random_images("uint8", 3, n=400, size=40))
    rows = np.arange(300)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for order in (rows, rows[::-1].copy(), np.random.default_rng(0).permutation(rows)):
            results.append(fit_preprocessing(dataset, order, contrast="clahe:grid=4"))
    torch.set_num_threads(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("poison", ["ends", "nan", "colours"])
def test_other_splits_change_nothing_that_is_fitted(dtype: str, poison: str):
    """P6: poison every row outside train; mean, std, intensities, weights, SMOTE must not move."""
    clean = random_images(dtype, 3)
    poisoned = clean.copy()
    outside = np.setdiff1d(np.arange(len(clean)), ROWS)
    if poison == "nan" and dtype == "float32":
        poisoned[outside] = np.nan
    elif poison == "colours":
        poisoned[outside, ..., 0] = 0
    else:
        poisoned[outside] = 255 if dtype == "uint8" else 60000
    targets = np.arange(len(clean)) % 3
    other_targets = targets.copy()
    other_targets[outside] = 2
    fitted = []
    for images, labels in ((clean, targets), (poisoned, other_targets)):
        dataset = make_dataset(images, labels)
        preprocessing = fit_preprocessing(dataset, ROWS, contrast="percentile")
        counts = dataset.class_counts(ROWS)
        pixels = preprocessing.to_pixels(images[ROWS])
        made = smote(pixels, dataset.targets[ROWS], dataset.class_names, seed=1)
        fitted.append(
            (
                json.dumps(preprocessing.to_json()),
                str(class_weights(counts, "balanced", dataset.class_names)),
                made.images.tobytes(),
                made.parents.tobytes(),
            )
        )
    assert fitted[0] == fitted[1]


def test_poison_inside_train_is_noticed():
    """The self-test above can fail: the same poison inside train does move the fit."""
    clean = random_images("uint8")
    poisoned = clean.copy()
    poisoned[ROWS[-1]] = 255
    assert fit_preprocessing(make_dataset(clean), ROWS) != fit_preprocessing(
        make_dataset(poisoned), ROWS
    )


def test_nothing_to_do_copies_nothing(tmp_path: Path):
    path = tmp_path / "pixels.npy"
    np.save(path, random_images("uint8"))
    mapped = np.load(path, mmap_mode="r")
    fitted = fit_preprocessing(make_dataset(mapped), ROWS)
    assert not fitted.needs_pixels
    assert fitted.to_pixels(mapped) is mapped


def test_pixels_can_be_written_into_a_memory_map(tmp_path: Path):
    images = random_images("uint16", 3)
    fitted = fit_preprocessing(make_dataset(images), ROWS)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.uint8, images.shape)
    assert fitted.needs_pixels
    assert fitted.to_pixels(images, out=out) is out
    np.testing.assert_array_equal(out, fitted.to_pixels(images))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("contrast", ["none", "clahe:clip=2,grid=4", "percentile:1,99"])
def test_json_is_exact(dtype: str, contrast: str):
    fitted = fit_preprocessing(make_dataset(random_images(dtype, 3)), ROWS, contrast=contrast)
    again = Preprocessing.from_json(json.loads(json.dumps(fitted.to_json(), allow_nan=False)))
    assert again == fitted
    images = random_images(dtype, 3)
    np.testing.assert_array_equal(again.to_pixels(images), fitted.to_pixels(images))


def test_a_newer_format_is_refused_with_both_versions():
    fitted = fit_preprocessing(make_dataset(random_images("uint8")), ROWS)
    newer = fitted.to_json() | {"format_version": FORMAT_VERSION + 6, "hologram": True}
    with pytest.raises(ConfigError, match=rf"{FORMAT_VERSION + 6}.*{FORMAT_VERSION}"):
        Preprocessing.from_json(newer)


@pytest.mark.parametrize(
    "damage", [{"mean": [0.1, 0.2]}, {"std": [0.0]}, {"what": 1}, {"format_version": None}]
)
def test_a_damaged_preprocessing_is_refused(damage: dict[str, Any]):
    good = fit_preprocessing(make_dataset(random_images("uint8")), ROWS).to_json()
    with pytest.raises(ConfigError, match="damaged"):
        Preprocessing.from_json(good | damage)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_is_the_formula(channels: int, channels_last: bool):
    images = random_images("uint8", channels)
    fitted = fit_preprocessing(make_dataset(images), ROWS)
    ours = fitted.normalise(torch.from_numpy(images), channels_last=channels_last)
    mean, std = np.array(fitted.mean), np.array(fitted.std)
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, atol=2e-6)
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert ours.is_contiguous(memory_format=order)
    train = fitted.normalise(torch.from_numpy(images[ROWS]))
    np.testing.assert_allclose(train.mean(dim=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(dim=(0, 2, 3), correction=0), 1, atol=1e-5)


def test_normalise_has_the_same_bits_in_every_layout_and_batch():
    images = torch.from_numpy(random_images("uint8", 3))
    fitted = fit_preprocessing(make_dataset(images.numpy()), ROWS)
    whole = fitted.normalise(images)
    assert torch.equal(whole, fitted.normalise(images, channels_last=True))
    assert torch.equal(whole[7:8], fitted.normalise(images[7:8]))
    scale, shift = fitted.scale_shift()
    plain = images.numpy().astype(np.float32) * scale + shift
    np.testing.assert_array_equal(whole.permute(0, 2, 3, 1).numpy(), plain)


@pytest.mark.parametrize("spec", ["clahe:clip=3,grid=4", "percentile:5,95"])
def test_contrast_comes_before_mean_and_std(spec: str):
    images = random_images("uint8", 3) // np.uint8(2)
    fitted = fit_preprocessing(make_dataset(images), ROWS, contrast=spec)
    pixels = fitted.to_pixels(images)
    np.testing.assert_array_equal(pixels, parse_contrast(spec).apply(images))
    assert not np.array_equal(pixels, images)
    np.testing.assert_allclose(fitted.mean, pixels[ROWS].mean(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_normalise_in_inference_mode_does_not_spoil_training():
    fitted = fit_preprocessing(make_dataset(random_images("uint8", 3, size=9)), ROWS)
    batch = torch.from_numpy(random_images("uint8", 3, size=9)[:4])
    with torch.inference_mode():
        fitted.normalise(batch, channels_last=True)
    images = fitted.normalise(batch, channels_last=True)
    torch.nn.Conv2d(3, 2, 3)(images).sum().backward()


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("contrast", ["none", "clahe:grid=4", "percentile"])
def test_one_picture_has_the_bits_of_its_row(fit: Any, dtype: str, contrast: str):
    """R1: the way of a file at prediction and the way of the data set end in the same bits."""
    rng = np.random.default_rng(5)
    top = {"uint8": 255, "uint16": 5000, "float32": 1}[dtype]
    pictures = [
        (rng.random((int(h), int(w), 3)) * top).astype(dtype)
        for h, w in rng.integers(9, 60, (9, 2))
    ]
    images = np.stack([fit_to_square(picture, 24, fit) for picture in pictures])
    dataset = make_dataset(images)
    fitted = fit_preprocessing(dataset, np.arange(6), contrast=contrast, fit=fit)
    rows = fitted.to_pixels(images)
    for picture, row in zip(pictures, rows, strict=True):
        np.testing.assert_array_equal(fitted.from_image(picture), row)


def test_real_files_have_the_bits_of_their_rows(shared: Path):
    folder = shared / "data" / "folders" / "bccd_287"
    pictures = [read_image(path).pixels for path in sorted(folder.glob("*/*"))[::40]]
    images = np.stack([fit_to_square(picture, 64, "stretch") for picture in pictures])
    fitted = fit_preprocessing(make_dataset(images), np.arange(4), contrast="clahe")
    np.testing.assert_array_equal(
        np.stack([fitted.from_image(picture) for picture in pictures]), fitted.to_pixels(images)
    )


def test_a_shallower_picture_is_promoted_and_a_deeper_one_refused():
    images = random_images("uint16", 1) * np.uint16(16)
    fitted = fit_preprocessing(make_dataset(images), ROWS)
    picture = random_images("uint8", 1)[0]
    promoted = picture.astype(np.uint16) * np.uint16(257)
    np.testing.assert_array_equal(fitted.from_image(picture), fitted.from_image(promoted))
    eight = fit_preprocessing(make_dataset(random_images("uint8", 1)), ROWS)
    with pytest.raises(DataError, match="uint16"):
        eight.from_image(promoted)


def test_grey_pictures_feed_colour_models_and_grey_rgb_feeds_grey_models():
    colour = fit_preprocessing(make_dataset(random_images("uint8", 3)), ROWS)
    grey = random_images("uint8", 1)
    repeated = np.repeat(grey, 3, axis=3)
    np.testing.assert_array_equal(colour.to_pixels(grey), repeated)
    one = fit_preprocessing(make_dataset(repeated), ROWS, channels=1)
    assert one.needs_pixels
    np.testing.assert_array_equal(one.to_pixels(repeated), grey)
    assert any("grey saved as RGB" in note for note in one.notes)
    np.testing.assert_array_equal(one.from_image(repeated[3]), grey[3])


def test_one_channel_can_be_repeated_for_a_colour_network():
    grey = random_images("uint8", 1)
    fitted = fit_preprocessing(make_dataset(grey), ROWS, channels=3)
    assert fitted.needs_pixels
    assert fitted.to_pixels(grey).shape == (60, 20, 20, 3)
    assert fitted.mean == (fitted.mean[0],) * 3


def test_a_channel_mismatch_names_both_counts():
    three = fit_preprocessing(make_dataset(random_images("uint8", 3)), ROWS)
    with pytest.raises(DataError, match=r"5 channels.*takes 3"):
        three.to_pixels(random_images("uint8", 5))
    one = fit_preprocessing(make_dataset(random_images("uint8", 1)), ROWS)
    images = np.repeat(random_images("uint8", 1), 3, axis=3)
    images[13, 2, 2, 1] ^= 1
    with pytest.raises(DataError, match=r"image 13 has 3 channels.*takes 1"):
        one.to_pixels(images)
    with pytest.raises(DataError, match=r"3 channels.*takes 5"):
        fit_preprocessing(make_dataset(random_images("uint8", 3)), ROWS, channels=5)


def test_other_sizes_and_depths_are_refused():
    fitted = fit_preprocessing(make_dataset(random_images("uint8")), ROWS)
    with pytest.raises(DataError, match=r"32×32 px, the model takes 20×20"):
        fitted.to_pixels(random_images("uint8", size=32))
    with pytest.raises(DataError, match=r"float32, the model was fitted on uint8"):
        fitted.to_pixels(random_images("float32"))
    with pytest.raises(DataError, match="no training images"):
        fit_preprocessing(make_dataset(random_images("uint8")), np.array([], dtype=np.int64))


def test_nan_is_named_by_its_row():
    images = random_images("float32")
    images[33, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="image 33 holds NaN"):
        fit_preprocessing(make_dataset(images), np.array([1, 33, 40]))
    fitted = fit_preprocessing(make_dataset(images), np.array([1, 40]))
    with pytest.raises(DataError, match="image 33 holds NaN"):
        fitted.to_pixels(images)


def levels(kind: str) -> np.ndarray:
    base = np.random.default_rng(2).random((50, 16, 16, 1))
    exposures = np.geomspace(1, 40, 50)[:, None, None, None]
    return {
        "8 in 16": (base * 255).astype(np.uint16),
        "unit float": base.astype(np.float32),
        "full 16": (base * 65535).astype(np.uint16),
        "12 bit": (base * 4095).astype(np.uint16),
        "exposures": (base * 1000 * exposures).astype(np.uint16),
        "hounsfield": (base * exposures * 100 - 1024).astype(np.float32),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "mapping", "words"),
    [
        ("8 in 16", "fixed", "8-bit saved as 16"),
        ("unit float", "fixed", "[0, 1]"),
        ("full 16", "dtype", "16-bit range"),
        ("12 bit", "fixed", "share one range"),
        ("exposures", "percentile", "times"),
        ("hounsfield", "fixed", "share one range"),
    ],
)
def test_the_intensity_mapping_suits_the_levels(kind: str, mapping: str, words: str):
    images = levels(kind)
    fitted = fit_preprocessing(make_dataset(images), ROWS)
    assert fitted.intensity.kind == mapping
    assert words in fitted.intensity.reason
    assert any(words in note for note in fitted.notes)
    pixels = fitted.to_pixels(images)
    assert pixels.dtype == np.uint8
    if kind == "8 in 16":
        np.testing.assert_array_equal(pixels, images)
    if kind == "full 16":
        np.testing.assert_array_equal(pixels, np.rint(images / 257))
    if kind == "12 bit":
        assert pixels.max() == 255
        assert len(np.unique(pixels)) > 200
    if kind == "exposures":
        assert (pixels.reshape(50, -1).max(axis=1) == 255).all()


def test_each_channel_has_its_own_range():
    stains = (random_images("uint16", 2) // np.array([1, 10])).astype(np.uint16)
    fitted = fit_preprocessing(make_dataset(stains), ROWS)
    assert fitted.intensity.high[0] > 5 * fitted.intensity.high[1]
    assert fitted.to_pixels(stains)[..., 1].max() == 255


def test_a_channel_with_one_level_divides_by_nothing():
    images = random_images("uint8", 3)
    images[..., 2] = 40
    fitted = fit_preprocessing(make_dataset(images), ROWS)
    assert fitted.std[2] == 1
    assert any("Channel 2" in note for note in fitted.notes)
    assert torch.isfinite(fitted.normalise(torch.from_numpy(images))).all()


def test_a_clamped_grid_is_said():
    fitted = fit_preprocessing(make_dataset(random_images("uint8")), ROWS, contrast="clahe:grid=16")
    assert any("grid 16" in note and "10 tiles" in note for note in fitted.notes)


def test_ranges_are_checked():
    with pytest.raises(ValueError, match="must lie below"):
        Intensity(kind="fixed", low=(5.0,), high=(5.0,))
    with pytest.raises(ConfigError, match="clahe"):
        fit_preprocessing(make_dataset(random_images("uint8")), ROWS, contrast="chale")


def test_grey_is_three_equal_channels():
    grey = np.repeat(random_images("uint8", 1), 3, axis=3)
    assert is_grey(grey)
    assert not is_grey(random_images("uint8", 3))
    assert not is_grey(random_images("uint8", 1))


def test_describe_says_what_was_fitted():
    text = fit_preprocessing(make_dataset(random_images("uint8")), ROWS).describe()
    assert text.startswith("20×20 px, 1 channel, contrast none, mean 0.")
    assert text.endswith("(of 40 training images)")
