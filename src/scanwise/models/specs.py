"""What can be said of a network before it is built: its options and how image size shapes it.

No torch here: the plan refuses a bad `--model` and prints these decisions before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scanwise.core.errors import ModelError

SMALL_IMAGE_PX = 40  # up to here: 3×3 stem, stride 1, no pooling, as the MedMNIST reference
MAX_UNITS = 16_384  # of one layer; more is a typing mistake
MAX_HIDDEN_LAYERS = 20

ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid", "silu", "leaky_relu")


@dataclass(frozen=True)
class ModelRequest:
    """What a network is built for; the same value goes to every network.

    Attributes:
        num_outputs: Logits per image, k >= 1.
        channels: Channels of the images, >= 1.
        size_px: Height and width of the images.
        dropout: Rate in [0, 1) before the head; None is the network's own default.
        activation: Hidden activation, one of ACTIVATIONS; only the MLP can change it.
        head_units: Hidden units of an MLP head; None is a linear head.
        published: Stem, strides and BatchNorm exactly as published, whatever the image size, so
            that published weights fit and give their outputs; such a network takes 3 channels.
    """

    num_outputs: int
    channels: int
    size_px: tuple[int, int]
    dropout: float | None = None
    activation: str = "relu"
    head_units: int | None = None
    published: bool = False

    def __post_init__(self) -> None:
        if self.num_outputs < 1 or self.channels < 1 or min(self.size_px) < 1:
            raise ModelError(
                "a network needs at least one output, channel and pixel; got "
                f"num_outputs={self.num_outputs}, channels={self.channels}, size_px={self.size_px}."
            )
        if self.published and self.channels != 3:
            raise ModelError(
                f"published networks take 3 channels, got {self.channels}; repeat the grey channel."
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ModelError(f"dropout={self.dropout} must lie in [0, 1).")
        if self.activation not in ACTIVATIONS:
            raise ModelError(
                f"unknown activation '{self.activation}'; choose one of {', '.join(ACTIVATIONS)}."
            )

    @property
    def small_images(self) -> bool:
        """True where a network made for 224 px is to keep its first layers at full size."""
        return not self.published and has_small_images(self.size_px)

    def dropout_or(self, default: float) -> float:
        return default if self.dropout is None else self.dropout


@dataclass(frozen=True)
class ModelSpec:
    """A checked `name[:options]`: its full spelling and the arguments of the network's function."""

    name: str
    text: str
    arguments: Mapping[str, Any]


# --- options: text after the colon -> full spelling, arguments -------------------------------

Parsed = tuple[str, Mapping[str, Any]]


def parse_nothing(options: str) -> Parsed:
    """For networks that come in one form."""
    if options:
        raise ModelError(f"it has no options, got '{options}'.")
    return "", {}


def parse_hidden_widths(options: str) -> Parsed:
    """'512,256,128': units of each hidden layer, first to last; the default is S3's baseline."""
    cells = (options or "512,256,128").split(",")
    if len(cells) > MAX_HIDDEN_LAYERS:
        raise ModelError(f"{len(cells)} hidden layers are more than {MAX_HIDDEN_LAYERS}.")
    widths = tuple(_units(cell) for cell in cells)
    return ",".join(map(str, widths)), {"widths": widths}


def parse_width(options: str) -> Parsed:
    """'32': channels of the first stage."""
    width = _units(options or "32")
    if not 4 <= width <= 512:
        raise ModelError(f"the width {width} must lie in [4, 512].")
    return str(width), {"width": width}


def parse_block_flags(options: str) -> Parsed:
    """'residual', 'se' or 'residual,se'."""
    known = ("residual", "se")
    cells = [cell.strip() for cell in options.split(",")] if options else []
    for cell in cells:
        if cell not in known:
            raise ModelError(f"unknown option '{cell}'.")
    if len(set(cells)) < len(cells):
        raise ModelError(f"'{options}' names an option twice.")
    text = ",".join(flag for flag in known if flag in cells)
    return text, {flag: flag in cells for flag in known}


def parse_head(head: str | None) -> int | None:
    """Hidden units of `--head`: None for one layer ('linear' or 'logistic'), 256 for 'mlp:256'.

    Raises:
        ModelError: Anything else.
    """
    name, _, units = (head or "linear").partition(":")
    if name in ("linear", "logistic") and not units:
        return None
    if name == "mlp":
        try:
            return _units(units or "256")
        except ModelError as error:
            raise ModelError(f"head '{head}': {error} Write linear or mlp:256.") from None
    raise ModelError(
        f"unknown head '{head}'; write linear or mlp:256 (hidden units); pretrained networks take "
        "logistic too."
    )


def _units(text: str) -> int:
    cell = text.strip()
    if not (cell.isascii() and cell.isdigit()) or not 1 <= int(cell) <= MAX_UNITS:
        raise ModelError(f"'{cell}' is not a whole number in [1, {MAX_UNITS}].")
    return int(cell)


# --- decisions by image size ------------------------------------------------------------------


def has_small_images(size_px: tuple[int, int]) -> bool:
    """True up to 40 px: a network made for 224 px then keeps its first layers at full size."""
    return min(size_px) <= SMALL_IMAGE_PX


def num_pooled_blocks(size_px: tuple[int, int], wanted: int) -> int:
    """How many blocks that end in 2×2 pooling fit: at least 3 px must remain, one block always."""
    side, blocks = min(size_px), 0
    while blocks < wanted and -(-side // 2) >= 3:
        side, blocks = -(-side // 2), blocks + 1
    return max(blocks, 1)


def num_stem_halvings(size_px: tuple[int, int]) -> int:
    """How often the stem of `small_resnet` halves the image.

    Not at all under 24 px, else once (14×14 of 28 px, as in the sketch it comes from), and again
    until at most 32 px are left: the stages then cost the same at 224 px as at 28.
    """
    side = min(size_px)
    if side < 24:
        return 0
    halvings = 1
    while -(-side // 2**halvings) > 32:
        halvings += 1
    return halvings


def say_size(size_px: tuple[int, int]) -> str:
    """'28×28 px'."""
    return f"{size_px[0]}×{size_px[1]} px"


def no_notes(arguments: Mapping[str, Any], size_px: tuple[int, int]) -> tuple[str, ...]:
    return ()


def note_stem(arguments: Mapping[str, Any], size_px: tuple[int, int]) -> tuple[str, ...]:
    """Which stem a network made for 224 px gets, and why."""
    if has_small_images(size_px):
        return (
            f"small-image stem (3×3, stride 1, no pooling): {say_size(size_px)} is at most "
            f"{SMALL_IMAGE_PX} px.",
        )
    note = (
        f"standard stem (7×7, stride 2, pooling): {say_size(size_px)} is over {SMALL_IMAGE_PX} px."
    )
    return (note + _native(size_px),)


def note_strides(arguments: Mapping[str, Any], size_px: tuple[int, int]) -> tuple[str, ...]:
    """Whether EfficientNet keeps its published strides, and why."""
    if has_small_images(size_px):
        return (
            f"first two strides reduced from 2 to 1: {say_size(size_px)} is at most "
            f"{SMALL_IMAGE_PX} px, and the published ones would leave a single pixel.",
        )
    note = f"published strides: {say_size(size_px)} is over {SMALL_IMAGE_PX} px."
    return (note + _native(size_px),)


def _native(size_px: tuple[int, int]) -> str:
    if min(size_px) >= 112:
        return ""
    last = -(-min(size_px) // 32)
    return f" It was designed for 224 px; here its last map has about {last}×{last} cells."


def note_depth(arguments: Mapping[str, Any], size_px: tuple[int, int]) -> tuple[str, ...]:
    """Whether a three-block network was cut, and why."""
    blocks = num_pooled_blocks(size_px, 3)
    if blocks == 3:
        return ()
    plural = "block" if blocks == 1 else "blocks"
    return (
        f"depth reduced from 3 to {blocks} {plural}: {say_size(size_px)} can be halved no more "
        "often with 3 px left.",
    )


def note_stem_halvings(arguments: Mapping[str, Any], size_px: tuple[int, int]) -> tuple[str, ...]:
    """How far the stem of `small_resnet` shrinks the image, where that is not the usual once."""
    halvings = num_stem_halvings(size_px)
    if halvings == 1:
        return ()
    height, width = (-(-side // 2**halvings) for side in size_px)
    how = "keeps the full size" if halvings == 0 else f"halves the image {halvings} times"
    return (f"stem {how}: the first stage sees {height}×{width} of {say_size(size_px)}.",)
