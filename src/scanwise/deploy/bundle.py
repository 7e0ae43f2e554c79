"""A trained model with all it needs, in plain files: safetensors and JSON, never a pickle.

bundle/
  model.safetensors   weights and buffers
  config.json         architecture, task, id2label, temperature, thresholds, prediction sets
  preprocess.json     the fitted preprocessing
  metrics.json        what was measured
  MODEL_CARD.md       what it is for, and what it is not
  reference.safetensors  where training features lie (means, spread), for the unknown-input score;
                         optional
  SHA256SUMS          hashes of the files above; checked at loading

An ensemble's bundle holds ordinary bundles in members/ instead of weights of its own
(deploy.ensemble); `Bundle.from_pretrained` opens both.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, IntegrityError, ModelError, RunError
from scanwise.core.files import sha256_file
from scanwise.core.runtime import apply_threads
from scanwise.core.types import Dataset, Task
from scanwise.data.images import read_image
from scanwise.deploy.answers import BundlePredictions, Outputs
from scanwise.deploy.reference import REFERENCE, Reference
from scanwise.metrics.calibration import apply_temperature
from scanwise.metrics.conformal import in_sets
from scanwise.metrics.inputs import THRESHOLD
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import PixelRows, Pixels

if TYPE_CHECKING:  # torch takes two seconds to import, and what ONNX Runtime runs needs none of it
    from torch import nn

FORMAT_VERSION = 1
FILES = ("model.safetensors", "config.json", "preprocess.json", "metrics.json", "MODEL_CARD.md")
MEMBERS = "members"  # folder of an ensemble's bundles
# Pixels uint8 (h, w, c) of one image as the network takes them; of an ensemble one for each member.
Prepared = tuple[NDArray[np.uint8], ...]
Source = Path | bytes | NDArray[Any]  # of one image


@dataclass(frozen=True)
class BundleConfig:
    """config.json: what the network is and how its outputs are read."""

    # A scanwise model spec, the name of a pretrained network, or "custom:NAME" for a user's own.
    architecture: str
    task: Task
    class_names: tuple[str, ...]
    size_px: tuple[int, int]
    channels: int
    dropout: float | None = None
    activation: str = "relu"
    head: str | None = None
    output_activation: str = "auto"
    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    scanwise_version: str = ""
    trained_on: str = ""
    synthetic: bool = False
    page: int | None = None  # of multi-page TIFFs
    project: Literal["max"] | None = None
    backbone: dict[str, Any] | None = None  # of a pretrained network: BackboneSpec in JSON
    conformal: dict[str, Any] | None = None  # bars of prediction sets (metrics.conformal)
    tta: str = "none"  # views that are averaged (models.views)

    @property
    def seen_px(self) -> tuple[int, int]:
        """Height and width that the network sees: a pretrained one resizes its input."""
        seen = self.size_px if self.backbone is None else self.backbone["input_px"]
        return seen[0], seen[1]

    def to_json(self) -> dict[str, Any]:
        names = list(self.class_names)
        return {
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture,
            "task": self.task,
            "id2label": {str(index): name for index, name in enumerate(names)},
            "label2id": {name: index for index, name in enumerate(names)},
            "size_px": list(self.size_px),
            "channels": self.channels,
            "dropout": self.dropout,
            "activation": self.activation,
            "head": self.head,
            "output_activation": self.output_activation,
            "temperature": self.temperature,
            "thresholds": self.thresholds,
            "scanwise_version": self.scanwise_version,
            "trained_on": self.trained_on,
            "synthetic": self.synthetic,
            "page": self.page,
            "project": self.project,
            "backbone": self.backbone,
            "conformal": self.conformal,
            "tta": self.tta,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BundleConfig:
        version = value.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise IntegrityError(
                f"the bundle has format version {version}, this scanwise reads up to "
                f"{FORMAT_VERSION}; update scanwise."
            )
        labels = value["id2label"]
        return cls(
            architecture=value["architecture"],
            task=value["task"],
            class_names=tuple(labels[str(index)] for index in range(len(labels))),
            size_px=(value["size_px"][0], value["size_px"][1]),
            channels=value["channels"],
            dropout=value["dropout"],
            activation=value["activation"],
            head=value["head"],
            output_activation=value["output_activation"],
            temperature=value["temperature"],
            thresholds=value["thresholds"],
            scanwise_version=value["scanwise_version"],
            trained_on=value["trained_on"],
            synthetic=value["synthetic"],
            page=value["page"],
            project=value["project"],
            backbone=value.get("backbone"),
            conformal=value.get("conformal"),
            tta=value.get("tta", "none"),
        )


@dataclass(frozen=True)
class SavedNetwork:
    """Weights in a bundle's folder whose hashes were checked; loaded when they are needed."""

    path: Path  # model.safetensors
    sha256: str

    def load(self, config: BundleConfig, model: nn.Module | None = None) -> nn.Module:
        """The network that `config` states, or `model`, with these weights.

        Raises:
            ModelError: If they don't fit, or the network is a user's own and `model` is not given.
        """
        from safetensors.torch import load_file

        network = model or random_network(config)
        apply_threads()  # torch may be new here
        try:
            network.load_state_dict(load_file(self.path))
        except RuntimeError as error:
            first = str(error).splitlines()[1:2]
            raise ModelError(
                f"{self.path} does not fit {config.architecture}: {' '.join(first).strip()}"
            ) from error
        return network


class Bundle:
    """A model, its preprocessing and its class names; `predict` gives calibrated probabilities."""

    # Runs the network on the CPU in the place of torch (deploy.fast).
    runner: Callable[[Pixels], Outputs] | None = None

    def __init__(
        self,
        model: nn.Module | SavedNetwork,
        preprocessing: Preprocessing,
        config: BundleConfig,
        metrics: dict[str, Any] | None = None,
        model_card: str = "",
    ) -> None:
        if isinstance(model, SavedNetwork):
            self.saved = model
        else:
            self.model = _ready(model, config)
        self.preprocessing = preprocessing
        self.config = config
        self.metrics = metrics or {}
        self.model_card = model_card
        # Where cached features of a pretrained network come from, in the process that trained it.
        self.feature_source: Callable[[Pixels], NDArray[np.float32]] | None = None
        self.reference: Reference | None = None  # None: unknown inputs are not recognised

    @cached_property
    def model(self) -> nn.Module:
        """The network, in eval mode; a saved one is loaded when it is first asked for."""
        return _ready(self.saved.load(self.config), self.config)

    @property
    def is_loaded(self) -> bool:
        """False while a network that was opened lazily is in its file alone."""
        return "model" in vars(self)

    def load(self) -> None:
        """Load the network now, if it was opened lazily."""
        _ = self.model

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.config.class_names

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write the bundle; the folder appears whole or not at all.

        Raises:
            RunError: If `directory` exists and is not a bundle.
        """
        target = Path(directory)
        if target.exists() and not (target / "SHA256SUMS").exists() and any(target.iterdir()):
            raise RunError(f"{target} exists and is not a bundle; name a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as name:
            folder = Path(name) / "bundle"
            folder.mkdir()
            self._write_files(folder)
            _write_sums(folder)
            if target.exists():
                shutil.rmtree(target)
            folder.rename(target)
        return target

    def _write_files(self, folder: Path) -> None:
        """All files of the bundle but SHA256SUMS."""
        from safetensors.torch import save_file

        state = {key: tensor.contiguous().cpu() for key, tensor in self.model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        write_bundle_json(folder / "config.json", self.config.to_json())
        write_bundle_json(folder / "preprocess.json", self.preprocessing.to_json())
        write_bundle_json(folder / "metrics.json", self.metrics)
        (folder / "MODEL_CARD.md").write_text(self.model_card, encoding="utf-8")
        if self.reference is not None:
            self.reference.save(folder / REFERENCE)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, model: nn.Module | None = None, lazily: bool = False
    ) -> Bundle:
        """Load a bundle after checking every file's hash.

        Args:
            directory: A bundle folder, or a run folder that holds one.
            model: The module to fill, for a bundle trained with one's own nn.Module.
            lazily: Load the network, and torch, when it is first asked for; then it raises what is
                raised here else.

        Returns:
            The bundle; an `EnsembleBundle` where the folder holds an ensemble.

        Raises:
            RunError: If there is no bundle.
            IntegrityError: If a file is missing or changed, or the format is newer.
            ModelError: If the architecture is a user's own and `model` is not given.
        """
        folder = find_bundle(Path(directory))
        listed = check_sums(folder)
        stated = _read_json(folder / "config.json")
        if stated.get("kind") == "ensemble":
            from scanwise.deploy.ensemble import EnsembleBundle  # it is made of bundles

            return EnsembleBundle.from_folder(folder, stated, lazily=lazily)
        config = BundleConfig.from_json(stated)
        saved = SavedNetwork(folder / "model.safetensors", listed["model.safetensors"])
        bundle = cls(
            saved if lazily and model is None else saved.load(config, model),
            Preprocessing.from_json(_read_json(folder / "preprocess.json")),
            config,
            _read_json(folder / "metrics.json"),
            (folder / "MODEL_CARD.md").read_text(encoding="utf-8"),
        )
        if REFERENCE in listed:
            bundle.reference = Reference.load(folder / REFERENCE)
        return bundle

    def predict(
        self, inputs: Sequence[str | Path] | str | Path | NDArray[Any], *, device: str = "cpu"
    ) -> BundlePredictions:
        """Probabilities of images given as paths or as one array.

        Args:
            inputs: Paths of image files, or pixels (n, h, w) or (n, h, w, c) as in training.
            device: Where to compute.

        Returns:
            One row an input, in input order; unreadable files keep their row, with a reason.

        Raises:
            DataError: If an array does not fit the model (sizes, channels).
        """
        if isinstance(inputs, str | Path):
            inputs = [inputs]
        if not isinstance(inputs, np.ndarray):
            samples = [str(path) for path in inputs]
            prepared = [self.try_prepare(Path(path)) for path in inputs]
            return self.predict_prepared(samples, prepared, device=device)
        rows = np.arange(len(inputs))
        samples = [f"array#{row}" for row in rows]
        pixels = PixelRows(self.preprocessing, _as_images(inputs, self.config), rows)
        if not len(rows):
            return self.predict_prepared([], [], device=device)
        return self._answers(samples, *self._judge(pixels, device), [""] * len(samples))

    def try_prepare(self, source: Source) -> Prepared | str:
        """What the network will see of an image, or the reason why it can't be used."""
        try:
            return self.prepare(source)
        except DataError as error:
            return str(error)

    def prepare(self, source: Source) -> Prepared:
        """Decode an image and prepare it as in training.

        Safe to call from several threads.

        Args:
            source: An image file, its bytes, or pixels (h, w) or (h, w, c) as in training.

        Returns:
            uint8 (h, w, c), in a tuple; an ensemble has one for each of its members.

        Raises:
            DataError: The reason why it can't be used, without its name (the caller knows it).
        """
        if isinstance(source, np.ndarray):
            images = _as_images(source[None], self.config)
            return (self.preprocessing.to_pixels(images)[0],)
        image = read_image(source, page=self.config.page, project=self.config.project)
        return (self.preprocessing.from_image(image.pixels),)

    def predict_prepared(
        self, samples: Sequence[str], prepared: Sequence[Prepared | str], *, device: str = "cpu"
    ) -> BundlePredictions:
        """Answers to images that `prepare` made ready; every `predict` of files ends here.

        Args:
            samples: A name for each input.
            prepared: What `prepare` returned or, for an input that can't be read, the reason.
            device: Where to compute.

        Returns:
            One row an input, in input order.
        """
        reasons = [one if isinstance(one, str) else "" for one in prepared]
        readable = [one for one in prepared if not isinstance(one, str)]
        probabilities = np.full((len(samples), len(self.class_names)), np.nan)
        scores = np.full(len(samples), np.nan)
        if readable:
            rows = [not reason for reason in reasons]
            probabilities[rows], scores[rows] = self._judge_prepared(readable, device)
        return self._answers(samples, probabilities, scores, reasons)

    def _judge_prepared(
        self, prepared: Sequence[Prepared], device: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._judge(np.stack([pixels for (pixels,) in prepared]), device)

    def _judge(
        self, pixels: Pixels, device: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated probabilities (n, k) and unknown-input scores (n,), n > 0."""
        outputs = self.outputs_of(pixels, device=device)
        return (
            calibrated_probabilities(outputs.logits, self.config),
            self.unknown_scores(outputs.features, len(pixels)),
        )

    def _answers(
        self,
        samples: Sequence[str],
        probabilities: NDArray[np.float64],
        unknown_scores: NDArray[np.float64],
        reasons: Sequence[str],
    ) -> BundlePredictions:
        """All that follows from probabilities (n, k); rows of NaN get empty answers."""
        thresholds, conformal = self.config.thresholds, self.config.conformal
        # NaN reaches no bar, and 2 is reached by no probability.
        bars = [thresholds.get(name, 2.0) for name in self.class_names]
        return BundlePredictions(
            tuple(samples),
            probabilities,
            tuple(self.label(row) for row in probabilities),
            self.class_names,
            tuple(reasons),
            unknown_scores,
            self.in_distribution(unknown_scores),
            above_threshold=self._names(probabilities >= bars) if thresholds else None,
            thresholds=dict(thresholds),
            sets=self._names(in_sets(probabilities, conformal["min_probability"], self.class_names))
            if conformal
            else None,
        )

    def _names(self, chosen: NDArray[np.bool_]) -> tuple[tuple[str, ...], ...]:
        """Names of the classes chosen in each row (n, k)."""
        return tuple(
            tuple(name for name, yes in zip(self.class_names, row, strict=True) if yes)
            for row in chosen.tolist()
        )

    def logits_of(self, pixels: Pixels, *, device: str = "cpu") -> NDArray[np.float32]:
        """Raw outputs float32 (n, k) of prepared pixels uint8 (n, h, w, c)."""
        return self.outputs_of(pixels, device=device).logits

    def outputs_of(self, pixels: Pixels, *, device: str = "cpu") -> Outputs:
        """Raw outputs and features, in one pass, of prepared pixels uint8 (n, h, w, c)."""
        if self.runner is not None and self.feature_source is None and device == "cpu":
            return self.runner(pixels)
        from scanwise.deploy.outputs import head_outputs, network_outputs

        if self.feature_source is not None:
            return head_outputs(self.model, self.feature_source(pixels))
        return network_outputs(self.model, pixels, self.preprocessing, device)

    def unknown_scores(self, features: NDArray[np.float32] | None, n: int) -> NDArray[np.float64]:
        """Unknown-input score of each of n images, higher is stranger; NaN where unknown."""
        if self.reference is None or features is None:
            return np.full(n, np.nan)
        return self.reference.scores(features)

    def in_distribution(self, scores: NDArray[np.float64]) -> tuple[bool | None, ...]:
        """Whether each image is like the training images, by its score (n,)."""
        if self.reference is None:
            return (None,) * len(scores)
        return self.reference.in_distribution(scores)

    def probabilities_of(self, pixels: Pixels, *, device: str = "cpu") -> NDArray[np.float64]:
        """Calibrated probabilities float64 (n, k) of prepared pixels uint8 (n, h, w, c)."""
        return calibrated_probabilities(self.logits_of(pixels, device=device), self.config)

    def probabilities_of_rows(
        self, dataset: Dataset, rows: NDArray[np.int64], *, device: str = "cpu"
    ) -> NDArray[np.float64]:
        """Calibrated probabilities float64 (n, k) of some images of a data set."""
        return self.answers_of_rows(dataset, rows, device=device)[0]

    def answers_of_rows(
        self, dataset: Dataset, rows: NDArray[np.int64], *, device: str = "cpu"
    ) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
        """Calibrated probabilities (n, k) of some images of a data set, and features (n, d).

        The features are what the last linear layer is given; None where the network has none.
        """
        pixels = PixelRows(self.preprocessing, dataset.images, rows)
        outputs = self.outputs_of(pixels, device=device)
        return calibrated_probabilities(outputs.logits, self.config), outputs.features

    def features_of_rows(
        self, dataset: Dataset, rows: NDArray[np.int64], *, device: str = "cpu"
    ) -> NDArray[np.float32]:
        """Penultimate features float32 (n, d) of some images of a data set.

        Raises:
            ModelError: If the network has no linear layer that is given one vector an image.
        """
        _, features = self.answers_of_rows(dataset, rows, device=device)
        if features is None:
            raise ModelError(
                f"{self.config.architecture} has no last nn.Linear layer whose input could serve "
                "as features: not available."
            )
        return features

    def input_text(self) -> str:
        """'28x28 px, 1 channel(s)'"""
        height, width = self.config.size_px
        return f"{height}x{width} px, {self.config.channels} channel(s)"

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def label(self, probabilities: NDArray[np.float64]) -> str:
        """The answer to one image, (k,): its class, or 'a|b' of several labels; '' if NaN."""
        if np.isnan(probabilities).any():
            return ""
        if self.config.task == "multilabel":
            chosen = (
                name
                for name, value in zip(self.class_names, probabilities, strict=True)
                if value > THRESHOLD
            )
            return "|".join(chosen)
        return self.class_names[int(probabilities.argmax())]


def head_logits(model: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Raw outputs float32 (n, k) of features (n, d), by the head of a pretrained network."""
    from scanwise.deploy.outputs import head_outputs

    return head_outputs(model, features).logits


def class_logits(
    logits: NDArray[np.float32], task: Task, output_activation: str
) -> NDArray[np.float64]:
    """Logits float64 (n, k) whose softmax (multi-label: sigmoid) gives the probabilities.

    Sigmoid outputs of exclusive classes become log-sigmoids: their softmax is each sigmoid divided
    by the sum of all.
    """
    exact = logits.astype(np.float64)
    if task != "multilabel" and output_activation == "sigmoid":
        return -np.logaddexp(0.0, -exact)
    return exact


def calibrated_probabilities(
    logits: NDArray[np.float32], config: BundleConfig
) -> NDArray[np.float64]:
    """Probabilities float64 (n, k) from raw outputs: temperature, then softmax or sigmoid."""
    read = class_logits(logits, config.task, config.output_activation)
    return apply_temperature(read, config.temperature, config.task)


def find_bundle(path: Path) -> Path:
    """The bundle folder at `path` or in the run folder `path`.

    Raises:
        RunError: If neither is one.
    """
    for folder in (path, path / "bundle"):
        if (folder / "SHA256SUMS").is_file():
            return folder
    raise RunError(f"{path} is no bundle (no SHA256SUMS in it or in its bundle/ folder).")


def check_sums(folder: Path) -> dict[str, str]:
    """Compare every file that SHA256SUMS lists, and every one that a bundle needs.

    Returns:
        The SHA-256 of each, by name.

    Raises:
        IntegrityError: Naming the first file that is missing, unlisted or changed.
    """
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    stated = {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}
    needed: tuple[str, ...] = FILES
    if (folder / MEMBERS).is_dir():  # an ensemble; its members are checked as bundles besides
        needed = ("config.json", "metrics.json", "MODEL_CARD.md")
    for name in (*needed, *stated):
        if name not in stated or not (folder / name).is_file():
            raise IntegrityError(f"{folder} lacks {name}; the bundle is incomplete, copy it again.")
        if sha256_file(folder / name) != stated[name]:
            raise IntegrityError(
                f"{folder / name} is not the file that was saved (its SHA-256 differs); "
                "copy the bundle again."
            )
    return stated


def read_config(directory: str | Path) -> dict[str, Any]:
    """config.json of a bundle, after checking every file's hash.

    Raises:
        RunError: If there is no bundle.
        IntegrityError: If a file is missing or changed.
    """
    folder = find_bundle(Path(directory))
    check_sums(folder)
    return _read_json(folder / "config.json")


def update_config(directory: str | Path, changes: Mapping[str, Any]) -> None:
    """Change entries of a bundle's config.json and its SHA256SUMS; weights are not loaded.

    The changed bundle is written beside the old one and takes its place when it is whole.

    Raises:
        RunError: If there is no bundle.
        IntegrityError: If a file is missing or changed.
    """
    config = read_config(directory)
    target = find_bundle(Path(directory))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".bundle-") as name:
        folder, old = Path(name) / "bundle", Path(name) / "old"
        shutil.copytree(target, folder)
        write_bundle_json(folder / "config.json", config | dict(changes))
        (folder / "SHA256SUMS").unlink()
        _write_sums(folder)
        target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            old.rename(target)
            raise


def _write_sums(folder: Path) -> None:
    """SHA256SUMS of all files in a folder that has none yet."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = "".join(
        f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files
    )
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def write_bundle_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def random_network(config: BundleConfig) -> nn.Module:
    """The network that a bundle states, with random weights from torch's global generator.

    Raises:
        ModelError: If it is the user's own module.
    """
    from scanwise.models.backbones import Backbone, BackboneSpec, rebuild_backbone, transfer_net
    from scanwise.models.build import build_model

    if config.architecture.startswith("custom:"):
        raise ModelError(
            f"the bundle was trained with your own module ({config.architecture[7:]}); give it: "
            "Bundle.from_pretrained(folder, model=YourModule())."
        )
    if config.backbone is not None:
        spec = BackboneSpec.from_json(config.backbone)
        return transfer_net(
            Backbone(spec, rebuild_backbone(spec)),
            num_outputs=len(config.class_names),
            dropout=config.dropout,
            head=config.head,
        )
    return build_model(
        config.architecture,
        num_outputs=len(config.class_names),
        channels=config.channels,
        size_px=config.size_px,
        dropout=config.dropout,
        activation=config.activation,
        head=config.head,
    )


def _ready(model: nn.Module, config: BundleConfig) -> nn.Module:
    """In eval mode, with the views that are averaged.

    In one memory order, so that a model just trained and the same one loaded give the same bits.
    """
    import torch

    from scanwise.models.parts import set_views

    ordered: nn.Module = model.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    set_views(ordered, config.tta)
    return ordered


def _as_images(array: NDArray[Any], config: BundleConfig) -> NDArray[Any]:
    images = array[..., None] if array.ndim == 3 else array
    if images.ndim != 4:
        raise DataError(f"images must be (n, h, w) or (n, h, w, c), got {array.shape}.")
    if images.shape[1:3] != config.size_px:
        raise DataError(
            f"images are {images.shape[1]}x{images.shape[2]} px, the model was trained on "
            f"{config.size_px[0]}x{config.size_px[1]}; resize them, or give file paths."
        )
    return images
