"""Pretrained backbones: a network that others trained, cut before its classes, with a new head.

Where the weights come from decides mean, std and input size; nothing is guessed. What is needed to
build the same network again without the weights' source (`BackboneSpec`) goes into the bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from scanwise.core.errors import ModelError
from scanwise.core.files import offline
from scanwise.models.parts import HEAD_DROPOUT, make_head
from scanwise.models.published_keys import PUBLISHED_NAMES
from scanwise.models.specs import parse_head
from scanwise.models.weights import find_published, load_published, read_state, weights_file

SCHEMES = ("hf", "timm", "run")
GRAMMAR = "hf:ID-OR-FOLDER, timm:NAME, run:RUN, or, with --weights imagenet or FILE, " + ", ".join(
    PUBLISHED_NAMES
)
HUB = "https://huggingface.co"

_MOST_BLOCKS = 64  # a longer list is no list of stages
_MOST_LEVELS = 16  # of which the maps are described; of more blocks, evenly spread ones


Levels = Literal["last", "all"]


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is and how its images must look; JSON-ready, stored in the bundle.

    Attributes:
        kind: Which library builds it.
        name: As the user wrote it, without a path: "hf:mobilenet_v2_imagenet".
        input_px: Height and width that the weights were made for; images are resized to it.
        mean, std: Of pixels / 255, one number a channel, as the weights were trained with.
        num_features: d of the feature vectors (b, d).
        weights_sha256: Of all tensors with their names.
        config: What its library needs to build it with random weights.
        levels: "last": the network's own feature vector; "all": see AllLevels.
    """

    kind: Literal["hf", "timm", "scanwise"]
    name: str
    input_px: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_features: int
    weights_sha256: str
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    levels: Levels = "last"

    @property
    def channels(self) -> int:
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        parts = dict(value)
        for name in ("input_px", "mean", "std"):
            parts[name] = tuple(parts[name])
        return cls(**parts)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded backbone: images float (b, c, h, w), h and w = spec.input_px, to features (b, d)."""

    spec: BackboneSpec
    module: nn.Module


class TransferNet(nn.Module):
    """A backbone and a new head: images of any size → resized → features → logits (b, k).

    The backbone stays in eval mode whatever mode is asked for: the statistics of its BatchNorm are
    part of what was learned elsewhere, and a few hundred images must not overwrite them.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.spec = backbone.spec
        self.backbone = backbone.module
        self.head = head
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def features(self, images: Tensor) -> Tensor:
        """Feature vectors, float (b, d), of images float (b, c, h, w)."""
        vectors: Tensor = self.backbone(resize(images, self.spec.input_px))
        return vectors

    def classify(self, features: Tensor) -> Tensor:
        """Logits (b, k) of features (b, d)."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.backbone.eval()
        return self


def transfer_net(
    backbone: Backbone, *, num_outputs: int, dropout: float | None, head: str | None
) -> TransferNet:
    """A backbone with a new head of random weights, drawn from torch's global generator.

    Args:
        backbone: Whose features the head reads.
        num_outputs: Logits per image, k.
        dropout: Rate before the head's layers; None is 0.2, as in the training guide.
        head: "linear", "logistic" (the same layer, fitted otherwise), "mlp:256" or None (linear).

    Raises:
        ModelError: If `head` can't be read.
    """
    made = make_head(
        backbone.spec.num_features,
        num_outputs,
        dropout=HEAD_DROPOUT if dropout is None else dropout,
        head_units=parse_head(head),
    )
    return TransferNet(backbone, made)


class FrozenBackbone(nn.Module):
    """Resizing and backbone in one module, as it is exported: images to feature vectors."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.module = backbone.module
        self.input_px = backbone.spec.input_px

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.module(resize(images, self.input_px))
        return vectors


def resize(images: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Bilinear resize of float images (b, c, h, w), antialiased where they shrink."""
    if tuple(images.shape[2:]) == size_px:
        return images
    shrinks = images.shape[2] > size_px[0] or images.shape[3] > size_px[1]
    return F.interpolate(
        images, size=size_px, mode="bilinear", align_corners=False, antialias=shrinks
    )


def is_pretrained(model: str | None, weights: str | None = None) -> bool:
    """True if these settings name a network that comes with weights."""
    return weights is not None or (model or "").partition(":")[0] in SCHEMES


def backbone_slug(model: str) -> str:
    """A short name for folders and tables: 'hf:../weights/mobilenet_v2' → 'hf:mobilenet_v2'."""
    scheme, _, rest = model.partition(":")
    return f"{scheme}:{Path(rest).name}" if rest and scheme in SCHEMES else model


def open_backbone(model: str, weights: str | None = None) -> Backbone:
    """Load a pretrained backbone by name; needs the network only for hub names not yet cached.

    Args:
        model: "hf:ID-OR-FOLDER", "timm:NAME", or one of our own with published weights.
        weights: A published name ("imagenet") or a file; hf: brings its own.

    Raises:
        ModelError: Unknown name; weights that can't be had (with the URL and where to put them), of
            another architecture (with the first keys that differ) or pickled; no feature vector.
    """
    scheme, _, rest = model.partition(":")
    if scheme == "hf" and weights is None and rest:
        backbone = _open_hugging_face(rest)
    elif scheme == "timm" and rest:
        backbone = _open_timm(rest, weights)
    elif model in PUBLISHED_NAMES and weights is not None:
        backbone = _open_published(model, weights)
    elif scheme == "hf" and rest:
        raise ModelError(
            f"--weights {weights} does not go with {model}, which brings its own; leave it out."
        )
    else:
        raise ModelError(
            f"--weights {weights} does not go with {model}; pretrained networks are {GRAMMAR}."
            if weights is not None
            else f"'{model}' names no network; pretrained ones are {GRAMMAR}."
        )
    backbone.module.eval().requires_grad_(False)
    return backbone


def with_levels(backbone: Backbone, levels: Levels) -> Backbone:
    """The same weights with other features: those of the last layer, or of all levels."""
    spec, module = backbone.spec, backbone.module
    if spec.levels == levels:
        return backbone
    other = AllLevels(module) if levels == "all" else getattr(module, "inner", module)
    return Backbone(
        replace(
            spec,
            levels=levels,
            num_features=count_features(other.eval(), spec.name, spec.channels, spec.input_px),
            weights_sha256=tensors_sha256(other),
        ),
        other,
    )


def rebuild_backbone(spec: BackboneSpec) -> nn.Module:
    """The same network with random weights, to be filled from a bundle.

    Raises:
        ModelError: If its library is missing.
    """
    if spec.levels == "all":
        return AllLevels(rebuild_backbone(replace(spec, levels="last"))).eval()
    if spec.kind == "hf":
        stated = dict(spec.config)
        pooled = bool(stated.pop("pooled"))
        with _quiet_transformers() as transformers:
            config = transformers.AutoConfig.for_model(**stated)
            return HubFeatures(transformers.AutoModel.from_config(config), pooled=pooled).eval()
    if spec.kind == "timm":
        timm = _import_timm(spec.name)
        module: nn.Module = timm.create_model(spec.config["name"], pretrained=False, num_classes=0)
        return module.eval()
    return build_own(spec.config).eval()


def build_own(config: Mapping[str, Any]) -> OwnFeatures:
    """A network of ours as a backbone, with random weights.

    Args:
        config: What `models.build.build_model` takes; what is left out keeps its default.
    """
    from scanwise.models.build import build_model

    network = build_model(
        config["spec"],
        num_outputs=config["num_outputs"],
        channels=config["channels"],
        size_px=(config["size_px"][0], config["size_px"][1]),
        dropout=config.get("dropout"),
        activation=config.get("activation", "relu"),
        head=config.get("head"),
        published=config.get("published", False),
    )
    return OwnFeatures(network)


class OwnFeatures(nn.Module):
    """A network of this package without its head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: nn.Module = network
        if isinstance(getattr(network, "head", None), nn.Module):
            network.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.network.features(images)  # type: ignore[operator]
        return vectors


class HubFeatures(nn.Module):
    """A Hugging Face model that answers with one feature vector an image."""

    def __init__(self, model: nn.Module, *, pooled: bool = True) -> None:
        super().__init__()
        self.model = model
        self.pooled = pooled

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(pixel_values=images)
        pooled = getattr(output, "pooler_output", None)
        vectors = pooled if self.pooled and pooled is not None else output.last_hidden_state
        if vectors.ndim == 4:  # maps (b, d, h, w)
            return vectors.mean(dim=(2, 3))  # type: ignore[no-any-return]
        if vectors.ndim == 3:  # tokens (b, t, d), the class token first
            return vectors[:, 0]  # type: ignore[no-any-return]
        return vectors  # type: ignore[no-any-return]


class AllLevels(nn.Module):
    """A backbone that answers with what all its levels saw, not the last one alone.

    To the network's own vector come mean and standard deviation over the image of the maps after
    each block (of token networks the mean over the tokens). Early blocks see texture and colour,
    late ones objects of the pictures that the network was trained on: for other pictures a linear
    classifier on all of them is better (Evci et al., ICML 2022, arXiv:2201.03529).
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        stages = _stages(inner)
        # A plain list: in `inner` they are registered already.
        step = max(1.0, len(stages) / _MOST_LEVELS)
        self._levels = [stages[int(i * step)] for i in range(min(len(stages), _MOST_LEVELS))]

    def forward(self, images: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            maps = output[0] if isinstance(output, tuple | list) else output
            if isinstance(maps, Tensor):
                seen.extend(_pooled_maps(maps))

        hooks = [stage.register_forward_hook(keep) for stage in self._levels]
        try:
            vectors = self.inner(images)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([*seen, vectors], dim=1)


def _pooled_maps(maps: Tensor) -> list[Tensor]:
    """Vectors (b, d) that describe what a block gives; none where it gives no maps or tokens."""
    if maps.ndim == 4:
        mean = maps.mean(dim=(2, 3))
        spread = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3))
        return [mean, (spread + 1e-8).sqrt()]
    return [maps.mean(dim=1)] if maps.ndim == 3 else []


def tensors_sha256(module: nn.Module) -> str:
    """Hex SHA-256 of all parameters and buffers with their names, in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def count_features(module: nn.Module, name: str, channels: int, size_px: tuple[int, int]) -> int:
    """d, found by one forward pass of two images.

    Raises:
        ModelError: If the output is no feature vector (2, d), or the images can't be taken.
    """
    images = torch.rand((2, channels, *size_px), generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            vectors = module.eval()(images)
    except ModelError:
        raise
    except Exception as error:  # someone else's forward
        raise ModelError(
            f"{name} can't take images of shape (2, {channels}, {size_px[0]}, {size_px[1]}): "
            f"{_first_line(error)}. It is no image backbone, or its input size is another."
        ) from error
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        form = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ModelError(
            f"{name} gives {form} for two images, a feature vector (2, d) is needed; choose a "
            "network with an image-feature output."
        )
    if not bool(torch.isfinite(vectors).all()):
        raise ModelError(f"{name} gives NaN or infinity for ordinary images; its file is damaged.")
    return int(vectors.shape[1])


def unfreezable_blocks(module: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of a backbone in blocks from input to output, for `--finetune last:k`.

    The longest list of stages in the network gives the blocks (its layers, bottlenecks or encoder
    blocks); what comes before it belongs to the first, what comes after it to the last.
    """
    everything = list(module.parameters())
    stages = _stages(module)
    if not stages:
        return [everything]
    places = {id(p): i for i, stage in enumerate(stages) for p in stage.parameters()}
    blocks: list[list[nn.Parameter]] = [[] for _ in stages]
    place = 0
    for parameter in everything:
        # What lies in no stage goes with the one before it; after the last stage: with the last.
        place = places.get(id(parameter), place)
        blocks[place].append(parameter)
    return blocks


def _stages(module: nn.Module) -> list[nn.Module]:
    """The longest list of parts with weights in a network, from input to output; may be empty."""
    lists = [
        child
        for child in module.modules()
        if isinstance(child, nn.ModuleList | nn.Sequential)
        and 1 < len(child) <= _MOST_BLOCKS
        and all(any(True for _ in part.parameters()) for part in child)
    ]
    return list(max(lists, key=len)) if lists else []


# --- Hugging Face -------------------------------------------------------------------------------


def _open_hugging_face(source: str) -> Backbone:
    path = Path(source).expanduser()
    local = path.is_dir()
    if not local and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ModelError(
            f"hf:{source}: there is no such folder; give one with config.json, model.safetensors "
            f"and preprocessor_config.json, or a name on {HUB}."
        )
    name = f"hf:{path.resolve().name if local else source}"
    where = str(path if local else source)
    only_local = local or offline()
    with _quiet_transformers() as transformers:
        try:
            config = transformers.AutoConfig.from_pretrained(where, local_files_only=only_local)
            model, loaded = transformers.AutoModel.from_pretrained(
                where,
                config=config,
                local_files_only=only_local,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelError(_cannot_load(name, where, local, error)) from error
        form = _image_form(where, name, transformers, only_local)
    pooled = _check_loaded(name, loaded)
    module = HubFeatures(model, pooled=pooled).eval()
    input_px, mean, std = form
    channels = len(mean)
    spec = BackboneSpec(
        kind="hf",
        name=name,
        input_px=input_px,
        mean=mean,
        std=std,
        num_features=count_features(module, name, channels, input_px),
        weights_sha256=tensors_sha256(module),
        config=json.loads(config.to_json_string(use_diff=True))
        | {"model_type": config.model_type, "pooled": pooled},
    )
    return Backbone(spec, module)


def _check_loaded(name: str, loaded: Mapping[str, Any]) -> bool:
    """False if only the pooling layer is missing in the file, which then is not used.

    Raises:
        ModelError: If any other weight is missing or of another shape: it would be random.
    """
    mismatched = [str(item[0]) for item in loaded.get("mismatched_keys", ())]
    missing = sorted(loaded.get("missing_keys", ()))
    others = [key for key in missing if not key.startswith("pooler.")]
    if mismatched or others:
        first = ", ".join([*mismatched, *others][:3])
        unexpected = ", ".join(sorted(loaded.get("unexpected_keys", ()))[:3]) or "none"
        count = len(others) + len(mismatched)
        raise ModelError(
            f"the weights file of {name} is of another architecture: {count} weights are missing "
            f"or of another shape (first: {first}); unknown to the network: {unexpected}. "
            "Random weights are never used instead."
        )
    return not missing


def _image_form(
    where: str, name: str, transformers: Any, only_local: bool
) -> tuple[tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """Input size, mean and std as the weights were trained with.

    Raises:
        ModelError: If the source does not say.
    """
    try:
        values, _ = (
            transformers.image_processing_base.ImageProcessingMixin.get_image_processor_dict(
                where, local_files_only=only_local
            )
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name} has no preprocessor_config.json, so mean, std and input size are unknown; add "
            "the one that its weights were trained with."
        ) from error
    size = values.get("crop_size") if values.get("do_center_crop") else None
    side = _side(size) or _side(values.get("size"))
    mean, std = values.get("image_mean"), values.get("image_std")
    if side is None or not mean or not std or len(mean) != len(std):
        raise ModelError(
            f"preprocessor_config.json of {name} lacks size, image_mean or image_std; add those "
            "that its weights were trained with."
        )
    return side, tuple(map(float, mean)), tuple(map(float, std))


def _side(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
        if "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    return None


def _cannot_load(name: str, where: str, local: bool, error: Exception) -> str:
    reason = _first_line(error)
    if local:
        return (
            f"can't load {name} from {where}: {reason}. The folder must hold config.json, "
            "model.safetensors (pickled .bin files are refused) and preprocessor_config.json."
        )
    network = "SCANWISE_OFFLINE forbids the network" if offline() else reason
    return (
        f"can't get {name} ({network}). Download config.json, model.safetensors and "
        f"preprocessor_config.json from {HUB}/{where}/tree/main (which shows the SHA-256 of each) "
        "into a folder and give hf:FOLDER. Random weights are never used instead."
    )


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[Any]:
    """The library without its progress bars and load reports.

    Raises:
        ModelError: If it is not installed.
    """
    try:
        import transformers
        import transformers.image_processing_base
        from transformers.utils import logging as reports

        logging: Any = reports
    except ImportError as error:
        raise ModelError(
            "hf: backbones need transformers: pip install 'scanwise[backbones]'."
        ) from error
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield transformers
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


# --- timm and our own ---------------------------------------------------------------------------


def _import_timm(name: str) -> Any:
    try:
        import timm
    except Exception as error:  # torchvision beside a torch it was not built for raises anything
        raise ModelError(
            f"{name} needs timm and a torchvision that fits the installed torch "
            f"({_first_line(error)}): pip install 'scanwise[backbones]' torchvision."
        ) from error
    return timm


def _open_timm(name: str, weights: str | None) -> Backbone:
    from scanwise.core.errors import nearest

    label = f"timm:{name}"
    timm = _import_timm(label)
    if not timm.is_model(name):
        raise ModelError(f"timm has no model '{name}'; {nearest(name, timm.list_models(), 5)}")
    if weights is None and offline():
        raise ModelError(
            f"{label}: SCANWISE_OFFLINE forbids the network. Download its model.safetensors from "
            f"{HUB}/timm/{name} and give --weights FILE."
        )
    try:
        module = timm.create_model(name, pretrained=weights is None, num_classes=0).eval()
    except Exception as error:
        raise ModelError(
            f"can't get the weights of {label} ({_first_line(error)}). Download model.safetensors "
            f"from {HUB}/timm/{name} and give --weights FILE. Random weights are never used."
        ) from error
    if weights is not None:
        _load_headless(module, read_state(weights_file(weights, label)), label)
    form = timm.data.resolve_model_data_config(module)
    _, height, width = form["input_size"]
    mean, std = tuple(map(float, form["mean"])), tuple(map(float, form["std"]))
    spec = BackboneSpec(
        kind="timm",
        name=label,
        input_px=(height, width),
        mean=mean,
        std=std,
        num_features=count_features(module, label, len(mean), (height, width)),
        weights_sha256=tensors_sha256(module),
        config={"name": name},
    )
    return Backbone(spec, module)


def _load_headless(module: Any, state: Mapping[str, Tensor], label: str) -> None:
    """Load all but the classifier, strictly.

    Raises:
        ModelError: Naming the first weights that are missing, unknown or of another shape.
    """
    own = module.state_dict()
    classifier = str(module.pretrained_cfg.get("classifier") or "head")
    given = {k: v for k, v in state.items() if k in own or not k.startswith(classifier)}
    wrong = sorted(own.keys() ^ given.keys()) + [
        key for key in own.keys() & given.keys() if own[key].shape != given[key].shape
    ]
    if wrong:
        raise ModelError(
            f"the weights file is not of {label}: {len(wrong)} weights are missing, unknown or of "
            f"another shape (first: {', '.join(wrong[:3])}). Random weights are never used instead."
        )
    module.load_state_dict(given)


def _open_published(architecture: str, weights: str) -> Backbone:
    path = weights_file(weights, architecture)
    form = find_published("imagenet", architecture)
    config = {
        "spec": architecture,
        "num_outputs": 1,
        "channels": 3,
        "size_px": [form.size_px, form.size_px],
        "published": True,
    }
    module = build_own(config)
    load_published(module.network, read_state(path), architecture)
    size = (form.size_px, form.size_px)
    name = f"{architecture} ({path.name})"
    spec = BackboneSpec(
        kind="scanwise",
        name=name,
        input_px=size,
        mean=form.mean,
        std=form.std,
        num_features=count_features(module, name, 3, size),
        weights_sha256=tensors_sha256(module),
        config=config,
    )
    return Backbone(spec, module)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
