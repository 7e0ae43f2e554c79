"""A frozen network's head by logistic regression: penalties are tried, the best one is kept."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scanwise.core.config import Monitor, TrainConfig
from scanwise.core.types import Dataset, Split, Task
from scanwise.models.backbones import TransferNet
from scanwise.pipeline.prepared import Prepared
from scanwise.pipeline.transfer import Features, check_backbone, loss_of, validation_batches
from scanwise.training.device import reproducibility
from scanwise.training.features import FeatureBatches
from scanwise.training.history import EpochRecord
from scanwise.training.logistic import Linear, fit_logistic
from scanwise.training.loop import FitResult
from scanwise.training.stopping import HIGHER_IS_BETTER
from scanwise.training.validation import Validation, validate

# Below so many images validation alone is too noisy a judge of the penalty: folds of train help.
FEW_TO_JUDGE = 200
FOLDS = 5

_Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # images to fit on, images held out
_Score = Callable[[Linear, FeatureBatches], Validation]


@dataclass(frozen=True, eq=False)
class _Sample:
    """Training images as regressions are fitted on them."""

    features: NDArray[np.float32]  # (n, v, d)
    targets: NDArray[np.int64]  # (n,) or (n, k)
    importance: NDArray[np.float64] | None  # (n,) or (n, k): how much each counts
    num_classes: int
    task: Task
    device: torch.device

    def fit(self, rows: Any = slice(None)) -> Iterator[Linear]:
        """One regression a penalty, on all views of these images."""
        weights = None if self.importance is None else self.importance[rows]
        return fit_logistic(
            self.features[rows], self.targets[rows], num_classes=self.num_classes, weights=weights
        )

    def plain(self, rows: Any = slice(None)) -> FeatureBatches:
        """These images as they are, without their other views."""
        return FeatureBatches(
            self.features[rows, :1], self.targets[rows],
            task=self.task, device=self.device, batch_size=4096,
        )  # fmt: skip


def fit_logistic_head(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    prepared: Prepared,
    network: TransferNet,
    features: Features,
    *,
    device: torch.device,
    say: Callable[[str], None] | None,
) -> FitResult:
    """Fit the head with less and less penalty, until what judges it likes it less.

    Along the penalty the solution changes smoothly, so the first best one is taken. The judge is
    the monitored measure on validation; for the loss, where validation is small, together with
    five folds of train (whole groups, all views of an image in one fold). There are no epochs
    and no history.csv; the history of the result is one record, of the regression that was kept.
    """
    began = time.perf_counter()
    monitor = config.monitor or "val_loss"
    loss = loss_of(config, dataset, prepared).to(device)
    head = network.head.to(device)
    layer = next(part for part in head.modules() if isinstance(part, nn.Linear))

    def score(fitted: Linear, batches: FeatureBatches) -> Validation:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(fitted.weight))
            layer.bias.copy_(torch.from_numpy(fitted.bias))
        return validate(head, batches, loss, dataset.task, config.output_activation)

    sample = _sample(dataset, prepared, features, device)
    val = validation_batches(dataset, prepared, features, device)
    folds = _helping_folds(config, dataset, split, prepared, features)
    held_out = _held_out(sample, folds, score) if folds else None
    kept, scores, tried = _first_best(sample, score, val, monitor, held_out)
    trained = score(kept, sample.plain())  # it stays in the head
    check_backbone(network)
    seconds = time.perf_counter() - began
    judge = f"{monitor} on {val.num_images:,} validation images"
    if folds:
        judge = f"the loss on {val.num_images:,} validation images and {len(folds)} folds of train"
    reason = (
        f"logistic regression with penalty {kept.penalty:g}, the best of {len(tried)} tried by "
        f"{judge} ({'; '.join(tried)})"
    )
    if say is not None:
        say(f"Head: {reason}; validation accuracy {scores.accuracy:.4f}, {seconds:.1f} s")
    return FitResult(
        best_epoch=0,
        best_value=scores.value(monitor),
        epochs_run=0,
        stop_reason=reason,
        seconds=seconds,
        history=(_record(trained, scores, seconds, len(sample.targets)),),
        precision="32-true",
        precision_reason="logistic regression in float32",
        micro_batch=None,
        reproducibility=reproducibility(device, config.deterministic),
    )


def _first_best(
    sample: _Sample,
    score: _Score,
    val: FeatureBatches,
    monitor: Monitor,
    held_out: NDArray[np.float64] | None,
) -> tuple[Linear, Validation, list[str]]:
    """Regressions until one is no better: the best, its scores on `val`, and all that were tried.

    With `held_out` (of `_held_out`) the judge is the mean loss over train and validation.
    """
    better = np.greater if HIGHER_IS_BETTER[monitor] else np.less
    kept: tuple[float, Linear, Validation] | None = None
    tried = []
    for number, fitted in enumerate(sample.fit()):
        scores = score(fitted, val)
        value = scores.value(monitor)
        if held_out is not None:
            losses = val.num_images * scores.loss + float(held_out[number])
            value = losses / (val.num_images + len(sample.targets))
        tried.append(f"{fitted.penalty:g}: {value:.4f}")
        if kept is not None and not better(value, kept[0]):
            break
        kept = (value, fitted, scores)
    assert kept is not None
    return kept[1], kept[2], tried


def _held_out(sample: _Sample, folds: list[_Fold], score: _Score) -> NDArray[np.float64]:
    """Sum of losses over train, (penalties,), each image's by a regression that did not see it."""
    sums = []
    for fitted_on, held in folds:
        batches = sample.plain(held)
        sums.append([len(held) * score(one, batches).loss for one in sample.fit(fitted_on)])
    total: NDArray[np.float64] = np.sum(sums, axis=0)
    return total


def _helping_folds(
    config: TrainConfig, dataset: Dataset, split: Split, prepared: Prepared, features: Features
) -> list[_Fold]:
    """Folds of train that help validation to judge.

    None where validation is large enough, the monitor is no loss, or there are synthetic images:
    they are mixed from images that would stand in other folds.
    """
    few = len(features.val) < FEW_TO_JUDGE
    if not few or (config.monitor or "val_loss") != "val_loss" or prepared.num_synthetic:
        return []
    groups = None
    if dataset.groups is not None:
        rows = dict(zip(prepared.train.rows.tolist(), split.train.tolist(), strict=True))
        groups = [dataset.groups[rows[row]] for row in features.rows.tolist()]
    return _folds(prepared.targets[features.rows], groups, config.seed)


def _folds(targets: NDArray[np.int64], groups: list[str] | None, seed: int) -> list[_Fold]:
    """Five stratified folds of whole groups; none where there are fewer than ten of them."""
    from sklearn.model_selection import KFold, StratifiedGroupKFold

    units = list(range(len(targets))) if groups is None else groups
    if len(set(units)) < 2 * FOLDS:
        return []
    if targets.ndim == 2 and groups is None:
        return list(KFold(FOLDS, shuffle=True, random_state=seed).split(targets))
    kinds = targets if targets.ndim == 1 else np.zeros(len(targets), np.int64)
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer images than folds
        return list(splitter.split(targets, kinds, units))


def _sample(
    dataset: Dataset, prepared: Prepared, features: Features, device: torch.device
) -> _Sample:
    """Each image counts by its own weight times its class's.

    With several labels an image, a label's class weight is that of its positives, as in the loss.
    """
    targets = prepared.targets[features.rows]
    of_class, importance = prepared.class_weights, None
    if of_class is not None:
        importance = (
            np.where(targets > 0, of_class, 1.0) if targets.ndim == 2 else of_class[targets]
        )
    if prepared.weights is not None:
        own = prepared.weights[features.rows].astype(np.float64)
        importance = own if importance is None else (importance.T * own).T
    return _Sample(features.train, targets, importance, dataset.num_classes, dataset.task, device)


def _record(
    trained: Validation, scores: Validation, seconds: float, num_images: int
) -> EpochRecord:
    """The scores of the kept regression on train and validation, as a history has them."""
    return EpochRecord(
        epoch=1,
        loss=trained.loss,
        accuracy=trained.accuracy,
        val_loss=scores.loss,
        val_accuracy=scores.accuracy,
        lr=0.0,
        seconds=seconds,
        ms_per_step=1000 * seconds,
        images_per_s=num_images / seconds,
        val_auc=scores.auc,
        val_balanced_acc=scores.balanced_accuracy,
    )
