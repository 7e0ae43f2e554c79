"""`scanwise export`: a trained model as one file for other programs, proven to answer alike.

The folder appears whole: the file, and export.json with what was compared. A file that answers
differently gets a name that nothing opens (`model.onnx.FAILED`).
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise import __version__
from scanwise.core.errors import ConfigError, DataError, nearest
from scanwise.core.files import sha256_file, write_json
from scanwise.core.runtime import cpu_model
from scanwise.core.types import Dataset, Interval, Split
from scanwise.deploy.bundle import Bundle, find_bundle
from scanwise.deploy.graph_bundle import GraphBundle
from scanwise.deploy.onnx_bundle import OnnxBundle
from scanwise.deploy.onnx_export import graph_bytes, metadata_of, sealed
from scanwise.deploy.serving_graph import ServingGraph
from scanwise.deploy.torch_export import open_program, write_program
from scanwise.pipeline.explanation_items import expand_paths
from scanwise.pipeline.export_check import (
    BATCHES,
    TOLERANCE,
    Images,
    answers_of,
    compare_answers,
    images_of_rows,
    measure_latency,
)
from scanwise.pipeline.export_int8 import Rounded, round_to_int8
from scanwise.pipeline.runs import (
    Run,
    check_output_free,
    command_line,
    folder_size,
    is_run_folder,
    size_text,
)
from scanwise.pipeline.slices import facts_of
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import reload_data

EXPORT = "export.json"
FOLDER = "export"  # in a run, with a folder for each format
FORMATS = {"onnx": "model.onnx", "torch": "model.pt2"}
INT8 = "model.int8.onnx"
FAILED = ".FAILED"
# Formats that are made from the ONNX file: module, pip line, and how.
OTHERS = {
    "openvino": ("openvino", "pip install openvino", "ovc model.onnx"),
    "tflite": ("onnx2tf", "pip install onnx2tf tensorflow", "onnx2tf -i model.onnx"),
    "tensorrt": ("tensorrt", "pip install tensorrt", "trtexec --onnx=model.onnx"),
}


@dataclass(frozen=True)
class Exported:
    """What export.json says."""

    folder: Path
    document: Mapping[str, Any]

    @property
    def failure(self) -> str:
        """Why a file must not be used; '' where all are the model."""
        reasons = [
            f"{part['file']}: {part['reason']}"
            for part in (self.document, self.document.get("int8") or {})
            if part.get("reason")
        ]
        return "; ".join(reasons)

    def to_json(self) -> dict[str, Any]:
        return {"output": str(self.folder), **self.document}

    def text(self) -> str:
        document = self.document
        lines = [_parity_line(document)]
        if document.get("int8"):
            lines += _int8_lines(document["int8"])
        lines += _latency_lines(document)
        names = [document["file"], *([document["int8"]["file"]] if document.get("int8") else [])]
        lines += [f"written: {self.folder / name}" for name in (*names, EXPORT)]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Source:
    """What is exported, and the run that it came from (None: a bundle alone)."""

    bundle: Bundle
    folder: Path  # of the bundle
    run: Run | None


def export_model(
    path: Path,
    *,
    format: str = "onnx",
    int8: bool = False,
    output: Path | None = None,
    max_drop: float = 0.01,
    check_on: Sequence[Path] = (),
    force: bool = False,
    seed: int = 0,
) -> Exported:
    """Export a model, and compare the file's answers with the bundle's.

    Args:
        path: A run, or a bundle.
        format: "onnx" or "torch".
        int8: Also write an int8 copy (ONNX only; needs the run's data).
        output: New folder [RUN/export/FORMAT].
        max_drop: Largest loss of accuracy or AUROC of the int8 copy on validation.
        check_on: Image files or folders to compare on [the run's whole validation split].
        force: Replace an earlier export.
        seed: Draws the training images that int8 ranges are measured on.

    Returns:
        What was found; `failure` names what is marked FAILED.

    Raises:
        ConfigError: An unknown format, or options that do not go together.
        RunError: No model at `path`, or the output folder is in the way.
        DataError, SplitError: Nothing to compare on, or the data changed since.
        ModelError: The network can't be exported.
    """
    _check_request(format, int8, max_drop)
    source = _open_source(path, output)
    folder = output or _default_folder(source, format)
    check_output_free(folder, force, (EXPORT,), "export")
    data = _load(source) if int8 or not check_on else None
    images = _images(source, data, check_on)
    if int8:
        _check_one_size(images)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        made = Path(name) / "made"
        made.mkdir()
        document = _facts(source) | {"split": images.split}
        document |= _make(source, images, made, format, data if int8 else None, max_drop, seed)
        write_json(made / EXPORT, document)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    exported = Exported(folder, document)
    if source.run is not None:
        source.run.log(f"export: {folder}: {document['status']} {exported.failure}")
    return exported


def _make(
    source: _Source,
    images: Images,
    folder: Path,
    format: str,
    data: tuple[Dataset, Split] | None,
    max_drop: float,
    seed: int,
) -> dict[str, Any]:
    """Write the files into `folder`; what export.json says of them."""
    bundle, target = source.bundle, folder / FORMATS[format]
    graph = ServingGraph(bundle)
    model = _write(bundle, graph, target, format)
    answers = answers_of(bundle, images)
    found: dict[str, Any] = {}
    models: dict[str, Bundle] = {"bundle": bundle, format: model}
    try:
        parity = compare_answers(answers, answers_of(model, images))
        found, failure = parity.to_json(), parity.failure
    except DataError as error:  # NaN, where the bundle has none
        failure = str(error)
    rounded: Rounded | None = None
    if data is not None:
        dataset, split = data
        rounded = round_to_int8(
            bundle, graph, dataset, split.train, images, answers, folder / INT8,
            max_drop=max_drop, seed=seed,
        )  # fmt: skip
        models["int8"] = rounded.model
    latency = measure_latency(models, graph)
    document = {
        "status": "FAILED" if failure or (rounded and rounded.failure) else "ok",
        "reason": failure,
        "format": format,
        "file": target.name,
        "bytes": target.stat().st_size,
        "sha256": sha256_file(target),
        "bundle_bytes": folder_size(source.folder)[1],
        "bundle_sha256sums": sha256_file(source.folder / "SHA256SUMS"),
        **found,
        "tolerance": TOLERANCE,
        "inputs": {each.name: ["n", *_shape(each)] for each in graph.inputs},
        "outputs": list(graph.output_names),
        "latency": latency,
        "versions": _versions(),
        "machine": {"cpu": cpu_model(), "threads": _threads()},
        "int8": None if rounded is None else _int8_document(rounded, latency),
    }
    if failure:
        document["file"] = _set_aside(target)
    if rounded is not None and rounded.failure:
        document["int8"]["file"] = _set_aside(folder / INT8)
    return document


def _write(bundle: Bundle, graph: ServingGraph, target: Path, format: str) -> GraphBundle:
    """Write one file and open it again, as its users will."""
    metadata = metadata_of(bundle, graph)
    if format == "onnx":
        target.write_bytes(sealed(graph_bytes(graph), metadata))
        return OnnxBundle.from_file(target)
    write_program(graph, target, metadata)
    return OnnxBundle.from_metadata(metadata, open_program(target), target.name)


def _set_aside(file: Path) -> str:
    """Give a file that must not be used a name that nothing opens."""
    return file.rename(file.with_name(file.name + FAILED)).name


def _int8_document(rounded: Rounded, latency: Mapping[str, Any]) -> dict[str, Any]:
    slower = [
        batch for batch, took in latency.items()
        if took["int8"]["median_ms"] >= took["onnx"]["median_ms"]
    ]  # fmt: skip
    return rounded.to_json() | {"slower_here": slower}


def _check_request(format: str, int8: bool, max_drop: float) -> None:
    if format in OTHERS:
        module, pip, command = OTHERS[format]
        needs = "" if importlib.util.find_spec(module) else f" (not installed: {pip})"
        raise ConfigError(
            f"--format {format}: scanwise writes {' and '.join(FORMATS)} itself; {format}'s own "
            f"converter reads the ONNX file: export with --format onnx, then run `{command}`"
            f"{needs}. What it makes is not checked by scanwise: compare its answers yourself."
        )
    if format not in FORMATS:
        raise ConfigError(f"format='{format}': {nearest(format, (*FORMATS, *OTHERS))}")
    if int8 and format != "onnx":
        raise ConfigError("--int8 is for --format onnx; leave out one of the two.")
    if not 0 <= max_drop <= 1:
        raise ConfigError(f"max_drop={max_drop} must lie in [0, 1].")


def _open_source(path: Path, output: Path | None) -> _Source:
    if path.suffix.lower() == ".onnx" and path.is_file():
        raise ConfigError(f"{path} is an export already; name the run or the bundle.")
    folder = find_bundle(path)
    run = next((Run.open(at) for at in (path, folder.parent) if is_run_folder(at)), None)
    if run is None and output is None:
        raise ConfigError(f"{path} is a bundle outside of a run; name a folder with --output.")
    return _Source(Bundle.from_pretrained(folder), folder, run)


def _default_folder(source: _Source, format: str) -> Path:
    assert source.run is not None
    return source.run.path / FOLDER / format


def _load(source: _Source) -> tuple[Dataset, Split]:
    """The run's data.

    Raises:
        ConfigError: If it is a bundle outside of a run.
        SplitError: If the data changed.
    """
    if source.run is None:
        raise ConfigError(
            f"{source.folder} has no data of its own to compare on, nor training images for "
            "--int8: export the run, or give images with --check-on PATH and leave out --int8."
        )
    return reload_data(source.run, source.run.config)


def _images(
    source: _Source, data: tuple[Dataset, Split] | None, check_on: Sequence[Path]
) -> Images:
    if check_on and data is None:
        paths = tuple(expand_paths(check_on))
        return Images("given files", None, np.arange(0), paths)
    assert data is not None
    if check_on:
        raise ConfigError("--int8 is judged on validation; leave out --check-on.")
    dataset, split = data
    if not len(split.val):
        raise ConfigError(f"{source.folder.parent} has no validation images; use --check-on PATH.")
    return images_of_rows(dataset, split.val, "val", source.bundle)


def _check_one_size(images: Images) -> None:
    if images.paths:
        raise ConfigError(
            "--int8 needs members that take images of one size; export without it, or export the "
            "members one by one."
        )


def _facts(source: _Source) -> dict[str, Any]:
    if source.run is not None:
        return facts_of(source.run)
    return {"schema": 1, "run": None, "command": command_line(), "split_sha256": None}


def _shape(given: Any) -> list[int]:
    return [*given.preprocessing.size_px, given.preprocessing.channels]


def _versions() -> dict[str, str]:
    import onnx
    import onnxruntime
    import torch

    return {
        "scanwise": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _parity_line(document: Mapping[str, Any]) -> str:
    if "n" not in document:
        return f"{document['status']}: {document['reason']}"
    agreement = Interval.from_json(document["label_agreement"])
    others = document["other_answers_differing"]
    told = [f"{count} of {name.replace('_', ' ')}" for name, count in others.items() if count]
    at_bar = f"; at the very bar: {', '.join(told)}" if told else ""
    skipped = document["num_unreadable"]
    left_out = f" ({skipped:,} unreadable files left out)" if skipped else ""
    return (
        f"{document['status'] if document['reason'] else 'ok'}: on {document['split']} "
        f"(n = {document['n']:,}){left_out} the largest difference of a probability from the "
        f"bundle's was {document['max_probability_difference']:.1e}, the same labels "
        f"{agreement}{at_bar}"
    )


def _int8_lines(int8: Mapping[str, Any]) -> list[str]:
    lines = [
        f"int8: {int8['status']}, {size_text(int8['bytes'])}; the same labels as the bundle "
        f"{Interval.from_json(int8['label_agreement'])} (n = {int8['n']:,})"
    ]
    for one in int8["differences"]:
        gap = Interval.from_json(one["difference"])
        name = one["metric"].replace("_", " ")
        lines.append(
            f"  {name} minus the bundle's on {one['split']}: {gap.signed()} (n = {one['n']:,})"
        )
    if int8["status"] == "ok" and not int8["larger_drop_ruled_out"]:
        lines.append(
            f"  a loss of more than {int8['max_drop']:g} was not seen, and is not ruled out: the "
            "intervals reach further"
        )
    if int8["slower_here"]:
        where = " and ".join(batch.replace("_", " ") for batch in int8["slower_here"])
        lines.append(f"  int8 was not faster here at {where}: use the float file.")
    return lines


def _latency_lines(document: Mapping[str, Any]) -> list[str]:
    rows = [("ms, median [range]", *(f"batch {size}" for size in BATCHES), "size")]
    sizes = {
        "bundle": document["bundle_bytes"],
        document["format"]: document["bytes"],
        "int8": (document.get("int8") or {}).get("bytes", 0),
    }
    for name in document["latency"][f"batch_{BATCHES[0]}"]:
        cells = []
        for size in BATCHES:
            took = document["latency"][f"batch_{size}"][name]
            low, high = took["range_ms"]
            cells.append(f"{took['median_ms']:.2f} [{low:.2f}, {high:.2f}]")
        rows.append((name, *cells, size_text(sizes[name])))
    threads = document["machine"]["threads"]
    return [aligned(rows), f"from prepared pixels to answers, on this CPU, {threads} thread(s)"]
