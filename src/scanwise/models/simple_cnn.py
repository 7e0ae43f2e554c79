"""The plain convolutional network of seed S1: 1.1 million parameters."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from scanwise.models.parts import ConvNet, conv, init_convolutions, make_head
from scanwise.models.specs import ModelRequest, num_pooled_blocks

WIDTHS = (32, 64, 128)
GRID = 4  # cells a side that the dense layer sees
DENSE_UNITS = 512
DROPOUT = 0.3


def simple_cnn(request: ModelRequest) -> ConvNet:
    """Three blocks 3×3 convolution → BatchNorm → 2×2 max-pool → ReLU, then a dense layer of 512.

    28 px give maps of 14, 7 and 4 px; larger ones are averaged to 4×4 cells, so that the network
    has the same 1,146,151 parameters (3 channels, 7 classes) from 17 px on. Under that, blocks are
    left out (`specs.num_pooled_blocks`).
    """
    depth = num_pooled_blocks(request.size_px, len(WIDTHS))
    layers: list[tuple[str, nn.Module]] = []
    inputs = request.channels
    for i, outputs in enumerate(WIDTHS[:depth], start=1):
        layers += [
            (f"conv{i}", conv(inputs, outputs)),
            (f"norm{i}", nn.BatchNorm2d(outputs)),
            # Pooling first: the same maps as after ReLU, and ReLU has a quarter of the work.
            (f"pool{i}", nn.MaxPool2d(2, ceil_mode=True)),
            (f"relu{i}", nn.ReLU(inplace=True)),
        ]
        inputs = outputs
    body = nn.Sequential(OrderedDict(layers))
    init_convolutions(body)
    height, width = (-(-side // 2**depth) for side in request.size_px)
    rows, columns = min(GRID, height), min(GRID, width)
    dense = nn.Linear(inputs * rows * columns, DENSE_UNITS)
    nn.init.kaiming_normal_(dense.weight, nonlinearity="relu")
    nn.init.zeros_(dense.bias)
    fits = (rows, columns) == (height, width)
    average = nn.Identity() if fits else nn.AdaptiveAvgPool2d((rows, columns))
    pool = nn.Sequential(average, nn.Flatten(), dense, nn.ReLU())
    head = make_head(
        DENSE_UNITS,
        request.num_outputs,
        dropout=request.dropout_or(DROPOUT),
        head_units=request.head_units,
    )
    return ConvNet(body, head, pool)
