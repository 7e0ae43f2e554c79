"""Published weights: found, verified, read without running code, and loaded strictly.

Where weights are missing or do not fit, everything stops: no network that was to be pretrained
ever starts from random weights.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanwise.core import downloads
from scanwise.core.downloads import Download
from scanwise.core.errors import WeightsError, nearest
from scanwise.core.files import cache_dir
from scanwise.models.published_keys import PUBLISHED_NAMES

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt")
TORCHVISION = "https://download.pytorch.org/models/"
BSD = "BSD-3-Clause"  # torchvision's; ImageNet's own terms are for non-commercial research


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that others have published.

    Attributes:
        name: "ARCHITECTURE.DATA", as in PUBLISHED.
        architecture: The network of ours that loads it.
        url: Where it is published.
        sha256: Its 64 hex digits, or the first 8 where only those are published (in its name).
        size_mb: Megabytes of 10^6 bytes.
        num_classes: Classes it was trained on.
        mean: Of red, green and blue in [0, 1]: what is taken from the pixels first.
        std: What the pixels are then divided by.
        size_px: Side of the images it was trained for.
        licence: Of the file.
        citation: Of the network.
    """

    name: str
    architecture: str
    url: str
    sha256: str
    size_mb: float
    citation: str
    num_classes: int = 1000
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    size_px: int = 224
    licence: str = BSD

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def download(self) -> Download:
        """Where it comes from and where it goes: `weights/` in the cache."""
        target = cache_dir() / "weights" / self.file_name
        return Download(f"weights file '{self.name}'", self.url, "sha256", self.sha256, target)


# Full hashes: resnet50 and resnet18 as many projects print them; efficientnet_b0 from
# github.com/pytorch/vision/issues/8064. Each starts with the digits in the name of the file, which
# torchvision itself verifies; of densenet121's only these were found.
PUBLISHED: dict[str, PublishedWeights] = {
    entry.name: entry
    for entry in (
        PublishedWeights(
            name="efficientnet_b0.imagenet",
            architecture="efficientnet_b0",
            url=TORCHVISION + "efficientnet_b0_rwightman-7f5810bc.pth",
            sha256="7f5810bc96def8f7552d5b7e68d53c4786f81167d28291b21c0d90e1fca14934",
            size_mb=21.4,
            citation="Tan and Le, ICML 2019, arXiv:1905.11946; weights by R. Wightman (timm)",
        ),
        PublishedWeights(
            name="resnet18.imagenet",
            architecture="resnet18",
            url=TORCHVISION + "resnet18-f37072fd.pth",
            sha256="f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
            size_mb=46.8,
            citation="He et al., CVPR 2016, arXiv:1512.03385",
        ),
        PublishedWeights(
            name="resnet50.imagenet",
            architecture="resnet50",
            url=TORCHVISION + "resnet50-0676ba61.pth",
            sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
            size_mb=102.5,
            citation="He et al., CVPR 2016, arXiv:1512.03385",
        ),
        PublishedWeights(
            name="densenet121.imagenet",
            architecture="densenet121",
            url=TORCHVISION + "densenet121-a639ec97.pth",
            sha256="a639ec97",
            size_mb=32.3,
            citation="Huang et al., CVPR 2017, arXiv:1608.06993",
        ),
    )
}


# --- from a name to a file ----------------------------------------------------------------------


def find_published(name: str, architecture: str | None = None) -> PublishedWeights:
    """The entry of a name.

    Args:
        name: "resnet18.imagenet", an architecture alone ("resnet18"), or "imagenet" beside one.
        architecture: The network that is to load it, where known.

    Raises:
        WeightsError: If there is none (with the nearest names), or it is of another architecture.
    """
    word = name.strip().lower()
    for candidate in (word, f"{architecture}.{word}", f"{word}.imagenet"):
        if candidate in PUBLISHED:
            entry = PUBLISHED[candidate]
            break
    else:
        whose = f" of {architecture}" if architecture else ""
        raise WeightsError(
            f"no published weights '{name}'{whose}; {nearest(word, PUBLISHED)} A file of your own "
            f"({', '.join(SUFFIXES)}) is given by its path."
        )
    if architecture is not None and entry.architecture != architecture:
        raise WeightsError(
            f"weights '{entry.name}' are of {entry.architecture}, not of {architecture}; write "
            f"--model {entry.architecture}."
        )
    return entry


def weights_file(name_or_path: str, architecture: str) -> Path:
    """The verified file of published weights, downloaded if need be, or your own local file.

    Args:
        name_or_path: A path of a .safetensors, .pth or .pt file, a name of PUBLISHED, or
            "imagenet" for the architecture's own.
        architecture: The network that is to load it.

    Raises:
        WeightsError: No such file or name; a suffix that can't be read; not in the cache while
            SCANWISE_OFFLINE forbids the network, or the download failed or has another hash (with
            URL, hash and the path to put the file).
    """
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() in SUFFIXES or path.exists() or "/" in name_or_path:
        return _own_file(path)
    return fetch_weights(find_published(name_or_path, architecture))


def fetch_weights(entry: PublishedWeights) -> Path:
    """Path of the verified file in the cache, downloaded if it is not there.

    Raises:
        WeightsError: As weights_file.
    """
    return downloads.fetch(entry.download, WeightsError)


def cached_weights(entry: PublishedWeights) -> Path:
    """Path of the verified file in the cache; downloads nothing.

    Raises:
        WeightsError: If it is not there, or has another hash; with URL, hash and path.
    """
    download, state = entry.download, downloads.cached(entry.download)
    if state == "verified":
        return download.target
    raise WeightsError(
        f"{download.title} is {'not' if state == 'missing' else 'damaged'} in the cache. Run: "
        f"scanwise weights pull {entry.name}. Without network: {download.by_hand}"
    )


def _own_file(path: Path) -> Path:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(
            f"weights file {path} {what}; give a file ({', '.join(SUFFIXES)}) or a name: "
            f"{', '.join(PUBLISHED)}."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path} is no {', '.join(SUFFIXES)} file; weights are read from these.")
    if path.name.startswith("tf_efficientnet"):
        raise WeightsError(
            f"{path} was made for TensorFlow's padding: its names fit, its outputs would be wrong. "
            "Take timm's efficientnet_b0 instead of tf_efficientnet_b0."
        )
    return path


# --- from a file to tensors ---------------------------------------------------------------------


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name, on the CPU; no code in the file is ever run.

    Args:
        path: A .safetensors file, or a .pth or .pt file of tensors; `{"state_dict": …}` and
            `{"model": …}` around them and "module." before each name are taken off.

    Raises:
        WeightsError: The file is missing, damaged, of another kind, or holds Python objects.
    """
    _own_file(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = _only_tensors(path, content)
    if all(name.startswith("module.") for name in state):  # from DistributedDataParallel
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged: {error}. Get the file again.") from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():  # of pickles too new to be weights; they fail below
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise WeightsError(_damaged(path, error)) from error
        raise WeightsError(
            f"{path} is refused: it holds Python objects (a pickled model, say), and reading those "
            "can run any code that its author put in. Where it comes from someone you trust, load "
            "it yourself and write the weights alone: safetensors.torch.save_file("
            "model.state_dict(), 'weights.safetensors')."
        ) from error
    except Exception as error:  # damaged pickles raise anything
        raise WeightsError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{path} is damaged or no file of torch.save ({said}). Get the file again."


def _only_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no named tensors but a {type(content).__name__}.")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path} holds more than tensors: {_some(others)}. Save model.state_dict() alone, or "
            "under the key 'state_dict'."
        )
    return {str(name): tensor for name, tensor in content.items()}


# --- from tensors to a network ------------------------------------------------------------------


def load_published(model: nn.Module, state: Mapping[str, Tensor], architecture: str) -> None:
    """Load published weights into the body of one of our networks; its head stays as it is.

    Args:
        model: From build_model(architecture, channels=3, published=True, …).
        state: Of torchvision's or timm's network of that name, as read_state gives it; a
            classifier is dropped. Counts of batches, which files of 2017 lack, stay as they are.
        architecture: A name of PUBLISHED_NAMES.

    Raises:
        WeightsError: The architecture has no published names, or a parameter is unknown, missing
            or of another shape, or not finite; the model is then unchanged.
    """
    body = model.body
    needed = body.state_dict()  # type: ignore[union-attr]
    theirs = _their_names(state, architecture)
    problems = _problems(state, theirs, needed)
    if problems:
        raise WeightsError(f"these are not weights of {architecture}: {'; '.join(problems)}.")
    renamed = {ours: state[name] for ours, name in theirs.items()}
    infinite = [theirs[ours] for ours, t in renamed.items() if not bool(t.isfinite().all())]
    if infinite:
        raise WeightsError(f"these weights are not finite: {_some(infinite)}.")
    body.load_state_dict({**needed, **renamed}, strict=True)  # type: ignore[union-attr]


def _their_names(state: Mapping[str, Tensor], architecture: str) -> dict[str, str]:
    """Our name → published name; a parameter that has none of ours keeps its own."""
    if architecture not in PUBLISHED_NAMES:
        raise WeightsError(
            f"{architecture} can't load published weights; these can: {', '.join(PUBLISHED_NAMES)}."
        )
    rename, classifier = PUBLISHED_NAMES[architecture]
    kept = [name for name in state if not name.startswith(classifier)]
    return {rename(name) or name: name for name in kept}


def _problems(
    state: Mapping[str, Tensor], theirs: Mapping[str, str], needed: Mapping[str, Tensor]
) -> list[str]:
    """What does not fit, in words: shapes, unknown names, missing names; three of each."""
    shapes = [
        f"'{name}' is {tuple(state[name].shape)}, needed is {tuple(needed[ours].shape)}"
        for ours, name in theirs.items()
        if ours in needed and state[name].shape != needed[ours].shape
    ]
    unknown = [name for ours, name in theirs.items() if ours not in needed]
    missing = [
        name for name in needed if name not in theirs and not name.endswith("num_batches_tracked")
    ]
    said = list(shapes[:3])
    if unknown:
        said.append(f"it has no {_some(unknown)}")
    if missing:
        said.append(f"{_some(missing)} (our names) are missing from them")
    return said


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{name}'" for name in names[:3]) + rest
