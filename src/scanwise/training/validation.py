"""Logits of a whole split, and what validation makes of them; always float32, in eval mode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scanwise.core.config import Monitor
from scanwise.core.types import Task
from scanwise.metrics.ranks import auroc
from scanwise.models.losses import OutputActivation, probabilities
from scanwise.prepare.collected import Collected
from scanwise.training.device import LossFunction


class EvaluationStream(Protocol):
    """Batches in a fixed order."""

    device: torch.device

    def iterate(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]: ...


@dataclass(frozen=True)
class Validation:
    """Measures of one validation pass; NaN where one can't be computed."""

    loss: float
    accuracy: float
    auc: float
    balanced_accuracy: float

    def value(self, monitor: Monitor) -> float:
        return {
            "val_loss": self.loss,
            "val_accuracy": self.accuracy,
            "val_auc": self.auc,
            "val_balanced_acc": self.balanced_accuracy,
        }[monitor]


def predict_logits(model: nn.Module, batches: EvaluationStream) -> NDArray[np.float32]:
    """Logits of every image in order, float32 (n, k).

    In float32 whatever the training's precision was, so that the command line, Python and exported
    models agree. The model is moved to the device of the batches; its mode is left as it was.
    """
    with evaluating(model.to(batches.device)):
        logits = Collected()
        for images, _, _ in batches.iterate(0):
            logits.add(model(images).float())
        return logits.whole().cpu().numpy()


def validate(
    model: nn.Module,
    batches: EvaluationStream,
    loss_fn: LossFunction,
    task: Task,
    output_activation: OutputActivation = "auto",
) -> Validation:
    """Score a model on a split by the loss it is trained with, and by what users read.

    Returns:
        Loss averaged over images (times their weights); accuracy (multi-label: share of right
        labels); macro one-vs-rest AUROC over the classes that have positives and negatives;
        balanced accuracy over the classes that are there (multi-label: mean over labels of the mean
        of sensitivity and specificity).
    """
    answers, asked = Collected(), Collected()
    total = 0.0
    with evaluating(model):
        for images, targets, weights in batches.iterate(0):
            logits = model(images).float()
            losses = loss_fn(logits, targets)
            if weights is not None:
                losses = losses * weights
            # On the device's own clock: the sum is read once the logits are.
            answers.add(torch.cat([logits, losses[:, None]], dim=1))
            asked.add(targets)
        table, truth = answers.whole(), asked.whole().cpu().numpy()
        total = float(
            table[:, -1].double().mean() if table.device.type != "mps" else table[:, -1].mean()
        )
        shares = probabilities(table[:, :-1], task, output_activation).cpu().numpy()
    if task == "multilabel":
        positive = truth > 0.5
        predicted = shares >= 0.5
        accuracy = float((predicted == positive).mean())
        balanced = _mean_of_known(
            [_balanced(predicted[:, label], positive[:, label]) for label in range(shares.shape[1])]
        )
    else:
        positive = truth[:, None] == np.arange(shares.shape[1])
        right = shares.argmax(axis=1) == truth
        accuracy = float(right.mean())
        balanced = float(np.mean([right[truth == index].mean() for index in np.unique(truth)]))
    return Validation(total, accuracy, _macro_auroc(shares, positive), balanced)


def _macro_auroc(shares: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    if not np.isfinite(shares).all():
        return math.nan
    return _mean_of_known(
        [auroc(shares[:, index], positive[:, index]) for index in range(shares.shape[1])]
    )


def _balanced(predicted: NDArray[np.bool_], positive: NDArray[np.bool_]) -> float:
    """Mean of sensitivity and specificity; NaN if one of the two has no images."""
    if positive.all() or not positive.any():
        return math.nan
    return float(predicted[positive].mean() + (~predicted[~positive]).mean()) / 2


def _mean_of_known(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside; each submodule's mode as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
