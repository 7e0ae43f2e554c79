"""Run a bundle's network over many images as fast as this CPU can: by torch or by ONNX Runtime.

Answers of the two agree to 1e-5 and in every label, or torch is taken. That is looked at on images
of the first large job; the verdict is kept in the cache beside the exported network, for this
bundle with these versions of the tools on this machine. A later job goes by it, without torch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from scanwise import __version__
from scanwise.core.errors import one_line
from scanwise.core.files import sha256_bytes, sha256_file, write_json
from scanwise.core.runtime import cpu_model, thread_count
from scanwise.deploy.answers import BundlePredictions, Outputs
from scanwise.deploy.bundle import Bundle, Prepared
from scanwise.deploy.ensemble import EnsembleBundle
from scanwise.deploy.graph_bundle import GraphBundle
from scanwise.prepare.rows import Pixels, evaluation_batch
from scanwise.training.onnx_files import kept_session, onnx_stem, open_session

AGREEMENT = 1e-5  # of probabilities
SAMPLE = 16  # images that the two are compared on
FEW = 64  # images of which torch has answered before the network is exported
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


def known_choice(bundle: Bundle, *, device: str = "cpu") -> Choice | None:
    """What needs no comparison of the engines: there is one, or an earlier job compared them.

    Args:
        bundle: Of one network, or an ensemble; it is changed (`runner`).
        device: Anything but "cpu" is torch's.

    Returns:
        The choice, with the reason in words; None where the engines are to be compared.
    """
    if isinstance(bundle, GraphBundle):
        return Choice("onnxruntime", "as it was exported")
    if device != "cpu":
        return Choice("torch", f"on {device}")
    if networks := _networks(bundle):
        return _kept_choice(networks)
    return Choice("torch", "a network of your own")


def choose_engine(bundle: Bundle, sample: Sequence[Prepared], num_images: int) -> Choice:
    """Make a bundle of which no choice is known use the faster engine for a job of many images.

    Args:
        bundle: Of one network, or an ensemble; it is changed (`runner`).
        sample: Some of the images, prepared; up to SAMPLE of them are used.
        num_images: Of the job.

    Returns:
        The choice, with the reason in words.
    """
    sample = sample[:SAMPLE]
    if num_images < FEW or not sample:
        return Choice("torch", "few images")
    networks = _networks(bundle)
    stems = [_stem(each) for each in networks]  # before their weights are loaded
    _timed(bundle, sample[:2])  # the first pass is slow
    slow_s, on_torch = _timed(bundle, sample)
    if slow_s / len(sample) * num_images < WORTH_S:
        return Choice("torch", f"under {WORTH_S:.0f} s of work: a faster engine does not pay")
    try:
        for each, stem in zip(networks, stems, strict=True):
            each.runner = _onnx_runner(each, _session(each, stem))
        _timed(bundle, sample[:2])
        fast_s, on_onnx = _timed(bundle, sample)
    except Exception as error:  # the exporter and the runtime raise whatever they like
        use_engine(bundle, "torch")
        return Choice("torch", f"ONNX Runtime can't run it: {one_line(error)}")
    if why_not := difference(on_torch, on_onnx):
        use_engine(bundle, "torch")
        return _keep(Choice("torch", why_not), stems)
    if fast_s > slow_s:  # not kept: a busy moment must not decide for good
        use_engine(bundle, "torch")
        return Choice("torch", f"ONNX Runtime is slower: {len(sample) / fast_s:.0f} images/s")
    gap = float(np.nanmax(np.abs(on_torch.probabilities - on_onnx.probabilities)))
    reason = (
        f"{slow_s / fast_s:.1f} times as fast as torch on {len(sample)} images, whose "
        f"probabilities agree to {gap:.0e}"
    )
    return _keep(Choice("onnxruntime", reason), stems)


def use_engine(bundle: Bundle, engine: EngineName) -> None:
    """Make a bundle, or all members of an ensemble, use an engine; torch where it has no choice."""
    for each in _networks(bundle):
        each.runner = None
        if engine == "onnxruntime":
            each.runner = _onnx_runner(each, _session(each, _stem(each)))


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
    """The bundles that may run elsewhere; none where a network is a user's own, or a graph."""
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


# --- the verdict of a comparison, for later jobs --------------------------------------------------


def _kept_choice(networks: Sequence[Bundle]) -> Choice | None:
    """What an earlier job chose, made ready; None where there is none or a file is damaged."""
    try:
        stems = [_stem(each) for each in networks]
        kept = json.loads(_verdict_file(stems).read_text(encoding="utf-8"))
        if kept["engine"] not in get_args(EngineName):
            return None
        choice = Choice(kept["engine"], f"as measured before on this machine: {kept['reason']}")
        if choice.engine == "onnxruntime":
            files = [_unchanged(*pair) for pair in zip(stems, kept["sha256"], strict=True)]
            for each, session in zip(networks, map(open_session, files), strict=True):
                each.runner = _onnx_runner(each, session)
        return choice
    except Exception:  # absent or damaged: they are compared anew
        return None


def _keep(choice: Choice, stems: Sequence[Path]) -> Choice:
    """Write a choice down, if the cache had room for the networks that it is about."""
    with contextlib.suppress(OSError):
        files = [sha256_file(stem.with_suffix(".onnx")) for stem in stems]
        kept = {"engine": choice.engine, "reason": choice.reason, "sha256": files}
        write_json(_verdict_file(stems), kept)
    return choice


def _verdict_file(stems: Sequence[Path]) -> Path:
    """Of networks whose answers were compared together, by this scanwise on such a machine."""
    about = [__version__, cpu_model(), f"{thread_count()} threads", *(stem.name for stem in stems)]
    return onnx_stem(" ".join(about)).with_suffix(".json")


def _unchanged(stem: Path, sha256: str) -> bytes:
    """The exported network that was compared.

    Raises:
        ValueError: If it is another now; then it is removed, to be exported anew.
    """
    path = stem.with_suffix(".onnx")
    data = path.read_bytes()
    if sha256_bytes(data) != sha256:
        path.unlink(missing_ok=True)
        raise ValueError(f"{path} was changed.")
    return data


# --- a bundle's network in ONNX Runtime -----------------------------------------------------------


def _stem(bundle: Bundle) -> Path:
    """Where the cache keeps the network, by all that its answers depend on."""
    stated = json.dumps([bundle.config.to_json(), bundle.preprocessing.to_json()])
    return onnx_stem(f"pixels to logits {stated} {_weights_sha256(bundle)}")


def _weights_sha256(bundle: Bundle) -> str:
    """Of the file until the network is loaded, then of its tensors: they may have been changed."""
    if not bundle.is_loaded:
        return bundle.saved.sha256
    from scanwise.models.backbones import tensors_sha256

    return tensors_sha256(bundle.model)


def _session(bundle: Bundle, stem: Path) -> Any:
    return kept_session(stem, lambda path: _export(bundle, path))


def _export(bundle: Bundle, path: Path) -> None:
    """Write the network from prepared pixels uint8 (b, h, w, c) to logits (b, k) and features."""
    import torch

    from scanwise.deploy.outputs import WholeNetwork
    from scanwise.models.penultimate import alone_with
    from scanwise.training.onnx_files import write_onnx

    form = bundle.preprocessing
    with alone_with(bundle.model):
        network = WholeNetwork(bundle.model.to("cpu").eval(), form).eval()
        example = torch.zeros((2, *form.size_px, form.channels), dtype=torch.uint8)
        with torch.no_grad():
            names = ("logits", "features")[: len(network(example))]
        write_onnx(network, [example], path, ["images"], names)


def _onnx_runner(bundle: Bundle, session: Any) -> Callable[[Pixels], Outputs]:
    step = evaluation_batch(bundle.config.seen_px)

    def run(pixels: Pixels) -> Outputs:
        parts: list[list[NDArray[np.float32]]] = []
        for start in range(0, len(pixels), step):
            block = np.ascontiguousarray(pixels[start : start + step])
            parts.append(session.run(None, {"images": block}))
        logits, *features = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Outputs(logits, features[0] if features else None)

    return run
