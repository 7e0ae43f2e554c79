"""One pass of a network over prepared pixels: logits, and with them the features they came from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scanwise.models.backbones import BackboneSpec
from scanwise.models.penultimate import alone_with, watch_features
from scanwise.prepare.batches import evaluation_batch
from scanwise.prepare.collected import Collected
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import Pixels


class Outputs(NamedTuple):
    """Of n images."""

    logits: NDArray[np.float32]  # (n, k)
    features: NDArray[np.float32] | None  # (n, d); None where the network shows none


@torch.inference_mode()
def network_outputs(
    model: nn.Module, pixels: Pixels, preprocessing: Preprocessing, device: torch.device
) -> Outputs:
    """Outputs of prepared pixels uint8 (n, h, w, c), n > 0, in float32 arithmetic.

    Safe in threads that share the network: one at a time computes.
    """
    logits, features = Collected(), Collected()
    step = network_batch(model, preprocessing)
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


def network_batch(model: nn.Module, preprocessing: Preprocessing) -> int:
    """Images that a network is given at a time: fewer of larger ones."""
    spec = getattr(model, "spec", None)
    return evaluation_batch(
        spec.input_px if isinstance(spec, BackboneSpec) else preprocessing.size_px
    )
