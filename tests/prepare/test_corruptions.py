"""Corruptions: what each does to pixels, for every type and number of channels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scanwise.core.errors import ConfigError
from scanwise.prepare.corruptions import CORRUPTIONS, corrupt, intensity_span

KINDS = [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1), (np.float32, 2)]


def pictures(kind, channels, n=3, side=28):
    rng = np.random.default_rng(5)
    smooth = cv2.resize(rng.random((6, 6)), (side, side))[None, :, :, None]
    values = (smooth * 0.7 + rng.random((n, side, side, channels)) * 0.3) * 4000
    return values.astype(kind) if kind != np.uint8 else (values / 4000 * 255).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("kind", "channels"), KINDS)
def test_type_shape_and_growing_damage(name, kind, channels):
    images = pictures(kind, channels)
    before = images.copy()
    span = intensity_span(images)
    damage = []
    for severity in range(1, 6):
        worse = corrupt(images, name, severity, span=span, seed=1)
        assert worse.dtype == images.dtype
        assert worse.shape == images.shape
        assert span[0] <= worse.min() <= worse.max() <= span[1]
        damage.append(np.abs(worse.astype(float) - images).mean())
    np.testing.assert_array_equal(images, before)
    assert damage[0] > 0
    assert damage == sorted(damage)


def test_strengths_are_the_published_tables_at_their_sizes():
    for each in CORRUPTIONS.values():
        assert each.strengths(32) == each.strengths(8) == tuple(map(float, each.small))
        assert each.strengths(224) == each.strengths(500) == tuple(map(float, each.large))
        for small, middle, large in zip(each.small, each.strengths(85), each.large, strict=True):
            assert min(small, large) <= middle <= max(small, large)
    half = CORRUPTIONS["blur"].strengths(round((32 * 224) ** 0.5))[0]
    assert half == pytest.approx((0.4 + 1) / 2, abs=0.01)


def test_known_results():
    images = pictures(np.uint8, 3)
    brighter = corrupt(images, "brightness", 4, span=(0, 255))
    np.testing.assert_array_equal(brighter, np.clip(np.rint(images + 51.0), 0, 255))
    noisy = corrupt(np.full((4, 64, 64, 1), 128, np.uint8), "noise", 1, span=(0, 255))
    sigma = CORRUPTIONS["noise"].strengths(64)[0]
    assert noisy.std() / 255 == pytest.approx(sigma, rel=0.03)
    flat = corrupt(images, "contrast", 5, span=(0, 255)).astype(float)
    ratio = flat.std(axis=(1, 2)) / images.std(axis=(1, 2))
    np.testing.assert_allclose(ratio, 0.15, atol=0.01)


def test_colours_stay_in_their_channels():
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[..., 0] = 200
    saved = corrupt(red, "jpeg", 1, span=(0, 255))
    assert saved[..., 0].mean() > 180
    assert saved[..., 1:].mean() < 20


def test_noise_depends_on_seed_and_image_only():
    images = pictures(np.uint8, 1, n=4)
    first = corrupt(images, "noise", 2, span=(0, 255), seed=3)
    np.testing.assert_array_equal(first, corrupt(images, "noise", 2, span=(0, 255), seed=3))
    np.testing.assert_array_equal(first[:2], corrupt(images[:2], "noise", 2, span=(0, 255), seed=3))
    assert (first != corrupt(images, "noise", 2, span=(0, 255), seed=4)).any()


def test_unknown_names_and_severities():
    images = pictures(np.uint8, 1)
    with pytest.raises(ConfigError, match="did you mean 'blur'"):
        corrupt(images, "blurr", 1, span=(0, 255))
    with pytest.raises(ConfigError, match="severity=6"):
        corrupt(images, "blur", 6, span=(0, 255))
