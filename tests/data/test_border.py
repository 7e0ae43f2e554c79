"""A mark in the corner is found by its place; pictures without one stay below suspicion."""

from __future__ import annotations

import numpy as np
import pytest

from scanwise.data.border import PLACES, border_probe

NAMES = ("well", "ill")


def noise(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28, 1)).astype(np.uint8), rng.integers(0, 2, n)


def test_pictures_without_a_mark_stay_near_chance() -> None:
    images, targets = noise()
    found = border_probe(images, targets, NAMES, np.arange(len(images)))
    assert found is not None
    assert 0.3 < found.auroc < 0.7
    assert found.n == 120


@pytest.mark.parametrize(
    ("place", "where"),
    [
        ("top left corner", (slice(0, 3), slice(0, 3))),
        ("bottom right corner", (slice(-3, None), slice(-3, None))),
        ("middle of the left edge", (slice(12, 15), slice(0, 3))),
    ],
)
def test_a_mark_is_found_where_it_is(place: str, where: tuple[slice, slice]) -> None:
    images, targets = noise()
    images[targets == 0, where[0], where[1]] = 250
    found = border_probe(images, targets, NAMES, np.arange(len(images)))
    assert found is not None
    assert found.place == place
    assert found.auroc > 0.99
    # One class is brighter exactly where the other is darker.
    assert found.brighter == (found.class_name == "well")
    assert found.to_json()["place"] in PLACES


def test_only_the_rows_asked_for_count() -> None:
    images, targets = noise()
    images[120:, :3, :3] = (250 * targets[120:])[:, None, None, None]
    clean = border_probe(images, targets, NAMES, np.arange(120))
    assert clean is not None
    assert clean.auroc < 0.8


def test_too_few_images_of_a_class_are_not_judged() -> None:
    images, targets = noise(60)
    targets[:] = 0
    targets[:5] = 1
    assert border_probe(images, targets, NAMES, np.arange(60)) is None
