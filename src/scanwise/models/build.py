"""From `--model NAME[:OPTIONS]` to a network: the one list of networks, and checks of your own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scanwise.core.errors import ModelError, nearest
from scanwise.models import specs
from scanwise.models.specs import ModelRequest, ModelSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelEntry:
    """One network: where it is, what it can be told, which images it can take.

    Attributes:
        function: "module:function" in scanwise.models, imported when the network is built.
        grammar: How the spec is written, for error messages and the documentation.
        summary: One line for the documentation.
        min_px: Shortest side it can take.
        native_px: Side it was designed for, where there is one: files are best resized to it.
        parse: Options text → full spelling and keyword arguments of the function.
        notes: What image size changes in it, in words.
    """

    function: str
    grammar: str
    summary: str
    min_px: int
    native_px: int | None = None
    parse: Callable[[str], specs.Parsed] = specs.parse_nothing
    notes: Callable[[Mapping[str, Any], tuple[int, int]], tuple[str, ...]] = specs.no_notes


MODELS: dict[str, ModelEntry] = {
    "mlp": ModelEntry(
        "mlp:mlp",
        grammar="mlp[:512,256,128] (units of each hidden layer)",
        summary="Multi-layer perceptron on flattened pixels.",
        min_px=1,
        parse=specs.parse_hidden_widths,
    ),
    "simple_cnn": ModelEntry(
        "simple_cnn:simple_cnn",
        grammar="simple_cnn",
        summary="Three convolutions and a dense layer, 1.1 M parameters.",
        min_px=5,
        notes=specs.note_depth,
    ),
    "advanced_cnn": ModelEntry(
        "advanced_cnn:advanced_cnn",
        grammar="advanced_cnn[:residual][,se] (shortcuts, squeeze-and-excitation)",
        summary="Blocks of convolution, BatchNorm and dropout, 0.29 M parameters.",
        min_px=5,
        parse=specs.parse_block_flags,
        notes=specs.note_depth,
    ),
    "small_resnet": ModelEntry(
        "small_resnet:small_resnet",
        grammar="small_resnet[:32] (channels of the first stage)",
        summary="Three-stage residual network, 0.31 M parameters; the default.",
        min_px=8,
        parse=specs.parse_width,
        notes=specs.note_stem_halvings,
    ),
    "resnet18": ModelEntry(
        "resnet:resnet18",
        grammar="resnet18",
        summary="ResNet-18, 11.2 M parameters; at 28 px the MedMNIST reference.",
        min_px=16,
        native_px=224,
        notes=specs.note_stem,
    ),
    "resnet50": ModelEntry(
        "resnet:resnet50",
        grammar="resnet50",
        summary="ResNet-50, 23.5 M parameters; at 28 px the MedMNIST reference.",
        min_px=16,
        native_px=224,
        notes=specs.note_stem,
    ),
    "densenet121": ModelEntry(
        "densenet:densenet121",
        grammar="densenet121",
        summary="DenseNet-121, 7.0 M parameters.",
        min_px=16,
        native_px=224,
        notes=specs.note_stem,
    ),
    "efficientnet_b0": ModelEntry(
        "efficientnet:efficientnet_b0",
        grammar="efficientnet_b0",
        summary="EfficientNet-B0, 4.0 M parameters.",
        min_px=16,
        native_px=224,
        notes=specs.note_strides,
    ),
}
# The small networks of seed S1 by the names that it gives them.
OTHER_NAMES = {
    "simplecnn": "simple_cnn",
    "rescnn": "advanced_cnn:residual",
    "secnn": "advanced_cnn:se",
}


@dataclass(frozen=True)
class ModelInfo:
    """What the report and the plan say of a network."""

    spec: str  # in full: "small_resnet:32"; for a network of your own, its class
    name: str
    parameters_total: int
    parameters_trainable: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}


def check_model_spec(
    spec: str,
    *,
    size_px: tuple[int, int] | None = None,
    head: str | None = None,
    activation: str = "relu",
) -> ModelSpec:
    """Check `name[:options]` and what goes with it; builds nothing and does not load torch.

    Args:
        spec: Such as "mlp:512,256,128", "small_resnet:32", "advanced_cnn:residual,se".
        size_px: Height and width of the images, where known.
        head: "linear", "mlp:256" or None (linear).
        activation: Hidden activation; only `mlp` can change it.

    Returns:
        The spec with defaults filled in; `.text` spells it in full ("mlp" → "mlp:512,256,128").

    Raises:
        ModelError: Unknown name (with the nearest ones), bad options (with the grammar), images
            too small (with the least size), or a head or activation that the network can't have.
    """
    name, _, options = OTHER_NAMES.get(spec.strip(), spec.strip()).partition(":")
    if name not in MODELS:
        raise ModelError(_unknown(name))
    entry = MODELS[name]
    try:
        text, arguments = entry.parse(options.strip())
    except ModelError as error:
        raise ModelError(f"model '{spec}': {error} Write {entry.grammar}.") from None
    _check_head(name, head, activation)
    if size_px is not None:
        _check_size(name, size_px)
    return ModelSpec(name, f"{name}:{text}" if text else name, arguments)


def model_notes(spec: str, size_px: tuple[int, int]) -> tuple[str, ...]:
    """What image size changes in this network and why, in words; empty where nothing.

    Raises:
        ModelError: As check_model_spec.
    """
    checked = check_model_spec(spec, size_px=size_px)
    return MODELS[checked.name].notes(checked.arguments, size_px)


def build_model(
    spec: str,
    *,
    num_outputs: int,
    channels: int,
    size_px: tuple[int, int],
    dropout: float | None = None,
    activation: str = "relu",
    head: str | None = None,
    published: bool = False,
) -> nn.Module:
    """Build a network with random weights, drawn from torch's global generator (seed it first).

    Args:
        spec: `name[:options]`, a name of MODELS.
        num_outputs: Logits per image, k.
        channels: Channels of the images, c.
        size_px: Height and width of the images.
        dropout: Rate in [0, 1) before the head; None is the network's default.
        activation: Hidden activation of the MLP, one of specs.ACTIVATIONS.
        head: "linear", "mlp:256" or None (linear).
        published: Layers exactly as published, for weights.load_published; needs 3 channels.

    Returns:
        A module from images (b, c, h, w) to logits (b, k); softmax or sigmoid belongs to the loss.
        It also has `features(images)` (b, d) and `classify(features)` (b, k).

    Raises:
        ModelError: As check_model_spec, or a number out of range.
    """
    checked = check_model_spec(spec, size_px=size_px, head=head, activation=activation)
    request = ModelRequest(
        num_outputs, channels, size_px, dropout, activation, specs.parse_head(head), published
    )
    module, _, function = MODELS[checked.name].function.partition(":")
    build = getattr(importlib.import_module(f"scanwise.models.{module}"), function)
    model: nn.Module = build(request, **checked.arguments)
    return model


def as_model(
    model: str | nn.Module | Callable[..., nn.Module],
    *,
    num_outputs: int,
    channels: int,
    size_px: tuple[int, int],
    dropout: float | None = None,
    activation: str = "relu",
    head: str | None = None,
) -> nn.Module:
    """A network from a spec, from your own module, or from a function or class that makes one.

    Your function is called with those of `num_outputs`, `channels` and `size_px` that it names; set
    dropout, activation and head inside it. Your own module is checked by one forward pass of two
    random images in eval mode, and handed back as it was: the same object, parameters, buffers and
    train or eval modes. Lazy layers get their shapes.

    Raises:
        ModelError: As build_model; the function can't be called so or returns no module; the module
            fails on such images, or returns anything but logits (b, k).
    """
    from torch import nn

    if isinstance(model, str):
        return build_model(
            model,
            num_outputs=num_outputs,
            channels=channels,
            size_px=size_px,
            dropout=dropout,
            activation=activation,
            head=head,
        )
    if head is not None or dropout is not None or activation != "relu":
        raise ModelError(
            "head, dropout and activation change only networks given by name; set them inside "
            "your own."
        )
    if not isinstance(model, nn.Module):
        request = {"num_outputs": num_outputs, "channels": channels, "size_px": size_px}
        model = _call(model, request)
    check_forward(model, num_outputs=num_outputs, channels=channels, size_px=size_px)
    return model


def check_forward(
    model: nn.Module, *, num_outputs: int, channels: int, size_px: tuple[int, int]
) -> None:
    """Run two random images through a module in eval mode and check that logits (2, k) come out.

    Parameters, buffers, each submodule's train or eval mode and torch's random state stay as they
    are (lazy layers are given their shapes).

    Raises:
        ModelError: With the expected and the actual shape.
    """
    import torch

    name, shape = type(model).__name__, (2, channels, *size_px)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        logits = _forward_unchanged(model, images.to(device))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name} can't take images of shape (b, c, h, w) = {shape}, float32: {error}"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            f"{name} must return one tensor of logits, shape (2, {num_outputs}) for two images; it "
            f"returned a {type(logits).__name__}."
        )
    if tuple(logits.shape) != (2, num_outputs):
        raise ModelError(
            f"{name} must return logits of shape (2, {num_outputs}) for two images of shape "
            f"{shape[1:]}; it returned {tuple(logits.shape)}."
        )
    if not logits.is_floating_point():
        raise ModelError(f"{name} must return float logits; it returned {logits.dtype}.")
    sums = logits.float().sum(dim=1)
    if num_outputs > 1 and bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise ModelError(
            f"{name} returns probabilities (rows sum to 1), but logits are needed: leave its final "
            "softmax out, the loss and the predictions apply it."
        )


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Numbers of all and of trainable parameters; a tensor used twice counts once."""
    parameters = list(model.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def describe_model(spec: str | None, model: nn.Module, size_px: tuple[int, int]) -> ModelInfo:
    """Exact parameter counts, the spec in full, what image size changed; spec None: your own."""
    total, trainable = count_parameters(model)
    if spec is None:
        name = type(model).__name__
        return ModelInfo(name, name, total, trainable, ("a module handed in from Python",))
    checked = check_model_spec(spec, size_px=size_px)
    notes = MODELS[checked.name].notes(checked.arguments, size_px)
    return ModelInfo(checked.text, checked.name, total, trainable, notes)


def _unknown(name: str) -> str:
    hint = nearest(name.lower().replace("-", "_"), MODELS, how_many=5)
    known = "" if hint.startswith("choose") else f" Known models: {', '.join(MODELS)}."
    return f"unknown model '{name}'; {hint}{known}"


def _check_head(name: str, head: str | None, activation: str) -> None:
    units = specs.parse_head(head)
    if activation not in specs.ACTIVATIONS:
        raise ModelError(
            f"unknown activation '{activation}'; choose one of {', '.join(specs.ACTIVATIONS)}."
        )
    if name == "mlp" and units is not None:
        raise ModelError(
            f"head '{head}' does not go with mlp, whose options are its hidden layers; write "
            f"mlp:512,256,128,{units}."
        )
    if name != "mlp" and activation != "relu":
        raise ModelError(
            f"activation '{activation}' does not go with {name}, which has its own; only mlp "
            "can change it."
        )


def _check_size(name: str, size_px: tuple[int, int]) -> None:
    least = MODELS[name].min_px
    if min(size_px) >= least:
        return
    fitting = [other for other, entry in MODELS.items() if entry.min_px <= min(size_px)]
    raise ModelError(
        f"{name} needs images of at least {least}×{least} px; these have "
        f"{specs.say_size(size_px)}. Make them larger (--size {least} for image files), or choose "
        f"{' or '.join(fitting)}."
    )


def _call(make: Callable[..., nn.Module], request: Mapping[str, Any]) -> nn.Module:
    """Call a user's function or class with what it asks for by name."""
    from torch import nn

    label = getattr(make, "__name__", type(make).__name__)
    if not callable(make):
        raise ModelError(
            f"a model is a name, a torch.nn.Module or a function that makes one; got type {label}."
        )
    parameters = inspect.signature(make).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and not (p.name in request and p.name in named)
    ]
    if missing:
        raise ModelError(
            f"{label} needs {', '.join(missing)}, which scanwise does not know; it can fill in "
            f"{', '.join(request)}. Wrap it: lambda num_outputs: {label}(…)."
        )
    model = make(**{key: value for key, value in request.items() if takes_all or key in named})
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{label} must return a torch.nn.Module; it returned type {type(model).__name__}."
        )
    return model


def _forward_unchanged(model: nn.Module, images: Any) -> Any:
    """Eval-mode output; buffers and modes are put back, also when the module raises."""
    import torch
    from torch.nn.parameter import is_lazy

    modes = {module: module.training for module in model.modules()}
    buffers = {b: b.detach().clone() for b in model.buffers() if not is_lazy(b)}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(images)
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers.items():
                buffer.copy_(before)
