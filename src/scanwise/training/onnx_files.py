"""Write a network as ONNX with a free batch size, keep it in the cache, open it in ONNX Runtime.

Opening needs no torch.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanwise.core.files import atomic_path, cache_dir, sha256_bytes
from scanwise.core.runtime import package_version, thread_count

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18  # the first with Resize that is antialiased
BATCH_AXIS = "batch"


def write_onnx(
    module: nn.Module,
    examples: Sequence[Tensor],
    path: Path | str,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    """Write one file; the first axis of all inputs and outputs is free.

    By the exporter that traces, which takes a second where the newer one takes ten; where torch has
    it no more, by the newer one.

    Args:
        module: In eval mode, on the CPU; takes and gives one tensor for each name.
        examples: Inputs of two images or more; their other axes are fixed.
    """
    import torch

    names: dict[str, Any] = {
        "input_names": list(input_names),
        "output_names": list(output_names),
    }
    inputs = tuple(examples)
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                inputs,
                str(path),
                dynamo=False,
                opset_version=OPSET,
                dynamic_axes={name: {0: BATCH_AXIS} for name in (*input_names, *output_names)},
                **names,
            )
        except TypeError:
            batch = torch.export.Dim(BATCH_AXIS)
            torch.onnx.export(
                module, inputs, str(path), dynamo=True, external_data=False,
                dynamic_shapes=({0: batch},) * len(inputs), **names,
            )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter that traces turns its log on by mistake and prints a graph that it can't do."""
    import torch

    module: Any = torch._C
    log = getattr(module, "_jit_onnx_log", None)
    module._jit_onnx_log = lambda *words: None
    try:
        yield
    finally:
        module._jit_onnx_log = log


def open_session(model: bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = thread_count()
    options.log_severity_level = 3
    # Idle threads that spin take the core that a busy neighbour, or torch, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_stem(identity: str) -> Path:
    """Where the cache keeps a network in ONNX, by what it is, with these versions of the tools."""
    import onnxruntime

    versions = f"torch {package_version('torch')} onnxruntime {onnxruntime.__version__}"
    return cache_dir() / "onnx" / sha256_bytes(f"{identity} {versions}".encode())[:32]


def kept_session(stem: Path, export: Callable[[Path], None]) -> Any:
    """A network in ONNX Runtime: exported once, and kept at `stem`.onnx where the disk has room.

    Args:
        stem: From `onnx_stem`.
        export: Writes the network to a file.
    """
    path = stem.with_suffix(".onnx")
    with contextlib.suppress(Exception):  # absent or damaged: export anew
        return open_session(path.read_bytes())
    try:
        with atomic_path(path) as temporary:
            export(temporary)
            return open_session(temporary.read_bytes())
    except OSError:  # no room in the cache
        with tempfile.TemporaryDirectory() as folder:
            export(Path(folder) / "network.onnx")
            return open_session((Path(folder) / "network.onnx").read_bytes())
