"""The settings of one training, as the loop takes them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from scanwise.core.config import (
    Mix,
    Monitor,
    Optimizer,
    Precision,
    Scheduler,
    Settings,
    TrainConfig,
)


class LoopSettings(Settings):
    """All that moves the weights, but for the data, the model and the loss."""

    epochs: int = Field(default=20, ge=1, description="Passes over train.")
    lr: float = Field(default=1e-3, gt=0, le=10, description="(Peak) learning rate.")
    optimizer: Optimizer = Field(default="adamw", description="Optimiser.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="Not on norms and biases.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of SGD.")
    scheduler: Scheduler = Field(default="none", description="Learning-rate schedule.")
    warmup: int = Field(default=0, ge=0, description="Epochs of linear warm-up.")
    patience: int = Field(
        default=0, ge=0, description="Epochs without improvement; 0 = never stop."
    )
    monitor: Monitor = Field(default="val_loss", description="What picks the best epoch.")
    ema: bool = Field(default=False, description="Validate and keep averaged weights.")
    ema_decay: float = Field(default=0.99, ge=0, lt=1, description="Decay of the average per step.")
    mix: Mix = Field(default="none", description="Mixtures of two images to train on.")
    seed: int = Field(
        default=0, ge=0, le=2**31 - 1, description="Of dropout; see `Batches` for data."
    )
    precision: Precision = Field(default="auto", description="Arithmetic of the passes.")
    channels_last: bool = Field(default=False, description="Memory order of images and kernels.")
    deterministic: bool = Field(default=False, description="Deterministic kernels on GPUs.")
    output_activation: Literal["auto", "softmax", "sigmoid"] = Field(
        default="auto", description="What makes probabilities of logits, for val_auc."
    )
    explain: bool = Field(default=False, description="Gloss each term of the epoch line.")
    micro_batch: int | None = Field(
        default=None, ge=1, description="Images a pass at most; the gradient is the batch's."
    )

    @model_validator(mode="after")
    def _warmup_ends_before_training_does(self) -> Self:
        if self.warmup >= self.epochs and self.warmup > 0:
            raise ValueError(f"warmup={self.warmup} must be below epochs={self.epochs}.")
        return self


def loop_settings(
    config: TrainConfig, *, channels_last: bool = False, micro_batch: int | None = None
) -> LoopSettings:
    """The loop's part of a resolved config; what the plan left open takes the loop's default."""
    shared = LoopSettings.model_fields.keys() & TrainConfig.model_fields.keys()
    said = {name: getattr(config, name) for name in shared}
    given = {name: value for name, value in said.items() if value is not None}
    return LoopSettings(**given, channels_last=channels_last, micro_batch=micro_batch)
