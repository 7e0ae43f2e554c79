"""Augmentation of a whole batch: one resampling pass, then one multiply-add.

Ranges are given in degrees and fractions and applied as given. Nothing is drawn but from the
generator that is handed in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Generator, Tensor

from scanwise.core.config import Settings, read_yaml_settings
from scanwise.core.errors import ConfigError, nearest
from scanwise.core.types import Finding
from scanwise.prepare.preprocessing import Preprocessing

NUM_DRAWS = 8  # random numbers an image, whatever is switched on: one range does not move another

# `auto`: training images a class below which a strength is taken; the fewer, the stronger. Seed S2
# asks for more augmentation below 100 images in all, and that rule comes first.
AUTO_STRENGTHS: tuple[tuple[float, str], ...] = (
    (100, "strong"),
    (1000, "medium"),
    (math.inf, "gentle"),
)
AUTO_SMALL_TOTAL = 100


class Augmentation(Settings):
    """Ranges of random changes; each image of each batch draws its own. Zero switches one off."""

    flip_horizontal: bool = Field(default=False, description="Mirror left-right, half the images.")
    flip_vertical: bool = Field(default=False, description="Mirror top-bottom, half the images.")
    rotation_degrees: float = Field(
        default=0.0, ge=0, le=180, description="Turn by up to this angle either way."
    )
    zoom_fraction: float = Field(
        default=0.0, ge=0, le=0.9, description="Magnify by 1 ± this, both sides alike."
    )
    shift_fraction: float = Field(
        default=0.0, ge=0, le=0.5, description="Move by up to this part of each side."
    )
    brightness_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Add up to ± this part of the full scale (255 levels)."
    )
    contrast_fraction: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="Multiply the distance to the image's own mean (of each channel) by 1 ± this.",
    )

    @property
    def resamples(self) -> bool:
        """True if pixels move by fractions, so that images must be interpolated."""
        return bool(self.rotation_degrees or self.zoom_fraction or self.shift_fraction)

    @property
    def flips(self) -> bool:
        return self.flip_horizontal or self.flip_vertical

    @property
    def is_none(self) -> bool:
        return self == Augmentation()

    def describe(self) -> str:
        """What is applied, with units: 'horizontal flip (half the images), rotation ±5.0°, …'."""
        parts = []
        if self.flip_horizontal:
            parts.append("horizontal flip (half the images)")
        if self.flip_vertical:
            parts.append("vertical flip (half the images)")
        if self.rotation_degrees:
            parts.append(f"rotation ±{self.rotation_degrees:.1f}°")
        for name in ("zoom", "shift", "brightness", "contrast"):
            value = getattr(self, f"{name}_fraction")
            if value:
                parts.append(f"{name} ±{100 * value:.1f} %")
        return ", ".join(parts) or "none"

    def draw(self, num_images: int, size_px: tuple[int, int], generator: Generator) -> Draw:
        """Draw the changes of a batch.

        Args:
            num_images: b.
            size_px: Height and width, which a rotation needs where they differ.
            generator: The only source of randomness; moves on by NUM_DRAWS numbers an image.

        Returns:
            The changes, on the CPU.
        """
        drawn = torch.rand(NUM_DRAWS, num_images, generator=generator, device=generator.device)
        # A few hundred numbers: numpy needs a third of torch's time for them.
        uniform = drawn.cpu().numpy()
        signed = uniform * 2 - 1
        flip_x = uniform[0] < (0.5 if self.flip_horizontal else 0)
        flip_y = uniform[1] < (0.5 if self.flip_vertical else 0)
        sign_x, sign_y = 1 - 2 * flip_x, 1 - 2 * flip_y
        angle = signed[2] * math.radians(self.rotation_degrees)
        # The grid says where an output pixel comes from, so magnifying divides.
        inverse_zoom = 1 / (1 + signed[3] * self.zoom_fraction)
        cosine, sine = np.cos(angle) * inverse_zoom, np.sin(angle) * inverse_zoom
        aspect = size_px[0] / size_px[1]
        matrices = np.empty((num_images, 2, 3), np.float32)
        matrices[:, 0, 0] = cosine * sign_x
        matrices[:, 0, 1] = sine * sign_y * -aspect
        matrices[:, 1, 0] = sine * sign_x / aspect
        matrices[:, 1, 1] = cosine * sign_y
        # Coordinates run from -1 to 1, two units a side.
        matrices[:, :, 2] = signed[4:6].T * (2 * self.shift_fraction)
        return Draw(
            matrices=torch.from_numpy(matrices),
            flip_x=torch.from_numpy(flip_x),
            flip_y=torch.from_numpy(flip_y),
            gain=torch.from_numpy(1 + signed[6] * np.float32(self.contrast_fraction)),
            offset_levels=torch.from_numpy(signed[7] * np.float32(255 * self.brightness_fraction)),
        )

    def apply(
        self,
        images: Tensor,
        generator: Generator,
        *,
        scale_shift: tuple[Tensor, Tensor] | None = None,
        channels_last: bool = False,
        part: tuple[int, slice] | None = None,
    ) -> Tensor:
        """Change each image at random, by one resampling (bilinear, edges continued) at most.

        Interpolation and the change of contrast are linear, and the mean they refer to is each
        channel's own, so it does not matter whether images are normalised before or after; after is
        cheaper, since it joins the multiply-add of contrast and brightness. Levels are not clipped.

        Args:
            images: Pixel levels 0 to 255, uint8 or float (b, c, h, w), in any memory order.
            generator: Source of all randomness.
            scale_shift: (scale, shift), float (c,) each, of `Preprocessing.scale_shift`: the result
                is normalised by them [levels are returned].
            channels_last: Memory order of the result; its values do not depend on it.
            part: The images are this slice of a batch of so many; they are changed as they would
                be within it.

        Returns:
            float32 (b, c, h, w), new memory unless nothing was to be done.
        """
        height, width = images.shape[2:]
        whole = len(images) if part is None else part[0]
        draw = self.draw(whole, (height, width), generator)
        if part is not None:
            draw = draw.of(part[1])
        if self.resamples:
            images = _resample(images.float(), draw.matrices.to(images.device))
        elif self.flips:
            images = _flip(images, draw)
        return self._finish(images, draw, scale_shift, channels_last)

    def _finish(
        self,
        images: Tensor,
        draw: Draw,
        scale_shift: tuple[Tensor, Tensor] | None,
        channels_last: bool,
    ) -> Tensor:
        """Contrast, brightness and normalisation in one multiply and one add."""
        c = images.shape[1]
        levels = images.contiguous().float()
        device = levels.device
        photometric = bool(self.contrast_fraction or self.brightness_fraction)
        if not photometric and scale_shift is None:
            return _channels_last(levels) if channels_last else levels
        gain, offset = torch.ones(1, 1, device=device), torch.zeros(1, 1, device=device)
        if photometric:
            gain = draw.gain.to(device).view(-1, 1)
            offset = levels.mean(dim=(2, 3)) * (1 - gain) + draw.offset_levels.to(device).view(
                -1, 1
            )
        if scale_shift is not None:
            scale, shift = scale_shift
            gain, offset = gain * scale, offset * scale + shift
        gain = gain.expand(-1, c)[:, :, None, None]
        result = (levels * gain).add_(offset.expand(-1, c)[:, :, None, None])
        return _channels_last(result) if channels_last else result


@dataclass(frozen=True, eq=False)
class Draw:
    """The changes that one batch drew."""

    matrices: Tensor  # (b, 2, 3): output to input coordinates, each in [-1, 1]
    flip_x: Tensor  # (b,) bool, already in `matrices`
    flip_y: Tensor  # (b,) bool, already in `matrices`
    gain: Tensor  # (b,) contrast about the mean
    offset_levels: Tensor  # (b,) added brightness, of 255

    def of(self, part: slice) -> Draw:
        """The changes of some of the images."""
        return Draw(**{name: values[part] for name, values in vars(self).items()})


PRESETS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "gentle": Augmentation(
        flip_horizontal=True, rotation_degrees=5, zoom_fraction=0.05, contrast_fraction=0.05
    ),
    "medium": Augmentation(
        flip_horizontal=True,
        rotation_degrees=10,
        zoom_fraction=0.10,
        shift_fraction=0.05,
        brightness_fraction=0.05,
        contrast_fraction=0.10,
    ),
    "strong": Augmentation(
        flip_horizontal=True,
        rotation_degrees=15,
        zoom_fraction=0.15,
        shift_fraction=0.08,
        brightness_fraction=0.10,
        contrast_fraction=0.20,
    ),
}


@dataclass(frozen=True)
class AugmentationChoice:
    """The augmentation to use, what it was asked as, why it is so, and what to tell the user."""

    augmentation: Augmentation
    name: str  # a preset's name or the file's
    reason: str
    findings: tuple[Finding, ...] = ()


def choose_augmentation(
    spec: str,
    *,
    class_names: Sequence[str] = (),
    num_train: int | None = None,
    flip: bool | None = None,
) -> AugmentationChoice:
    """Settle the augmentation: strength, and mirroring where left and right mean something.

    Args:
        spec: `none`, `gentle`, `medium`, `strong`, `auto` or the path of a YAML file.
        class_names: Names that tell left from right switch mirroring off, unless it was asked for.
        num_train: Training images, which `auto` judges by.
        flip: The user's word on mirroring; None if there is none. False also ends vertical flips.

    Raises:
        ConfigError: As `parse_augmentation`; also `auto` without num_train.
    """
    name, reason = spec, "as asked"
    if spec == "auto":
        if num_train is None or not class_names:
            raise ConfigError("augment='auto' needs the number of training images and classes.")
        name, reason = auto_strength(num_train, len(class_names))
    augmentation = parse_augmentation(name)
    asked = flip is True or (name not in PRESETS and augmentation.flip_horizontal)
    sided = sided_classes(class_names)
    if flip is False:
        off = {"flip_horizontal": False, "flip_vertical": False}
        return AugmentationChoice(augmentation.model_copy(update=off), name, f"{reason}; no flips")
    if flip is True:
        augmentation = augmentation.model_copy(update={"flip_horizontal": True})
    if not sided or not augmentation.flip_horizontal:
        return AugmentationChoice(augmentation, name, reason)
    listed = ", ".join(f"'{label}'" for label in sided)
    if asked:
        return AugmentationChoice(augmentation, name, reason, (_flip_finding(listed),))
    return AugmentationChoice(
        augmentation.model_copy(update={"flip_horizontal": False}),
        name,
        f"{reason}; no mirroring, since class names tell left from right ({listed})",
    )


def parse_augmentation(spec: str) -> Augmentation:
    """Read a preset's name or a YAML file of `Augmentation`'s fields.

    Raises:
        ConfigError: Unknown preset, unreadable file, unknown operation or value out of range; the
            message lists what is valid.
    """
    if spec in PRESETS:
        return PRESETS[spec]
    if not spec.lower().endswith((".yaml", ".yml")):
        raise ConfigError(
            f"augment={spec!r}: unknown augmentation; {nearest(spec, (*PRESETS, 'auto'))} A file "
            "of your own must end in .yaml."
        )
    values = read_yaml_settings(Path(spec))
    unknown = [key for key in values if key not in Augmentation.model_fields]
    try:
        if not unknown:
            return Augmentation(**values)
    except ValidationError as error:
        wrong = "; ".join(f"{item['loc'][0]}={item['input']!r}" for item in error.errors())
        raise ConfigError(f"{spec}: {wrong} is out of range; {_valid_operations()}") from error
    hint = nearest(unknown[0], Augmentation.model_fields)
    raise ConfigError(f"{spec}: unknown operation '{unknown[0]}'; {hint} {_valid_operations()}")


def _valid_operations() -> str:
    parts = []
    for name, field in Augmentation.model_fields.items():
        bounds = [m.le for m in field.metadata if hasattr(m, "le")]
        parts.append(f"{name} (0 to {bounds[0]:g})" if bounds else f"{name} (true or false)")
    return f"valid are {', '.join(parts)}."


def auto_strength(num_train: int, num_classes: int) -> tuple[str, str]:
    """Choose a preset by the amount of training data: the less there is, the stronger.

    strong below 100 images in all or 100 a class (mean), medium below 1,000 a class, else gentle.

    Returns:
        The preset's name, and the reason with its numbers.
    """
    if num_train < AUTO_SMALL_TOTAL:
        return "strong", f"{num_train} training images are fewer than {AUTO_SMALL_TOTAL}"
    per_class = num_train / max(1, num_classes)
    lower = 0.0
    for limit, name in AUTO_STRENGTHS:
        if per_class < limit:
            bound = f"fewer than {limit:,.0f}" if limit < math.inf else f"{lower:,.0f} or more"
            return name, f"{per_class:,.0f} training images a class are {bound}"
        lower = limit
    raise AssertionError("unreachable: the last limit is infinite")


def sided_classes(class_names: Sequence[str]) -> tuple[str, ...]:
    """Class names that hold the word left or right ('kidney-left', 'FemurRight'; not 'bright')."""
    return tuple(name for name in class_names if {"left", "right"} & set(_words(name)))


def flip_is_safe(class_names: Sequence[str]) -> bool:
    """False where mirroring would turn one class into another by their names."""
    return not sided_classes(class_names)


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", spaced.lower())


def _flip_finding(listed: str) -> Finding:
    return Finding(
        code="P001",
        severity="warning",
        evidence=f"images are mirrored although classes tell left from right: {listed}.",
        advice="A mirrored left looks like a right; train without mirroring.",
        command="train --no-flip",
    )


@dataclass(frozen=True, eq=False)
class Preview:
    """Images of the preview sheet, uint8; rows of the sheet from top to bottom."""

    originals: NDArray[np.uint8]  # (n, h, w, c), before any change of contrast
    enhanced: NDArray[np.uint8] | None  # (n, h, w, c) after CLAHE or stretch; None if not used
    augmented: NDArray[np.uint8]  # (variants, n, h, w, c) as the network sees them
    caption: str  # the ranges in words


def preview(
    images: NDArray[Any],
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    num_variants: int = 4,
) -> Preview:
    """Make the images of the augmentation sheet: originals, contrast row, variants below.

    Args:
        images: A few training images (n, h, w, c) as in the data set.
        seed: Of the variants' draws.
    """
    plain = preprocessing.model_copy(update={"contrast": type(preprocessing.contrast)()})
    originals = plain.to_pixels(images)
    pixels = preprocessing.to_pixels(images)
    generator = torch.Generator().manual_seed(seed)
    levels = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)
    variants = torch.stack([augmentation.apply(levels, generator) for _ in range(num_variants)])
    shown = variants.round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
    return Preview(
        originals=np.asarray(originals),
        enhanced=None if preprocessing.contrast.kind == "none" else pixels,
        augmented=shown.contiguous().numpy(),
        caption=augmentation.describe(),
    )


def _resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Read each image through its matrix; (b, c, h, w) contiguous."""
    height, width = images.shape[2:]
    # affine_grid's numbers as a sum over columns and rows: half of its time, and no matrix product
    # whose precision TF32 or autocast could lower.
    columns = matrices[:, :, 0:1] * _pixel_centres(width, images.device)
    rows = matrices[:, :, 1:2] * _pixel_centres(height, images.device) + matrices[:, :, 2:]
    grid = columns[:, :, None, :] + rows[:, :, :, None]
    # Metal got border padding long after the oldest torch that we support.
    padding = "border" if images.device.type != "mps" else "zeros"
    if padding == "zeros":
        grid = _inside(grid)
    return F.grid_sample(
        images,
        grid.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode=padding,
        align_corners=False,
    )


def _inside(grid: Tensor) -> Tensor:
    """Coordinates (b, 2, h, w) no further out than the outermost pixel centres.

    Sampling there is border padding whatever the padding; a clamp to ±1, half a pixel further out,
    would darken the edge.
    """
    height, width = grid.shape[2:]
    limit = torch.tensor([1 - 1 / width, 1 - 1 / height], device=grid.device)[:, None, None]
    return torch.minimum(torch.maximum(grid, -limit), limit)


def _pixel_centres(n: int, device: torch.device) -> Tensor:
    """Centres of n pixels on a side that runs from -1 to 1, float (n,)."""
    return (torch.arange(n, device=device) * 2 + 1) / n - 1


def _channels_last(images: Tensor) -> Tensor:
    """The same values (b, c, h, w) in channels-last order."""
    b, c, h, w = images.shape
    if c == 1 or c > 4:
        return images.contiguous(memory_format=torch.channels_last)
    # For a few channels torch's own conversion takes twice the time of copying planes.
    pixels = torch.empty(b, h, w, c, dtype=images.dtype, device=images.device)
    for k in range(c):
        pixels[..., k] = images[:, k]
    return pixels.permute(0, 3, 1, 2)


def _flip(images: Tensor, draw: Draw) -> Tensor:
    """Mirror the images that drew it, without interpolation."""
    for chosen, dim in ((draw.flip_x, 3), (draw.flip_y, 2)):
        rows = chosen.nonzero()[:, 0].to(images.device)
        if len(rows):
            images = images.index_copy(0, rows, images.index_select(0, rows).flip(dim))
    return images
