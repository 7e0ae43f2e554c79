"""Second stage of transfer learning: unfreeze blocks of the backbone, keep it if validation gains.

Rates are discriminative: the head and the last block learn at a tenth of the first stage's rate,
each block before at 0.7 of the one after it (Howard and Ruder, ACL 2018, arXiv:1801.06146, use
1 / 2.6). BatchNorm statistics stay those of the pretrained network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ScanwiseError
from scanwise.core.types import Dataset, Interval, Split
from scanwise.deploy.bundle import class_logits
from scanwise.metrics.calibration import apply_temperature
from scanwise.metrics.paired import paired_gain
from scanwise.models.backbones import TransferNet, unfreezable_blocks
from scanwise.pipeline.budget import Budget, whole
from scanwise.pipeline.prepared import Prepared
from scanwise.pipeline.tracking import Listener, OnEpoch
from scanwise.pipeline.transfer import loss_of
from scanwise.training.loop import fit
from scanwise.training.settings import loop_settings
from scanwise.training.stopping import Watch
from scanwise.training.validation import predict_logits, validate

RATE = 0.1  # of the first stage's
BLOCK_DECAY = 0.7
TINY = 1e-12  # of probabilities, in the log-loss


@dataclass(frozen=True)
class Stage:
    """One stage of fine-tuning: what was unfrozen, and what it brought on validation."""

    blocks: int
    blocks_in_all: int
    parameters: int
    epochs_run: int
    seconds: float
    before: float  # the monitored measure
    after: float
    monitor: str
    kept: bool
    accuracy_gain: Interval
    log_loss_gain: Interval  # mean fall of the log-loss

    def to_json(self) -> dict[str, Any]:
        return {
            **{k: v for k, v in self.__dict__.items() if not k.endswith("_gain")},
            "accuracy_gain": self.accuracy_gain.to_json(),
            "log_loss_gain": self.log_loss_gain.to_json(),
        }

    def describe(self) -> str:
        """One line for people."""
        verdict = "kept" if self.kept else "undone: validation did not improve"
        gain = self.accuracy_gain.signed()
        return (
            f"Fine-tuning the last {self.blocks} of {self.blocks_in_all} blocks "
            f"({self.parameters:,} parameters): {self.monitor} {self.before:.4f} → "
            f"{self.after:.4f}, {verdict}; on validation accuracy gains {gain}, "
            f"log-loss falls by {self.log_loss_gain.signed()}"
        )


def finetune(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    prepared: Prepared,
    network: TransferNet,
    *,
    run_dir: Path | None,
    resume: bool,
    say: Callable[[str], None] | None,
    budget: Budget | None = None,
    tracking: Listener | None = None,
) -> tuple[Stage, ...]:
    """Train more and more of the network; each stage is kept only if validation improves.

    The network holds the best weights in the end, and the backbone is frozen again.

    Raises:
        ScanwiseError: As `fit`; a stage that diverges is undone instead.
    """
    blocks = unfreezable_blocks(network.backbone)
    stages: list[Stage] = []
    counts = _plan(str(config.finetune), len(blocks))
    for number, count in enumerate(counts, start=1):
        name = f"finetune-{number}"
        folder = None if run_dir is None else run_dir / name
        allowance = None if budget is None else (budget, name, 1 / (len(counts) - number + 1))
        on_epoch = None if tracking is None else tracking.on_epoch(name)
        stage = _stage(
            config, dataset, split, prepared, network, blocks, count, folder, resume, say,
            allowance, on_epoch,
        )  # fmt: skip
        if stage is None:  # no time for it, as the budget said
            break
        stages.append(stage)
        if say is not None:
            say(stage.describe())
    network.backbone.requires_grad_(False)
    return tuple(stages)


def _plan(mode: str, num_blocks: int) -> list[int]:
    """How many blocks from the end each stage trains."""
    if mode.startswith("last:"):
        return [min(int(mode[5:]), num_blocks)]
    if mode == "full":
        return [num_blocks]
    # Gradual: the last block, a third of them, all.
    return sorted({1, max(1, round(num_blocks / 3)), num_blocks})


def _stage(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    prepared: Prepared,
    network: TransferNet,
    blocks: list[list[torch.nn.Parameter]],
    count: int,
    folder: Path | None,
    resume: bool,
    say: Callable[[str], None] | None,
    allowance: tuple[Budget, str, float] | None,
    on_epoch: OnEpoch | None,
) -> Stage | None:
    network.to(prepared.train.device)
    loss = loss_of(config, dataset, prepared).to(prepared.train.device)
    monitor = config.monitor or "val_loss"
    held = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    before = validate(network, prepared.val, loss, dataset.task, config.output_activation)
    before_logits = predict_logits(network, prepared.val)
    settings = loop_settings(config).model_copy(
        update={"lr": float(config.lr or 1e-4) * RATE, "ema": False}
    )
    for block in blocks[-count:]:
        for parameter in block:
            parameter.requires_grad_(True)
    scales = _scales(network, blocks, count)
    plan = whole(settings, prepared.train)
    if allowance is not None:
        budget, name, share = allowance
        shortened = budget.shorten_or_skip(
            name, network, prepared.train, prepared.val, loss, dataset.task, settings, share=share
        )
        if shortened is None:
            return None
        plan = shortened
    epochs, seconds, value = 0, 0.0, before.value(monitor)
    after_logits, better = before_logits, False
    try:
        result = fit(
            network,
            plan.train,
            prepared.val,
            loss_fn=loss,
            task=dataset.task,
            settings=plan.settings,
            stop_when=plan.stop_when,
            run_dir=folder,
            resume=resume,
            on_epoch=on_epoch,
            stream=None if say is None else sys.stderr,
            lr_scales=scales,
        )
    except ScanwiseError as error:
        if "diverge" not in str(error):
            raise
        if say is not None:
            say(f"fine-tuning diverged and is undone: {error}")
    else:
        epochs, seconds, value = result.epochs_run, result.seconds, result.best_value
        after_logits = predict_logits(network, prepared.val)
        better = Watch(monitor, 0, 1, before.value(monitor)).is_better(value)
    if not better:
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                tensor.copy_(held[name])
    gains = _gains(config, dataset, split, before_logits, after_logits)
    return Stage(
        blocks=count,
        blocks_in_all=len(blocks),
        parameters=sum(p.numel() for p in network.parameters() if p.requires_grad),
        epochs_run=epochs,
        seconds=seconds,
        before=before.value(monitor),
        after=value,
        monitor=monitor,
        kept=better,
        accuracy_gain=gains[0],
        log_loss_gain=gains[1],
    )


def _scales(
    network: TransferNet, blocks: list[list[torch.nn.Parameter]], count: int
) -> dict[str, float]:
    """Factor of the learning rate by parameter name."""
    depth = {
        parameter: age for age, block in enumerate(reversed(blocks[-count:])) for parameter in block
    }
    return {
        name: BLOCK_DECAY ** depth.get(parameter, 0)
        for name, parameter in network.named_parameters()
    }


def _gains(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    before: NDArray[np.float32],
    after: NDArray[np.float32],
) -> tuple[Interval, Interval]:
    targets = dataset.targets[split.val]
    groups = None if dataset.groups is None else tuple(dataset.groups[row] for row in split.val)
    scores = [_scores(config, dataset, logits, targets) for logits in (before, after)]
    strata = np.zeros(len(targets), np.int64) if targets.ndim == 2 else targets
    accuracy, log_loss = (
        paired_gain(first, second, strata, groups=groups)
        for first, second in zip(*scores, strict=True)
    )
    return accuracy, log_loss


def _scores(
    config: TrainConfig, dataset: Dataset, logits: NDArray[np.float32], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right (1) or wrong (0), multi-label the share of right labels; and minus the log-loss."""
    read = class_logits(logits, dataset.task, config.output_activation)
    shares = apply_temperature(read, 1.0, dataset.task).clip(TINY, 1 - TINY)
    if dataset.task == "multilabel":
        right = ((shares > 0.5) == (targets > 0.5)).mean(axis=1)
        chosen = np.where(targets > 0.5, shares, 1 - shares)
        return right, np.log(chosen).mean(axis=1)
    rows = np.arange(len(targets))
    right = (shares.argmax(axis=1) == targets).astype(np.float64)
    return right, np.log(shares[rows, targets])
