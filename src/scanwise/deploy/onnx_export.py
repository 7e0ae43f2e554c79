"""A bundle as one ONNX file that holds all it needs: graph, class names, preprocessing, thresholds.

The graph begins at prepared pixels (uint8, of the model's size) and ends at calibrated
probabilities. The other files of the bundle are in the file's metadata, by their names; the last
entry is the SHA-256 of all bytes before it, so that a changed file is known as such.
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from scanwise import __version__
from scanwise.core.errors import ModelError, one_line
from scanwise.core.files import sha256_bytes
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.graph_bundle import FEATURES
from scanwise.deploy.onnx_bundle import (
    CONFIG,
    FACTS,
    FORMAT_VERSION,
    METRICS,
    MODEL_CARD,
    PREPROCESS,
    SEAL_LENGTH,
    seal,
)
from scanwise.deploy.reference import REFERENCE
from scanwise.deploy.serving_graph import ServingGraph, members_of
from scanwise.training.onnx_files import write_onnx

MAX_BYTES = 2**31 - 1  # of a protobuf message


def onnx_bytes(bundle: Bundle) -> bytes:
    """The whole file: `graph_bytes` with `metadata_of`, sealed.

    Raises:
        ModelError: If the network can't be exported, or is larger than 2 GB.
    """
    graph = ServingGraph(bundle)
    return sealed(graph_bytes(graph), metadata_of(bundle, graph))


def graph_bytes(graph: ServingGraph) -> bytes:
    """The bare ONNX model: inputs uint8 (n, h, w, c), outputs float32 (n, k) and (n, d), n free.

    Raises:
        ModelError: If the network can't be exported, or is larger than 2 GB.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if size > MAX_BYTES:
        raise ModelError(
            f"the weights are {size / 1e9:.1f} GB, an ONNX file holds at most 2 GB; "
            "use --format torch."
        )
    names = [each.name for each in graph.inputs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with torch.inference_mode():
                write_onnx(graph, graph.examples(), path, names, graph.output_names)
        except Exception as error:  # the exporter raises whatever it likes
            raise ModelError(
                f"this network can't be exported as ONNX ({one_line(error)}); use the bundle "
                "itself, or --format torch."
            ) from error
        return path.read_bytes()


def metadata_of(bundle: Bundle, graph: ServingGraph, **facts: Any) -> dict[str, str]:
    """What of a bundle goes into the metadata, by the name of its file.

    Args:
        facts: Further entries of scanwise.json, such as how the weights were rounded.
    """
    found = {
        FACTS: _text(
            {
                "format_version": FORMAT_VERSION,
                "num_parameters": bundle.num_parameters(),
                "scanwise": __version__,
                "torch": torch.__version__,
                **facts,
            }
        ),
        CONFIG: _text(bundle.config.to_json()),
        PREPROCESS: _text({each.name: each.to_json() for each in graph.inputs}),
        METRICS: _text(bundle.metrics),
        MODEL_CARD: bundle.model_card,
    }
    reference = members_of(bundle)[0][0].reference
    if reference is not None and FEATURES in graph.output_names:
        with tempfile.TemporaryDirectory() as folder:
            reference.save(Path(folder) / REFERENCE)
            raw = (Path(folder) / REFERENCE).read_bytes()
        found[REFERENCE] = base64.b64encode(raw).decode()
    return found


def sealed(model: bytes, metadata: dict[str, str]) -> bytes:
    """An ONNX model with metadata and, last, the hash of all that.

    A protobuf message may be continued by appending: repeated fields grow.
    """
    import onnx

    entries = [onnx.StringStringEntryProto(key=k, value=v) for k, v in metadata.items()]
    body: bytes = model + onnx.ModelProto(metadata_props=entries).SerializeToString()
    if len(body) + SEAL_LENGTH > MAX_BYTES:
        raise ModelError(
            f"the file would have {len(body) / 1e9:.1f} GB, an ONNX file holds at most 2 GB; "
            "use --format torch."
        )
    return body + seal(sha256_bytes(body))


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
