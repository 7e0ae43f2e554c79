"""Augmentation does what it says: ranges are measured on the matrices and on the pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scanwise.core.errors import ConfigError
from scanwise.prepare.augment import (
    PRESETS,
    Augmentation,
    _inside,
    auto_strength,
    choose_augmentation,
    flip_is_safe,
    parse_augmentation,
    preview,
    sided_classes,
)
from scanwise.prepare.contrast import parse_contrast
from scanwise.prepare.preprocessing import Preprocessing

MANY = 4000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dots(b: int, height: int, width: int, y: float, x: float) -> torch.Tensor:
    """Pictures (b, 1, h, w) of one soft dot whose centre is (y, x) px from the picture's centre."""
    rows = torch.arange(height) - (height - 1) / 2 - y
    columns = torch.arange(width) - (width - 1) / 2 - x
    dot = 200 * torch.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / 8)
    return dot.expand(b, 1, height, width).contiguous()


def centres(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (y, x) in px from the picture's centre."""
    height, width = images.shape[2:]
    mass = images[:, 0] / images[:, 0].sum(dim=(1, 2), keepdim=True)
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    return (mass.sum(2) @ rows).numpy(), (mass.sum(1) @ columns).numpy()


def reaches(values: np.ndarray, bound: float, tolerance: float = 0.02) -> None:
    """Values fill [-bound, bound] and do not leave it."""
    assert np.abs(values).max() <= bound * (1 + tolerance)
    assert values.max() > 0.95 * bound
    assert values.min() < -0.95 * bound
    assert abs(values.mean()) < 0.06 * bound


@pytest.mark.parametrize("size", [(49, 49), (40, 64)])
@pytest.mark.parametrize("degrees", [5.0, 18.0])
def test_rotation_turns_by_the_degrees_that_it_says(degrees: float, size: tuple[int, int]):
    """S2's program said ±5 % and turned by ±18°."""
    augmentation = Augmentation(rotation_degrees=degrees)
    y, x = centres(augmentation.apply(dots(500, *size, 0, 12), generator()))
    reaches(np.degrees(np.arctan2(y, x)), degrees)
    np.testing.assert_allclose(np.hypot(y, x), 12, rtol=0.02)
    assert f"rotation ±{degrees:.1f}°" in augmentation.describe()


def test_zoom_magnifies_by_the_fraction_that_it_says():
    augmentation = Augmentation(zoom_fraction=0.2)
    y, x = centres(augmentation.apply(dots(500, 65, 65, 6, 12), generator()))
    reaches(np.hypot(y, x) / np.hypot(6, 12) - 1, 0.2)
    np.testing.assert_allclose(y / x, 0.5, rtol=0.02)
    assert augmentation.describe() == "zoom ±20.0 %"


def test_shift_moves_by_the_fraction_of_each_side():
    augmentation = Augmentation(shift_fraction=0.1)
    y, x = centres(augmentation.apply(dots(800, 40, 60, 0, 0), generator()))
    reaches(y / 40, 0.1)
    reaches(x / 60, 0.1)
    assert abs(np.corrcoef(y, x)[0, 1]) < 0.1


def test_brightness_adds_the_fraction_of_the_full_scale():
    grey = torch.full((MANY, 3, 4, 4), 100.0)
    changed = Augmentation(brightness_fraction=0.1).apply(grey, generator())
    reaches(((changed - grey)[:, 0, 0, 0] / 255).numpy(), 0.1)
    assert changed.flatten(1).std(dim=1).max() < 1e-3


def test_contrast_stretches_about_the_images_own_mean():
    images = (
        torch.rand(1000, 3, 6, 6, generator=generator(5))
        * torch.tensor([50, 90, 200])[:, None, None]
    )
    changed = Augmentation(contrast_fraction=0.05).apply(images, generator())
    ratio = changed.std(dim=(2, 3)) / images.std(dim=(2, 3))
    reaches(ratio[:, 0].numpy() - 1, 0.05)
    np.testing.assert_allclose(ratio[:, 0], ratio[:, 2], rtol=1e-3)
    np.testing.assert_allclose(changed.mean(dim=(2, 3)), images.mean(dim=(2, 3)), rtol=1e-5)


@pytest.mark.parametrize("name", ["gentle", "medium", "strong"])
def test_drawn_matrices_fill_the_ranges_of_a_preset(name: str):
    augmentation = PRESETS[name]
    draw = augmentation.draw(MANY, (28, 28), generator())
    matrices = draw.matrices.numpy().astype(float)
    matrices[draw.flip_x.numpy(), :, 0] *= -1
    reaches(
        np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), augmentation.rotation_degrees
    )
    reaches(1 / np.linalg.norm(matrices[:, :, 0], axis=1) - 1, augmentation.zoom_fraction)
    if augmentation.shift_fraction:
        reaches(matrices[:, 0, 2] / 2, augmentation.shift_fraction)
    else:
        assert not matrices[:, :, 2].any()
    assert 0.47 < draw.flip_x.float().mean() < 0.53
    assert not draw.flip_y.any()


def test_gentle_is_what_it_is_documented_to_be():
    assert PRESETS["gentle"].describe() == (
        "horizontal flip (half the images), rotation ±5.0°, zoom ±5.0 %, contrast ±5.0 %"
    )
    assert PRESETS["none"].describe() == "none"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (17, 30)])
def test_the_resampling_is_that_of_torchs_affine_grid(channels: int, size: tuple[int, int]):
    images = torch.rand(16, channels, *size, generator=generator(1)) * 255
    augmentation = Augmentation(
        flip_horizontal=True,
        flip_vertical=True,
        rotation_degrees=40,
        zoom_fraction=0.3,
        shift_fraction=0.2,
    )
    draw = augmentation.draw(16, size, generator(2))
    grid = F.affine_grid(draw.matrices, list(images.shape), align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    ours = augmentation.apply(images, generator(2))
    np.testing.assert_allclose(ours, expected, atol=0.02)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_flip_alone_moves_pixels_and_does_not_interpolate(channels: int, dtype: torch.dtype):
    images = torch.randint(0, 256, (200, channels, 7, 9), generator=generator(3)).to(dtype)
    flipped = Augmentation(flip_horizontal=True).apply(images, generator())
    kept = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(dim=1)
    assert (kept ^ mirrored).all()
    assert 70 < int(mirrored.sum()) < 130
    upside = Augmentation(flip_vertical=True).apply(images, generator())
    assert ((upside == images.flip(2)) | (upside == images)).all()


def test_flips_agree_with_and_without_resampling():
    images = torch.randint(0, 256, (64, 3, 8, 8), generator=generator(3)).float()
    alone = Augmentation(flip_horizontal=True, flip_vertical=True)
    together = alone.model_copy(update={"rotation_degrees": 1e-6})
    np.testing.assert_allclose(
        alone.apply(images, generator(4)), together.apply(images, generator(4)), atol=0.01
    )


def test_clamped_coordinates_are_border_padding():
    """What Metal is given where it has no border padding of its own."""
    images = torch.rand(8, 3, 9, 14, generator=generator(1)) * 255
    grid = torch.rand(8, 2, 9, 14, generator=generator(2)) * 4 - 2
    border = F.grid_sample(
        images, grid.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )
    inside = _inside(grid).permute(0, 2, 3, 1)
    zeros = F.grid_sample(images, inside, padding_mode="zeros", align_corners=False)
    np.testing.assert_allclose(zeros, border, atol=0.01)


def test_autocast_does_not_coarsen_the_geometry():
    images = torch.rand(8, 3, 28, 28, generator=generator(1)) * 255
    plain = PRESETS["strong"].apply(images, generator(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = PRESETS["strong"].apply(images, generator(2))
    assert torch.equal(plain, inside)


def test_edges_are_continued_not_blackened():
    flat = torch.full((50, 1, 20, 20), 140.0)
    turned = Augmentation(rotation_degrees=45, zoom_fraction=0.5, shift_fraction=0.4).apply(
        flat, generator()
    )
    np.testing.assert_allclose(turned, 140, rtol=1e-5)


@pytest.mark.parametrize("name", ["none", "gentle", "strong"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalising_inside_equals_normalising_after(name: str, channels: int, channels_last: bool):
    pixels = torch.randint(0, 256, (32, 14, 14, channels), generator=generator(1)).to(torch.uint8)
    images = pixels.permute(0, 3, 1, 2)
    mean = tuple(0.3 + 0.1 * k for k in range(channels))
    std = tuple(0.1 + 0.02 * k for k in range(channels))
    preprocessing = Preprocessing(
        size_px=(14, 14), channels=channels, source_channels=channels, mean=mean, std=std
    )
    scale, shift = (torch.from_numpy(values) for values in preprocessing.scale_shift())
    fused = PRESETS[name].apply(
        images, generator(9), scale_shift=(scale, shift), channels_last=channels_last
    )
    levels = PRESETS[name].apply(images, generator(9))
    after = levels * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(fused, after, atol=2e-5)
    assert fused.dtype == torch.float32
    order = torch.channels_last if channels_last else torch.contiguous_format
    assert fused.is_contiguous(memory_format=order)
    if name == "none":
        assert torch.equal(fused, preprocessing.normalise(pixels))


def test_only_the_generator_decides():
    images = torch.rand(20, 3, 12, 12, generator=generator(1)) * 255
    state = torch.get_rng_state()
    first, same, other = (PRESETS["strong"].apply(images, generator(s)) for s in (7, 7, 8))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_switching_one_change_on_does_not_move_the_others():
    without = Augmentation(rotation_degrees=10)
    with_all = Augmentation(rotation_degrees=10, flip_vertical=True, contrast_fraction=0.3)
    a, b = (x.draw(30, (8, 8), generator(1)).matrices.numpy() for x in (without, with_all))
    np.testing.assert_array_equal(a[:, :, 0], b[:, :, 0])


def test_images_of_a_batch_differ():
    draw = PRESETS["gentle"].draw(100, (28, 28), generator())
    assert len(torch.unique(draw.matrices[:, 0, 0].abs())) > 90
    assert len(torch.unique(draw.gain)) > 90


def test_the_input_is_not_written_to():
    images = torch.rand(8, 3, 10, 10, generator=generator(1)) * 255
    before = images.clone()
    for augmentation in (*PRESETS.values(), Augmentation(flip_horizontal=True)):
        augmentation.apply(images, generator(), scale_shift=(torch.ones(3), torch.ones(3)))
    assert torch.equal(images, before)


def test_a_yaml_file_says_the_ranges(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("rotation_degrees: 90\nflip_vertical: true\n")
    assert parse_augmentation(str(path)) == Augmentation(rotation_degrees=90, flip_vertical=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rotation: 5", "did you mean 'rotation_degrees'"),
        ("rotation_degrees: 200", "rotation_degrees=200"),
        ("zoom_fraction: 5", "zoom_fraction (0 to 0.9)"),
        ("blur_px: 2", "valid are flip_horizontal (true or false)"),
        ("contrast_fraction: .nan", "contrast_fraction"),
        ("- 1", "key: value"),
    ],
)
def test_a_mistake_in_the_file_lists_what_is_valid(tmp_path: Path, text: str, words: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse_augmentation(str(path))
    assert words in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_an_unknown_preset_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'gentle'"):
        parse_augmentation("gentel")
    with pytest.raises(ConfigError, match="nowhere"):
        parse_augmentation(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("num_train", "num_classes", "expected"),
    [(99, 1, "strong"), (199, 2, "strong"), (200, 2, "medium"), (1999, 2, "medium"),
     (2000, 2, "gentle"), (90000, 9, "gentle")],
)  # fmt: skip
def test_auto_is_stronger_the_fewer_images(num_train: int, num_classes: int, expected: str):
    name, reason = auto_strength(num_train, num_classes)
    assert name == expected
    assert "training images" in reason
    assert any(character.isdigit() for character in reason)


SIDED = ("kidney-left", "kidney-right", "liver")


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (SIDED, SIDED[:2]),
        (("femur_right", "LeftLung", "RIGHT eye", "left3"),) * 2,
        (("bright", "upright", "cleft", "leftover", "l", "r"), ()),
    ],
)
def test_left_and_right_are_words(names: tuple[str, ...], sided: tuple[str, ...]):
    assert sided_classes(names) == sided
    assert flip_is_safe(names) == (not sided)


def test_flips_follow_the_classes_unless_told_otherwise():
    silent = choose_augmentation("gentle", class_names=SIDED)
    assert not silent.augmentation.flip_horizontal
    assert "'kidney-left'" in silent.reason
    assert not silent.findings
    told = choose_augmentation("gentle", class_names=SIDED, flip=True)
    assert told.augmentation.flip_horizontal
    assert [finding.code for finding in told.findings] == ["P001"]
    assert "'kidney-left', 'kidney-right'" in told.findings[0].evidence
    assert "liver" not in told.findings[0].evidence
    off = choose_augmentation("gentle", class_names=SIDED, flip=False)
    assert not off.augmentation.flips
    assert not off.findings
    plain = choose_augmentation("strong", class_names=("a", "b"))
    assert plain.augmentation == PRESETS["strong"]
    assert choose_augmentation("none", class_names=SIDED).augmentation.is_none


def test_a_file_that_flips_sided_classes_is_warned_about(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("flip_horizontal: true")
    choice = choose_augmentation(str(path), class_names=SIDED)
    assert choice.augmentation.flip_horizontal
    assert choice.findings


def test_auto_is_settled_with_its_reason():
    choice = choose_augmentation("auto", class_names=("a", "b"), num_train=500)
    assert (choice.name, choice.augmentation) == ("medium", PRESETS["medium"])
    assert "250 training images a class" in choice.reason
    with pytest.raises(ConfigError, match="number of training images"):
        choose_augmentation("auto")


@pytest.mark.parametrize("contrast", ["none", "clahe:grid=4"])
def test_the_preview_shows_originals_contrast_and_variants(contrast: str):
    images = np.random.default_rng(0).integers(60, 150, (5, 20, 20, 3), dtype=np.uint8)
    preprocessing = Preprocessing(
        size_px=(20, 20), channels=3, source_channels=3, mean=(0.5,) * 3, std=(0.2,) * 3,
        contrast=parse_contrast(contrast),
    )  # fmt: skip
    sheet = preview(images, PRESETS["strong"], preprocessing, seed=4)
    np.testing.assert_array_equal(sheet.originals, images)
    assert sheet.augmented.shape == (4, 5, 20, 20, 3)
    assert sheet.augmented.dtype == np.uint8
    assert len({variant.tobytes() for variant in sheet.augmented}) == 4
    assert "±15.0°" in sheet.caption
    if contrast == "none":
        assert sheet.enhanced is None
    else:
        np.testing.assert_array_equal(sheet.enhanced, preprocessing.to_pixels(images))
    unchanged = preview(images, PRESETS["none"], preprocessing, seed=4)
    np.testing.assert_array_equal(unchanged.augmented[2], preprocessing.to_pixels(images))
    again = preview(images, PRESETS["strong"], preprocessing, seed=4)
    np.testing.assert_array_equal(again.augmented, sheet.augmented)


def test_a_half_turn_turns_halves():
    """Angles up to 180°: a mirror-free half turn is not mistaken for a flip."""
    y, x = centres(Augmentation(rotation_degrees=180).apply(dots(600, 41, 41, 0, 9), generator()))
    assert np.abs(np.arctan2(y, x)).max() > math.radians(178)
