"""Where a training stands between two epochs, as a value that JSON can carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scanwise.training.device import FabricPrecision
from scanwise.training.history import EpochRecord
from scanwise.training.schedule import Plateau
from scanwise.training.settings import LoopSettings
from scanwise.training.stopping import Watch


@dataclass(frozen=True)
class TrainingState:
    """With the tensors of a checkpoint, all that a resume needs."""

    epoch: int
    watch: Watch
    plateau: Plateau
    history: tuple[EpochRecord, ...]
    precision: FabricPrecision
    precision_reason: str
    micro_batch: int | None
    average_steps: int = 0
    stop_reason: str = ""

    def to_json(self) -> dict[str, Any]:
        best = self.watch.best_value
        return {
            "epoch": self.epoch,
            "watch": {
                "best_epoch": self.watch.best_epoch,
                "best_value": best if math.isfinite(best) else None,
                "waited": self.watch.waited,
            },
            "plateau": {"scale": self.plateau.scale, "waited": self.plateau.waited},
            "history": [record.to_json() for record in self.history],
            "precision": self.precision,
            "precision_reason": self.precision_reason,
            "micro_batch": self.micro_batch,
            "average_steps": self.average_steps,
            "stop_reason": self.stop_reason,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], settings: LoopSettings) -> TrainingState:
        watch = dict(value.pop("watch"))
        if watch["best_value"] is None:
            watch["best_value"] = math.nan
        return cls(
            watch=Watch(settings.monitor, settings.patience, **watch),
            plateau=Plateau(**value.pop("plateau")),
            history=tuple(EpochRecord.from_json(row) for row in value.pop("history")),
            **value,
        )


def identity(settings: LoopSettings, num_images: int, steps_per_epoch: int) -> dict[str, Any]:
    """What must not change between a training and its resumption, JSON-ready."""
    return settings.model_dump(exclude={"explain", "deterministic"}) | {
        "training images": num_images,
        "steps per epoch": steps_per_epoch,
    }
