"""Out-of-fold probabilities in seconds: simple descriptions of images and logistic regression.

Good enough to tell which labels are suspicious (benchmarks/wrong_labels.py measures it), and far
too simple to be delivered as a model.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from scanwise.core.types import Dataset
from scanwise.data.duplicates import duplicate_groups, find_duplicates
from scanwise.data.folds import divide_rows
from scanwise.data.views import to_8bit
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.pipeline.baselines import histogram_features
from scanwise.training.logistic import fit_logistic

# Measured on BreastMNIST, PneumoniaMNIST, DermaMNIST and blood cells with 10 % wrong labels:
# pixels, gradients and histogram together beat each alone; weaker penalties learn the wrong labels.
PIXELS_PX = 14
EDGES_PX, CELLS, ORIENTATIONS = 32, 4, 8
STRENGTH = 0.01  # scikit-learn's C on standardised numbers
REPEATS = 3  # divisions into folds whose probabilities are averaged
MOST_ROWS = 10_000  # that one regression is fitted on
BLOCK = 256  # images described at a time
WORDS = "logistic regression on pixels, gradients and histogram"


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


def quick_out_of_fold(dataset: Dataset, *, folds: int = 5, seed: int = 0) -> Predictions:
    """Probabilities of each image from a classifier fitted without it, its group and its copies.

    Args:
        dataset: The data. Images of a delivered test split are left alone.
        folds: Parts; each is answered by a regression fitted on the others.
        seed: Of the divisions; probabilities are averaged over three.

    Returns:
        One row an image, in the data set's order; the split reads 'test', as in cross-validation.

    Raises:
        SplitError: If there can't be so many folds.
    """
    rows = np.arange(len(dataset))
    if dataset.given_split is not None:
        rows = np.flatnonzero(np.asarray(dataset.given_split) != "test")
    copies = find_duplicates(dataset.images, dataset.targets)
    joined = dataset
    if copies.clusters:
        joined = dataset.with_groups(duplicate_groups(copies, len(dataset), dataset.groups))
    features = quick_features(dataset.images)
    total = np.zeros((len(dataset), dataset.num_classes))
    for repeat in range(REPEATS):
        for learned, asked in divide_rows(joined, rows, folds, seed=seed + repeat):
            total[asked] += _answers(dataset, features, learned, asked, seed + repeat)
    return make_predictions(
        sample=tuple(dataset.sample_ids[row] for row in rows),
        split=("test",) * len(rows),
        targets=dataset.targets[rows],
        probabilities=total[rows] / REPEATS,
        class_names=dataset.class_names,
        task=dataset.task,
        groups=None if joined.groups is None else tuple(joined.groups[row] for row in rows),
    )


def _answers(
    dataset: Dataset,
    features: NDArray[np.float32],
    learned: NDArray[np.int64],
    asked: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """Probabilities (m, k) of the rows `asked` by a regression on the rows `learned`."""
    if len(learned) > MOST_ROWS:
        learned = np.sort(np.random.default_rng(seed).choice(learned, MOST_ROWS, replace=False))
    model = next(
        fit_logistic(
            features[learned][:, None],
            dataset.targets[learned],
            num_classes=dataset.num_classes,
            penalties=(1 / (STRENGTH * len(learned)),),
        )
    )
    logits = features[asked].astype(np.float64) @ model.weight.T + model.bias
    found = expit(logits) if dataset.task == "multilabel" else softmax(logits, axis=1)
    return np.asarray(found, np.float64)


def _resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image (h, w, c) as (side, side, c)."""
    way = cv2.INTER_AREA if min(image.shape[:2]) > side else cv2.INTER_LINEAR
    found = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=way)
    return np.asarray(found, np.uint8).reshape(side, side, -1)
