"""Names of parameters in published files, and what they are called in our networks' bodies."""

from __future__ import annotations

import re
from collections.abc import Callable

# torchvision's convolution and normalisation are 0 and 1 of a Sequential.
_PAIR = {"0": "conv", "1": "norm"}
_TORCHVISION_PAIR = re.compile(r"features\.([08])\.([01])\.(\w+)")
_TORCHVISION_BLOCK = re.compile(r"features\.([1-7])\.(\d+)\.block\.([0-3])\.(\w+)\.(\w+)")
_TIMM_BLOCK = re.compile(r"blocks\.([0-6])\.(\d+)\.([\w.]+)\.(\w+)")
_OLD_DENSE_LAYER = re.compile(r"\.(norm|conv)\.([12])\.")

_SUB_BLOCKS = ("expand", "depthwise", "attention", "project")
_GATE = {"fc1": "reduce", "fc2": "expand"}
_TIMM_ENDS = {
    "conv_stem": "stem.conv",
    "bn1": "stem.norm",
    "conv_head": "last.conv",
    "bn2": "last.norm",
}
_TIMM_GATE = {"se.conv_reduce": "attention.reduce", "se.conv_expand": "attention.expand"}
_TIMM_FIRST = {
    "conv_dw": "depthwise.conv",
    "bn1": "depthwise.norm",
    "conv_pw": "project.conv",
    "bn2": "project.norm",
    **_TIMM_GATE,
}
_TIMM_OTHER = {
    "conv_pw": "expand.conv",
    "bn1": "expand.norm",
    "conv_dw": "depthwise.conv",
    "bn2": "depthwise.norm",
    "conv_pwl": "project.conv",
    "bn3": "project.norm",
    **_TIMM_GATE,
}


def efficientnet_name(published: str) -> str | None:
    """Our name of a parameter of torchvision's or timm's EfficientNet-B0; None for no name of it.

    >>> efficientnet_name("features.2.0.block.1.1.running_mean")
    'stage2_1.depthwise.norm.running_mean'
    >>> efficientnet_name("blocks.1.0.bn2.running_mean")
    'stage2_1.depthwise.norm.running_mean'
    """
    if published.startswith("features."):
        return _torchvision_efficientnet(published)
    return _timm_efficientnet(published)


def _torchvision_efficientnet(published: str) -> str | None:
    if match := _TORCHVISION_PAIR.fullmatch(published):
        end, part, leaf = match.groups()
        return f"{'stem' if end == '0' else 'last'}.{_PAIR[part]}.{leaf}"
    match = _TORCHVISION_BLOCK.fullmatch(published)
    if match is None:
        return None
    stage, block, index, part, leaf = match.groups()
    sub_blocks = _SUB_BLOCKS[1:] if stage == "1" else _SUB_BLOCKS  # the first expands nothing
    if int(index) >= len(sub_blocks):
        return None
    sub_block = sub_blocks[int(index)]
    inner = (_GATE if sub_block == "attention" else _PAIR).get(part)
    return inner and f"stage{stage}_{int(block) + 1}.{sub_block}.{inner}.{leaf}"


def _timm_efficientnet(published: str) -> str | None:
    module, _, leaf = published.rpartition(".")
    if module in _TIMM_ENDS:
        return f"{_TIMM_ENDS[module]}.{leaf}"
    match = _TIMM_BLOCK.fullmatch(published)
    if match is None:
        return None
    stage, block, part, leaf = match.groups()
    inner = (_TIMM_FIRST if stage == "0" else _TIMM_OTHER).get(part)
    return inner and f"stage{int(stage) + 1}_{int(block) + 1}.{inner}.{leaf}"


def resnet_name(published: str) -> str | None:
    """Our name of a parameter of torchvision's or timm's ResNet: the same."""
    return published


def densenet_name(published: str) -> str | None:
    """Our name of a parameter of torchvision's or timm's DenseNet; None for no name of it.

    The published file of 2017 writes `norm.1` where today's networks have `norm1`.

    >>> densenet_name("features.denseblock1.denselayer2.norm.1.weight")
    'denseblock1.denselayer2.layers.norm1.weight'
    """
    if not published.startswith("features."):
        return None
    ours = _OLD_DENSE_LAYER.sub(r".\1\2.", published.removeprefix("features."))
    return re.sub(r"(denselayer\d+)\.", r"\1.layers.", ours)


# Architecture → how its parameters are renamed, and the prefix of its classifier, which is dropped.
PUBLISHED_NAMES: dict[str, tuple[Callable[[str], str | None], str]] = {
    "efficientnet_b0": (efficientnet_name, "classifier."),
    "resnet18": (resnet_name, "fc."),
    "resnet50": (resnet_name, "fc."),
    "densenet121": (densenet_name, "classifier."),
}
