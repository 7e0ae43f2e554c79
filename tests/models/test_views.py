"""Test-time views: the answer is the mean over them, the image itself is among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from scanwise.core.errors import ModelError
from scanwise.models.build import build_model
from scanwise.models.parts import set_views
from scanwise.models.views import VIEWS, View


def images(px: int = 28) -> torch.Tensor:
    return torch.randn(4, 3, px, px, generator=torch.Generator().manual_seed(0))


def network(spec: str = "small_resnet:16", px: int = 28) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec, num_outputs=3, channels=3, size_px=(px, px)).eval()


def test_the_image_itself_is_the_first_view_and_unchanged() -> None:
    for views in VIEWS.values():
        assert views[0].of(images()) is not None
        assert torch.equal(views[0].of(images()), images())
        assert len(set(views)) == len(views)


@pytest.mark.parametrize("down", [-1, 0, 1])
@pytest.mark.parametrize("right", [-1, 0, 1])
@pytest.mark.parametrize("px", [28, 64])
def test_a_view_moves_the_window_and_continues_the_edge(down: int, right: int, px: int) -> None:
    step = max(1, round(px / 28))
    array = images(px).numpy()
    rows = np.clip(np.arange(px) + step * down, 0, px - 1)
    columns = np.clip(np.arange(px) + step * right, 0, px - 1)
    expected = array[:, :, rows][..., columns]
    assert np.array_equal(View(False, down, right).of(images(px)).numpy(), expected)
    mirrored = array[..., ::-1][:, :, rows][..., columns]
    assert np.array_equal(View(True, down, right).of(images(px)).numpy(), mirrored)


@pytest.mark.parametrize("tta", ["flip", "shift", "flip+shift"])
@pytest.mark.parametrize("spec", ["small_resnet:16", "simple_cnn", "resnet18"])
@torch.no_grad()
def test_logits_are_the_mean_over_the_views(spec: str, tta: str) -> None:
    net = network(spec)
    expected = torch.stack([net(view.of(images())) for view in VIEWS[tta]]).mean(dim=0)
    alone = net(images())
    set_views(net, tta)
    assert torch.allclose(net(images()), expected, atol=1e-5)
    assert not torch.allclose(alone, expected, atol=1e-5)
    set_views(net, "none")
    assert torch.equal(net(images()), alone)


def test_training_sees_one_view() -> None:
    net = network("small_resnet:16").train()
    set_views(net, "flip+shift")
    calls = []
    net.body.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    net(images())
    assert len(calls) == 1
    net.eval()(images())
    assert len(calls) == 1 + len(VIEWS["flip+shift"])


def test_networks_without_pooled_maps_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"tta=flip.*MLP"):
        set_views(network("mlp:8"), "flip")
    set_views(network("mlp:8"), "none")
    with pytest.raises(ModelError, match=r"tta='flop'.*flip"):
        set_views(network(), "flop")
