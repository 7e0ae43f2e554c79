"""A frozen network's head by logistic regression: penalties are tried, the best one is kept."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scanwise.core.config import TrainConfig
from scanwise.core.types import Dataset, Split
from scanwise.models.backbones import TransferNet
from scanwise.pipeline.prepared import Prepared
from scanwise.pipeline.transfer import Features, check_backbone, loss_of, validation_batches
from scanwise.training.device import reproducibility
from scanwise.training.features import FeatureBatches
from scanwise.training.history import EpochRecord
from scanwise.training.logistic import Linear, fit_logistic
from scanwise.training.loop import FitResult
from scanwise.training.stopping import HIGHER_IS_BETTER
from scanwise.training.validation import Validation, predict_logits, validate

# Below so many images validation alone is too noisy a judge of the penalty: folds of train help.
FEW_TO_JUDGE = 200
FOLDS = 5


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
    targets = prepared.targets[features.rows]
    importance = _importance(prepared, features)
    val_targets = prepared.targets[prepared.val.rows]
    loss = loss_of(config, dataset, prepared).to(device)
    val = validation_batches(dataset, prepared, features, device)
    network.head.to(device)
    layer = next(part for part in network.head.modules() if isinstance(part, nn.Linear))
    held_out, judge = _held_out(
        config, dataset, split, prepared, features, importance, loss, device
    )
    better = np.greater if HIGHER_IS_BETTER[monitor] else np.less
    kept: tuple[float, Linear, Validation] | None = None
    tried = []
    for number, fitted in enumerate(
        fit_logistic(features.train, targets, num_classes=dataset.num_classes, weights=importance)
    ):
        _set_layer(layer, fitted)
        scores = validate(network.head, val, loss, dataset.task, config.output_activation)
        score = scores.value(monitor)
        if held_out is not None:
            on_val = _losses(predict_logits(network.head, val), val_targets, loss, device)
            score = float(np.concatenate([on_val, held_out[number]]).mean())
        tried.append(f"{fitted.penalty:g}: {score:.4f}")
        if kept is not None and not better(score, kept[0]):
            break
        kept = (score, fitted, scores)
    assert kept is not None
    _, fitted, scores = kept
    _set_layer(layer, fitted)
    train = FeatureBatches(
        features.train[:, :1], targets, task=dataset.task, device=device, batch_size=4096
    )
    trained = validate(network.head, train, loss, dataset.task, config.output_activation)
    check_backbone(network)
    seconds = time.perf_counter() - began
    record = EpochRecord(
        epoch=1,
        loss=trained.loss,
        accuracy=trained.accuracy,
        val_loss=scores.loss,
        val_accuracy=scores.accuracy,
        lr=0.0,
        seconds=seconds,
        ms_per_step=1000 * seconds,
        images_per_s=len(targets) / seconds,
        val_auc=scores.auc,
        val_balanced_acc=scores.balanced_accuracy,
    )
    reason = (
        f"logistic regression with penalty {fitted.penalty:g}, the best of {len(tried)} tried by "
        f"{monitor if held_out is None else 'the loss'} on {judge} ({'; '.join(tried)})"
    )
    if say is not None:
        say(f"Head: {reason}; validation accuracy {scores.accuracy:.4f}, {seconds:.1f} s")
    return FitResult(
        best_epoch=0,
        best_value=scores.value(monitor),
        epochs_run=0,
        stop_reason=reason,
        seconds=seconds,
        history=(record,),
        precision="32-true",
        precision_reason="logistic regression in float32",
        micro_batch=None,
        reproducibility=reproducibility(device, config.deterministic),
    )


def _held_out(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    prepared: Prepared,
    features: Features,
    importance: NDArray[np.float64] | None,
    loss: Any,
    device: torch.device,
) -> tuple[NDArray[np.float64] | None, str]:
    """Losses (penalties, n) of training images by heads that did not see them; and who judges.

    None where validation is large enough, the monitor is no loss, or copies or synthetic images
    would stand in two folds.
    """
    num_val = len(features.val)
    words = f"{num_val:,} validation images"
    targets = prepared.targets[features.rows]
    if (
        num_val >= FEW_TO_JUDGE
        or (config.monitor or "val_loss") != "val_loss"
        or prepared.num_synthetic
    ):
        return None, words
    places = {int(row): place for place, row in enumerate(prepared.train.rows)}
    rows = split.train[[places[int(row)] for row in features.rows]]
    groups = None if dataset.groups is None else [dataset.groups[row] for row in rows]
    found: list[NDArray[np.float64]] = []
    for fitted_on, held in _folds(targets, groups, config.seed):
        shares = None if importance is None else importance[fitted_on]
        heads = fit_logistic(
            features.train[fitted_on], targets[fitted_on],
            num_classes=dataset.num_classes, weights=shares,
        )  # fmt: skip
        vectors = features.train[held, 0]
        logits = (vectors @ head.weight.T + head.bias for head in heads)
        found.append(np.stack([_losses(each, targets[held], loss, device) for each in logits]))
    if not found:
        return None, words
    return np.concatenate(found, axis=1), f"{words} and {len(found)} folds of train"


def _folds(
    targets: NDArray[np.int64], groups: list[str] | None, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
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


def _losses(
    logits: NDArray[np.float32], targets: NDArray[np.int64], loss: Any, device: torch.device
) -> NDArray[np.float64]:
    """The training loss of each image, class weights included."""
    wanted = torch.from_numpy(targets).to(device)
    given = torch.from_numpy(logits).float().to(device)
    losses: NDArray[np.float64] = (
        loss(given, wanted.float() if targets.ndim == 2 else wanted).double().cpu().numpy()
    )
    return losses


def _set_layer(layer: nn.Linear, fitted: Linear) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.weight))
        layer.bias.copy_(torch.from_numpy(fitted.bias))


def _importance(prepared: Prepared, features: Features) -> NDArray[np.float64] | None:
    """How much each training image counts, (n,) or (n, k): its own weight times its class's.

    With several labels an image, the weight is that of the label's positives, as in the loss.
    """
    targets = prepared.targets[features.rows]
    weights = None if prepared.weights is None else prepared.weights[features.rows]
    of_class = prepared.class_weights
    if of_class is None:
        return None if weights is None else weights.astype(np.float64)
    result: NDArray[np.float64] = (
        np.where(targets > 0, of_class, 1.0) if targets.ndim == 2 else of_class[targets]
    )
    return result if weights is None else (result.T * weights).T
