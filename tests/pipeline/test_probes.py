"""Each probe against its closed form; asking a network leaves it as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from torch import nn

from scanwise.pipeline.probes import (
    Answers,
    batch_mix,
    batch_statistics,
    moved,
    pixel_shift,
    variance_off,
    variances_seen,
    weights_of,
)
from scanwise.prepare.batches import Batches
from scanwise.prepare.preprocessing import Preprocessing


def stream(targets: np.ndarray, *, training: bool) -> Batches:
    form = Preprocessing(size_px=(8, 8), source_channels=1, channels=1, mean=(0.5,), std=(0.5,))
    pixels = np.zeros((len(targets), 8, 8, 1), np.uint8)
    return Batches(pixels, targets, form, batch_size=16, training=training, seed=3)


def test_random_batches_mix_and_sorted_ones_do_not() -> None:
    targets = np.sort(np.random.default_rng(0).integers(0, 3, 320))
    shuffled = batch_mix(stream(targets, training=True), targets)
    in_order = batch_mix(stream(targets, training=False), targets)
    assert shuffled is not None
    assert in_order is not None
    assert 0.5 < shuffled["ratio"] < 1.6
    assert in_order["ratio"] > 10
    table = np.stack([np.bincount(part, minlength=3) for part in targets.reshape(20, 16)])
    known = chi2_contingency(table)
    assert in_order["freedom"] == known.dof
    assert in_order["ratio"] == pytest.approx(known.statistic / known.dof)


def test_one_batch_can_not_be_mixed() -> None:
    targets = np.array([0, 1] * 5)
    assert batch_mix(stream(targets, training=True), targets) is None


def test_moved_leaves_mere_shrinking_out() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        before = weights_of(model)
        model.weight.mul_(0.5)
        assert moved(before, model) == pytest.approx(0.0, abs=1e-12)
        model.weight.copy_(torch.tensor([[3.0 - 4.0, 4.0 + 3.0]]))  # at right angles, as long
    assert moved(before, model) == pytest.approx(1.0)
    assert moved([], model) is None


def test_batch_statistics_are_used_and_nothing_is_updated() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    images = 5 + 2 * torch.randn(64, 3, 4, 4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with batch_statistics(model), variances_seen(model) as seen:
        out = model(images)
    assert abs(float(out.mean())) < 1e-4  # as in training, and without dropout
    assert float(out.std()) == pytest.approx(1, abs=1e-2)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.training
    assert model[0].track_running_stats
    assert variance_off(seen) == pytest.approx(4, rel=0.1)  # 2², and 1 is stored
    model[0].running_var.copy_(images.var(dim=(0, 2, 3), unbiased=False))
    assert variance_off(seen) == pytest.approx(1, abs=1e-3)


def test_darker_validation_images_are_told_apart() -> None:
    rng = np.random.default_rng(1)

    def answers(shift: float) -> Answers:
        brightness = rng.normal(shift, 1, 100)
        return Answers(np.zeros((100, 2)), np.zeros(100, int), brightness, rng.gamma(5, 1, 100))

    alike, darker = (pixel_shift(answers(0), answers(shift)) for shift in (0.0, -4.0))
    assert abs(alike["brightness"]["auroc"] - 0.5) < 0.15
    assert darker["brightness"]["auroc"] < 0.02
    assert abs(darker["contrast"]["auroc"] - 0.5) < 0.15
    assert darker["brightness"]["val"] == pytest.approx(-4, abs=0.4)


def test_a_run_records_its_probes(disc_run) -> None:
    found = disc_run.read_json("training.json", "")["probes"]
    assert found["steps"] % 8 == 0  # 240 images in batches of 32
    assert 0.05 < found["weights_moved"] < 2
    assert found["batch_mix"]["freedom"] == 7
    said = found["answers"]
    assert (said["n_train"], said["n_val"]) == (240, 80)
    val = disc_run.metrics["splits"]["val"]
    assert said["val_right"] == round(val["accuracy"]["value"] * val["n"])
    assert 1 <= said["variance_off"] < 1.2
    assert 1 <= said["last"]["variance_off"] < 1.2
    assert abs(found["pixels"]["brightness"]["auroc"] - 0.5) < 0.2
    assert found["border"]["auroc"] < 0.9
