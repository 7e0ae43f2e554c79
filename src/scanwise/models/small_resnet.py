"""The default network: a narrow residual network for small images and machines."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.models.parts import ConvNet, conv, init_convolutions, make_head
from scanwise.models.specs import ModelRequest, num_stem_halvings

DROPOUT = 0.2


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                conv(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(maps)), inplace=True)
        inner = self.norm2(self.conv2(inner))
        inner += self.shortcut(maps)
        return F.relu(inner, inplace=True)


def small_resnet(request: ModelRequest, *, width: int) -> ConvNet:
    """Stem and three residual blocks of width W, 2W and 4W: 307 k parameters at W = 32.

    The stem halves the image as often as `specs.num_stem_halvings` says (28 px: once), then the
    second and third block halve it again: 28 px → 14 → 14 → 7 → 4. Dropout before the head is 0.2
    by default.
    """
    layers: list[nn.Module] = []
    inputs = request.channels
    for stride in [2] * num_stem_halvings(request.size_px) or [1]:
        layers += [conv(inputs, width, stride=stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        inputs = width
    body = nn.Sequential(
        nn.Sequential(*layers),
        ResidualBlock(width, width, stride=1),
        ResidualBlock(width, 2 * width, stride=2),
        ResidualBlock(2 * width, 4 * width, stride=2),
    )
    init_convolutions(body)
    head = make_head(
        4 * width,
        request.num_outputs,
        dropout=request.dropout_or(DROPOUT),
        head_units=request.head_units,
    )
    return ConvNet(body, head)
