"""One pass of a network over prepared pixels: logits, and with them the features they came from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scanwise.deploy.answers import Outputs
from scanwise.models.backbones import BackboneSpec
from scanwise.models.penultimate import alone_with, watch_features
from scanwise.prepare.collected import Collected
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import Pixels, evaluation_batch


@torch.inference_mode()
def network_outputs(
    model: nn.Module, pixels: Pixels, preprocessing: Preprocessing, device: torch.device | str
) -> Outputs:
    """Outputs of prepared pixels uint8 (n, h, w, c), n > 0, in float32 arithmetic.

    Safe in threads that share the network: one at a time computes.
    """
    logits, features = Collected(), Collected()
    step = _batch(model, preprocessing)
    with alone_with(model), watch_features(model.to(device).eval()) as seen:
        for start in range(0, len(pixels), step):
            batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + step])).to(device)
            logits.add(model(preprocessing.normalise(batch)).float().cpu())
            vectors = seen()
            if vectors is not None and len(vectors) == len(batch):
                features.add(vectors.float().cpu())
    complete = len(features) == len(logits)
    return Outputs(logits.whole().numpy(), features.whole().numpy() if complete else None)


@torch.inference_mode()
def head_outputs(model: nn.Module, vectors: NDArray[np.float32]) -> Outputs:
    """Outputs of a backbone's vectors (n, d), by the head of a pretrained network.

    Safe in threads, as `network_outputs` is.
    """
    with alone_with(model), watch_features(model.to("cpu").eval()) as seen:
        classify: Any = model.classify
        logits = classify(torch.from_numpy(vectors)).float()
        last = seen()
    if last is None or len(last) != len(logits):
        return Outputs(logits.numpy(), None)
    return Outputs(logits.numpy(), last.float().numpy())


class WholeNetwork(nn.Module):
    """Prepared pixels uint8 (b, h, w, c) to logits (b, k), and features (b, d) if it has any."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        for name, values in zip(("scale", "shift"), preprocessing.scale_shift(), strict=True):
            self.register_buffer(name, torch.from_numpy(values).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift
        with watch_features(self.model) as seen:
            logits: Tensor = self.model(images)
            features = seen()
        if features is None or len(features) != len(images):
            return (logits,)
        return logits, features


def _batch(model: nn.Module, preprocessing: Preprocessing) -> int:
    """Images that a network is given at a time: fewer of larger ones."""
    spec = getattr(model, "spec", None)
    return evaluation_batch(
        spec.input_px if isinstance(spec, BackboneSpec) else preprocessing.size_px
    )
