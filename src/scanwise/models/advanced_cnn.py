"""Seed S4's blocks of convolution, BatchNorm and dropout, with residual and attention options."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.models.parts import ConvNet, SqueezeExcitation, conv, init_convolutions, make_head
from scanwise.models.specs import ModelRequest, num_pooled_blocks

WIDTHS = (32, 64, 128)
DROPOUT = 0.3
SQUEEZE = 8  # channels a squeezed one stands for


class Block(nn.Module):
    """Two 3×3 convolutions with BatchNorm, 2×2 max-pool, ReLU, dropout; options by name.

    `residual` adds the block's input (through a 1×1 convolution) before pooling; `se` weighs
    channels by squeeze-and-excitation.
    """

    def __init__(
        self, inputs: int, outputs: int, *, dropout: float, residual: bool, se: bool
    ) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.attention = (
            SqueezeExcitation(outputs, outputs // SQUEEZE, nn.ReLU()) if se else nn.Identity()
        )
        self.shortcut = (
            nn.Sequential(conv(inputs, outputs, kernel=1), nn.BatchNorm2d(outputs))
            if residual
            else None
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(maps)), inplace=True)
        inner = self.attention(self.norm2(self.conv2(inner)))
        if self.shortcut is not None:
            inner += self.shortcut(maps)
        # Pooling before ReLU gives the same maps for a quarter of the work.
        pooled = F.max_pool2d(inner, 2, ceil_mode=True)
        dropped: Tensor = self.dropout(F.relu(pooled, inplace=True))
        return dropped


def advanced_cnn(request: ModelRequest, *, residual: bool, se: bool) -> ConvNet:
    """Three blocks of 32, 64 and 128 channels, global average, head: 288 k parameters.

    Dropout (default 0.3) stands before the head, half of it after each block. Under 17 px blocks
    are left out (`specs.num_pooled_blocks`).
    """
    dropout = request.dropout_or(DROPOUT)
    widths = WIDTHS[: num_pooled_blocks(request.size_px, len(WIDTHS))]
    inputs = (request.channels, *widths[:-1])
    body = nn.Sequential(
        *(
            Block(i, o, dropout=dropout / 2, residual=residual, se=se)
            for i, o in zip(inputs, widths, strict=True)
        )
    )
    init_convolutions(body)
    head = make_head(
        widths[-1], request.num_outputs, dropout=dropout, head_units=request.head_units
    )
    return ConvNet(body, head)
