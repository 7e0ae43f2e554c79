"""Checkpoints: a safetensors file with the tensors, and the rest as JSON in its header. No pickle.

    checkpoints/last.safetensors   weights, averaged weights and optimiser after the last epoch
    checkpoints/best.safetensors   the weights of the best epoch

Each is replaced in one step. A new best is written beside the old one first and takes its place
after `last` is whole, so that whenever the process dies, `best` belongs to the epoch that `last`
calls the best.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scanwise.core.errors import RunError
from scanwise.core.files import atomic_path

LAST, BEST, NEXT_BEST = "last.safetensors", "best.safetensors", ".next-best.safetensors"

# One key only: the format keeps no order of several, and equal states shall be equal files.
_STATE = "scanwise"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-ready state to one file, atomically."""
    # As bytes: `save_file` writes through a temporary file of its own, which a kill would leave.
    content = save(_separate(tensors), metadata={_STATE: json.dumps(state, allow_nan=False)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        RunError: If the file is missing, damaged or not a checkpoint of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(metadata[_STATE])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"can't go on from {path}: {error}; delete the checkpoints folder to train from the "
            "start."
        ) from error


def settle_best(folder: Path, best_epoch: int) -> None:
    """Give the new best its name if `last` says that it is the best; drop it if not."""
    waiting = folder / NEXT_BEST
    if not waiting.exists():
        return
    if load_tensors(waiting)[1].get("epoch") == best_epoch:
        os.replace(waiting, folder / BEST)
    else:
        waiting.unlink()


def model_tensors(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, not copied."""
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Copy values into a model in place; memory formats and devices stay as they are.

    Raises:
        RunError: If names or shapes differ.
    """
    own = model.state_dict()
    given = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    wrong = sorted(own.keys() ^ given.keys()) or [
        name for name in own if own[name].shape != given[name].shape
    ]
    if wrong:
        raise RunError(
            f"the checkpoint does not fit {type(model).__name__}: '{wrong[0]}' differs; the "
            "model's code or settings changed since."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """The optimiser's tensors as "optimizer/KEY/PARAMETER"; its rates are the schedule's."""
    return {
        f"optimizer/{key}/{name}": value
        for name, parameter in parameters
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what `optimizer_tensors` took out.

    Moments get the memory format of their parameter: a fused kernel walks both in memory order.
    """
    keys = {name.split("/")[1] for name in tensors if name.startswith("optimizer/")}
    for name, parameter in parameters:
        for key in sorted(keys):
            value = tensors.get(f"optimizer/{key}/{name}")
            if value is None:
                continue
            if value.shape == parameter.shape and value.ndim > 0:
                restored = torch.empty_like(parameter, requires_grad=False).copy_(value)
            else:
                restored = value.to(parameter.device) if _fused(optimizer) else value
            optimizer.state[parameter][key] = restored


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense CPU tensors that share no memory, as the format wants (tied weights are copied)."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        dense = tensor.detach().to("cpu").contiguous()
        if dense.data_ptr() in seen and dense.numel():
            dense = dense.clone()
        seen.add(dense.data_ptr())
        separate[name] = dense
    return separate
