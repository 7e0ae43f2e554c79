"""One preprocessing, fitted on train and stored with the model; every entry point executes it.

A decoded picture becomes `pixels` (uint8, the model's size and channels, once) and pixels become
the network's input (`normalise`, for each batch). Both are pure functions of one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from scanwise.core.config import Fit, Settings
from scanwise.core.errors import ConfigError, DataError
from scanwise.core.types import Dataset
from scanwise.data.pixels import fit_to_square, plain_depth, promote
from scanwise.prepare.contrast import Contrast, in_blocks, parse_contrast

if TYPE_CHECKING:  # answers by ONNX Runtime need no torch, which takes two seconds to import
    from torch import Tensor

FORMAT_VERSION = 1

PixelType = Literal["uint8", "uint16", "float32"]

# Images whose intensities are looked at to choose the mapping of deep pixels; more change nothing.
INTENSITY_SAMPLE = 2000
# Images whose brightest levels differ by more than this factor were exposed one by one.
EXPOSURE_RATIO = 4.0


class Intensity(Settings):
    """How stored levels become the 256 levels of `pixels`; chosen once, on train.

    `low` and `high` hold one number for each channel: levels for `dtype` and `fixed` (they become 0
    and 255), percentiles of the image itself for `percentile`. `none` keeps uint8 as it is.
    """

    kind: Literal["none", "dtype", "fixed", "percentile"] = "none"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    reason: str = "8-bit images are used as they are"

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        if len(self.low) != len(self.high) or (self.kind == "none") != (not self.low):
            raise ValueError("low and high must hold one number for each channel.")
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must lie below high {self.high}.")
        return self


class Preprocessing(Settings):
    """All that turns a picture into the network's input. Immutable; exact in JSON."""

    format_version: int = FORMAT_VERSION
    size_px: tuple[int, int]  # height, width
    fit: Fit = "stretch"
    channels: int = Field(ge=1)  # that the model takes
    source_channels: int = Field(ge=1)  # of the data set it was fitted on
    dtype: PixelType = "uint8"
    intensity: Intensity = Intensity()
    contrast: Contrast = Contrast()
    mean: tuple[float, ...]  # of pixels / 255, one for each channel, over the training images
    std: tuple[float, ...]
    num_images: int = 0  # that mean and std were measured on
    normalised_for: str = ""  # the pretrained network whose mean and std these are
    notes: tuple[str, ...] = ()  # what the user should be told about these choices

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std must hold {self.channels} numbers.")
        if any(std <= 0 for std in self.std):
            raise ValueError(f"std must be positive, got {self.std}.")
        if self.dtype != "uint8" and self.intensity.kind == "none":
            raise ValueError(f"{self.dtype} images need an intensity mapping.")
        return self

    @property
    def needs_pixels(self) -> bool:
        """False if `to_pixels` would hand the data set's images back untouched."""
        return (
            self.intensity.kind != "none"
            or self.contrast.kind != "none"
            or self.channels != self.source_channels
        )

    def to_pixels(
        self,
        images: NDArray[Any],
        *,
        out: NDArray[np.uint8] | None = None,
        rows: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Give images the model's channels, 8 bits and contrast; once, for every split alike.

        Args:
            images: (n, h, w, c) of the fitted size and type; may be a memory map, which is read in
                blocks. One channel is repeated for a model of more; three equal ones feed a grey
                model.
            out: Where to write, uint8 (n, h, w, channels), such as a memory map [a new array].
            rows: Numbers of the images, for error messages [0 to n - 1].

        Returns:
            uint8 (n, h, w, channels); `images` itself, not a copy, if there is nothing to do.

        Raises:
            DataError: Another size, type or channel count than the model's, or NaN or infinity;
                names the first image (its row).
        """
        self._check(images)
        if out is None and self._is_identity(images):
            return images
        shape = (len(images), *self.size_px, self.channels)
        result = np.empty(shape, np.uint8) if out is None else out
        numbers = np.arange(len(images)) if rows is None else rows

        def job(start: int, stop: int) -> None:
            result[start:stop] = self._block(images[start:stop], numbers[start:stop])

        in_blocks(job, len(images), images[:1].nbytes)
        return result

    def from_image(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Bring one decoded picture (h, w, c) of any size to `pixels`, uint8 (h, w, channels).

        The result has the same bits as the picture's row of `to_pixels(dataset.images)`.

        Raises:
            DataError: As `to_pixels`; also a deeper picture than the model was fitted on (a
                shallower one is promoted, as in a data set of mixed depths).
        """
        pixels = promote(plain_depth(pixels)[0], np.dtype(self.dtype))
        fitted: NDArray[Any] = fit_to_square(pixels, self.size_px, self.fit)
        row: NDArray[np.uint8] = self.to_pixels(fitted[None])[0]
        return row

    def scale_shift(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(scale, shift), float32 (channels,) each: input = pixels · scale + shift."""
        return _scale_shift(self.mean, self.std)

    def normalise(self, batch: Tensor, *, channels_last: bool = False) -> Tensor:
        """Turn pixels into the network's input: (pixels / 255 − mean) / std for each channel.

        Args:
            batch: `pixels`, uint8 (b, h, w, c) on any device.
            channels_last: Memory order of the result; its values do not depend on it.

        Returns:
            float32 (b, c, h, w), contiguous in the order asked for.
        """
        import torch

        b, h, w, c = batch.shape
        scale, shift = self.scale_shift()
        if channels_last or c == 1:
            # Coefficients repeated over the pixels make one long inner loop; one of length c is
            # five times slower.
            gain, offset = _tiled(self.mean, self.std, h * w, str(batch.device))
            flat = batch.reshape(b, -1).to(torch.float32).mul_(gain).add_(offset)
            result = flat.view(b, h, w, c).permute(0, 3, 1, 2)
            return result if channels_last else result.reshape(b, c, h, w)
        planes = batch.permute(0, 3, 1, 2).contiguous().to(torch.float32)
        gain, offset = (
            torch.from_numpy(values).to(batch.device).view(1, c, 1, 1) for values in (scale, shift)
        )
        return planes.mul_(gain).add_(offset)

    def to_json(self) -> dict[str, Any]:
        """A plain value for preprocess.json; `from_json` gives an equal object, bit for bit."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: A newer format version (both are named), or a damaged file.
        """
        version = value.get("format_version")
        if not isinstance(version, int):
            raise ConfigError("the preprocessing has no format_version; the bundle is damaged.")
        if version > FORMAT_VERSION:
            raise ConfigError(
                f"the preprocessing has format version {version}, this scanwise reads up to "
                f"{FORMAT_VERSION}; install a newer scanwise to use this bundle."
            )
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            raise ConfigError(f"the preprocessing is damaged: {error}") from error

    def describe(self) -> str:
        """One line for people: size, channels, contrast, mean and std."""
        height, width = self.size_px
        means = ", ".join(f"{value:.3f}" for value in self.mean)
        stds = ", ".join(f"{value:.3f}" for value in self.std)
        plural = "" if self.channels == 1 else "s"
        of = f"of {self.num_images:,} training images"
        if self.normalised_for:
            of = f"as {self.normalised_for} was trained"
        return (
            f"{height}×{width} px, {self.channels} channel{plural}, contrast {self.contrast}, "
            f"mean {means}, std {stds} ({of})"
        )

    def with_source(
        self, mean: tuple[float, ...], std: tuple[float, ...], name: str
    ) -> Preprocessing:
        """Normalise as a pretrained network's images were, instead of by the training images.

        One grey channel becomes `channels` equal ones; for a first layer that is linear this is
        the same as summing its weights over the channels.
        """
        notes = self.notes
        if self.source_channels == 1 and self.channels > 1:
            notes = (
                *notes,
                f"grey images are repeated to {self.channels} channels for {name} (the same as "
                "summing the first layer's weights)",
            )
        return self.model_copy(
            update={"mean": mean, "std": std, "normalised_for": name, "notes": notes}
        )

    def _is_identity(self, images: NDArray[Any]) -> bool:
        return (
            self.intensity.kind == "none"
            and self.contrast.kind == "none"
            and images.shape[3] == self.channels
        )

    def _check(self, images: NDArray[Any]) -> None:
        if images.ndim != 4:
            raise DataError(f"images must be (n, h, w, c), got {images.shape}.")
        if images.shape[1:3] != self.size_px:
            raise DataError(
                f"images are {images.shape[1]}×{images.shape[2]} px, the model takes "
                f"{self.size_px[0]}×{self.size_px[1]} px; resize them first."
            )
        if _pixel_type(images.dtype) != self.dtype:
            raise DataError(
                f"images are {images.dtype}, the model was fitted on {self.dtype}; give the images "
                f"in the form and range that it was trained on."
            )
        if images.shape[3] not in (self.channels, 1) and (images.shape[3], self.channels) != (3, 1):
            raise _channel_error(images.shape[3], self.channels, None)

    def _block(self, block: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`to_pixels` of a few images; `rows` are their numbers, for error messages."""
        adapted = _adapt_channels(np.asarray(block), self.channels, rows)
        mapped = _map_intensity(adapted, self.intensity, rows)
        return self.contrast.apply_block(np.ascontiguousarray(mapped))


def fit_preprocessing(
    dataset: Dataset,
    train_rows: NDArray[np.int64],
    *,
    contrast: str = "none",
    channels: int | None = None,
    fit: Fit = "stretch",
    seed: int = 0,
) -> Preprocessing:
    """Choose the intensity mapping and measure mean and std on the training rows, and on them only.

    Sums are exact integers, so the result does not depend on threads, blocks or the order of rows.
    Images are streamed: memory stays bounded for memory maps.

    Args:
        dataset: Images of any supported type.
        train_rows: Rows of the training split, int (m,); no other row is read.
        contrast: As `parse_contrast` reads it.
        channels: That the model takes [the data set's]; 3 for grey data repeats the channel, 1 for
            RGB data needs images that are grey.
        fit: How files were brought to the data set's size; kept for prediction.
        seed: Draws the images that intensities are judged on where there are over 2,000.

    Raises:
        ConfigError: If `contrast` can't be read.
        DataError: If there is no training row, channels don't fit, or a pixel is not finite.
    """
    rows = np.sort(np.asarray(train_rows, dtype=np.int64))
    if not len(rows):
        raise DataError(f"{dataset.name}: there are no training images to fit on.")
    source_channels = dataset.channels
    chosen = _check_channels(source_channels, channels)
    parsed = parse_contrast(contrast)
    dtype = _pixel_type(dataset.images.dtype)
    intensity = _choose_intensity(dataset.images, rows, dtype, chosen, seed)
    draft = Preprocessing(
        size_px=dataset.size_px,
        fit=fit,
        channels=chosen,
        source_channels=source_channels,
        dtype=dtype,
        intensity=intensity,
        contrast=parsed,
        mean=(0.0,) * chosen,
        std=(1.0,) * chosen,
        num_images=len(rows),
    )
    histogram, all_grey = _measure(draft, dataset.images, rows)
    mean, std = _mean_std(histogram)
    notes = _notes(draft, all_grey, std)
    std = tuple(value or 1.0 for value in std)
    return draft.model_copy(update={"mean": mean, "std": std, "notes": notes})


def is_grey(images: NDArray[Any]) -> bool:
    """True if the three channels of all images (n, h, w, 3) are the same: grey saved as RGB."""
    return images.shape[3] == 3 and bool(
        np.array_equal(images[..., 0], images[..., 1])
        and np.array_equal(images[..., 0], images[..., 2])
    )


def _pixel_type(dtype: np.dtype[Any]) -> PixelType:
    if dtype == np.uint8:
        return "uint8"
    if dtype == np.uint16:
        return "uint16"
    if np.issubdtype(dtype, np.floating):
        return "float32"
    raise DataError(f"images are {dtype}; give uint8, uint16 or float.")


def _check_channels(source: int, channels: int | None) -> int:
    if channels is None or channels == source or source == 1 or (source, channels) == (3, 1):
        return channels or source
    raise _channel_error(source, channels, None)


def _channel_error(given: int, taken: int, row: int | None) -> DataError:
    where = "images have" if row is None else f"image {row} has"
    colour = " that differ (colour)" if (given, taken) == (3, 1) else ""
    return DataError(
        f"{where} {given} channels{colour}, the model takes {taken}; give images like those it was "
        "trained on, or train on images like these."
    )


def _adapt_channels(block: NDArray[Any], channels: int, rows: NDArray[np.int64]) -> NDArray[Any]:
    given = block.shape[3]
    if given == channels:
        return block
    if given == 1:
        return np.repeat(block, channels, axis=3)
    differs = (block != block[..., :1]).any(axis=(1, 2, 3))
    if differs.any():
        raise _channel_error(given, channels, int(rows[differs.argmax()]))
    return block[..., :1]


def _map_intensity(
    block: NDArray[Any], intensity: Intensity, rows: NDArray[np.int64]
) -> NDArray[np.uint8]:
    if intensity.kind == "none":
        return block
    _check_finite(block, rows)
    levels = block.astype(np.float32)
    if intensity.kind == "percentile":
        low, high = _image_percentiles(levels, intensity)
    else:
        low, high = (np.array(x, np.float32) for x in (intensity.low, intensity.high))
    span = high - low
    # A flat image has no contrast to map: it becomes black, not a division by zero.
    scale = np.divide(np.float32(255), span, out=np.zeros_like(span), where=span > 0)
    levels -= low
    levels *= scale
    return np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)


def _check_finite(block: NDArray[Any], rows: NDArray[np.int64]) -> None:
    if block.dtype == np.uint16:
        return
    finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    if not finite.all():
        raise DataError(
            f"image {rows[(~finite).argmax()]} holds NaN or infinity; mend or leave out that image."
        )


def _image_percentiles(
    levels: NDArray[np.float32], intensity: Intensity
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Levels at the image's own percentiles, (b, 1, 1, c) each."""
    both = np.percentile(levels, (intensity.low[0], intensity.high[0]), axis=(1, 2), keepdims=True)
    return both[0].astype(np.float32), both[1].astype(np.float32)


def _choose_intensity(
    images: NDArray[Any], rows: NDArray[np.int64], dtype: PixelType, channels: int, seed: int
) -> Intensity:
    """The mapping of deep pixels to 8 bits, with the reason in words.

    8-bit levels in a 16-bit file keep their levels; floats in [0, 1] keep that range; images
    exposed one by one get the range of each image (not below zero: such levels are units, as in
    CT); the whole range of uint16 is used where the images fill it; all others share one range of
    train.
    """
    if dtype == "uint8":
        return Intensity()
    sample = rows
    if len(rows) > INTENSITY_SAMPLE:
        picked = np.random.default_rng(seed).choice(len(rows), INTENSITY_SAMPLE, replace=False)
        sample = rows[np.sort(picked)]
    lows, highs, least, most = _levels(images, sample, channels)

    def mapping(kind: Literal["dtype", "fixed"], low: Any, high: Any, reason: str) -> Intensity:
        low, high = (np.broadcast_to(np.float64(x), channels).tolist() for x in (low, high))
        return Intensity(kind=kind, low=tuple(low), high=tuple(high), reason=reason)

    if dtype == "uint16" and most <= 255:
        reason = f"the brightest training pixel is {most:.0f}: looks like 8-bit saved as 16"
        return mapping("fixed", 0, 255, reason)
    if dtype == "float32" and least >= 0 and most <= 1:
        return mapping("fixed", 0, 1, "training pixels lie in [0, 1]")
    spans = np.maximum(highs - lows, 1e-12).max(axis=1)
    weakest, strongest = np.percentile(spans, (5, 95))
    if least >= 0 and strongest > EXPOSURE_RATIO * weakest:
        reason = (
            f"the ranges of training images differ {strongest / weakest:.1f} times: each image is "
            "mapped from its own 0.5 to 99.5 percentile"
        )
        return Intensity(
            kind="percentile", low=(0.5,) * channels, high=(99.5,) * channels, reason=reason
        )
    if dtype == "uint16" and np.percentile(highs, 95) >= 0.5 * 65535:
        return mapping("dtype", 0, 65535, "training images fill the 16-bit range")
    low, high = np.percentile(lows, 1, axis=0), np.percentile(highs, 99, axis=0)
    high = np.where(high > low, high, low + 1)
    reason = (
        f"training images share one range: {low.min():.6g} to {high.max():.6g} (percentiles 0.5 "
        "and 99.5 of the images)"
    )
    return mapping("fixed", low, high, reason)


def _levels(
    images: NDArray[Any], rows: NDArray[np.int64], channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Percentiles 0.5 and 99.5 of each image and channel (m, c) each, and the extremes of all."""

    def job(start: int, stop: int) -> tuple[NDArray[np.float64], float, float]:
        block = np.asarray(images[rows[start:stop]])
        _check_finite(block, rows[start:stop])
        block = _adapt_channels(block, channels, rows[start:stop])
        limits = np.percentile(block.astype(np.float64), (0.5, 99.5), axis=(1, 2))
        return limits, float(block.min()), float(block.max())

    parts = in_blocks(job, len(rows), images[:1].nbytes)
    limits = np.concatenate([part[0] for part in parts], axis=1)
    return limits[0], limits[1], min(part[1] for part in parts), max(part[2] for part in parts)


def _measure(
    draft: Preprocessing, images: NDArray[Any], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], bool]:
    """Histogram (c, 256) of the training pixels, and whether all images are grey saved as RGB."""

    total, lock = np.zeros((draft.channels, 256), np.int64), Lock()

    def job(start: int, stop: int) -> bool:
        raw = np.asarray(images[rows[start:stop]])
        counts = _histogram(draft._block(raw, rows[start:stop]))
        with lock:  # integers: the order in which threads add does not matter
            np.add(total, counts, out=total)
        return is_grey(raw)

    return total, all(in_blocks(job, len(rows), images[:1].nbytes))


def _histogram(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the levels of uint8 (b, h, w, c) by channel: int (c, 256)."""
    b, h, w, c = pixels.shape
    # OpenCV counts in float32, which is exact below 2^24; a block is far smaller.
    sheet = pixels.reshape(b * h, w, c)
    counts = [cv2.calcHist([sheet], [k], None, [256], [0, 256]).ravel() for k in range(c)]
    return np.asarray(counts).astype(np.int64)


def _mean_std(histogram: NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) std of pixels / 255 by channel, each rounded once, from integers."""
    means, stds = [], []
    for counts in histogram.tolist():
        n = sum(counts)
        total = sum(level * count for level, count in enumerate(counts))
        squares = sum(level * level * count for level, count in enumerate(counts))
        means.append(total / (255 * n))
        stds.append(math.sqrt((n * squares - total * total) / (255 * n) ** 2))
    return tuple(means), tuple(stds)


def _notes(draft: Preprocessing, all_grey: bool, std: tuple[float, ...]) -> tuple[str, ...]:
    notes = []
    if draft.intensity.kind != "none":
        notes.append(f"Intensity mapping '{draft.intensity.kind}': {draft.intensity.reason}.")
    clamped = draft.contrast.note(draft.size_px)
    if clamped:
        notes.append(clamped)
    if all_grey:
        used = "one channel is used" if draft.channels == 1 else "all three channels are kept"
        notes.append(f"All training images are grey saved as RGB; {used}.")
    elif draft.source_channels == 1 and draft.channels > 1:
        notes.append(f"The grey channel is repeated {draft.channels} times.")
    for k, value in enumerate(std):
        if value == 0:
            notes.append(f"Channel {k} has one level in all training images; it tells nothing.")
    return tuple(notes)


def _scale_shift(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    centre, spread = np.array(mean), np.array(std)
    return (1 / (255 * spread)).astype(np.float32), (-centre / spread).astype(np.float32)


@lru_cache(maxsize=16)
def _tiled(
    mean: tuple[float, ...], std: tuple[float, ...], num_pixels: int, device: str
) -> tuple[Tensor, Tensor]:
    """Coefficients of `normalise` repeated over the pixels of an image, float32 (h·w·c,)."""
    import torch

    scale, shift = _scale_shift(mean, std)
    return (
        torch.from_numpy(np.tile(scale, num_pixels)).to(device),
        torch.from_numpy(np.tile(shift, num_pixels)).to(device),
    )
