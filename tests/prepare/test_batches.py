"""Batches: every image once, rows aligned, the same numbers for the same (seed, epoch)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scanwise.core.errors import ConfigError, DataError
from scanwise.prepare.augment import PRESETS, Augmentation
from scanwise.prepare.batches import Batches
from scanwise.prepare.preprocessing import Preprocessing

N = 203


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Pictures that carry their row number in the first two pixels."""
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3), dtype=np.uint8)
    images[:, 0, 0] = (np.arange(N) // 256)[:, None]
    images[:, 0, 1] = (np.arange(N) % 256)[:, None]
    return images


TARGETS = np.random.default_rng(1).integers(0, 4, N)
PREPROCESSING = Preprocessing(
    size_px=(8, 8), channels=3, source_channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.25)
)


@pytest.fixture
def mapped(pixels: np.ndarray, tmp_path: Path) -> np.ndarray:
    np.save(tmp_path / "pixels.npy", pixels)
    return np.load(tmp_path / "pixels.npy", mmap_mode="r")


def rows_of(images: torch.Tensor) -> np.ndarray:
    levels = (images[:, 0, 0, :2] * 0.2 + 0.5) * 255
    return (levels[:, 0] * 256 + levels[:, 1]).round().long().numpy()


def epoch_of(batches: Batches, epoch: int = 0, **options: Any) -> list[tuple[Any, ...]]:
    return list(batches.iterate(epoch, **options))


def equal(a: list[tuple[Any, ...]], b: list[tuple[Any, ...]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def test_evaluation_comes_in_the_order_of_the_rows(pixels: np.ndarray):
    rows = np.array([5, 3, 200, 150, 0, 77, 4])
    batches = Batches(pixels, TARGETS, PREPROCESSING, rows=rows, batch_size=3)
    parts = epoch_of(batches)
    assert [len(part[0]) for part in parts] == [3, 3, 1]
    assert len(batches) == batches.steps_per_epoch == 3
    np.testing.assert_array_equal(np.concatenate([rows_of(p[0]) for p in parts]), rows)
    np.testing.assert_array_equal(torch.cat([p[1] for p in parts]), TARGETS[rows])
    assert torch.equal(parts[0][0], PREPROCESSING.normalise(torch.from_numpy(pixels[rows[:3]])))
    assert parts[0][1].dtype == torch.int64
    assert parts[0][2] is None
    np.testing.assert_array_equal(batches.order(3), rows)


def test_training_meets_each_row_once_with_its_own_target_and_weight(pixels: np.ndarray):
    rows = np.arange(0, N, 2)
    weights = np.linspace(1, 2, N).astype(np.float32)
    batches = Batches(
        pixels, TARGETS, PREPROCESSING, rows=rows, weights=weights, batch_size=16, training=True
    )
    parts = epoch_of(batches, 4)
    seen = np.concatenate([rows_of(p[0]) for p in parts])
    np.testing.assert_array_equal(seen, batches.order(4))
    np.testing.assert_array_equal(np.sort(seen), rows)
    np.testing.assert_array_equal(torch.cat([p[1] for p in parts]), TARGETS[seen])
    np.testing.assert_array_equal(torch.cat([p[2] for p in parts]), weights[seen])
    assert not np.array_equal(seen, batches.order(5))


def make(source: Any, **options: Any) -> Batches:
    settings: dict[str, Any] = {
        "batch_size": 32,
        "training": True,
        "augmentation": PRESETS["strong"],
        "seed": 3,
    }
    return Batches(source, TARGETS, PREPROCESSING, **(settings | options))


def test_an_epoch_depends_on_seed_and_number_alone(pixels: np.ndarray):
    batches = make(pixels)
    first = epoch_of(batches, 2)
    torch.rand(5)
    np.random.default_rng(0).random()
    epoch_of(batches, 0)
    assert equal(first, epoch_of(batches, 2))
    assert equal(first, epoch_of(make(pixels), 2))
    assert not equal(first, epoch_of(batches, 1))
    assert not equal(first, epoch_of(make(pixels, seed=4), 2))


def test_global_random_numbers_are_not_touched(pixels: np.ndarray):
    state = torch.get_rng_state()
    epoch_of(make(pixels, sampler="balanced"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("step", [0, 1, 5, 6, 7])
def test_an_epoch_can_go_on_in_the_middle(pixels: np.ndarray, step: int):
    batches = make(pixels, sampler="sqrt")
    assert equal(epoch_of(batches, 1)[step:], epoch_of(batches, 1, start_step=step))


@pytest.mark.parametrize("limit", [0, None])
@pytest.mark.parametrize("training", [True, False])
def test_a_memory_map_gives_the_same_batches(
    pixels: np.ndarray, mapped: np.ndarray, limit: int | None, training: bool
):
    options: dict[str, Any] = {"rows": np.arange(10, 190)[::-1].copy(), "training": training}
    if not training:
        options["augmentation"] = None
    held = make(pixels, **options)
    read = make(mapped, resident_limit_bytes=limit, **options)
    assert held.resident
    assert read.resident == (limit is None)
    for epoch in (0, 1):
        assert equal(epoch_of(held, epoch), epoch_of(read, epoch))
    assert equal(epoch_of(held, 1)[3:], epoch_of(read, 1, start_step=3))


def test_the_reading_thread_ends_with_the_epoch_and_when_it_is_left(mapped: np.ndarray):
    before = threading.active_count()
    batches = make(mapped, resident_limit_bytes=0)
    stream = batches.iterate(0)
    next(stream)
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before
    epoch_of(batches)
    assert threading.active_count() == before


def test_an_array_in_memory_is_shared_not_copied(pixels: np.ndarray):
    own = pixels.copy()
    batches = Batches(own, TARGETS, PREPROCESSING, batch_size=4)
    own[0, :, :, :] = 9
    assert torch.equal(epoch_of(batches)[0][0][0], PREPROCESSING.normalise(
        torch.full((1, 8, 8, 3), 9, dtype=torch.uint8)
    )[0])  # fmt: skip


def test_read_only_arrays_and_tensors_are_taken(pixels: np.ndarray):
    locked = pixels.copy()
    locked.setflags(write=False)
    expected = epoch_of(make(pixels))
    assert equal(expected, epoch_of(make(locked)))
    assert equal(expected, epoch_of(make(torch.from_numpy(pixels))))


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(65, 32, [32, 33]), (66, 32, [32, 32, 2]), (64, 32, [32, 32]), (1, 32, [1]),
     (3, 1, [1, 1, 1]), (33, 32, [33]), (5, 32, [5])],
)  # fmt: skip
def test_no_training_batch_of_one_is_left_over(
    pixels: np.ndarray, n: int, batch_size: int, sizes: list[int]
):
    batches = make(pixels, rows=np.arange(n), batch_size=batch_size)
    assert [len(part[0]) for part in epoch_of(batches)] == sizes
    assert batches.steps_per_epoch == len(sizes)
    assert batches.num_images == n


def test_the_sampler_keeps_the_length(pixels: np.ndarray):
    batches = make(pixels, sampler="balanced", augmentation=None)
    targets = torch.cat([part[1] for part in epoch_of(batches)])
    counts = np.bincount(targets, minlength=4)
    assert counts.sum() == N
    assert counts.max() - counts.min() <= 1


def test_multi_label_targets_are_floats(pixels: np.ndarray):
    targets = np.eye(4, dtype=np.int64)[TARGETS]
    batches = Batches(pixels, targets, PREPROCESSING, task="multilabel", batch_size=50)
    part = epoch_of(batches)[0]
    assert part[1].dtype == torch.float32
    np.testing.assert_array_equal(part[1], targets[:50])


@pytest.mark.parametrize("augmentation", [None, PRESETS["gentle"], Augmentation()])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_order_is_as_asked_and_changes_no_value(
    pixels: np.ndarray, augmentation: Augmentation | None, channels_last: bool
):
    batches = make(pixels, augmentation=augmentation, channels_last=channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    parts = epoch_of(batches)
    assert all(part[0].is_contiguous(memory_format=order) for part in parts)
    other = make(pixels, augmentation=augmentation, channels_last=not channels_last)
    for mine, theirs in zip(parts, epoch_of(other), strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], atol=1e-6)


def test_augmentation_changes_images_and_not_their_targets(pixels: np.ndarray):
    plain, changed = make(pixels, augmentation=None), make(pixels)
    for a, b in zip(epoch_of(plain), epoch_of(changed), strict=True):
        assert torch.equal(a[1], b[1])
        assert not torch.allclose(a[0], b[0])
    assert equal(epoch_of(plain), epoch_of(make(pixels, augmentation=PRESETS["none"])))


def test_misuse_is_refused(pixels: np.ndarray):
    with pytest.raises(DataError, match="to_pixels"):
        Batches(pixels.astype(np.float32), TARGETS, PREPROCESSING)
    with pytest.raises(DataError, match=r"\(n, 8, 8, 3\) expected"):
        Batches(pixels[..., :1], TARGETS, PREPROCESSING)
    with pytest.raises(DataError, match="targets have 5 rows, pixels 203"):
        Batches(pixels, TARGETS[:5], PREPROCESSING)
    with pytest.raises(DataError, match="no images"):
        Batches(pixels, TARGETS, PREPROCESSING, rows=np.array([], dtype=np.int64))
    with pytest.raises(ConfigError, match="batch_size=0"):
        Batches(pixels, TARGETS, PREPROCESSING, batch_size=0)
    with pytest.raises(ConfigError, match="evaluation"):
        Batches(pixels, TARGETS, PREPROCESSING, augmentation=PRESETS["gentle"])


def test_the_last_step_seeds_are_not_shared_by_steps(pixels: np.ndarray):
    """Each step draws its own changes: two equal pictures in two steps come out differently."""
    same = np.repeat(pixels[:1], N, axis=0)
    parts = epoch_of(make(same))
    assert not torch.equal(parts[0][0], parts[1][0])


@pytest.mark.parametrize("kind", ["array", "mapped"])
def test_processes_divide_each_batch_as_it_is(pixels: np.ndarray, mapped: np.ndarray, kind: str):
    source, limit = (pixels, None) if kind == "array" else (mapped, 0)
    weights = np.linspace(1, 2, N).astype(np.float32)

    def batches(rank: int, size: int) -> Batches:
        return Batches(
            source,
            TARGETS,
            PREPROCESSING,
            rows=np.arange(82),  # batches of 40, 40 and 2: none is left for the third and fourth
            weights=weights,
            batch_size=40,
            training=True,
            augmentation=PRESETS["strong"],
            resident_limit_bytes=limit,
            share=(rank, size),
        )

    whole = epoch_of(batches(0, 1), 3)
    shares = [batches(rank, 4) for rank in range(4)]
    assert all(share.num_images == 82 for share in shares)
    assert all(share.step_images == [40, 40, 2] for share in shares)
    for rank, share in enumerate(shares):
        for mine, all_of_it in zip(epoch_of(share, 3), whole, strict=True):
            own = [column[rank::4] for column in all_of_it]
            if len(own[0]):
                for got, wanted in zip(mine, own, strict=True):
                    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
            else:
                assert torch.equal(mine[0], all_of_it[0][:1])
                assert mine[2].tolist() == [0]
