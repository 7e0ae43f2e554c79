"""Which layer Grad-CAM reads: the last one whose map still says where, found by running the net."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from monai.visualize import ModelWithHooks
from torch import Tensor, nn

MAP_PX = 7  # a map of fewer pixels tells no places apart (or a quarter of a smaller image's side)
_MOST_PREFIX = 16  # class and register tokens that come before those of the patches
_MOST_TRIALS = 24  # layers from the end; with more, heads that read every block take half a minute


@dataclass(frozen=True)
class Layer:
    """A layer with a map.

    Attributes:
        name: As in `named_modules`.
        map_px: Height and width of its map.
        num_prefix: Tokens before the patches' ones; None where it gives maps (b, d, h, w).
        whole: True if the answer depends on the image through this layer alone.
    """

    name: str
    map_px: tuple[int, int]
    num_prefix: int | None = None
    whole: bool = True


def find_layer(network: nn.Module, image: Tensor) -> tuple[Layer | None, str]:
    """The last convolutional (or token) layer with a map of at least 7×7 px, in order of use.

    Of a small image a quarter of its side is enough. A layer that the whole answer passes through
    is preferred to one branch of a block, and one whose gradient is not zero to one that the answer
    does not read (patch tokens after the last attention).

    Args:
        network: In eval mode, its parameters without gradient; left as it was.
        image: Normalised float (1, c, h, w), for the forward passes.

    Returns:
        The layer and, in words, what it is; or None and why there is none.
    """
    height, width = (min(MAP_PX, max(2, math.ceil(side / 4))) for side in image.shape[2:])
    seen = _maps_in_order(network, image)
    if not seen:
        return None, "the network has no convolutional layer"
    fitting = [each for each in seen if each.map_px[0] >= height and each.map_px[1] >= width]
    if not fitting:
        largest = max(each.map_px for each in seen)
        return None, (
            f"the largest map of its layers has {largest[0]}×{largest[1]} px, and "
            f"{height}×{width} px are needed to tell places apart"
        )
    best: tuple[tuple[bool, bool], Layer] | None = None
    for layer in fitting[: -_MOST_TRIALS - 1 : -1]:
        alive = _has_gradient(network, layer, image)
        if alive is None:
            continue
        whole = _is_whole(network, layer.name, image)
        if best is None or (alive, whole) > best[0]:
            best = (alive, whole), Layer(layer.name, layer.map_px, layer.num_prefix, whole)
        if best[0] == (True, True):
            break
    if best is None:
        return None, "no layer of it lets its gradient be read"
    return best[1], f"the last layer with a map of at least {height}×{width} px"


def as_maps(output: Any, layer: Layer) -> Tensor:
    """What a layer gives as maps (b, d, h, w): of tokens (b, t, d) the patches as their grid."""
    values: Tensor = output[0] if isinstance(output, tuple | list) else output
    if layer.num_prefix is None:
        return values.contiguous()
    patches = values[:, layer.num_prefix :].transpose(1, 2)
    return patches.reshape(len(values), -1, *layer.map_px).contiguous()


class MapHooks(ModelWithHooks):  # type: ignore[misc]
    """MONAI's hooks on a layer whose output may be tokens, or the first of several outputs."""

    def __init__(self, network: nn.Module, layer: Layer) -> None:
        self._layer = layer
        super().__init__(network, layer.name, register_forward=True, register_backward=True)

    def forward_hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.activations[name] = as_maps(output, self._layer)

        return keep

    def backward_hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, gradients: Any) -> None:
            self.gradients[name] = as_maps(gradients[0], self._layer)

        return keep


def _maps_in_order(network: nn.Module, image: Tensor) -> list[Layer]:
    """Every layer that gives a map of the image, in the order in which they finish; used once each.

    That is convolutions and what holds one, and token layers after a convolution cut the patches.
    """
    found: list[Layer] = []
    calls: Counter[str] = Counter()
    grid: tuple[int, int] | None = None
    convolutional = {
        name: any(isinstance(part, nn.Conv2d) for part in module.modules())
        for name, module in network.named_modules()
    }

    def watch(name: str, module: nn.Module) -> Any:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal grid
            calls[name] += 1
            values = output[0] if isinstance(output, tuple | list) and output else output
            if not isinstance(values, Tensor):
                return
            if values.ndim == 4 and convolutional[name]:
                px = (int(values.shape[2]), int(values.shape[3]))
                grid = px if isinstance(module, nn.Conv2d) else grid
                found.append(Layer(name, px))
            elif values.ndim == 3 and grid is not None:
                prefix = int(values.shape[1]) - grid[0] * grid[1]
                if 0 <= prefix <= _MOST_PREFIX:
                    found.append(Layer(name, grid, prefix))

        return note

    hooks = [
        module.register_forward_hook(watch(name, module))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [layer for layer in found if calls[layer.name] == 1]


def _has_gradient(network: nn.Module, layer: Layer, image: Tensor) -> bool | None:
    """Does the first logit's gradient reach this map? None where it can't be read.

    It can't where what follows overwrites the layer's output in place.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, gradients: Any) -> None:
        kept.append(as_maps(gradients[0], layer))

    entry = image.clone().requires_grad_(True)
    hook = network.get_submodule(layer.name).register_full_backward_hook(keep)
    try:
        torch.autograd.grad(network(entry * 1.0)[0, 0], entry, allow_unused=True)
    except RuntimeError:
        return None
    finally:
        hook.remove()
    return bool(kept[0].any()) if kept else None


def _is_whole(network: nn.Module, name: str, image: Tensor) -> bool:
    """True if nothing of the image reaches the answer once this layer's output is held fixed."""

    def hold(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)(v.detach() if isinstance(v, Tensor) else v for v in output)
        return output.detach()

    entry = image.clone().requires_grad_(True)
    hook = network.get_submodule(name).register_forward_hook(hold)
    try:
        logits = network(entry * 1.0)
    finally:
        hook.remove()
    return not bool(logits.requires_grad)
