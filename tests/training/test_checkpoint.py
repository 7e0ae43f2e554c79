"""Checkpoints: exact, without pickle, never half-written, never mismatched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from scanwise.core.errors import RunError
from scanwise.training import checkpoint
from scanwise.training.settings import LoopSettings
from scanwise.training.steps import make_optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 12, 12, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    model(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("fused", [True, False])
def test_an_optimiser_goes_on_exactly(
    tmp_path: Path,
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
    name: str,
    fused: bool,
) -> None:
    # channels_last: a fused kernel walks memory, so moments must get their strides back.
    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = tiny_net(channels=3, dropout=0.0).to(memory_format=torch.channels_last)
        optimizer = make_optimizer(model, LoopSettings(optimizer=name, weight_decay=0.1))
        if not fused:
            for group in (optimizer.defaults, *optimizer.param_groups):
                group["fused"] = False
        return model, optimizer

    model, optimizer = build()
    for seed in (1, 2):
        step(model, optimizer, seed)
    tensors = checkpoint.model_tensors(model, "model/")
    tensors |= checkpoint.optimizer_tensors(optimizer, model.named_parameters())
    checkpoint.save_tensors(tmp_path / "a.safetensors", tensors, {})

    other, resumed = build()
    loaded, _ = checkpoint.load_tensors(tmp_path / "a.safetensors")
    checkpoint.load_model(other, loaded, "model/")
    checkpoint.load_optimizer(resumed, other.named_parameters(), loaded)
    assert same_weights(model, other)
    for seed in (3, 4):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    assert same_weights(model, other)


def test_a_file_is_safetensors_with_json_and_equal_for_equal_states(tmp_path: Path) -> None:
    state = {"epoch": 3, "history": [{"loss": 0.5}]}
    for name in ("a", "b"):
        checkpoint.save_tensors(tmp_path / name, {"y": torch.ones(2), "x": torch.zeros(3)}, state)
    raw = (tmp_path / "a").read_bytes()
    assert raw == (tmp_path / "b").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["scanwise"]) == state
    assert checkpoint.load_tensors(tmp_path / "a")[1] == state


def test_tied_weights_and_odd_memory_are_saved_by_value(tmp_path: Path) -> None:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"a": weight, "b": weight, "c": weight[:, :1], "d": torch.tensor(3)}
    checkpoint.save_tensors(tmp_path / "t", tensors, {})
    loaded, _ = checkpoint.load_tensors(tmp_path / "t")
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def test_a_damaged_or_strange_file_is_refused(
    tmp_path: Path, tiny_net: Callable[..., nn.Module]
) -> None:
    path = tmp_path / "last.safetensors"
    with pytest.raises(RunError, match="can't go on from"):
        checkpoint.load_tensors(path)
    checkpoint.save_tensors(path, {"x": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunError, match="delete the checkpoints folder"):
        checkpoint.load_tensors(path)
    with pytest.raises(RunError, match="does not fit TinyNet"):
        checkpoint.load_model(tiny_net(), tiny_net(classes=4).state_dict())
    shorter = tiny_net().state_dict()
    del shorter["5.bias"]
    with pytest.raises(RunError, match=r"'5\.bias' differs"):
        checkpoint.load_model(tiny_net(), shorter)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save_tensors(path, {"x": torch.zeros(2)}, {"epoch": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint.save_tensors(path, {"x": torch.ones(2)}, {"epoch": float("nan")})
    assert checkpoint.load_tensors(path)[1] == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_new_best_takes_its_place_only_if_last_says_so(tmp_path: Path) -> None:
    best, waiting = tmp_path / checkpoint.BEST, tmp_path / checkpoint.NEXT_BEST
    checkpoint.save_tensors(best, {"x": torch.zeros(1)}, {"epoch": 2})
    checkpoint.save_tensors(waiting, {"x": torch.ones(1)}, {"epoch": 5})
    # Killed before `last` of epoch 5 was written: epoch 2 is still the best.
    checkpoint.settle_best(tmp_path, 2)
    assert checkpoint.load_tensors(best)[1] == {"epoch": 2}
    assert not waiting.exists()
    checkpoint.save_tensors(waiting, {"x": torch.ones(1)}, {"epoch": 5})
    # Killed after it: epoch 5 is.
    checkpoint.settle_best(tmp_path, 5)
    assert checkpoint.load_tensors(best)[1] == {"epoch": 5}
    assert not waiting.exists()
