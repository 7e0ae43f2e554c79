"""What the speed benchmarks train: synthetic pictures, so that nothing is said about accuracy."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from scanwise.prepare.batches import Batches

SIZE_PX, CHANNELS, CLASSES = 28, 3, 9


@dataclass(frozen=True)
class Case:
    """One network and its batch size; `images` of training data make an epoch of some seconds."""

    model: str
    batch: int
    images: int
    channels_last: bool = True  # as the pipeline chooses: an MLP has no kernels to gain from it


CASES = {
    "mlp": Case("mlp:512,256,128", 128, 12_800, channels_last=False),
    "simple_cnn": Case("simple_cnn", 64, 1_920),
    "resnet18": Case("resnet18", 128, 384),
}


def make_model(case: Case) -> nn.Module:
    """The network, its kernels in the memory order that the pipeline uses."""
    import torch

    from scanwise.models.build import build_model

    torch.manual_seed(0)
    model = build_model(
        case.model, num_outputs=CLASSES, channels=CHANNELS, size_px=(SIZE_PX, SIZE_PX)
    )
    if case.channels_last:
        model.to(memory_format=torch.channels_last)
    return model


def make_batches(case: Case) -> tuple[Batches, Batches]:
    """Training batches with gentle augmentation, and one validation batch."""
    import numpy as np

    from scanwise.data.load import from_arrays
    from scanwise.prepare.augment import parse_augmentation
    from scanwise.prepare.batches import Batches
    from scanwise.prepare.preprocessing import fit_preprocessing

    rng = np.random.default_rng(0)
    count = case.images + case.batch
    images = rng.integers(0, 256, (count, SIZE_PX, SIZE_PX, CHANNELS), dtype=np.uint8)
    targets = np.arange(count) % CLASSES
    dataset = from_arrays(images, targets)
    preprocessing = fit_preprocessing(dataset, np.arange(case.images))
    pixels = preprocessing.to_pixels(dataset.images)
    train = Batches(
        pixels,
        dataset.targets,
        preprocessing,
        rows=np.arange(case.images),
        batch_size=case.batch,
        training=True,
        augmentation=parse_augmentation("gentle"),
        channels_last=case.channels_last,
    )
    val = Batches(
        pixels,
        dataset.targets,
        preprocessing,
        rows=np.arange(case.images, count),
        batch_size=case.batch,
        channels_last=case.channels_last,
    )
    return train, val


def machine() -> str:
    """The machine in one line, with its load: a busy one makes all but ratios meaningless."""
    from scanwise.core.runtime import cpu_model

    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu_model()}, {os.cpu_count()} CPUs, {platform.system()}{load}"
