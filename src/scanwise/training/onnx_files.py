"""Write a network as ONNX with a free batch size, and open it in ONNX Runtime."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
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
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Idle threads that spin take the core that a busy neighbour, or torch, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
