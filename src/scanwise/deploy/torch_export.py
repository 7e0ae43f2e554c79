"""A bundle as a `torch.export` program (.pt2), for other torch programs; the graph is the ONNX's.

`torch.export.load` unpickles what an archive tells it to. What is written here holds no pickle
(weights are raw bytes, the graph is JSON, example inputs are left out), and only a file that was
checked to be so is loaded. Foreign .pt2 files are never loaded: `predict` takes the ONNX file.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scanwise.core.errors import IntegrityError, ModelError, one_line
from scanwise.deploy.graph_bundle import Runner
from scanwise.deploy.serving_graph import ServingGraph


def write_program(graph: ServingGraph, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the program with a free batch size; `metadata` becomes its extra files.

    Raises:
        ModelError: If torch can't export the network.
    """
    batch = torch.export.Dim("batch")
    examples = graph.examples()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # One entry for *images, which holds one for each input.
            program = torch.export.export(
                graph, examples, dynamic_shapes=(({0: batch},) * len(examples),)
            )
            program.example_inputs = None  # they would be pickled
            torch.export.save(program, path, extra_files=dict(metadata))
    except Exception as error:  # the exporter raises whatever it likes
        raise ModelError(
            f"torch can't export this network ({one_line(error)}); use the bundle itself, or "
            "--format onnx."
        ) from error


def open_program(path: Path) -> Runner:
    """Run a file that `write_program` wrote.

    Raises:
        IntegrityError: If loading it would unpickle anything.
    """
    check_no_pickle(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path).module()

    @torch.inference_mode()
    def run(
        batch: Sequence[NDArray[np.uint8]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        found = program(*(torch.from_numpy(each) for each in batch))
        if isinstance(found, tuple):
            return found[0].numpy(), found[1].numpy()
        return found.numpy(), None

    return run


def check_no_pickle(path: Path) -> None:
    """Raises IntegrityError unless weights and constants are raw and nothing else could be run."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename.partition("/")[2]
                if name.endswith("_config.json"):
                    payloads = json.loads(archive.read(entry))["config"].values()
                    safe = not any(one["use_pickle"] for one in payloads)
                    safe &= all(one["path_name"].startswith(_RAW) for one in payloads)
                elif name.endswith((".pt", ".pkl")):
                    safe = entry.file_size == 0
                else:
                    safe = not name.startswith("data/aotinductor")
                if not safe:
                    raise IntegrityError(f"{path}: {name} would be unpickled; it is not opened.")
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, OSError) as error:
        raise IntegrityError(f"{path} is damaged: {error!r}.") from error


_RAW = ("weight_", "tensor_")
