"""The models of a service: each loaded, checked and tried before anything is answered."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from scanwise.core.errors import ConfigError, DataError, ModelError
from scanwise.core.files import sha256_file
from scanwise.deploy.bundle import Bundle, find_bundle
from scanwise.deploy.opening import open_model
from scanwise.report.explanations import verdict_words

NOT_TESTED = "not measured (scanwise explain RUN tests the maps)"


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that can answer; `name` is what clients call it."""

    name: str
    sha256: str
    bundle: Bundle
    explanations: str = NOT_TESTED  # were the maps of evidence tested, and how that went


def load_models(sources: Sequence[str], device: str = "cpu") -> tuple[LoadedModel, ...]:
    """Load all of them, or none.

    Args:
        sources: Paths of bundles, runs or .onnx files, or NAME=PATH. Without a name the run's
            folder gives it.
        device: Where they will compute.

    Raises:
        ConfigError: Two with one name.
        ScanwiseError: What `open_model` raises; a model that gives no numbers is refused too.
    """
    named = [_name_and_path(source) for source in sources]
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two models are named '{twice[0]}'; name them: scanwise serve a=PATH b=PATH."
        )
    return tuple(load_model(name, path, device) for name, path in named)


def load_model(name: str, path: Path, device: str = "cpu") -> LoadedModel:
    """Open a model and let it answer once.

    Raises:
        ScanwiseError: It can't be opened, or gives no numbers.
    """
    bundle = open_model(path)
    _try_out(name, bundle, device)
    # The list of hashes was compared with the files just now.
    whole = path if path.is_file() else find_bundle(path) / "SHA256SUMS"
    return LoadedModel(name, sha256_file(whole), bundle, _explanations(path))


def _name_and_path(source: str) -> tuple[str, Path]:
    name, equals, rest = source.partition("=")
    if equals and not Path(source).exists():
        return name, Path(rest)
    path = Path(source)
    whole = path.resolve()
    return (whole.parent.name if whole.name == "bundle" else whole.stem or whole.name), path


def _try_out(name: str, bundle: Bundle, device: str) -> None:
    """Answer one grey picture, the way uploads are answered."""
    height, width = bundle.config.size_px
    picture = np.full((height, width, bundle.config.channels), 128, np.uint8)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        picture.squeeze(-1) if picture.shape[2] == 1 else picture,
        photometric="rgb" if picture.shape[2] == 3 else "minisblack",
    )
    try:
        answer = bundle.predict_prepared(["grey"], [bundle.prepare(file.getvalue())], device=device)
        if not np.isfinite(answer.probabilities).all():
            raise DataError("its probabilities are not finite.")
    except DataError as error:
        reason = str(error).rstrip(".")
        raise ModelError(f"model '{name}' can't answer a grey picture: {reason}.") from error


def _explanations(path: Path) -> str:
    """The verdict on the run's maps of evidence, where it was made."""
    file = path / "explanations" / "explanations.json"
    try:
        return verdict_words(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return NOT_TESTED


def names_of(models: Iterable[LoadedModel]) -> str:
    return ", ".join(model.name for model in models)
