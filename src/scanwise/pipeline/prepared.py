"""Everything fitted on the training rows, and the two streams of batches that training gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scanwise.core.config import TrainConfig
from scanwise.core.types import Dataset, Finding, Split
from scanwise.models.backbones import BackboneSpec
from scanwise.prepare.augment import (
    AugmentationChoice,
    Preview,
    choose_augmentation,
    preview,
)
from scanwise.prepare.balance import (
    balance_findings,
    class_weights,
    describe_class_weights,
    drawn_counts,
)
from scanwise.prepare.batches import Batches
from scanwise.prepare.preprocessing import Preprocessing, fit_preprocessing
from scanwise.prepare.rows import PixelRows, evaluation_batch, keep_pixels


@dataclass(frozen=True, eq=False)
class Prepared:
    """What training needs, and nothing of the test split."""

    preprocessing: Preprocessing
    augmentation: AugmentationChoice
    train: Batches
    val: Batches
    pixels: NDArray[np.uint8]  # (m, h, w, c); rows of both splits and synthetic ones are among them
    targets: NDArray[np.int64]  # (m,) or (m, k)
    weights: NDArray[np.float32] | None  # (m,)
    train_counts: NDArray[np.int64]  # (k,) real images of each class in train
    class_weights: NDArray[np.float64] | None  # (k,)
    num_synthetic: int
    epoch_counts: Mapping[str, NDArray[np.float64]]  # (k,) each: raw, balanced, effective
    preview: Preview  # a few training images as training sees them
    findings: tuple[Finding, ...]
    messages: tuple[str, ...]


def prepare(
    dataset: Dataset,
    split: Split,
    config: TrainConfig,
    device: torch.device,
    *,
    channels_last: bool = True,
    backbone: BackboneSpec | None = None,
    share: tuple[int, int] = (0, 1),
) -> Prepared:
    """Fit the preprocessing on train, balance and augment train only, and make the batches.

    Only training and validation rows are read. `config` is resolved: no None among its settings.
    With a pretrained `backbone` its channels, mean and std are used instead of the data's. `share`
    is that of one of several processes in each training batch.
    """
    preprocessing = fit_preprocessing(
        dataset,
        split.train,
        contrast=config.contrast,
        channels=None if backbone is None else backbone.channels,
        fit=config.fit,
        seed=config.seed,
    )
    if backbone is not None:
        preprocessing = preprocessing.with_source(backbone.mean, backbone.std, backbone.name)
    pixels, targets, sample_weights, train_rows, val_rows, where = _rows_of_both(
        dataset, split, preprocessing
    )
    counts = dataset.class_counts(split.train)
    weights = class_weights(
        counts,
        str(config.class_weights),
        dataset.class_names,
        num_images=len(split.train) if dataset.task == "multilabel" else None,
    )
    notes: list[str] = [*preprocessing.notes, *([where] if where else [])]
    num_synthetic = 0
    if config.balance != "none":
        from scanwise.prepare.smote import smote  # takes a second to import

        made = smote(
            np.asarray(pixels[train_rows]),
            targets[train_rows],
            dataset.class_names,
            seed=config.seed,
            space=config.balance,
        )
        num_synthetic = len(made.images)
        notes += made.notes
        train_rows = np.concatenate([train_rows, len(pixels) + np.arange(num_synthetic)])
        pixels = np.concatenate([pixels, made.images])
        targets = np.concatenate([targets, made.targets])
        if sample_weights is not None:
            sample_weights = np.concatenate([sample_weights, np.ones(num_synthetic, np.float32)])
    augmentation = choose_augmentation(
        str(config.augment),
        class_names=dataset.class_names,
        num_train=len(split.train),
        flip=config.flip,
    )
    common: dict[str, Any] = {
        "weights": sample_weights,
        "task": dataset.task,
        "device": device,
        "channels_last": channels_last,
    }
    train = Batches(
        pixels,
        targets,
        preprocessing,
        rows=train_rows,
        batch_size=int(config.batch_size or 1),
        training=True,
        augmentation=augmentation.augmentation,
        sampler=config.sampler,
        seed=config.seed,
        share=share,
        **common,
    )
    # Validation losses are plain means: no image counts more than another.
    seen_px = preprocessing.size_px if backbone is None else backbone.input_px
    val = Batches(
        pixels,
        targets,
        preprocessing,
        rows=val_rows,
        batch_size=evaluation_batch(seen_px),
        **common | {"weights": None},
    )
    return Prepared(
        preprocessing=preprocessing,
        augmentation=augmentation,
        train=train,
        val=val,
        pixels=pixels,
        targets=targets,
        weights=sample_weights,
        train_counts=counts,
        class_weights=weights,
        num_synthetic=num_synthetic,
        epoch_counts=_epoch_counts(counts, targets[train_rows], config, weights),
        preview=preview(
            np.asarray(dataset.images[_one_of_each(dataset, split)]),
            augmentation.augmentation,
            preprocessing,
            seed=config.seed,
        ),
        findings=(
            *augmentation.findings,
            *balance_findings(
                counts,
                dataset.class_names,
                weights=weights,
                sampler=config.sampler,
                smote=config.balance != "none",
            ),
        ),
        messages=(*describe_class_weights(counts, weights), *notes),
    )


def _epoch_counts(
    counts: NDArray[np.int64],
    train_targets: NDArray[np.int64],
    config: TrainConfig,
    weights: NDArray[np.float64] | None,
) -> dict[str, NDArray[np.float64]]:
    """Training images of each class as they are, after SMOTE, and as much as they count."""
    num_classes = len(counts)
    drawn = drawn_counts(train_targets, config.sampler, num_classes)
    return {
        "as they are": counts.astype(np.float64),
        "after balancing": drawn_counts(train_targets, "shuffle", num_classes),
        "effective: drawn × weight": drawn if weights is None else drawn * weights,
    }


def _one_of_each(dataset: Dataset, split: Split, most: int = 6) -> NDArray[np.int64]:
    """A training row of each of the first classes; fewer where classes are missing."""
    if dataset.task == "multilabel":
        return split.train[:most]
    _, first = np.unique(dataset.targets[split.train], return_index=True)
    return np.sort(split.train[first[:most]])


def _rows_of_both(
    dataset: Dataset, split: Split, preprocessing: Preprocessing
) -> tuple[
    NDArray[np.uint8],
    NDArray[np.int64],
    NDArray[np.float32] | None,
    NDArray[np.int64],
    NDArray[np.int64],
    str,
]:
    """Pixels, targets, weights, the rows of train and val among them, and where pixels went.

    Where pixels are used as they are, the data set's own array (or memory map) is handed on; where
    contrast or depth must be mapped, only training and validation images are.
    """
    if not preprocessing.needs_pixels:
        return dataset.images, dataset.targets, dataset.weights, split.train, split.val, ""
    rows = np.concatenate([split.train, split.val])
    pixels, where = keep_pixels(PixelRows(preprocessing, dataset.images, rows))
    weights = None if dataset.weights is None else dataset.weights[rows]
    places = np.arange(len(rows), dtype=np.int64)
    n_train = len(split.train)
    return pixels, dataset.targets[rows], weights, places[:n_train], places[n_train:], where
