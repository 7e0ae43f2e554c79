"""Simple models that every network must beat: fitted on train in seconds, before it is trained.

Colour histogram and logistic regression; with a pretrained backbone also its frozen features and
logistic regression. (Majority and prior, which never look at an image, are in metrics.trivial.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.core.runtime import one_blas_thread
from scanwise.core.types import SPLIT_NAMES, Dataset, Split
from scanwise.metrics.baselines import baseline_scores
from scanwise.metrics.inputs import predict_classes
from scanwise.metrics.intervals import wilson_interval
from scanwise.metrics.predictions import (
    Predictions,
    make_predictions,
    read_predictions,
    write_predictions,
)
from scanwise.pipeline.runs import Run
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import PixelRows, Pixels

BLOCK_BYTES = 2**22  # pixels read at a time
BINS = 16  # of each channel's histogram
MOST_ROWS = 10_000  # more training images change a logistic regression on 50 numbers no more
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # inverse strengths C; validation picks
FOLDER = "baselines"

Describe = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A fitted simple model."""

    name: str  # key in metrics.json and name of its file
    title: str
    describe: Describe  # pixels uint8 (n, h, w, c) to numbers (n, m)
    model: Any  # a fitted scikit-learn pipeline
    num_classes: int
    note: str

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """float64 (n, k) of prepared pixels; classes absent in train have 0."""
        return _probabilities(self.model, self.describe(pixels), self.num_classes)


def histogram_features(pixels: Pixels) -> NDArray[np.float32]:
    """Shares of 16 levels, mean and standard deviation of each channel, float32 (n, 18 c)."""
    n, _, _, c = pixels.shape
    result = np.empty((n, c * (BINS + 2)), np.float32)
    levels = np.arange(256) / 255
    step = max(1, BLOCK_BYTES // max(1, int(np.prod(pixels.shape[1:]))))
    blocks = (pixels[start : start + step] for start in range(0, n, step))
    for row, pixels_of_one in enumerate(image for block in blocks for image in block):
        image = np.ascontiguousarray(pixels_of_one)
        # How often each of the 256 levels occurs in each channel; all else follows from it.
        counts = np.stack(
            [cv2.calcHist([image], [k], None, [256], [0, 256]).ravel() for k in range(c)]
        )
        shares = counts.astype(np.float64) * (c / image.size)
        mean = shares @ levels
        spread = np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
        binned = shares.reshape(c, BINS, -1).sum(axis=2)
        result[row] = np.concatenate([binned.ravel(), mean, spread])
    return result


def fit_baselines(
    dataset: Dataset,
    split: Split,
    preprocessing: Preprocessing,
    *,
    seed: int,
    features: Describe | None = None,
    features_name: str = "",
) -> tuple[Baseline, ...]:
    """Fit every baseline on train; validation picks the penalty; test is never read.

    Args:
        dataset: Images of any supported type.
        split: Its rows.
        preprocessing: As the network's, so that both see the same pixels.
        seed: Draws the rows where there are over 10,000.
        features: Frozen features (n, d) of pixels, for a pretrained backbone.
        features_name: Of the backbone.
    """
    rows = split.train
    note = ""
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
        note = f"fitted on {MOST_ROWS:,} of {len(split.train):,} training images"
    train = PixelRows(preprocessing, dataset.images, rows)
    val = PixelRows(preprocessing, dataset.images, split.val)
    kind = "intensity" if dataset.channels == 1 else "colour"
    wanted: list[tuple[str, str, Describe]] = [
        ("histogram", f"{kind} histogram + logistic regression", histogram_features)
    ]
    if features is not None:
        title = f"frozen features of {features_name} + logistic regression"
        wanted.append(("frozen_features", title, features))
    found = []
    for name, title, describe in wanted:
        model = _fit(
            describe(train), dataset.targets[rows], describe(val), dataset.targets[split.val]
        )
        found.append(Baseline(name, title, describe, model, dataset.num_classes, note))
    return tuple(found)


def predict_baselines(
    baselines: tuple[Baseline, ...],
    dataset: Dataset,
    preprocessing: Preprocessing,
    network: Predictions,
    rows: NDArray[np.int64],
) -> Mapping[str, Predictions]:
    """What each baseline says of the images that the network was scored on."""
    pixels = PixelRows(preprocessing, dataset.images, rows)
    return {
        baseline.name: make_predictions(
            sample=network.sample,
            split=network.split,
            targets=network.targets,
            probabilities=baseline.probabilities(pixels),
            class_names=network.class_names,
            task=network.task,
            groups=network.groups,
        )
        for baseline in baselines
    }


def write_baselines(run: Run, predictions: Mapping[str, Predictions]) -> None:
    """baselines/NAME.csv, in the form of predictions.csv."""
    for name, part in predictions.items():
        write_predictions(run.path / FOLDER / f"{name}.csv", part)


def read_baselines(run: Run, network: Predictions) -> dict[str, Predictions]:
    """What `write_baselines` wrote, with the groups of the network's predictions."""
    found = {}
    for path in sorted((run.path / FOLDER).glob("*.csv")):
        part = read_predictions(path, task=network.task)
        if part.sample == network.sample:
            part = replace(part, groups=network.groups)
        found[path.stem] = part
    return found


def baselines_document(
    network: Predictions, predictions: Mapping[str, Predictions], titles: Mapping[str, str]
) -> dict[str, Any]:
    """`baselines` of metrics.json: each baseline's scores and the network's gain over it."""
    return {
        name: {
            "title": titles[name],
            "splits": {
                split: baseline_scores(network, part, split)
                for split in SPLIT_NAMES
                if split in network.split and split in part.split
            },
        }
        for name, part in predictions.items()
    }


def validation_line(
    baselines: tuple[Baseline, ...], dataset: Dataset, split: Split, preprocessing: Preprocessing
) -> str:
    """What there is to beat on validation, said before the network is trained."""
    targets = dataset.targets[split.val]
    if dataset.task == "multilabel":
        parts = [f"all negative {(targets == 0).all(axis=1).mean():.3f}"]
    else:
        counts = dataset.class_counts(split.train)
        commonest = int(counts.argmax())
        share = (targets == commonest).mean()
        parts = [f"always '{dataset.class_names[commonest]}' {share:.3f}"]
    pixels = PixelRows(preprocessing, dataset.images, split.val)
    for baseline in baselines:
        predicted = predict_classes(baseline.probabilities(pixels), dataset.task)
        right = (predicted == targets).reshape(len(targets), -1).all(axis=1)
        interval = wilson_interval(int(right.sum()), len(right))
        parts.append(f"{baseline.title} {interval}")
    return f"To beat, accuracy on {len(targets):,} validation images: {'; '.join(parts)}"


def _fit(
    train: NDArray[np.float32],
    targets: NDArray[np.int64],
    val: NDArray[np.float32],
    val_targets: NDArray[np.int64],
) -> Any:
    """Standardised logistic regression; the penalty with the lowest log-loss on validation."""
    k = targets.shape[1] if targets.ndim == 2 else int(max(targets.max(), val_targets.max())) + 1
    best, best_loss = None, np.inf
    for penalty in PENALTIES:
        model = _regression(penalty, multilabel=targets.ndim == 2)
        with one_blas_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: what counts is validation
            model.fit(train, targets)
        loss = _log_loss(_probabilities(model, val, k), val_targets)
        if loss < best_loss:
            best, best_loss = model, loss
    return best


def _regression(penalty: float, *, multilabel: bool) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = LogisticRegression(C=penalty, max_iter=300)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(model) if multilabel else model)


def _probabilities(model: Any, numbers: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    found = np.asarray(model.predict_proba(numbers), np.float64)
    if found.shape[1] == k:
        return found
    full = np.zeros((len(found), k))
    full[:, np.asarray(model.classes_, np.int64)] = found
    return full


def _log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    shares = probabilities.clip(1e-12, 1 - 1e-12)
    if targets.ndim == 2:
        return float(-np.log(np.where(targets > 0, shares, 1 - shares)).mean())
    return float(-np.log(shares[np.arange(len(targets)), targets]).mean())
