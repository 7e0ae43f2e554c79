"""Losses per image, and the probabilities that go with them.

A loss is a module from logits (b, k) and targets to one value an image (b,), so that the caller can
weigh images and then divide by the batch size. Class weights multiply an image's loss and the mean
divides by the number of images, as Keras does; torch would divide by the sum of the weights. The
balanced weights n/(K·n_c) average 1 over the training split, so both have the same scale there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.core.errors import ConfigError
from scanwise.core.types import Finding, Task

LossName = Literal["auto", "ce", "focal", "logit_adjust"]
OutputActivation = Literal["auto", "softmax", "sigmoid"]


class SoftmaxLoss(nn.Module):
    """Cross-entropy of one class an image, optionally focal, smoothed, prior-adjusted, weighted.

    With smoothed target shares q and p = softmax(logits + shift), an image of class y costs
    w_y · Σ_c q_c (1 − p_c)^gamma (−log p_c); gamma = 0 and shift = 0 are plain cross-entropy.
    """

    def __init__(
        self,
        *,
        label_smoothing: float,
        focal_gamma: float,
        class_weights: Tensor | None,
        shift: Tensor | None,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.class_weights: Tensor | None
        self.shift: Tensor | None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()  # autocast hands over bf16, whose logarithms are too coarse
        if self.shift is not None:
            logits = logits + self.shift
        if self.focal_gamma == 0:
            losses = F.cross_entropy(
                logits, targets, reduction="none", label_smoothing=self.label_smoothing
            )
        else:
            losses = self._focal(logits, targets)
        return losses if self.class_weights is None else losses * self.class_weights[targets]

    def _focal(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1)
        terms = -log_p * _focus(log_p, self.focal_gamma)
        losses = terms.gather(1, targets[:, None]).squeeze(1)
        if self.label_smoothing > 0:
            losses = losses + self.label_smoothing * (terms.mean(dim=1) - losses)
        return losses


class SigmoidLoss(nn.Module):
    """Binary cross-entropy averaged over the k outputs, optionally focal, smoothed, weighted.

    Targets are (b, k) of 0 and 1, or with `one_vs_rest` class indices (b,). `positive_weights` (k,)
    multiply the positive term of each label; `class_weights` (k,) an image of that class. Smoothing
    moves both target values towards one half, as Keras does.
    """

    def __init__(
        self,
        *,
        label_smoothing: float,
        focal_gamma: float,
        weights: Tensor | None,
        one_vs_rest: bool,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.one_vs_rest = one_vs_rest
        self.register_buffer("weights", weights, persistent=False)
        self.weights: Tensor | None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        truth = F.one_hot(targets, logits.shape[1]) if self.one_vs_rest else targets
        positive = truth.to(logits.dtype)
        if self.label_smoothing > 0:
            positive = positive * (1 - self.label_smoothing) + self.label_smoothing / 2
        log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
        if_positive, if_negative = -log_p, -log_not_p
        if self.focal_gamma > 0:
            if_positive = if_positive * _focus(log_p, self.focal_gamma)
            if_negative = if_negative * _focus(log_not_p, self.focal_gamma)
        if self.weights is not None and not self.one_vs_rest:
            if_positive = if_positive * self.weights
        losses = (positive * if_positive + (1 - positive) * if_negative).mean(dim=1)
        if self.weights is not None and self.one_vs_rest:
            losses = losses * self.weights[targets]
        return losses


def make_loss(
    *,
    task: Task,
    loss: LossName = "auto",
    label_smoothing: float = 0.0,
    focal_gamma: float = 2.0,
    class_weights: Tensor | None = None,
    class_counts: Sequence[int] | Tensor | None = None,
    output_activation: OutputActivation = "auto",
) -> nn.Module:
    """The loss of a run: a module from logits (b, k) and targets to losses (b,) >= 0.

    Move it to the device of the logits (`.to(device)`): it carries its weights.

    Args:
        task: multiclass and ordinal take class indices (b,); multilabel takes 0 and 1 (b, k).
        loss: auto and ce are cross-entropy (binary per label for multilabel or sigmoid); focal
            multiplies it by (1 − p)^focal_gamma (Lin et al. 2017, arXiv:1708.02002, without its
            alpha, which class weights are); logit_adjust adds the log of the training priors to the
            logits in the loss only (Menon et al. 2021, arXiv:2007.07314, tau = 1), so that plain
            argmax afterwards is balanced.
        label_smoothing: Share in [0, 1) of the target spread over all classes.
        focal_gamma: Focus >= 0; 0 is cross-entropy. Used by focal only.
        class_weights: Factor of each class, float (k,); for multilabel of each label's positives.
        class_counts: Training images of each class (k,); logit_adjust needs them.
        output_activation: softmax, sigmoid (one-vs-rest for one class an image), or auto by task.

    Raises:
        ConfigError: A value out of range, or a combination that has no meaning.
    """
    sigmoid = output_kind(task, output_activation) == "sigmoid"
    _check_numbers(label_smoothing, focal_gamma)
    _check_name(loss)
    weights = None if class_weights is None else _checked_weights(class_weights)
    gamma = focal_gamma if loss == "focal" else 0.0
    if sigmoid:
        if loss == "logit_adjust":
            raise ConfigError(
                f"loss 'logit_adjust' shifts softmax logits; with {task} and sigmoid outputs use "
                "ce or focal, with class weights against imbalance."
            )
        return SigmoidLoss(
            label_smoothing=label_smoothing,
            focal_gamma=gamma,
            weights=weights,
            one_vs_rest=task != "multilabel",
        )
    return SoftmaxLoss(
        label_smoothing=label_smoothing,
        focal_gamma=gamma,
        class_weights=weights,
        shift=_log_priors(class_counts) if loss == "logit_adjust" else None,
    )


def output_kind(task: Task, output_activation: OutputActivation) -> Literal["softmax", "sigmoid"]:
    """Which activation turns logits into probabilities.

    Raises:
        ConfigError: softmax for labels that can hold together, or an unknown name.
    """
    if output_activation not in ("auto", "softmax", "sigmoid"):
        raise ConfigError(
            f"unknown output_activation '{output_activation}'; choose auto, softmax or sigmoid."
        )
    if task == "multilabel" and output_activation == "softmax":
        raise ConfigError(
            "output_activation 'softmax' makes labels exclude each other, but in a multi-label "
            "task several can hold at once; use sigmoid (or auto)."
        )
    if output_activation == "auto":
        return "sigmoid" if task == "multilabel" else "softmax"
    return output_activation


def probabilities(
    logits: Tensor, task: Task, output_activation: OutputActivation = "auto"
) -> Tensor:
    """Probabilities float32 (b, k) of logits (b, k).

    Multilabel: each label's sigmoid. Otherwise rows sum to 1: softmax, or for sigmoid outputs each
    class's sigmoid divided by their sum, which keeps their order.

    Raises:
        ConfigError: As output_kind.
    """
    kind = output_kind(task, output_activation)
    logits = logits.float()
    if task == "multilabel":
        return torch.sigmoid(logits)
    if kind == "softmax":
        return torch.softmax(logits, dim=1)
    # Equal to sigmoid / sum(sigmoid), without 0/0 where every class is sure to be absent.
    return torch.softmax(F.logsigmoid(logits), dim=1)


def loss_findings(
    *,
    task: Task,
    loss: LossName = "auto",
    class_weights: bool = False,
    output_activation: OutputActivation = "auto",
) -> tuple[Finding, ...]:
    """What to tell about a choice of loss that is allowed but seldom meant."""
    findings = []
    if task != "multilabel" and output_activation == "sigmoid":
        findings.append(
            Finding(
                code="L101",
                severity="warning",
                evidence=(
                    "sigmoid outputs with one class an image: each class is trained one-vs-rest "
                    "with binary cross-entropy, and the sigmoids are divided by their sum to give "
                    "probabilities."
                ),
                advice=(
                    "Softmax models classes that exclude each other and is the usual choice. A "
                    "published MLP on PathMNIST had 58.02 % with sigmoid against 60.54 % with "
                    "softmax, one seed each, which is too little to tell them apart."
                ),
                command="train --output-activation softmax",
            )
        )
    if loss == "logit_adjust" and class_weights:
        findings.append(
            Finding(
                code="L102",
                severity="warning",
                evidence="class weights and logit_adjust both correct for class imbalance.",
                advice="Corrected twice, rare classes are over-predicted; use one of them.",
                command="train --class-weights none",
            )
        )
    return tuple(findings)


def _focus(log_p: Tensor, gamma: float) -> Tensor:
    """(1 − p)^gamma of log p; held off zero, where a gamma below 1 has no finite slope."""
    return (-torch.expm1(log_p)).clamp_min(1e-12).pow(gamma)


def _check_numbers(label_smoothing: float, focal_gamma: float) -> None:
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"label_smoothing={label_smoothing} must lie in [0, 1).")
    if not 0 <= focal_gamma < float("inf"):
        raise ConfigError(f"focal_gamma={focal_gamma} must be 0 or more; 2 is usual.")


def _check_name(loss: str) -> None:
    if loss not in ("auto", "ce", "focal", "logit_adjust"):
        raise ConfigError(f"unknown loss '{loss}'; choose auto, ce, focal or logit_adjust.")


def _checked_weights(class_weights: Tensor) -> Tensor:
    weights = class_weights.detach().float().clone()
    if weights.ndim != 1 or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ConfigError(
            f"class_weights must be finite numbers >= 0, one a class; got {weights.tolist()}."
        )
    return weights


def _log_priors(class_counts: Sequence[int] | Tensor | None) -> Tensor:
    if class_counts is None:
        raise ConfigError("loss 'logit_adjust' needs class_counts of the training split.")
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    absent = (counts <= 0).nonzero().flatten().tolist()
    if absent:
        raise ConfigError(
            f"loss 'logit_adjust' needs training images of every class; class {absent[0]} has none."
        )
    return (counts / counts.sum()).log().float()
