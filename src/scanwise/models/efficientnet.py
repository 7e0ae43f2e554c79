"""EfficientNet-B0, written for any image size.

MONAI's fixes its padding for the size it is built for and fails at 28 px; this one pads each
convolution symmetrically, so that any size goes through.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.models.parts import ConvNet, SqueezeExcitation, conv, init_convolutions, make_head
from scanwise.models.specs import ModelRequest

STEM_WIDTH = 32
NUM_FEATURES = 1280
EPS = 1e-3  # of BatchNorm, as in the paper's code
PUBLISHED_EPS = 1e-5  # as in torchvision and timm, whose weights were trained with it
DROPOUT = 0.2  # before the head, and of the last block's branch, as published


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table 1."""

    blocks: int
    outputs: int
    kernel: int
    stride: int
    expansion: int


STAGES = (
    Stage(1, 16, 3, 1, 1),
    Stage(2, 24, 3, 2, 6),
    Stage(2, 40, 5, 2, 6),
    Stage(3, 80, 3, 2, 6),
    Stage(3, 112, 5, 1, 6),
    Stage(4, 192, 5, 2, 6),
    Stage(1, 320, 3, 1, 6),
)


class InvertedBottleneck(nn.Module):
    """Expand 1×1 → depthwise → squeeze-and-excitation → project 1×1, around a shortcut if it fits.

    In training the branch of each image is left out with probability `drop_path` (stochastic
    depth, Huang et al. 2016, arXiv:1603.09382).
    """

    def __init__(self, inputs: int, stage: Stage, stride: int, drop_path: float) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = _conv_norm(inputs, inner, 1) if inner != inputs else None
        self.depthwise = _conv_norm(inner, inner, stage.kernel, stride, groups=inner)
        self.attention = SqueezeExcitation(inner, max(1, inputs // 4), nn.SiLU())
        self.project = _conv_norm(inner, stage.outputs, 1)
        self.has_shortcut = stride == 1 and inputs == stage.outputs
        self.drop_path = drop_path

    def forward(self, maps: Tensor) -> Tensor:
        inner: Tensor = maps if self.expand is None else F.silu(self.expand(maps))
        inner = self.attention(F.silu(self.depthwise(inner)))
        inner = self.project(inner)
        if not self.has_shortcut:
            return inner
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            kept = torch.empty(len(maps), 1, 1, 1, device=maps.device).bernoulli_(keep)
            inner = inner * (kept / keep).to(inner.dtype)
        inner += maps
        return inner


def efficientnet_b0(request: ModelRequest) -> ConvNet:
    """EfficientNet-B0: 5,288,548 parameters for 3 channels and 1000 classes, at any size.

    Up to 40 px the first two strides (stem and second stage) are 1 instead of 2: 28 px give maps
    of 28, 28, 14, 7 and 4 px, as 224 px would at an eighth of the scale; the published strides
    would end in a single pixel. Parameters are the same. BatchNorm takes a tenth of each batch
    (momentum 0.1, PyTorch's default) where the paper takes a hundredth: after a short training the
    hundredth would leave running statistics near their start, and evaluation would be chance.
    With `request.published` strides and BatchNorm's eps are those of torchvision's and timm's
    `efficientnet_b0` at any size (not those of timm's `tf_efficientnet_b0`).

    Source:
        Tan and Le, ICML 2019, arXiv:1905.11946.
    """
    small = request.small_images
    dropout = request.dropout_or(DROPOUT)
    parts: list[tuple[str, nn.Module]] = [
        ("stem", _conv_norm(request.channels, STEM_WIDTH, 3, stride=1 if small else 2)),
        ("stem_activation", nn.SiLU()),
    ]
    inputs, done = STEM_WIDTH, 0
    num_blocks = sum(stage.blocks for stage in STAGES)
    for i, stage in enumerate(STAGES, start=1):
        stride = 1 if small and i == 2 else stage.stride
        for j in range(stage.blocks):
            block = InvertedBottleneck(inputs, stage, stride, dropout * done / num_blocks)
            parts.append((f"stage{i}_{j + 1}", block))
            inputs, stride, done = stage.outputs, 1, done + 1
    parts += [("last", _conv_norm(inputs, NUM_FEATURES, 1)), ("last_activation", nn.SiLU())]
    body = nn.Sequential(OrderedDict(parts))
    init_convolutions(body)
    for layer in body.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = PUBLISHED_EPS if request.published else EPS
    head = make_head(
        NUM_FEATURES, request.num_outputs, dropout=dropout, head_units=request.head_units
    )
    return ConvNet(body, head)


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    parts = OrderedDict(
        conv=conv(inputs, outputs, kernel, stride, groups),
        norm=nn.BatchNorm2d(outputs, momentum=0.1),
    )
    return nn.Sequential(parts)
