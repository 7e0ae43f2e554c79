"""What the networks share: convolution with normalisation, heads, He weights, the outer frame."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from scanwise.core.errors import ModelError, nearest
from scanwise.models.views import VIEWS

HEAD_DROPOUT = 0.2  # of an MLP head whose network has no dropout of its own


class ConvNet(nn.Module):
    """A convolutional classifier in three parts, each of which can be used alone.

    images (b, c, h, w) → `feature_maps` (b, d', h', w') → `features` (b, d) → `classify` (b, k).

    Attributes:
        tta: Which of `models.views.VIEWS` are averaged in `features` once training is over.
    """

    tta: str = "none"

    def __init__(self, body: nn.Module, head: nn.Module, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.pool = pool or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = head

    def feature_maps(self, images: Tensor) -> Tensor:
        """Last maps before pooling, float (b, d', h', w')."""
        maps: Tensor = self.body(images)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Pooled features, float (b, d): in eval mode the mean of all views'."""
        views = VIEWS["none" if self.training else self.tta]
        pooled: Tensor = self.pool(self.body(views[0].of(images)))
        for view in views[1:]:
            pooled = pooled + self.pool(self.body(view.of(images)))
        return pooled if len(views) == 1 else pooled / len(views)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (b, k) of pooled features (b, d)."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))


def set_views(network: nn.Module, tta: str) -> None:
    """Make a network answer by the mean of some views of each image, or ("none") by the image.

    Raises:
        ModelError: Unknown views, or a network that has no pooled maps to average.
    """
    if tta not in VIEWS:
        raise ModelError(f"tta={tta!r}: {nearest(tta, VIEWS)}")
    if isinstance(network, ConvNet):
        network.tta = tta
    elif tta != "none":
        raise ModelError(
            f"test-time augmentation (tta={tta}) averages the features of our convolutional "
            f"networks; {type(network).__name__} is none of them: leave --tta out."
        )


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution with symmetric padding and no bias (a BatchNorm follows)."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def make_head(
    num_features: int, num_outputs: int, *, dropout: float, head_units: int | None = None
) -> nn.Module:
    """Dropout → Linear; with `head_units` a hidden layer before it, as seed S2's head has.

    That is Dropout → Linear → ReLU → BatchNorm → Dropout → Linear.
    """
    if head_units is None:
        parts: list[tuple[str, nn.Module]] = [
            ("dropout", nn.Dropout(dropout)),
            ("output", nn.Linear(num_features, num_outputs)),
        ]
        return nn.Sequential(OrderedDict(parts))
    hidden = nn.Linear(num_features, head_units)
    nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
    nn.init.zeros_(hidden.bias)
    parts = [
        ("dropout", nn.Dropout(dropout)),
        ("hidden", hidden),
        ("activation", nn.ReLU()),
        ("norm", nn.BatchNorm1d(head_units)),
        ("hidden_dropout", nn.Dropout(dropout)),
        ("output", nn.Linear(head_units, num_outputs)),
    ]
    return nn.Sequential(OrderedDict(parts))


def init_convolutions(module: nn.Module) -> None:
    """He et al. 2015 (arXiv:1502.01852), fan-out, for every convolution; biases start at zero.

    Not `nn.init.kaiming_normal_`: it overlooks groups, so that depthwise weights are far too small.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels // layer.groups * math.prod(layer.kernel_size)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class SqueezeExcitation(nn.Module):
    """Weigh each channel by a gate in (0, 1) computed from all channel means.

    Source:
        Hu et al., CVPR 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, squeezed: int, activation: nn.Module) -> None:
        super().__init__()
        # 1×1 convolutions, not Linear: they keep (b, c, 1, 1), so no reshape breaks channels_last.
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        # Not .mean(): its backward pass divides the full-size maps, this one the (b, c, 1, 1) sums.
        means = maps.sum((2, 3), keepdim=True) * (1 / (maps.shape[2] * maps.shape[3]))
        return maps * torch.sigmoid(self.expand(self.activation(self.reduce(means))))
