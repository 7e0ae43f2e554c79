"""ResNet-18 and ResNet-50 from MONAI, with the small-image stem of the MedMNIST reference."""

from __future__ import annotations

from collections import OrderedDict

from monai.networks.nets.resnet import ResNet
from torch import nn

from scanwise.models.parts import HEAD_DROPOUT, ConvNet, make_head
from scanwise.models.specs import ModelRequest

STAGE_WIDTHS = [64, 128, 256, 512]


def resnet18(request: ModelRequest) -> ConvNet:
    """ResNet-18: 11,173,962 parameters for 3 channels and 10 classes with the small-image stem.

    Up to 40 px the stem is a 3×3 convolution of stride 1 and no pooling (28 px: maps of 28, 14, 7
    and 4 px), which is the network behind the published MedMNIST table; above, 7×7 of stride 2 and
    pooling. No dropout by default.

    Source:
        He et al. 2016, arXiv:1512.03385; Yang et al. 2023, doi:10.1038/s41597-022-01721-8.
    """
    return _resnet(request, "basic", [2, 2, 2, 2], num_features=512)


def resnet50(request: ModelRequest) -> ConvNet:
    """ResNet-50: 23,520,842 parameters for 3 channels and 10 classes with the small-image stem.

    Stem, dropout and sources as `resnet18`; the stride is in the 3×3 convolution of a block.
    """
    return _resnet(request, "bottleneck", [3, 4, 6, 3], num_features=2048)


def _resnet(request: ModelRequest, block: str, layers: list[int], num_features: int) -> ConvNet:
    small = request.small_images
    net = ResNet(
        block,
        layers,
        STAGE_WIDTHS,
        spatial_dims=2,
        n_input_channels=request.channels,
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
        feed_forward=False,
        bias_downsample=False,
    )
    names = ["conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    body = OrderedDict((n, getattr(net, n)) for n in names if not (small and n == "maxpool"))
    dropout = request.dropout_or(HEAD_DROPOUT if request.head_units else 0.0)
    head = make_head(
        num_features, request.num_outputs, dropout=dropout, head_units=request.head_units
    )
    return ConvNet(nn.Sequential(body), head)
