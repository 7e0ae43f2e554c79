"""Each schedule against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from scanwise.core.errors import ConfigError
from scanwise.training.schedule import (
    PLATEAU_FACTOR,
    PLATEAU_FLOOR,
    PLATEAU_PATIENCE,
    Plateau,
    Schedule,
)

EPOCHS, STEPS, LR = 8, 5, 0.02


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LR)


def rates_of_torch(scheduler: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def ours(name: str, warmup: int = 0) -> list[float]:
    schedule = Schedule(name, LR, EPOCHS, STEPS, warmup)
    return [schedule.at(step).lr for step in range(EPOCHS * STEPS)]


def test_cosine_is_torchs() -> None:
    theirs = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=EPOCHS * STEPS)
    assert ours("cosine") == pytest.approx(rates_of_torch(theirs, EPOCHS * STEPS))


def test_step_is_the_medmnist_reference() -> None:
    theirs = lr_scheduler.MultiStepLR(optimizer(), milestones=[4, 6], gamma=0.1)
    each_epoch = rates_of_torch(theirs, EPOCHS)
    assert ours("step") == pytest.approx([rate for rate in each_epoch for _ in range(STEPS)])


@pytest.mark.parametrize(("warmup", "rise"), [(0, 0.3), (2, 0.25)])
def test_onecycle_is_torchs_rate_and_momentum(warmup: int, rise: float) -> None:
    schedule = Schedule("onecycle", LR, EPOCHS, STEPS, warmup)
    given = optimizer()
    theirs = lr_scheduler.OneCycleLR(given, LR, total_steps=EPOCHS * STEPS, pct_start=rise)
    for step in range(EPOCHS * STEPS):
        rates = schedule.at(step)
        assert rates.lr == pytest.approx(given.param_groups[0]["lr"])
        assert rates.momentum == pytest.approx(given.param_groups[0]["betas"][0])
        given.step()
        if step + 1 < EPOCHS * STEPS:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_onecycle_of_a_handful_of_steps_stays_below_its_peak(steps: int) -> None:
    schedule = Schedule("onecycle", LR, 1, steps)
    assert all(0 < schedule.at(step).lr <= LR for step in range(steps))


def test_warm_up_rises_linearly_then_cosine_takes_the_rest() -> None:
    rates = ours("cosine", warmup=2)
    assert rates[:10] == pytest.approx([LR * (step + 1) / 10 for step in range(10)])
    theirs = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=30)
    assert rates[10:] == pytest.approx(rates_of_torch(theirs, 30))


def test_none_is_constant() -> None:
    assert set(ours("none")) == {LR}


def test_warm_up_can_not_fill_the_training() -> None:
    with pytest.raises(ConfigError, match="warmup=8 must be below epochs=8"):
        Schedule("cosine", LR, EPOCHS, STEPS, warmup=8)


def test_plateau_is_torchs() -> None:
    losses = [5, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3.5, 2, 2.5, 2.5, 2.5]
    given = optimizer()
    theirs = lr_scheduler.ReduceLROnPlateau(
        given, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE - 1, threshold=0
    )
    plateau, best = Plateau(), float("inf")
    for loss in losses:
        plateau, best = plateau.after(improved=loss < best), min(best, loss)
        theirs.step(loss)
        assert LR * plateau.scale == pytest.approx(given.param_groups[0]["lr"])
    assert plateau.scale < 0.2  # it did fall


def test_plateau_has_a_floor() -> None:
    plateau = Plateau()
    for _ in range(200):
        plateau = plateau.after(improved=False)
    assert plateau.scale == PLATEAU_FLOOR
