"""Which epoch is best and when training stops."""

from __future__ import annotations

import math

import pytest

from scanwise.training.stopping import Watch


def watch_all(watch: Watch, values: list[float]) -> tuple[Watch, int]:
    """The watch when it asks to stop (or after all values), and the epoch."""
    for epoch, value in enumerate(values, start=1):
        watch = watch.after(epoch, value)
        if watch.stop_reason():
            break
    return watch, epoch


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("val_loss", [3.0, 2.0, 2.5, 1.0, 1.0], 4),
        ("val_auc", [0.5, 0.9, 0.9, 0.8, 0.7], 2),  # of equal epochs the first
        ("val_accuracy", [math.nan, 0.2, math.nan, 0.1, 0.3], 5),
        ("val_balanced_acc", [0.4, 0.3, 0.2, 0.1, 0.0], 1),
    ],
)
def test_best_epoch_knows_the_direction(monitor: str, values: list[float], best: int) -> None:
    watch, _ = watch_all(Watch(monitor, patience=0), values)
    assert watch.best_epoch == best
    assert watch.best_value == values[best - 1]


def test_stops_after_patience_and_names_the_best_epoch() -> None:
    watch, epoch = watch_all(Watch("val_loss", patience=3), [5.0, 4.0, 4.5, 4.2, 4.1, 0.0])
    assert epoch == 5
    assert (
        watch.stop_reason()
        == "early stopping: no improvement since epoch 2 (val_loss 4.0000) in 3 epochs"
    )


def test_says_no_improvement_from_epoch_1() -> None:
    watch, epoch = watch_all(Watch("val_accuracy", patience=2), [0.5, 0.5, 0.4, 0.9])
    assert epoch == 3
    assert "no improvement from epoch 1 (val_accuracy 0.5000)" in str(watch.stop_reason())


def test_patience_0_never_stops() -> None:
    watch, epoch = watch_all(Watch("val_loss", patience=0), [1.0] * 50)
    assert epoch == 50
    assert watch.stop_reason() is None
