"""DenseNet-121 from MONAI, with a stem for small images."""

from __future__ import annotations

from collections import OrderedDict

from monai.networks.nets.densenet import DenseNet121
from torch import nn

from scanwise.models.parts import HEAD_DROPOUT, ConvNet, conv, make_head
from scanwise.models.specs import ModelRequest

STEM_WIDTH = 64
NUM_FEATURES = 1024


def densenet121(request: ModelRequest) -> ConvNet:
    """DenseNet-121: 7,978,856 parameters for 3 channels and 1000 classes.

    Up to 40 px the published stem (7×7 of stride 2, pooling) would leave a single pixel; it is
    replaced by a 3×3 convolution of stride 1 without pooling (28 px: maps of 28, 14, 7 and 3 px).
    No dropout by default.

    Source:
        Huang et al., CVPR 2017, arXiv:1608.06993.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        DenseNet121(
            spatial_dims=2, in_channels=request.channels, out_channels=1
        ).features.named_children()
    )
    if request.small_images:
        stem = conv(request.channels, STEM_WIDTH)
        nn.init.kaiming_normal_(stem.weight)  # as MONAI's other convolutions
        parts["conv0"] = stem
        del parts["pool0"]
    parts["relu"] = nn.ReLU(inplace=True)
    dropout = request.dropout_or(HEAD_DROPOUT if request.head_units else 0.0)
    head = make_head(
        NUM_FEATURES, request.num_outputs, dropout=dropout, head_units=request.head_units
    )
    return ConvNet(nn.Sequential(parts), head)
