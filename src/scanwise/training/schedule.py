"""The learning rate as a pure function of the step, and the plateau rule as a frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scanwise.core.config import Scheduler
from scanwise.core.errors import ConfigError

# Halve after three epochs in a row without improvement; early stopping (patience 5) comes later.
PLATEAU_FACTOR = 0.5
PLATEAU_PATIENCE = 3
PLATEAU_FLOOR = 1e-3  # of the first rate

# Smith and Topin 2017, arXiv:1708.07120, with the shape and numbers of torch's OneCycleLR.
ONECYCLE_RISE = 0.3  # share of the steps, unless `warmup` says how many epochs
ONECYCLE_FIRST = 1 / 25  # of the peak
ONECYCLE_LAST = 1 / 25 / 1e4  # of the peak
ONECYCLE_MOMENTUM = (0.95, 0.85)  # at the ends, at the peak


@dataclass(frozen=True)
class Rates:
    """What the optimiser gets for one step. `momentum` is Adam's beta1; None leaves it alone."""

    lr: float
    momentum: float | None = None


@dataclass(frozen=True)
class Schedule:
    """The rate at each step of a training whose length is known.

    `cosine` falls to zero at the last step (Loshchilov and Hutter 2017, arXiv:1608.03983), `step`
    multiplies by 0.1 at 50 % and 75 % of the epochs (the MedMNIST reference), `onecycle` rises to
    `peak_lr` and falls to almost zero, momentum the other way round; `none` and `plateau` are
    constant here (`Plateau` scales the latter). `warmup` epochs of linear rise come first.

    Raises:
        ConfigError: If warm-up would fill the whole training.
    """

    name: Scheduler
    peak_lr: float
    epochs: int
    steps_per_epoch: int
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup >= self.epochs and self.warmup > 0:
            raise ConfigError(f"warmup={self.warmup} must be below epochs={self.epochs}.")

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def at(self, step: int) -> Rates:
        """Rates of step `step`, which counts from 0 over the whole training."""
        if self.name == "onecycle":
            return self._onecycle(step)
        warm = self.warmup * self.steps_per_epoch
        if step < warm:
            return Rates(self.peak_lr * (step + 1) / warm)
        if self.name == "cosine":
            share = (step - warm) / (self.total_steps - warm)
            return Rates(self.peak_lr * (1 + math.cos(math.pi * share)) / 2)
        if self.name == "step":
            done = (step // self.steps_per_epoch) / self.epochs
            return Rates(self.peak_lr * 0.1 ** ((done >= 0.5) + (done >= 0.75)))
        return Rates(self.peak_lr)

    def _onecycle(self, step: int) -> Rates:
        rise = self.warmup / self.epochs if self.warmup else ONECYCLE_RISE
        top = rise * self.total_steps - 1
        end = self.total_steps - 1
        high, low = ONECYCLE_MOMENTUM
        if step <= top:
            share = step / top if top > 0 else 1.0
            lr = _cosine_between(ONECYCLE_FIRST, 1.0, share)
            return Rates(self.peak_lr * lr, _cosine_between(high, low, share))
        share = (step - top) / (end - top) if end > top else 1.0
        lr = _cosine_between(1.0, ONECYCLE_LAST, share)
        return Rates(self.peak_lr * lr, _cosine_between(low, high, share))


@dataclass(frozen=True)
class Plateau:
    """Scale of the rate under `plateau`: halved when the monitored value stalls."""

    scale: float = 1.0
    waited: int = 0

    def after(self, improved: bool) -> Plateau:
        """The scale for the next epoch."""
        if improved:
            return replace(self, waited=0)
        if self.waited + 1 < PLATEAU_PATIENCE:
            return replace(self, waited=self.waited + 1)
        return Plateau(scale=max(self.scale * PLATEAU_FACTOR, PLATEAU_FLOOR))


def _cosine_between(start: float, end: float, share: float) -> float:
    """From `start` (share 0) to `end` (share 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
