"""Device, precision, cost and determinism: choices with reasons, refusals with the way out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.core.errors import DeviceError, ScanwiseError
from scanwise.training import device as devices
from scanwise.training.device import (
    bf16_parity,
    deterministic_kernels,
    is_out_of_memory,
    model_cost,
    pick_device,
    pick_precision,
    reproducibility,
)

CPU = torch.device("cpu")
AMX = frozenset({"amx_bf16", "amx_tile", "avx512f"})


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Cancels(nn.Module):
    """Right in float32; in bf16 the small part drowns in the large one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1200, 1000)
        self.head = nn.Linear(1000, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layer(images.flatten(1))
        hidden = (hidden * 1e-3 + 100.0).to(hidden.dtype) - 100.0
        return self.head(hidden * 1e3)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 3, 20, 20, generator=generator)
    return images, torch.randint(0, 3, (16,), generator=generator)


def test_auto_takes_what_is_there_and_a_missing_device_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    with pytest.raises(DeviceError, match=r"no cuda device here; found cpu \(\d+ threads\)"):
        pick_device("cuda")
    with pytest.raises(DeviceError, match="no mps device"):
        pick_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    assert pick_device("auto") == torch.device("cuda")


def test_cost_is_the_closed_form_and_leaves_the_model_alone(
    same_weights: Callable[..., bool], tiny_net: Callable[..., nn.Module]
) -> None:
    cost = model_cost(mlp(12, 7, 5), (3, 2, 2))
    assert cost.macs == 12 * 7 + 7 * 5
    assert cost.parameter_bytes == 4 * (12 * 7 + 7 + 7 * 5 + 5)
    assert cost.activation_bytes == 4 * (12 + 7 + 7 + 5)
    assert cost.training_bytes(10) == 4 * cost.parameter_bytes + 10 * cost.activation_bytes
    net = tiny_net()
    assert model_cost(net, (1, 12, 12)).macs == 8 * 9 * 36 + 8 * 36 * 3
    assert same_weights(net, tiny_net())
    assert net.training


def test_a_network_that_can_not_be_counted_is_float32(
    batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reads(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            float(images.sum())  # no values on the meta device
            return super().forward(images.flatten(1))

    monkeypatch.setattr(devices, "cpu_flags", lambda: AMX)
    precision, reason = pick_precision("auto", CPU, Reads(1200, 3), *batch, losses)
    assert precision == "32-true"
    assert "unknown number" in reason


def test_auto_takes_bf16_only_where_hardware_network_and_parity_allow(
    batch: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
) -> None:
    large = mlp(1200, 1000, 3)
    monkeypatch.setattr(devices, "cpu_flags", frozenset)
    assert pick_precision("auto", CPU, large, *batch, losses)[0] == "32-true"
    monkeypatch.setattr(devices, "cpu_flags", lambda: AMX)
    precision, reason = pick_precision("auto", CPU, large, *batch, losses)
    assert precision == "bf16-mixed"
    assert "gradient cosine" in reason
    assert same_weights(large, mlp(1200, 1000, 3))
    assert all(parameter.grad is None for parameter in large.parameters())
    assert "multiply-adds" in pick_precision("auto", CPU, mlp(1200, 3), *batch, losses)[1]
    images = torch.randn(16, 1, 12, 12)
    assert "convolutions" in pick_precision("auto", CPU, tiny_net(), images, batch[1], losses)[1]
    precision, reason = pick_precision("auto", CPU, Cancels(), *batch, losses)
    assert precision == "32-true"
    assert "failed the parity test" in reason


def test_precision_as_asked_or_refused(batch: tuple[Tensor, Tensor]) -> None:
    assert pick_precision("32", CPU, mlp(1200, 3), *batch, losses)[0] == "32-true"
    assert pick_precision("bf16", CPU, mlp(1200, 3), *batch, losses)[0] == "bf16-mixed"
    with pytest.raises(ScanwiseError, match="use --precision 32"):
        pick_precision("bf16", CPU, Cancels(), *batch, losses)


def test_parity_is_deterministic_and_leaves_the_random_state(
    batch: tuple[Tensor, Tensor],
) -> None:
    net = nn.Sequential(nn.Dropout(0.5), mlp(1200, 50, 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = bf16_parity(net, *batch, losses)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert bf16_parity(net, *batch, losses) == first


def test_an_operation_without_deterministic_kernel_is_named() -> None:
    target, index = torch.zeros(3), torch.tensor([0, 0])
    with (
        pytest.raises(ScanwiseError, match=r"^put_.* has no deterministic kernel.*--device cpu"),
        deterministic_kernels(True),
    ):
        target.put_(index, torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic_kernels(False):
        target.put_(index, torch.ones(2))
    with pytest.raises(RuntimeError, match="shapes"), deterministic_kernels(True):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_level_of_reproducibility_is_stated() -> None:
    assert reproducibility(CPU, False).startswith("bit-identical on this CPU type with 2 threads")
    assert "same cuda device" in reproducibility(torch.device("cuda"), True)
    assert "--deterministic" in reproducibility(torch.device("cuda"), False)
