"""Write a network as ONNX with a free batch size, and open it in ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
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
    # An exporter that fails prints its whole graph.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
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


def open_session(model: bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Idle threads that spin take the core that a busy neighbour, or torch, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
