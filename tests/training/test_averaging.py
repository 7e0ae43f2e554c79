"""The moving average against its formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from scanwise.training.averaging import WeightAverage


def test_average_follows_the_formula(tiny_net: Callable[..., nn.Module]) -> None:
    model = tiny_net()
    average = WeightAverage(model, decay=0.4)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor += torch.randn(tensor.shape, generator=generator)
                else:
                    tensor += 1
        average.update()
        decay = min(0.4, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor.clone()  # num_batches_tracked
    assert average.steps == 6
    for name, tensor in average.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_average_neither_trains_nor_touches_the_model(
    tiny_net: Callable[..., nn.Module], same_weights: Callable[..., bool]
) -> None:
    model = tiny_net()
    average = WeightAverage(model)
    average.update()
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert same_weights(model, tiny_net())
