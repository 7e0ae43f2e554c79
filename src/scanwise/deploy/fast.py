"""Run a bundle's network over many images as fast as this CPU can: by torch or by ONNX Runtime.

Answers of the two agree to 1e-5 and in every label, or torch is taken; that is looked at anew for
each job, on some of its own images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scanwise.deploy.answers import BundlePredictions
from scanwise.deploy.bundle import Bundle, Prepared
from scanwise.deploy.ensemble import EnsembleBundle
from scanwise.deploy.outputs import Outputs, network_batch
from scanwise.models.backbones import tensors_sha256
from scanwise.models.penultimate import alone_with, watch_features
from scanwise.prepare.rows import Pixels
from scanwise.training.engine import onnx_session, onnx_stem

AGREEMENT = 1e-5  # of probabilities
SAMPLE = 16  # images that the two are compared on
FEW = 64  # images of which torch has answered before ONNX Runtime has started
WORTH_S = 8.0  # of torch's time; what takes less is not worth exporting the network

EngineName = Literal["torch", "onnxruntime"]


@dataclass(frozen=True)
class Choice:
    """What runs the network, and why."""

    engine: EngineName
    reason: str

    def __str__(self) -> str:
        name = "ONNX Runtime" if self.engine == "onnxruntime" else "torch"
        return f"{name} ({self.reason})"


def choose_engine(
    bundle: Bundle, sample: Sequence[Prepared], num_images: int, *, device: str = "cpu"
) -> Choice:
    """Make a bundle use the faster engine for a job of many images.

    Args:
        bundle: Of one network, or an ensemble; it is changed (`runner`).
        sample: Some of the images, prepared; up to SAMPLE of them are used.
        num_images: Of the job.
        device: Anything but "cpu" is torch's.

    Returns:
        The choice, with the reason in words.
    """
    networks = _networks(bundle)
    if device != "cpu":
        return Choice("torch", f"on {device}")
    if not networks:
        return _other(bundle)
    sample = sample[:SAMPLE]
    if num_images < FEW or not sample:
        return Choice("torch", "few images")
    _timed(bundle, sample[:2])  # the first pass is slow
    slow_s, on_torch = _timed(bundle, sample)
    if slow_s / len(sample) * num_images < WORTH_S:
        return Choice("torch", f"under {WORTH_S:.0f} s of work: a faster engine does not pay")
    try:
        use_engine(bundle, "onnxruntime")
        _timed(bundle, sample[:2])
        fast_s, on_onnx = _timed(bundle, sample)
    except Exception as error:  # the exporter and the runtime raise whatever they like
        use_engine(bundle, "torch")
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Choice("torch", f"ONNX Runtime can't run it: {first[:120]}")
    why_not = difference(on_torch, on_onnx)
    if not why_not and fast_s > slow_s:
        why_not = f"ONNX Runtime is slower: {len(sample) / fast_s:.0f} images/s"
    if why_not:
        use_engine(bundle, "torch")
        return Choice("torch", why_not)
    gap = float(np.nanmax(np.abs(on_torch.probabilities - on_onnx.probabilities)))
    return Choice(
        "onnxruntime",
        f"{slow_s / fast_s:.1f} times as fast as torch on {len(sample)} of these images, whose "
        f"probabilities agree to {gap:.0e}",
    )


_AS_IT_IS = Choice("onnxruntime", "as it was exported")


def use_engine(bundle: Bundle, engine: EngineName) -> None:
    """Make a bundle, or all members of an ensemble, use an engine; torch where it has no choice."""
    for each in _networks(bundle):
        each.runner = _onnx_runner(each) if engine == "onnxruntime" else None


def few_images(bundle: Bundle) -> Choice:
    """For a job that is too small to choose."""
    return Choice("torch", "few images") if _networks(bundle) else _other(bundle)


def _other(bundle: Bundle) -> Choice:
    """Of a bundle that has no choice."""
    return Choice("torch", "a network of your own") if type(bundle) is Bundle else _AS_IT_IS


def difference(one: BundlePredictions, other: BundlePredictions) -> str:
    """How the answers of two engines differ by more than rounding, or ''."""
    gap = np.abs(one.probabilities - other.probabilities).max(initial=0.0)
    if not gap <= AGREEMENT:
        return f"ONNX Runtime's probabilities differ by {gap:.0e}"
    for what in ("predicted", "above_threshold", "sets", "in_distribution"):
        if getattr(one, what) != getattr(other, what):
            return f"ONNX Runtime's answers differ in {what}"
    return ""


def _networks(bundle: Bundle) -> list[Bundle]:
    """The bundles that may run elsewhere; none where a network is a user's own, or no torch's."""
    each = [m.bundle for m in bundle.members] if isinstance(bundle, EnsembleBundle) else [bundle]
    free = [
        type(one) is Bundle
        and one.feature_source is None
        and not one.config.architecture.startswith("custom:")
        for one in each
    ]
    return each if all(free) else []


def _timed(bundle: Bundle, sample: Sequence[Prepared]) -> tuple[float, BundlePredictions]:
    began = time.perf_counter()
    answers = bundle.predict_prepared([""] * len(sample), sample)
    return time.perf_counter() - began, answers


class _WholeNetwork(nn.Module):
    """Normalised images to logits (b, k), and the features they came from where there are some."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with watch_features(self.model) as seen:
            logits: Tensor = self.model(images)
            features = seen()
        if features is None or len(features) != len(images):
            return (logits,)
        return logits, features


def _onnx_runner(bundle: Bundle) -> Callable[[Pixels], Outputs]:
    network = _WholeNetwork(bundle.model.to("cpu").eval()).eval()
    preprocessing = bundle.preprocessing
    shape = (2, *preprocessing.size_px, preprocessing.channels)
    example = preprocessing.normalise(torch.zeros(shape, dtype=torch.uint8))
    with alone_with(bundle.model):
        with torch.no_grad():
            names = ("logits", "features")[: len(network(example))]
        identity = f"whole {bundle.config.to_json()} {tensors_sha256(bundle.model)} {shape} {names}"
        session = onnx_session(onnx_stem(identity), network, example, names)
    step = network_batch(bundle.model, preprocessing)

    def run(pixels: Pixels) -> Outputs:
        parts: list[list[NDArray[np.float32]]] = []
        for start in range(0, len(pixels), step):
            block = torch.from_numpy(np.ascontiguousarray(pixels[start : start + step]))
            parts.append(session.run(None, {"images": preprocessing.normalise(block).numpy()}))
        logits, *features = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Outputs(logits, features[0] if features else None)

    return run
