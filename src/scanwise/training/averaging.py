"""An exponential moving average of the weights, which is what validation and the bundle see."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of a model's parameters and floating-point buffers over the steps.

    After step t (from 0) the average moves towards the model by 1 - d, with the decay
    d = min(decay, (1 + t) / (10 + t)), so that the random first weights are soon forgotten.
    BatchNorm's running statistics are averaged alike, and integer buffers copied; so the averaged
    network needs no pass over the data before it can be used.
    """

    def __init__(self, model: nn.Module, decay: float = 0.99) -> None:
        """Start from the model as it is; `decay` in [0, 1)."""
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.steps = 0
        mine, theirs = _tensors(self.model), _tensors(model)
        self._averaged = [tensor for tensor in mine if tensor.is_floating_point()]
        self._sources = [tensor for tensor in theirs if tensor.is_floating_point()]
        self._copied = [
            (own, source)
            for own, source in zip(mine, theirs, strict=True)
            if not own.is_floating_point()
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(self._averaged, self._sources, 1 - decay)
        for own, source in self._copied:
            own.copy_(source)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, then buffers; one used twice is there once."""
    return [parameter.detach() for parameter in model.parameters()] + list(model.buffers())
