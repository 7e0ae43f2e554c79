"""A bundle as one network from prepared pixels to calibrated probabilities, ready to be exported.

What comes before it (decoding, resizing, contrast, intensity mapping) is `Preprocessing`, which
goes along as JSON; what comes after it (labels, thresholds, prediction sets) is in config.json.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scanwise.deploy.bundle import Bundle
from scanwise.deploy.ensemble import EnsembleBundle
from scanwise.deploy.graph_bundle import FEATURES, PROBABILITIES, GraphInput
from scanwise.models.backbones import BackboneSpec, resize
from scanwise.models.penultimate import watch_features

# What of a preprocessing is done inside the graph, or is only told to people.
_NOT_BEFORE = {"mean", "std", "num_images", "normalised_for", "notes"}


class ServingGraph(nn.Module):
    """All members of a bundle in one module; an ordinary bundle is its own only member.

    Pixels uint8 (b, h, w, c), one tensor for each of `inputs`, become probabilities float32 (b, k)
    and, where the (first) network has any, its penultimate features float32 (b, d). The network
    computes as in the bundle; softmax or sigmoid is float32 here and float64 there.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        bundles, weights = members_of(bundle)
        self.inputs, self.input_of = _inputs(bundles)
        self._weights = weights
        self.members = nn.ModuleList(_MemberGraph(each) for each in bundles)
        self._shows_features = False
        self.eval().cpu()
        self._shows_features = self._has_features()

    @property
    def output_names(self) -> tuple[str, ...]:
        return (PROBABILITIES, FEATURES) if self._shows_features else (PROBABILITIES,)

    def examples(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(each.example()) for each in self.inputs)

    def forward(self, *images: Tensor) -> Any:
        answers = [
            member(images[which]) for member, which in zip(self.members, self.input_of, strict=True)
        ]
        probabilities = answers[0][0]
        if len(answers) > 1:
            probabilities = probabilities * self._weights[0]
            for (other, _), weight in zip(answers[1:], self._weights[1:], strict=True):
                probabilities = probabilities + other * weight
        return (probabilities, answers[0][1]) if self._shows_features else probabilities

    @torch.inference_mode()
    def _has_features(self) -> bool:
        first = self.examples()[self.input_of[0]]
        vectors = self.members[0](first)[1]
        return vectors is not None and len(vectors) == len(first)


class _MemberGraph(nn.Module):
    """Normalisation, network, temperature and softmax or sigmoid of one bundle."""

    scale: Tensor
    shift: Tensor

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        config = bundle.config
        scale, shift = (
            values.reshape(1, -1, 1, 1) for values in bundle.preprocessing.scale_shift()
        )
        self.register_buffer("scale", torch.from_numpy(scale.copy()))
        self.register_buffer("shift", torch.from_numpy(shift.copy()))
        self.network = bundle.model
        self.shrink = _shrink_for(bundle)
        self.many = config.task == "multilabel"
        self.sigmoids = not self.many and config.output_activation == "sigmoid"
        self.temperature = config.temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        planes = images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        if self.shrink is not None:
            planes = self.shrink(planes)
        with watch_features(self.network) as seen:
            logits = self.network(planes)
            vectors = seen()
        if self.sigmoids:  # as deploy.bundle.class_logits
            logits = _log_sigmoid(logits)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return logits.sigmoid() if self.many else logits.softmax(dim=1), vectors


class _Shrink(nn.Module):
    """`models.backbones.resize` to a smaller size as two matrix products, one for each axis.

    That resizing is linear and separable; antialiased it has no ONNX operator in torch's exporter.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, old_px: tuple[int, int], new_px: tuple[int, int]) -> None:
        super().__init__()
        for name, old, new in zip(("rows", "columns"), old_px, new_px, strict=True):
            weights = resize(torch.eye(old).view(1, 1, old, old), (new, old))[0, 0]  # (new, old)
            self.register_buffer(name, weights.contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return torch.matmul(torch.matmul(self.rows, images), self.columns.T)


def _shrink_for(bundle: Bundle) -> _Shrink | None:
    """Where a pretrained network makes images smaller before it looks at them."""
    spec = getattr(bundle.model, "spec", None)
    old = bundle.preprocessing.size_px
    if not isinstance(spec, BackboneSpec):
        return None
    shrinks = spec.input_px[0] < old[0] or spec.input_px[1] < old[1]
    return _Shrink(old, spec.input_px) if shrinks else None


def _log_sigmoid(logits: Tensor) -> Tensor:
    """Written out: the exported LogSigmoid is log(sigmoid(x)), -inf from x = -104 on."""
    return logits.clamp(max=0) - torch.log(1 + torch.exp(-logits.abs()))


def members_of(bundle: Bundle) -> tuple[list[Bundle], list[float]]:
    """Those that answer, with their weights; an ordinary bundle answers alone."""
    if isinstance(bundle, EnsembleBundle):
        return [each.bundle for each in bundle.members], [each.weight for each in bundle.members]
    return [bundle], [1.0]


def _inputs(bundles: list[Bundle]) -> tuple[tuple[GraphInput, ...], list[int]]:
    """The different inputs, and which of them each bundle takes."""
    ways = [
        (
            each.config.page,
            each.config.project,
            each.preprocessing.model_dump_json(exclude=_NOT_BEFORE),
        )
        for each in bundles
    ]
    distinct = list(dict.fromkeys(ways))
    inputs = []
    for number, way in enumerate(distinct):
        first = bundles[ways.index(way)]
        name = "images" if len(distinct) == 1 else f"images_{number}"
        inputs.append(
            GraphInput(name, first.preprocessing, first.config.page, first.config.project)
        )
    return tuple(inputs), [distinct.index(way) for way in ways]
