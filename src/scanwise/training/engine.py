"""Run a frozen backbone as fast as this machine can: ONNX Runtime on CPUs where it wins, or torch.

The two are compared once for each backbone, on real images: outputs must agree, and the faster one
is taken (ONNX Runtime where they are about equal). The verdict is kept beside the exported file, so
that later runs choose the same.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scanwise.core.errors import ScanwiseError, one_line
from scanwise.core.files import write_json
from scanwise.models.backbones import Backbone, FrozenBackbone
from scanwise.training.onnx_files import kept_session, onnx_stem, open_session, write_onnx

BATCH = 16  # always this many: another shape may choose another kernel and other last bits
TRIAL_IMAGES = 8
# Largest difference between the two, as a part of the largest feature, that counts as agreement.
AGREEMENT = 1e-4
# torch is taken only where it is clearly faster: on a busy machine two equal ones differ by a
# third, and another engine on another day would mean other last bits.
TOLERATED = 1.5


@dataclass(frozen=True)
class Verdict:
    """What the comparison of ONNX Runtime with torch gave; NaN-free, kept in the cache."""

    engine: str  # "onnxruntime" or "torch"
    reason: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


class Engine:
    """Feature vectors of prepared images; the same image always gives the same bits."""

    def __init__(self, verdict: Verdict, version: str, device: torch.device, runner: Any) -> None:
        self.verdict = verdict
        self.identity = f"{verdict.engine} {version} {device.type}"
        self.device = device
        self._runner = runner

    def features(self, images: Tensor) -> NDArray[np.float32]:
        """Features float32 (b, d) of normalised images float (b, c, h, w), b up to BATCH."""
        missing = BATCH - len(images)
        if missing:
            padding = images.new_zeros((missing, *images.shape[1:]))
            padded = torch.cat([images, padding])
        else:
            padded = images
        vectors: NDArray[np.float32] = self._runner(padded.contiguous())[: len(images)]
        return vectors


def make_engine(backbone: Backbone, sample: Tensor, device: torch.device) -> Engine:
    """Choose how to run a frozen backbone, and say why.

    Args:
        backbone: In eval mode.
        sample: A few normalised training images, float (b, c, h, w), for the comparison.
        device: On a GPU torch runs it, in bfloat16 where the GPU has it.
    """
    module = FrozenBackbone(backbone).eval()
    if device.type != "cpu":
        verdict = Verdict("torch", f"{device.type}: torch in {_gpu_type(device)}")
        return Engine(verdict, torch.__version__, device, _on_gpu(module, device))
    shape = tuple(sample.shape[1:])
    stem = onnx_stem(f"{backbone.spec.weights_sha256} {backbone.spec.input_px} {shape}")
    on_torch = _on_torch(module)
    try:
        verdict, session = _stored(stem) or _compare(stem, module, on_torch, sample)
    except Exception as error:  # the exporter and the runtime raise whatever they like
        verdict, session = Verdict("torch", f"ONNX Runtime can't run it: {one_line(error)}"), None
    if session is None:
        return Engine(verdict, torch.__version__, device, on_torch)
    return Engine(verdict, _ort().__version__, device, _on_onnxruntime(session))


def _stored(stem: Path) -> tuple[Verdict, Any] | None:
    """The verdict of an earlier comparison on this machine, with a session if one is needed."""
    try:
        verdict = Verdict(**json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")))
        if verdict.engine == "torch":
            return verdict, None
        return verdict, open_session(stem.with_suffix(".onnx").read_bytes())
    except Exception:  # absent or damaged: compare anew
        return None


def _compare(stem: Path, module: nn.Module, on_torch: Any, sample: Tensor) -> tuple[Verdict, Any]:
    images = _enough(sample)
    session = kept_session(
        stem, lambda path: write_onnx(module, [images[:2]], path, ["images"], ["features"])
    )
    on_onnx = _on_onnxruntime(session)
    expected, found = on_torch(images), on_onnx(images)
    scale = float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(expected - found).max()) / scale
    if not difference <= AGREEMENT:
        verdict = Verdict(
            "torch", f"ONNX Runtime's features differ by {difference:.1e} of the largest"
        )
    else:
        slow, fast = _median_s(on_torch, images), _median_s(on_onnx, images)
        engine = "onnxruntime" if fast <= TOLERATED * slow else "torch"
        verdict = Verdict(
            engine,
            f"{len(images) / fast:.0f} images/s by ONNX Runtime, {len(images) / slow:.0f} by "
            f"torch; features agree to {difference:.0e} of the largest",
        )
    if stem.with_suffix(".onnx").exists():
        with contextlib.suppress(OSError):
            write_json(stem.with_suffix(".json"), verdict.to_json())
    return verdict, session if verdict.engine == "onnxruntime" else None


def _enough(sample: Tensor) -> Tensor:
    """Exactly TRIAL_IMAGES images, repeated if there are fewer."""
    times = -(-TRIAL_IMAGES // len(sample))
    return sample.repeat(times, 1, 1, 1)[:TRIAL_IMAGES].contiguous()


def _median_s(run: Any, images: Tensor, rounds: int = 3) -> float:
    run(images)
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run(images)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[rounds // 2]


def _ort() -> Any:
    import onnxruntime

    return onnxruntime


def _on_torch(module: nn.Module) -> Any:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(images: Tensor) -> NDArray[np.float32]:
        vectors: Tensor = module(images.contiguous(memory_format=torch.channels_last))
        return vectors.float().contiguous().numpy()

    return run


def _on_onnxruntime(session: Any) -> Any:
    def run(images: Tensor) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = session.run(None, {"images": images.numpy()})[0]
        return vectors

    return run


def _gpu_type(device: torch.device) -> str:
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bfloat16" if bf16 else "float32"


def _on_gpu(module: nn.Module, device: torch.device) -> Any:
    module.to(device)
    half = _gpu_type(device) == "bfloat16"

    @torch.inference_mode()
    def run(images: Tensor) -> NDArray[np.float32]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            vectors: Tensor = module(images.to(device))
        return vectors.float().cpu().numpy()

    return run


def check_unchanged(before: str, after: str, name: str) -> None:
    """A frozen backbone must be, to the bit, what it was.

    Raises:
        ScanwiseError: If one of its weights or buffers changed: a defect of ours.
    """
    if before != after:
        raise ScanwiseError(
            f"the frozen backbone {name} changed while the head was trained; please report this."
        )
