"""Which epoch is best, and when to stop, as a frozen value that each epoch replaces."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scanwise.core.config import Monitor

HIGHER_IS_BETTER: dict[Monitor, bool] = {
    "val_loss": False,
    "val_accuracy": True,
    "val_auc": True,
    "val_balanced_acc": True,
}


@dataclass(frozen=True)
class Watch:
    """The best epoch so far by a validation measure, and the epochs since.

    Only a strictly better value counts: of equal epochs the first is kept. NaN never does.
    """

    monitor: Monitor
    patience: int  # epochs without improvement before stopping; 0 = never stop
    best_epoch: int = 0  # 0: none yet
    best_value: float = math.nan
    waited: int = 0

    def after(self, epoch: int, value: float) -> Watch:
        """The watch when `epoch` (from 1) has ended with `value`."""
        if self.is_better(value):
            return replace(self, best_epoch=epoch, best_value=value, waited=0)
        return replace(self, waited=self.waited + 1)

    def is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self.best_epoch == 0:
            return True
        if HIGHER_IS_BETTER[self.monitor]:
            return value > self.best_value
        return value < self.best_value

    def stop_reason(self) -> str | None:
        """Why to stop now, in words for the report; None to go on."""
        if self.patience == 0 or self.waited < self.patience:
            return None
        epochs = "1 epoch" if self.waited == 1 else f"{self.waited} epochs"
        best = f"{self.monitor} {self.best_value:.4f}"
        if self.best_epoch == 1:
            return f"early stopping: no improvement from epoch 1 ({best}) in {epochs}"
        return f"early stopping: no improvement since epoch {self.best_epoch} ({best}) in {epochs}"
