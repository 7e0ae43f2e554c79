"""Image quality: the measures against other libraries, the outliers against planted ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage, stats

from scanwise.core.errors import DataError
from scanwise.core.types import Dataset
from scanwise.data.quality import CUT, measure_quality


def dataset_of(images: np.ndarray, targets: np.ndarray | None = None, **more: object) -> Dataset:
    n = len(images)
    return Dataset(
        name="cells",
        images=images,
        targets=np.zeros(n, np.int64) if targets is None else targets,
        class_names=("a", "b"),
        sample_ids=tuple(f"cells#{row}" for row in range(n)),
        sha256=("0" * 64,) * n,
        **more,  # type: ignore[arg-type]
    )


def textures(n: int, centre: float = 120) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (n, 24, 24, 1)), (0, 1, 1, 0))
    # Light and contrast of every image its own, so that a class has a spread to be judged by.
    light, scale = rng.normal(centre, 6, (n, 1, 1, 1)), rng.normal(60, 5, (n, 1, 1, 1))
    return np.clip(light + scale * smooth, 1, 254).astype(np.uint8)


def test_measures_equal_those_of_scipy() -> None:
    images = textures(12)
    scores = measure_quality(dataset_of(images)).scores
    for row, image in enumerate(images[..., 0]):
        plain = image.astype(np.float64)
        assert scores["brightness"][row] == pytest.approx(plain.mean())
        assert scores["contrast"][row] == pytest.approx(plain.std())
        laplacian = ndimage.laplace(plain, mode="mirror")
        assert scores["sharpness"][row] == pytest.approx(np.log1p(laplacian.var()), rel=1e-5)
        counts = np.bincount(image.ravel())
        assert scores["entropy"][row] == pytest.approx(stats.entropy(counts, base=2))


def test_planted_outliers_come_first_each_with_its_reason() -> None:
    images = textures(200)
    images[3] = np.clip(images[3].astype(int) - 110, 0, 255)
    images[50] = np.clip(images[50].astype(int) + 120, 0, 255)
    images[120] = 77
    images[150, :, :, 0] = ndimage.gaussian_filter(images[150, :, :, 0].astype(float), 3)
    outliers = measure_quality(dataset_of(images)).outliers
    reasons = {outlier.row: outlier.reason for outlier in outliers[:4]}
    assert outliers[0].row == 120
    assert reasons[120] == "of a single colour"
    assert set(reasons) == {3, 50, 120, 150}
    assert "blurred" in reasons[150] or "contrast" in reasons[150]
    assert "dark" in reasons[3] or "clipped" in reasons[3] or "information" in reasons[3]
    assert all(a.score >= b.score for a, b in pairwise(outliers))
    assert all(outlier.score > CUT for outlier in outliers)
    shown = measure_quality(dataset_of(images)).to_json(most=2)
    assert len(shown["top"]) == 2
    assert shown["top"][0]["sample"] == "cells#120"


def test_each_class_is_judged_by_its_own_kind() -> None:
    images = np.concatenate([textures(100, 60), textures(100, 200)])
    targets = np.repeat([0, 1], 100)
    images[10] = images[150]  # bright among the dark, common among the bright
    dataset = dataset_of(images, targets)
    worst = measure_quality(dataset).outliers[0]
    assert (worst.row, worst.class_name) == (10, "a")
    assert "bright" in worst.reason
    together = dataset_of(images)
    assert 10 not in [outlier.row for outlier in measure_quality(together).outliers]


def test_an_odd_original_size_is_named() -> None:
    sizes = np.full((60, 2), 512)
    sizes[7] = (64, 80)
    outliers = measure_quality(dataset_of(textures(60), original_sizes=sizes)).outliers
    assert [(o.row, o.reason) for o in outliers if "px" in o.reason] == [(7, "small (64x80 px)")]
    sizes[:30] = 300  # two habits, no oddity
    outliers = measure_quality(dataset_of(textures(60), original_sizes=sizes)).outliers
    assert not [o for o in outliers if o.row != 7 and "px" in o.reason]


def test_sixteen_bits_and_floats_are_judged_on_one_scale() -> None:
    images = textures(80)
    images[5] = images[5] // 4
    for deep in (images.astype(np.uint16) * 200, images.astype(np.float32) / 7 - 3):
        worst = measure_quality(dataset_of(deep)).outliers[0]
        assert worst.row == 5


def test_images_without_content_stop() -> None:
    with pytest.raises(DataError, match="all 8 images are of a single colour"):
        measure_quality(dataset_of(np.full((8, 10, 10, 1), 9, np.uint8)))
    each_its_own = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1).repeat(10, 1).repeat(10, 2)
    with pytest.raises(DataError, match="single colour"):
        measure_quality(dataset_of(each_its_own))
    with pytest.raises(DataError, match="0x0 px"):
        measure_quality(dataset_of(np.empty((3, 0, 0, 1), np.uint8)))


def test_colour_is_no_contrast_of_grey_but_not_blank_either() -> None:
    images = np.zeros((4, 6, 6, 3), np.uint8)
    images[:, :, :3, 0] = 90
    assert (measure_quality(dataset_of(images)).scores["contrast"] > 0).all()
