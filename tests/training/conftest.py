"""Tiny real training data: noisy squares whose bright bar says the class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scanwise.core.types import Task
from scanwise.data.load import from_arrays
from scanwise.prepare.augment import parse_augmentation
from scanwise.prepare.batches import Batches
from scanwise.prepare.preprocessing import Preprocessing, fit_preprocessing

SIZE_PX, CLASSES = 12, 3


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class TinyNet(nn.Sequential):
    """A convolution, BatchNorm, dropout: everything that has a state or draws random numbers."""

    def __init__(self, channels: int = 1, classes: int = CLASSES, dropout: float = 0.2) -> None:
        super().__init__(
            nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * (SIZE_PX // 2) ** 2, classes),
        )


@dataclass(frozen=True)
class TinyData:
    """Streams of one tiny data set; `train(...)` takes Batches' arguments."""

    train: Callable[..., Batches]
    val: Callable[..., Batches]


@pytest.fixture(scope="session")
def tiny_data() -> TinyData:
    """48 training and 24 validation images, 12 px, grey."""
    rng = np.random.default_rng(3)
    targets = np.arange(72) % CLASSES
    images = rng.integers(0, 120, (72, SIZE_PX, SIZE_PX, 1)).astype(np.uint8)
    for image, target in zip(images, targets, strict=True):
        image[4 * target : 4 * target + 4] += 60
    many = np.stack([targets == 0, targets != 1, rng.random(72) < 0.5], axis=1).astype(np.int64)

    dataset = from_arrays(images, targets)
    preprocessing: Preprocessing = fit_preprocessing(dataset, np.arange(48))
    pixels = preprocessing.to_pixels(dataset.images)

    def stream(rows: np.ndarray, task: Task, **options: object) -> Batches:
        truth = many if task == "multilabel" else targets
        return Batches(pixels, truth, preprocessing, rows=rows, task=task, **options)

    def train(task: Task = "multiclass", seed: int = 0, **options: object) -> Batches:
        settings = {"batch_size": 16, "augmentation": parse_augmentation("gentle")} | options
        return stream(np.arange(48), task, training=True, seed=seed, **settings)

    def val(task: Task = "multiclass", **options: object) -> Batches:
        return stream(np.arange(48, 72), task, **({"batch_size": 16} | options))

    return TinyData(train, val)


@pytest.fixture
def tiny_net() -> Callable[..., TinyNet]:
    """Makes the same network each time."""

    def make(seed: int = 0, **options: object) -> TinyNet:
        torch.manual_seed(seed)
        return TinyNet(**options)

    return make


@pytest.fixture
def same_weights() -> Callable[[nn.Module, nn.Module], bool]:
    """True if two modules agree bit for bit, buffers included."""

    def compare(first: nn.Module, second: nn.Module) -> bool:
        mine: dict[str, Tensor] = first.state_dict()
        theirs: dict[str, Tensor] = second.state_dict()
        return mine.keys() == theirs.keys() and all(
            torch.equal(mine[name], theirs[name]) for name in mine
        )

    return compare
