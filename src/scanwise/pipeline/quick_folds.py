"""Out-of-fold probabilities in seconds: simple descriptions of images and kernel regression.

Good enough to tell which labels are suspicious (benchmarks/wrong_labels.py measures it), and far
too simple to be delivered as a model.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Dataset
from scanwise.data.duplicates import duplicate_groups, find_duplicates
from scanwise.data.views import to_8bit
from scanwise.metrics.calibration import apply_temperature, fit_temperature
from scanwise.metrics.inputs import one_hot
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.pipeline.baselines import histogram_features
from scanwise.training.kernel_ridge import answers_without, rbf_kernel

# Measured on BreastMNIST, PneumoniaMNIST, DermaMNIST and blood cells with 10 % wrong labels:
# pixels, gradients and histogram together beat each alone; weaker penalties learn the wrong labels.
PIXELS_PX = 14
EDGES_PX, CELLS, ORIENTATIONS = 32, 4, 8
PENALTY = 0.7  # of the regression
MOST_ROWS = 4000  # of one regression
BLOCK = 256  # images described at a time
WORDS = "kernel regression on pixels, gradients and histogram"


def quick_features(images: NDArray[Any]) -> NDArray[np.float32]:
    """Histogram, 14x14 pixels and gradient orientations in 4x4 cells, float32 (n, d).

    Args:
        images: (n, h, w, c) of any depth; a memory map is read in blocks.
    """
    parts = []
    for start in range(0, len(images), BLOCK):
        block = to_8bit(np.asarray(images[start : start + BLOCK]))
        small = np.stack([_resized(image, PIXELS_PX).ravel() for image in block])
        edges = np.stack([edge_histogram(image) for image in block])
        parts.append(np.hstack([histogram_features(block), small / np.float32(255), edges]))
    return np.concatenate(parts).astype(np.float32)


def edge_histogram(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gradient strength by orientation in each of 4x4 cells of an image (h, w, c), float32 (128,).

    Orientations are those of lines (0 to 180 degrees), each gradient shared by the two nearest;
    the strengths sum to 1, then their root is taken.

    Source:
        Dalal and Triggs, CVPR 2005, without its overlapping blocks.
    """
    grey = _resized(image, EDGES_PX).mean(axis=2, dtype=np.float32)
    across, down = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.hypot(across, down)
    place = (np.arctan2(down, across) % np.pi) / np.pi * ORIENTATIONS
    lower = np.floor(place)
    cell = np.arange(EDGES_PX) * CELLS // EDGES_PX
    bins = (cell[:, None] * CELLS + cell) * ORIENTATIONS
    near, share = lower.astype(np.int64), place - lower
    found = sum(
        np.bincount(
            (bins + (near + step) % ORIENTATIONS).ravel(),
            weights=(strength * part).ravel(),
            minlength=CELLS * CELLS * ORIENTATIONS,
        )
        for step, part in ((0, 1 - share), (1, share))
    )
    return np.sqrt(found / (np.sum(found) + 1e-6)).astype(np.float32)


def quick_out_of_fold(
    dataset: Dataset, *, seed: int = 0, extra: NDArray[np.float32] | None = None
) -> Predictions:
    """Probabilities of each image from a regression fitted without it, its group and exact copies.

    Images that are merely alike do answer for each other: that a second picture of a lesion has
    another label is the clearest of suspicions. Where labels were given to whole patients, name
    the groups, else a wrong one is confirmed by the patient's other pictures. One temperature makes
    the regression's values probabilities; it is all that an image's own label has a part in.

    Args:
        dataset: The data. Images of a delivered test split are left alone.
        seed: Divides more than `MOST_ROWS` images into parts that answer for themselves.
        extra: Further features float (n, d), such as those of a pretrained network; the likeness
            of two images is then the mean of both descriptions'.

    Returns:
        One row an image, in the data set's order; the split reads 'test', as in cross-validation.
    """
    rows = np.arange(len(dataset))
    if dataset.given_split is not None:
        rows = np.flatnonzero(np.asarray(dataset.given_split) != "test")
    copies = find_duplicates(dataset.images, dataset.targets, near=False)
    names = np.array(duplicate_groups(copies, len(dataset), dataset.groups))
    descriptions = [quick_features(dataset.images)]
    if extra is not None:
        descriptions.append(extra)
    truth = one_hot(dataset.targets, dataset.num_classes, dataset.task)
    values = np.zeros(truth.shape)
    for part in _parts(names[rows], seed):
        chosen = rows[part]
        kernel = rbf_kernel([each[chosen] for each in descriptions])
        groups = group_rows(names[chosen])
        values[chosen] = answers_without(kernel, truth[chosen], groups, PENALTY)
    # The values lie about 0 to 1, and a temperature is 0.1 at least: none becomes a certainty.
    logits = values[rows] - (0.5 if dataset.task == "multilabel" else 0.0)
    temperature = fit_temperature(logits, dataset.targets[rows], dataset.task)
    return make_predictions(
        sample=tuple(dataset.sample_ids[row] for row in rows),
        split=("test",) * len(rows),
        targets=dataset.targets[rows],
        probabilities=apply_temperature(logits, temperature, dataset.task),
        class_names=dataset.class_names,
        task=dataset.task,
        groups=tuple(names[rows].tolist()),
    )


def group_rows(names: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """Row numbers of each name."""
    number = np.unique(names, return_inverse=True)[1]
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def _parts(names: NDArray[np.str_], seed: int) -> list[NDArray[np.int64]]:
    """Rows in parts of about `MOST_ROWS` at most, no group in two of them."""
    groups = group_rows(names)
    count = -(-len(names) // MOST_ROWS)
    order = np.random.default_rng(seed).permutation(len(groups))
    return [np.concatenate([groups[i] for i in order[part::count]]) for part in range(count)]


def _resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image (h, w, c) as (side, side, c)."""
    way = cv2.INTER_AREA if min(image.shape[:2]) > side else cv2.INTER_LINEAR
    found = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=way)
    return np.asarray(found, np.uint8).reshape(side, side, -1)
