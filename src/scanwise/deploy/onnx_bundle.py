"""Open an ONNX file that `scanwise export` wrote; ONNX Runtime computes."""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import IntegrityError, ModelError, RunError, ScanwiseError, one_line
from scanwise.core.files import sha256_bytes
from scanwise.deploy.bundle import BundleConfig
from scanwise.deploy.graph_bundle import (
    FEATURES,
    PROBABILITIES,
    GraphBundle,
    GraphInput,
    Runner,
)
from scanwise.deploy.reference import REFERENCE, Reference
from scanwise.training.onnx_files import open_session

FORMAT_VERSION = 1
# What a file is described by in its metadata.
FACTS, CONFIG, PREPROCESS = "scanwise.json", "config.json", "preprocess.json"
METRICS, MODEL_CARD = "metrics.json", "MODEL_CARD.md"
_SEAL_KEY = b"scanwise_sha256"
SEAL_LENGTH = 21 + 64


class OnnxBundle(GraphBundle):
    """A bundle in one .onnx file: same preprocessing, same answers, no torch network."""

    @classmethod
    def from_file(cls, path: str | Path) -> OnnxBundle:
        """Open a file after comparing it with the hash at its end.

        Raises:
            RunError: If there is no such file.
            IntegrityError: If it was changed or cut off, or its format is newer.
            ModelError: If another program wrote it, or ONNX Runtime can't run it.
        """
        file = Path(path)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise RunError(f"can't read {file}: {error.strerror or error}.") from error
        check_seal(data, str(file))
        try:
            session = open_session(data)
        except Exception as error:  # the runtime has classes of its own for each failure
            raise ModelError(f"ONNX Runtime can't run {file}: {one_line(error)}.") from error
        return cls.from_metadata(
            dict(session.get_modelmeta().custom_metadata_map), runner_of(session), str(file)
        )

    @classmethod
    def from_metadata(cls, texts: Mapping[str, str], runner: Runner, name: str) -> OnnxBundle:
        """A bundle from the texts that `onnx_export.metadata_of` made.

        Raises:
            IntegrityError: If one is missing or damaged, or the format is newer.
        """
        try:
            facts = json.loads(texts[FACTS])
            if facts["format_version"] > FORMAT_VERSION:
                raise IntegrityError(
                    f"{name} has format version {facts['format_version']}, this scanwise reads up "
                    f"to {FORMAT_VERSION}; update scanwise."
                )
            inputs = [
                GraphInput.from_json(key, value)
                for key, value in json.loads(texts[PREPROCESS]).items()
            ]
            return cls(
                runner,
                inputs,
                BundleConfig.from_json(json.loads(texts[CONFIG])),
                num_parameters=int(facts["num_parameters"]),
                metrics=json.loads(texts[METRICS]),
                model_card=texts[MODEL_CARD],
                reference=_reference(texts),
            )
        except ScanwiseError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"the description in {name} is damaged: {error!r}.") from error


def runner_of(session: Any) -> Runner:
    """Run an ONNX Runtime session; several threads may do so at once."""
    names = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    wanted = [name for name in (PROBABILITIES, FEATURES) if name in outputs]

    def run(
        batch: Sequence[NDArray[np.uint8]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        found = session.run(wanted, dict(zip(names, batch, strict=True)))
        return found[0], found[1] if len(found) > 1 else None

    return run


def check_seal(data: bytes, name: str) -> None:
    """Compare an ONNX file's bytes with the hash that they end with.

    Raises:
        IntegrityError: If they differ.
        ModelError: If scanwise did not write the file.
    """
    body, end = data[:-SEAL_LENGTH], data[-SEAL_LENGTH:]
    if len(body) and end == seal(sha256_bytes(body)):
        return
    if FACTS.encode() in data:
        raise IntegrityError(
            f"{name} is not the file that was exported (its SHA-256 differs); copy it again, or "
            "export anew."
        )
    raise ModelError(
        f"{name} was not written by `scanwise export`, so its classes and preprocessing are "
        "unknown; export the run, or use that file with the program that it was made for."
    )


def seal(digest: str) -> bytes:
    """`metadata_props` (field 14 of ModelProto) with one entry, key (1) and value (2), in protobuf.

    Written by hand: what reads and checks a file then needs no onnx package.
    """
    entry = b"\x0a" + bytes([len(_SEAL_KEY)]) + _SEAL_KEY + b"\x12\x40" + digest.encode()
    return b"\x72" + bytes([len(entry)]) + entry


def _reference(texts: Mapping[str, str]) -> Reference | None:
    if REFERENCE not in texts:
        return None
    try:
        raw = base64.b64decode(texts[REFERENCE], validate=True)
    except binascii.Error as error:
        raise ValueError(f"{REFERENCE}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / REFERENCE
        path.write_bytes(raw)
        return Reference.load(path)
