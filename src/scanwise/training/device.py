"""Where to compute and in which arithmetic; what the choice costs in memory and reproducibility."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scanwise.core.config import Precision
from scanwise.core.errors import DeviceError, ScanwiseError
from scanwise.core.runtime import apply_threads, cpu_flags

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)

FabricPrecision = Literal["32-true", "bf16-mixed"]
LossFunction = Callable[[Tensor, Tensor], Tensor]

# Multiply-adds an image below which bf16 gains nothing. On a CPU with AMX an MLP of 1.4 million
# gained 1.2 to 1.6 times; on a GPU the kernels of smaller networks are too short to matter.
BF16_MIN_MACS = {"cpu": 1e6, "cuda": 100e6}

# What rounding to bf16 may do to the first step. Two batches of the same data differ far more.
PARITY_LOSS_GAP = 0.02
PARITY_COSINE = 0.9


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on; auto takes CUDA before MPS before the CPU.

    Raises:
        DeviceError: If the device asked for is not here; nothing else is taken instead.
    """
    apply_threads()
    found = available_devices()
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if kind in found)
    if name not in found:
        listed = "; ".join(f"{kind} ({words})" for kind, words in found.items())
        raise DeviceError(f"there is no {name} device here; found {listed}. Use --device auto.")
    return torch.device(name)


def available_devices() -> dict[str, str]:
    """Kinds of device that can compute here, each in words."""
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_device_name(0)
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found


def describe_device(device: torch.device) -> str:
    """ "cpu: 4 threads" or "cuda: NVIDIA H100", for env.json and the report."""
    return f"{device.type}: {available_devices().get(device.type, 'not available')}"


@dataclass(frozen=True)
class ModelCost:
    """What one image costs a network: multiply-adds forward, bytes kept for the backward pass."""

    macs: float
    activation_bytes: float
    parameter_bytes: float

    def training_bytes(self, batch: int) -> float:
        """Estimate for a step: weights, gradients and two moments, and a batch's activations."""
        return 4 * self.parameter_bytes + batch * self.activation_bytes


def model_cost(model: nn.Module, image_shape: tuple[int, ...]) -> ModelCost:
    """Count without computing, on torch's `meta` device.

    Args:
        model: Any network; it is not changed.
        image_shape: (c, h, w); for a head alone (d,).

    Returns:
        The cost; `macs` and `activation_bytes` are NaN for a network that can't run on `meta`.
    """
    parameter_bytes = float(sum(p.numel() * p.element_size() for p in model.parameters()))
    outputs: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not list(module.children()):
            outputs.append(output.numel() * output.element_size())

    try:
        ghost = copy.deepcopy(model).to("meta").eval()
        for module in ghost.modules():
            module.register_forward_hook(count)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            ghost(torch.empty(2, *image_shape, device="meta"))
    except Exception:  # someone else's forward: whatever it raises, training may still work
        return ModelCost(math.nan, math.nan, parameter_bytes)
    return ModelCost(counter.get_total_flops() / 4, sum(outputs) / 2, parameter_bytes)


def pick_precision(
    requested: Precision,
    device: torch.device,
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    loss_fn: LossFunction,
) -> tuple[FabricPrecision, str]:
    """Choose the arithmetic of forward and backward passes; the same inputs give the same choice.

    `auto` takes bf16 (weights, BatchNorm statistics, loss and optimiser stay float32) only where
    the hardware multiplies it natively (AMX on a CPU; CUDA from compute capability 8), the network
    is large enough to gain, and one step of it agrees with float32. No clock is read: a choice that
    depended on load would make results depend on it.

    Args:
        requested: auto, 32 or bf16.
        device: Where the model is.
        model: The network; not changed.
        images: A training batch (b, c, h, w).
        targets: Its targets.
        loss_fn: Loss per image.

    Returns:
        Lightning Fabric's name of the precision, and the reason in words.

    Raises:
        ScanwiseError: bf16 was asked for, but a step of it differs from float32.
    """
    if requested == "32":
        return "32-true", "float32 as asked"
    if requested == "auto":
        refusal = _why_not_bf16(device, model, images)
        if refusal:
            return "32-true", f"float32: {refusal}"
    parity = bf16_parity(model, images, targets, loss_fn)
    if parity.passed:
        return "bf16-mixed", f"bf16: {parity}"
    if requested == "bf16":
        raise ScanwiseError(
            f"--precision bf16 does not reproduce float32 for this network ({parity}); use "
            "--precision 32."
        )
    return "32-true", f"float32: bf16 failed the parity test ({parity})"


def _why_not_bf16(device: torch.device, model: nn.Module, images: Tensor) -> str | None:
    if device.type == "cpu" and not {"amx_bf16", "amx_tile"} <= cpu_flags():
        return "this CPU has no bf16 matrix unit (AMX)"
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8:
        return "this GPU is older than compute capability 8"
    if device.type == "mps":
        return "bf16 was not tested on Apple GPUs"
    if device.type == "cpu" and any(isinstance(m, _CONVOLUTIONS) for m in model.modules()):
        # oneDNN's bf16 convolutions wait for each other by spinning, whatever the wait policy:
        # beside busy processes they fell to a tenth of float32's speed and less.
        return "bf16 convolutions on a CPU stall as soon as another process wants a core"
    channels, height, width = images.shape[1:]
    macs = model_cost(model, (channels, height, width)).macs
    least = BF16_MIN_MACS[device.type]
    if not macs >= least:
        size = "an unknown number of" if math.isnan(macs) else f"{macs / 1e6:.1f} million"
        return f"{size} multiply-adds an image; bf16 pays from {least / 1e6:.0f} million on"
    return None


@dataclass(frozen=True)
class Parity:
    """How far one bf16 step is from float32."""

    loss_gap: float  # relative
    cosine: float  # between the gradients of all weights

    @property
    def passed(self) -> bool:
        return self.loss_gap <= PARITY_LOSS_GAP and self.cosine >= PARITY_COSINE

    def __str__(self) -> str:
        return (
            f"first step's loss within {self.loss_gap:.2%} of float32 (limit "
            f"{PARITY_LOSS_GAP:.0%}), gradient cosine {self.cosine:.3f} (limit {PARITY_COSINE})"
        )


def bf16_parity(model: nn.Module, images: Tensor, targets: Tensor, loss_fn: LossFunction) -> Parity:
    """Compare loss and gradient of one step in bf16 and in float32, on copies of the model."""
    loss, gradient = _loss_and_gradient(model, images, targets, loss_fn, bf16=False)
    low_loss, low_gradient = _loss_and_gradient(model, images, targets, loss_fn, bf16=True)
    norms = gradient.norm() * low_gradient.norm()
    cosine = float(gradient @ low_gradient / norms) if float(norms) > 0 else math.nan
    gap = abs(loss - low_loss) / max(abs(loss), 1e-3)
    return Parity(gap if math.isfinite(gap) else math.inf, cosine)


def _loss_and_gradient(
    model: nn.Module, images: Tensor, targets: Tensor, loss_fn: LossFunction, *, bf16: bool
) -> tuple[float, Tensor]:
    copied = copy.deepcopy(model).train()
    with forked_rng(images.device):
        torch.manual_seed(0)  # the same dropout in both
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = copied(images)
        loss = loss_fn(logits.float(), targets).mean()
        torch.autograd.backward(loss)
    gradients = [p.grad.flatten() for p in copied.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients).double().cpu()


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Leave torch's global random state as it was found."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=True):
        yield


@contextmanager
def deterministic_kernels(enabled: bool) -> Iterator[None]:
    """Inside, every operation is deterministic or refused by name.

    Raises:
        ScanwiseError: An operation has no deterministic kernel on this device.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        if "deterministic" not in words:
            raise
        operation = words.split(" does not have a deterministic")[0].split("Error: ")[-1]
        raise ScanwiseError(
            f"{operation} has no deterministic kernel on this device; train without "
            "--deterministic, or with --device cpu."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def reproducibility(device: torch.device, deterministic: bool, processes: int = 1) -> str:
    """The level that same seed, same settings, same machine reach; the report states it."""
    if processes > 1:
        return (
            f"equal up to the order of sums over {processes} processes, and to one process alike "
            "where there is no dropout"
        )
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"bit-identical on this CPU type with {threads} threads and these package versions"
    if deterministic:
        return f"bit-identical on the same {device.type} device and package versions"
    return "equal up to the order of parallel sums (--deterministic makes it bit-identical)"


def is_out_of_memory(error: BaseException) -> bool:
    """True if a device, or the system, had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in words or "out of memory" in words
    )


def free_cached_memory(device: torch.device) -> None:
    """Hand unused cached blocks back before a second try."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
