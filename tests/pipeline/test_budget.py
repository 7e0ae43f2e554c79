"""--time-limit: what fits is planned before the schedule starts. No test looks at a real clock."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import scanwise as sw
from scanwise.core.config import TrainConfig, duration_text, make_config, parse_duration
from scanwise.core.errors import ConfigError
from scanwise.pipeline import budget as budget_module
from scanwise.pipeline.budget import REPORT_S, Budget, Measured, clock_decided
from scanwise.training.settings import LoopSettings


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Batches:
    """A stream of numbered batches."""

    device = torch.device("cpu")
    batch_size = 10

    def __init__(self, steps: int) -> None:
        self.steps_per_epoch, self.num_images = steps, 10 * steps

    def iterate(self, epoch: int = 0):
        return iter(
            [
                (torch.tensor([step]), torch.tensor([0]), None)
                for step in range(self.steps_per_epoch)
            ]
        )


def plan(limit_s, *, epoch_s=10.0, epochs=60, used_s=0.0, skip=False, **settings):
    """The plan of a phase whose epochs take 10 s: 9 s for 10 steps and 1 s for 20 val images."""
    clock, said = Clock(), []
    scale = epoch_s / 10
    budget = Budget(
        limit_s, num_val=20, num_test=20, say=said.append, clock=clock, started=-used_s,
        measure=lambda *_: Measured(0.9 * scale, 0.05 * scale, 0.0),
    )  # fmt: skip
    choose = budget.shorten_or_skip if skip else budget.shorten
    plan = choose(
        "train", None, Batches(10), Batches(2), None, "multiclass",
        LoopSettings(epochs=epochs, scheduler="onecycle", **settings),
    )  # fmt: skip
    return budget, clock, plan, said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2m30s", 150), ("1h", 3600), ("1.5m", 90), ("1h 5m", 3900)],
)
def test_times_are_read_with_their_units(text, seconds):
    assert parse_duration(text) == seconds
    assert parse_duration(duration_text(seconds)) == seconds
    config = make_config({"time_limit": text})
    assert config.time_limit == seconds
    assert make_config(config.model_dump()) == config


@pytest.mark.parametrize("text", ["10", 600, "ten minutes", "", "0s", "-5m", "5m10", "s", True])
def test_a_time_without_its_unit_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"time_limit=.*10m"):
        make_config({"time_limit": text})


def test_as_many_epochs_as_fit_beside_evaluation_and_report():
    budget, _, found, said = plan(200.0, used_s=50.0)
    evaluation = 0.05 * (2 * 20 + 20)
    assert budget.reserve_s == pytest.approx(REPORT_S + evaluation)
    assert found.settings.epochs == int(0.9 * (150 - REPORT_S - evaluation) / 10)
    assert "11 of 60 epochs fit; the schedule is made for 11" in said[0]


def test_a_plan_that_fits_stays_as_it_was():
    _, _, found, said = plan(3600.0)
    assert found.settings.epochs == 60
    assert found.train.steps_per_epoch == 10
    assert "all 60 epochs fit" in said[0]


def test_warm_up_shrinks_with_the_epochs():
    _, _, found, _ = plan(100.0, warmup=20)
    assert found.settings.epochs == 7
    assert found.settings.warmup == 2


def test_less_than_an_epoch_is_one_short_epoch_and_says_so():
    _, _, found, said = plan(26.0)
    assert found.settings.epochs == 1
    assert found.train.steps_per_epoch == 6
    assert found.train.num_images == 60
    assert [int(images[0]) for images, _, _ in found.train.iterate(1)] == list(range(6))
    assert "not even one epoch fits" in said[0]
    assert "60 of 100 training images" in said[0]


def test_no_time_at_all_still_takes_a_few_steps():
    _, _, found, _ = plan(1.0, used_s=40.0)
    assert (found.settings.epochs, found.train.steps_per_epoch) == (1, 4)


def test_a_stage_that_can_be_left_out_is():
    assert plan(26.0, skip=True)[2] is None
    assert plan(100.0, skip=True)[2].settings.epochs == 7


def test_epochs_that_take_longer_than_measured_end_early_and_say_so():
    _, clock, found, _ = plan(200.0)
    assert found.settings.epochs == 16
    clock.now = 85.0
    record = type("Record", (), {"epoch": 1})
    assert found.stop_when(record) == ""
    clock.now = 160.0
    record.epoch = 2
    assert "2 of 16 fitted and the schedule did not reach its end" in found.stop_when(record)


def test_measuring_changes_neither_model_nor_generator(discs):
    from scanwise.models.build import as_model
    from scanwise.models.losses import make_loss
    from scanwise.pipeline.plan import make_plan
    from scanwise.pipeline.prepared import prepare
    from scanwise.pipeline.train import data_facts, load_data, split_and_check

    config = TrainConfig(data=str(discs), model="small_resnet:8", epochs=3)
    dataset = load_data(config)
    dataset, split, _ = split_and_check(dataset, config)
    config, _, _ = make_plan(config, data_facts(dataset, split))
    prepared = prepare(dataset, split, config, torch.device("cpu"))
    model = as_model("small_resnet:8", num_outputs=2, channels=1, size_px=(16, 16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    took = budget_module.measure_epoch(
        model, prepared.train, prepared.val, make_loss(task="multiclass"), "multiclass",
        LoopSettings(), 0.05,
    )  # fmt: skip
    assert min(took.step_s, took.val_image_s) > 0
    assert took.save_s >= 0
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor), name


@pytest.fixture
def slow(monkeypatch):
    """Every epoch seems to take 20 s of a clock that stands still."""

    def patch(epoch_s: float) -> None:
        def measure(model, train, val, *_):
            return Measured(epoch_s / train.steps_per_epoch, 0.0, 0.0)

        def frozen(config, split, run, say, started):
            if config.time_limit is None:
                return None
            return Budget(
                config.time_limit, num_val=len(split.val), num_test=len(split.test), run=run,
                say=say, clock=Clock(), started=0.0, measure=measure,
            )  # fmt: skip

        monkeypatch.setattr("scanwise.pipeline.train.open_budget", frozen)

    return patch


def test_a_run_is_planned_evaluated_and_says_that_a_clock_decided(discs, tmp_path, slow):
    slow(20.0)
    run = sw.train(
        discs, model="small_resnet:8", epochs=9, time_limit="2m", output=str(tmp_path / "run")
    )
    epochs = int(0.9 * (120 - REPORT_S) / 20)
    assert run.config.epochs == epochs == 4
    history = (run.path / "history.csv").read_text().splitlines()
    assert len(history) == 1 + epochs
    rates = [float(line.split(",")[5]) for line in history[1:]]
    # The one-cycle schedule falls to its end.
    assert rates[-1] < 1e-3 * max(rates)
    assert run.metrics["splits"]["test"]["n"] == 80
    plan = {row["setting"]: row for row in yaml.safe_load((run.path / "plan.yaml").read_text())}
    assert plan["epochs"]["value"] == epochs
    assert plan["epochs"]["source"] == "time limit"
    assert plan["time_limit"]["value"] == "2m"
    assert "4 of 9 epochs fit" in (run.path / "log.txt").read_text()
    facts = json.loads((run.path / "training.json").read_text())
    assert facts["reproducibility"].startswith("not bit-reproducible: a clock chose")
    assert "not bit-reproducible: a clock chose" in (run.path / "report.md").read_text()


def test_a_resumed_run_keeps_the_planned_epochs(discs, tmp_path, slow, monkeypatch):
    from scanwise.pipeline.train import resume
    from scanwise.training import loop

    slow(20.0)
    flags = {"model": "small_resnet:8", "epochs": 9, "time_limit": "2m", "warmup": 5}
    entire = sw.train(discs, **flags, output=str(tmp_path / "entire"))
    real = loop._Training.run_epoch

    def die(self, state):
        if state.epoch == 2 and self.run_dir is not None:
            raise KeyboardInterrupt
        return real(self, state)

    monkeypatch.setattr(loop._Training, "run_epoch", die)
    with pytest.raises(KeyboardInterrupt):
        sw.train(discs, **flags, output=str(tmp_path / "cut"))
    monkeypatch.setattr(loop._Training, "run_epoch", real)
    slow(1.0)  # now nine epochs would fit
    cut = resume(tmp_path / "cut")
    assert cut.config.epochs == 4
    weights = [run.bundle / "model.safetensors" for run in (entire, cut)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_budget_below_one_epoch_leaves_an_evaluated_model(discs, tmp_path, slow):
    slow(1000.0)
    run = sw.train(discs, model="small_resnet:8", time_limit="30s", output=str(tmp_path / "run"))
    assert run.metrics["splits"]["test"]["n"] == 80
    assert run.report.is_file()
    assert "not even one epoch fits: one short epoch instead" in (run.path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("vector_s", "views", "images"), [(0.1, 2, 240), (0.4, 1, 97), (99.0, 1, 16)]
)
def test_a_pretrained_run_takes_fewer_views_then_fewer_images(
    discs, tiny_hub, tmp_path, slow, monkeypatch, vector_s, views, images
):
    slow(1e-3)
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(budget_module, "time_vector", lambda *_: vector_s)
    run = sw.train(
        discs, model=f"hf:{tiny_hub}", epochs=2, views=4, no_test=True, time_limit="2m",
        output=str(tmp_path / "run"),
    )  # fmt: skip
    decided = json.loads((run.path / "time_plan.json").read_text())["features"]
    assert decided["views"] == views
    if vector_s == 0.4:
        left = 0.8 * (120 - REPORT_S - 0.4 * 80) - 0.4 * 80
        images = int(left / 0.4)
    assert decided["images"] == images
    assert run.metrics["splits"]["val"]["n"] == 80


def test_a_part_of_the_rows_keeps_the_shares_of_the_classes():
    targets = np.repeat([0, 1, 2], [600, 300, 100])
    rows = 5 + np.arange(1000)
    part = budget_module._part_of(rows, targets, 100)
    assert np.bincount(targets[part - 5]).tolist() == [60, 30, 10]


def test_fine_tuning_without_time_for_an_epoch_is_left_out(
    discs, tiny_hub, tmp_path, slow, monkeypatch
):
    def measure(model, train, val, *_):
        slow_part = hasattr(train, "resident")  # images, not features
        return Measured(1e3 if slow_part else 1e-4, 0.0, 0.0)

    slow(1.0)
    monkeypatch.setattr(budget_module, "time_vector", lambda *_: 1e-4)
    make = budget_module.Budget.__init__

    def init(self, *args, **kwargs):
        make(self, *args, **kwargs | {"measure": measure})

    monkeypatch.setattr(budget_module.Budget, "__init__", init)
    run = sw.train(
        discs, model=f"hf:{tiny_hub}", epochs=2, views=1, finetune="full", time_limit="2m",
        output=str(tmp_path / "run"),
    )  # fmt: skip
    assert json.loads((run.path / "training.json").read_text())["finetune"] == []
    assert "this stage is left out" in Path(run.path / "log.txt").read_text()


def test_without_a_limit_the_line_stays():
    assert clock_decided("bit-identical", None) == "bit-identical"
