"""One optimiser and one step of it; a step that runs out of memory is retried in smaller parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scanwise.core.errors import ScanwiseError
from scanwise.core.types import Task
from scanwise.models.shared_batchnorm import Presence
from scanwise.training.device import (
    LossFunction,
    ModelCost,
    free_cached_memory,
    is_out_of_memory,
)
from scanwise.training.mixing import Partners
from scanwise.training.schedule import Rates
from scanwise.training.settings import LoopSettings
from scanwise.training.team import ALONE, Team


def make_optimizer(
    model: nn.Module, settings: LoopSettings, lr_scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over the trainable parameters, fused where torch has it.

    Weight decay acts on matrices and kernels only, in all three: on biases and normalisation scales
    it costs accuracy and regularises nothing (He et al. 2019, arXiv:1812.01187, section 3.1).

    Args:
        model: Its parameters that require gradients are trained.
        settings: Optimiser, rate and decay.
        lr_scales: Name of a parameter to the factor of its rate [1 for all].

    Raises:
        ScanwiseError: If nothing is trainable.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ScanwiseError(f"{type(model).__name__} has no trainable parameter.")
    scales = {
        parameter: (lr_scales or {}).get(name, 1.0) for name, parameter in model.named_parameters()
    }
    # As few groups as can be: one group less is one kernel less in each step.
    by_rule: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in trainable:
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        by_rule.setdefault((scales[parameter], decay), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (scale, decay), parameters in by_rule.items()
    ]
    options: dict[str, Any] = {"lr": settings.lr}
    makers: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    make = makers[settings.optimizer]
    try:
        made: torch.optim.Optimizer = make(groups, fused=True, **options)
    except RuntimeError:  # a device or dtype that has no fused kernel
        made = make(groups, **options)
    return made


def set_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Give the optimiser its learning rate, and its momentum where the schedule moves it."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr * group.get("lr_scale", 1.0)
        if rates.momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (rates.momentum, group["betas"][1])
        elif group.get("momentum"):
            group["momentum"] = rates.momentum


def count_hits(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Right images of a batch; multi-label: summed shares of right labels at 0.5."""
    if task == "multilabel":
        return ((logits >= 0) == (targets > 0.5)).float().mean(dim=1).sum()
    return (logits.argmax(dim=1) == targets).sum()


@dataclass(frozen=True, eq=False)
class StepResult:
    """Sums over the images of a step, left on the device."""

    loss: Tensor
    hits: Tensor


class Stepper:
    """Forward and backward passes of one batch, in parts of `micro_batch` images at most.

    The gradient is that of the whole batch's mean loss, however many parts it takes; only BatchNorm
    sees the parts. When memory runs out, the part is halved, BatchNorm's statistics and the random
    state are put back, and the same batch is tried again.
    """

    def __init__(
        self,
        forward: nn.Module,
        model: nn.Module,
        loss_fn: LossFunction,
        backward: Callable[[Tensor], None],
        task: Task,
        cost: ModelCost,
        micro_batch: int | None,
        say: Callable[[str], None],
        team: Team = ALONE,
        presence: Presence | None = None,
    ) -> None:
        """Prepare.

        Args:
            forward: The model as wrapped for device and precision.
            model: The model itself.
            loss_fn: Loss per image.
            backward: What to call instead of `loss.backward()`.
            task: For counting hits.
            cost: For the message when nothing fits.
            micro_batch: Images a pass at most; None for the whole batch.
            say: Where to announce a smaller part.
            team: The processes of the step; `backward` averages the gradient over them.
            presence: Of this process, as BatchNorm shall know it.
        """
        self._forward = forward
        self._model = model
        self._loss_fn = loss_fn
        self._backward = backward
        self._task = task
        self._cost = cost
        self.micro_batch = micro_batch
        self._say = say
        self._team = team
        self._presence = presence or Presence()
        self._buffers = list(model.buffers())
        self._saved = [buffer.clone() for buffer in self._buffers]

    def run(
        self,
        images: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        whole: int | None = None,
        partners: Partners | None = None,
    ) -> StepResult:
        """Leave the batch's gradient in the parameters, whose gradients were None.

        Args:
            images: Of this process, (b, c, h, w).
            targets: Theirs.
            weights: Theirs in the loss.
            whole: Images of the step in all processes [b]. Where they are fewer than the processes,
                those of the later ones count neither in the gradient nor in BatchNorm nor as hits.
            partners: The second image of each, where they are mixtures. Hits are those on the
                first.

        Raises:
            ScanwiseError: If one image alone does not fit in memory; with several processes, if
                this one's share does not.
        """
        count = len(images) if whole is None else whole / self._team.size
        self._presence.counts = whole is None or self._team.rank < whole
        random_state = self._save(images.device)
        while True:
            try:
                return self._passes(images, targets, weights, partners, count)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if self._team.size > 1:  # the others are waiting in the middle of the pass
                raise ScanwiseError(
                    f"out of memory with {len(images)} images a process ({self._estimate()}): "
                    f"{reason}. Lower --batch-size, or raise --devices or --nodes."
                )
            # Out of the except block, so that the traceback no longer holds the activations.
            self._restore(images.device, random_state)
            self._halve(images, reason)

    def _passes(
        self,
        images: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        partners: Partners | None,
        count: float,
    ) -> StepResult:
        if self.micro_batch is None or len(images) <= self.micro_batch:
            return self._pass(images, targets, weights, partners, count)
        parts = math.ceil(len(images) / self.micro_batch)
        results = [
            self._pass(*part, count)
            for part in zip(
                images.tensor_split(parts),
                targets.tensor_split(parts),
                [None] * parts if weights is None else weights.tensor_split(parts),
                [None] * parts if partners is None else partners.split(parts),
                strict=True,
            )
        ]
        return StepResult(
            torch.stack([result.loss for result in results]).sum(),
            torch.stack([result.hits for result in results]).sum(),
        )

    def _pass(
        self,
        images: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        partners: Partners | None,
        count: float,
    ) -> StepResult:
        """One pass over images of a step that has `count` in each process, on average."""
        logits = self._forward(images)
        losses = self._losses(logits, targets, weights)
        if partners is not None:
            others = self._losses(logits, partners.targets, partners.weights)
            losses = torch.lerp(others, losses, partners.share)
        loss, size = losses.mean(), len(images)
        self._backward(loss if size == count else loss * (size / count))
        hits = count_hits(logits.detach(), targets, self._task)
        return StepResult(loss.detach() * size, hits if self._presence.counts else hits * 0)

    def _losses(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        losses = self._loss_fn(logits, targets)
        return losses if weights is None else losses * weights

    def _save(self, device: torch.device) -> Tensor | None:
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._saved, self._buffers)
        return _random_state(device)

    def _restore(self, device: torch.device, random_state: Tensor | None) -> None:
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._saved)
        for parameter in self._model.parameters():
            parameter.grad = None
        if random_state is not None:
            _set_random_state(device, random_state)
        free_cached_memory(device)

    def _halve(self, images: Tensor, reason: str) -> None:
        size = min(self.micro_batch or len(images), len(images))
        height, width = images.shape[-2:]
        if size == 1:
            raise ScanwiseError(
                f"out of memory with one image of {height}x{width} px at a time "
                f"({self._estimate()}): {reason}. Make the images smaller (--size), choose a "
                "smaller --model, or free memory."
            )
        self.micro_batch = size // 2
        self._say(
            f"out of memory with {size} images of {height}x{width} px at a time; going on with "
            f"{self.micro_batch} (gradients are accumulated, the batch stays {len(images)})"
        )

    def _estimate(self) -> str:
        weights = self._cost.parameter_bytes * 4 / 2**20
        image = self._cost.activation_bytes / 2**20
        activations = "unknown" if math.isnan(image) else f"about {image:.0f} MiB"
        return (
            f"weights, gradients and optimiser need about {weights:.0f} MiB, each image's "
            f"activations {activations}"
        )


def _random_state(device: torch.device) -> Tensor | None:
    """State of the generator that dropout on `device` draws from."""
    if device.type == "cpu":
        return torch.get_rng_state()
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return None


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    elif device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
