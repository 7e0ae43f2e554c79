"""The five pictures of a data set, and the page of `scanwise check`.

Pixels are read in chunks: counts of grey values and sums of images are all that is held, so a
memory-mapped set larger than memory is no trouble. Pixel statistics come from training images only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scanwise.core.files import write_json, write_text
from scanwise.core.types import SPLIT_NAMES, Dataset, Split
from scanwise.report.check_page import Examples, all_findings, check_page
from scanwise.report.pages import render
from scanwise.report.plots import (
    MAX_CLASSES,
    as_picture,
    draw_blank,
    draw_tile,
    draw_title,
    evenly,
    plot_augmentation_sheet,
    plot_sample_grid,
    to_display,
)
from scanwise.report.style import (
    MUTED,
    SERIES,
    TEST,
    TRAIN,
    VAL,
    figure_names,
    new_figure,
    save_figure,
    series_style,
    styled,
)

CHUNK_BYTES = 8 << 20
MAX_IMAGES = 20_000  # of each set; more would change no picture
BINS = 256
SAMPLES_PER_CLASS = 6
MAX_SAMPLE_CLASSES = 12
CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
CHANNEL_COLOURS = {1: (TRAIN,), 3: (SERIES[1], SERIES[2], SERIES[0])}


def write_data_plots(
    dataset: Dataset,
    split: Split | None,
    directory: Path,
    *,
    balanced: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, str]:
    """Write class_distribution, samples, intensity, intensity_per_class and mean_per_class.

    Args:
        dataset: Images of any depth; read in chunks.
        split: Pixel pictures show its training rows; None shows all rows.
        directory: Where each figure goes, as PNG and SVG.
        balanced: Counts of each class after balancing, by the name of what was done (B5).

    Returns:
        Alt text by figure name (the file name without suffix).
    """
    rows = split.train if split is not None else np.arange(len(dataset))
    words = "training" if split is not None else "all"
    pixels = pixel_statistics(dataset, rows)
    shown = f"{pixels.n_images:,} {words} images" + (
        f" of {len(rows):,}, evenly spaced" if pixels.n_images < len(rows) else ""
    )
    figures = {
        "class_distribution": _class_distribution(dataset, split, balanced),
        "samples": _samples(dataset, rows, words),
        "intensity": (plot_intensity(pixels, shown), _intensity_alt(pixels, shown)),
        "intensity_per_class": (
            plot_intensity_per_class(pixels, dataset.class_names, shown),
            f"Histogram of pixel values of each class, {shown}. "
            + _class_means_text(pixels, dataset.class_names),
        ),
        "mean_per_class": (
            plot_mean_images(pixels, dataset.class_names, shown),
            f"Mean image of each class, {shown}; where these differ in position or brightness, "
            "a model can tell classes apart without looking at detail.",
        ),
    }
    for name, (figure, alt) in figures.items():
        save_figure(figure, directory / name, alt)
    return {name: alt for name, (_, alt) in figures.items()}


def write_augmentation_sheet(
    directory: Path,
    originals: NDArray[np.uint8],
    variants: NDArray[np.uint8],
    contrast_row: NDArray[np.uint8] | None = None,
    *,
    note: str = "",
) -> str:
    """Write augmentation.png and .svg: see `plot_augmentation_sheet`. Returns the alt text."""
    figure = plot_augmentation_sheet(originals, variants, contrast_row, note=note)
    contrast = ", the same after contrast enhancement" if contrast_row is not None else ""
    alt = (
        f"{len(originals)} training images{contrast}, and {variants.shape[1]} augmented variants "
        f"of each{f' ({note})' if note else ''}."
    )
    save_figure(figure, directory / "augmentation", alt)
    return alt


@dataclass(frozen=True, eq=False)
class PixelStatistics:
    """Grey-value counts and mean images by class.

    Attributes:
        edges: float (BINS + 1,), the bins' edges in pixel values.
        counts: int (k, c, BINS), pixels of each class and channel in each bin.
        means: float (k, h, w, c), the mean image of each class; zeros where a class has no image.
        images: int (k,), images behind each class.
        n_images: Images read (multi-label images count once here, once for each label above).
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    images: NDArray[np.int64]
    n_images: int


def pixel_statistics(dataset: Dataset, rows: NDArray[np.int64]) -> PixelStatistics:
    """Count grey values and average images of `rows`, at most MAX_IMAGES of them evenly spaced."""
    rows = evenly(rows, MAX_IMAGES)
    low, high = value_range(dataset, rows)
    height, width = dataset.size_px
    k, channels = dataset.num_classes, dataset.channels
    counts = np.zeros((k, channels, BINS), dtype=np.int64)
    sums = np.zeros((k, height, width, channels))
    images = np.zeros(k, dtype=np.int64)
    for chunk_rows, chunk in _chunks(dataset, rows):
        member = _membership(dataset, chunk_rows)
        binned = _to_bins(chunk, low, high)
        for index in np.flatnonzero(member.any(axis=0)):
            mine = member[:, index]
            images[index] += int(mine.sum())
            sums[index] += chunk[mine].sum(axis=0, dtype=np.float64)
            for channel in range(channels):
                values = binned[mine][..., channel].ravel()
                counts[index, channel] += np.bincount(values, minlength=BINS)
    means = sums / np.maximum(images, 1)[:, None, None, None]
    return PixelStatistics(np.linspace(low, high, BINS + 1), counts, means, images, len(rows))


def value_range(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[float, float]:
    """The range of pixel values to draw: 0 to 256 for uint8, else the least and greatest value."""
    if dataset.images.dtype == np.uint8:
        return 0.0, 256.0
    lows, highs = [], []
    for _, chunk in _chunks(dataset, rows):
        finite = chunk[np.isfinite(chunk)] if chunk.dtype.kind == "f" else chunk
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high = (min(lows), max(highs)) if lows else (0.0, 1.0)
    return low, high if high > low else low + 1.0


def _chunks(
    dataset: Dataset, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Rows and their pixels, a few MiB at a time."""
    row_bytes = int(np.prod(dataset.images.shape[1:])) * dataset.images.dtype.itemsize
    step = max(1, CHUNK_BYTES // max(row_bytes, 1))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        yield part, np.asarray(dataset.images[part])


def _membership(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (r, k): does the row belong to the class (carry the label)?"""
    targets = dataset.targets[rows]
    if dataset.task == "multilabel":
        return np.asarray(targets > 0)
    return np.asarray(targets[:, None] == np.arange(dataset.num_classes), dtype=np.bool_)


def _to_bins(chunk: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    if chunk.dtype == np.uint8:
        return np.asarray(chunk, np.uint8)
    scaled = np.nan_to_num((chunk.astype(np.float32) - low) * (BINS / (high - low)))
    return np.asarray(np.clip(scaled, 0, BINS - 1), dtype=np.uint8)


# The figures.


def _class_distribution(
    dataset: Dataset, split: Split | None, balanced: Mapping[str, NDArray[np.float64]] | None
) -> tuple[Figure, str]:
    counts: dict[str, NDArray[np.int64]] = (
        {
            name: dataset.class_counts(split.rows(name))
            for name in SPLIT_NAMES
            if len(split.rows(name))
        }
        if split is not None
        else {"all": dataset.class_counts()}
    )
    figure = plot_class_distribution(counts, dataset.class_names, balanced=balanced)
    total = dataset.class_counts()
    most, least = int(total.argmax()), int(total.argmin())
    return figure, (
        f"Images of each class by split. Most: {dataset.class_names[most]} with {total[most]:,}; "
        f"fewest: {dataset.class_names[least]} with {total[least]:,}."
        + _balanced_words(dataset.class_names, balanced or {})
    )


def _balanced_words(
    class_names: Sequence[str], balanced: Mapping[str, NDArray[np.float64]], most: int = 10
) -> str:
    """The second panel in words, for the first classes."""
    parts = [
        f"{name}: "
        + ", ".join(f"{c} {v:,.0f}" for c, v in zip(class_names[:most], values, strict=False))
        for name, values in balanced.items()
    ]
    return f" Training images an epoch, {'; '.join(parts)}." if parts else ""


@styled
def plot_class_distribution(
    counts: Mapping[str, NDArray[np.int64]],
    class_names: Sequence[str],
    *,
    balanced: Mapping[str, NDArray[np.float64]] | None = None,
) -> Figure:
    """Draw images of each class, stacked by split; a second panel shows train after balancing.

    Above 30 classes the 15 most and the 15 least frequent are drawn.
    """
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")
    if len(order) > MAX_CLASSES:
        order = np.concatenate([order[: MAX_CLASSES // 2], order[-(MAX_CLASSES // 2) :]])
    figure = new_figure(5.4 if not balanced else 7.6, 1.3 + 0.3 * len(order))
    panels = figure.subplots(1, 2 if balanced else 1, sharey=True, squeeze=False)[0]
    left = np.zeros(len(order))
    for name, colour in (("train", TRAIN), ("val", VAL), ("test", TEST), ("all", TRAIN)):
        if name in counts:
            label = {"val": "validation", "all": "images"}.get(name, name)
            panels[0].barh(
                range(len(order)),
                counts[name][order],
                left=left,
                color=colour,
                height=0.72,
                label=label,
            )
            left = left + counts[name][order]
    for place, value in enumerate(total[order]):
        panels[0].annotate(
            f"{value:,}",
            (value, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    names = figure_names(class_names)
    panels[0].set_yticks(range(len(order)), [names[i] for i in order])
    panels[0].margins(x=0.14)
    panels[0].invert_yaxis()
    panels[0].set_xlabel("images")
    draw_title(
        panels[0],
        "Images of each class",
        f"{len(class_names)} classes" if len(order) < len(class_names) else "",
    )
    if balanced:
        _balanced_panel(panels[1], balanced, order)
    for axes in panels:
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    handles = [handle for axes in panels for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _balanced_panel(
    axes: Any, balanced: Mapping[str, NDArray[np.float64]], order: NDArray[np.int64]
) -> None:
    height = 0.8 / len(balanced)
    for place, (name, values) in enumerate(balanced.items()):
        shift = (place - (len(balanced) - 1) / 2) * height
        axes.barh(
            np.arange(len(order)) + shift,
            np.asarray(values)[order],
            height,
            label=name,
            **_fill(place),
        )
    axes.set_xlabel("training images an epoch")
    draw_title(axes, "Train, before and after balancing")


def _fill(place: int) -> dict[str, Any]:
    return {"color": series_style(place + 3)["color"]}


def _samples(dataset: Dataset, rows: NDArray[np.int64], words: str) -> tuple[Figure, str]:
    """A few images of each class, evenly spaced through the rows: no random choice, no choosing."""
    classes = range(min(dataset.num_classes, MAX_SAMPLE_CLASSES))
    names = figure_names(dataset.class_names, 14)
    chosen, captions = [], []
    member = _membership(dataset, rows)
    for index in classes:
        mine = rows[member[:, index]]
        each = SAMPLES_PER_CLASS if len(classes) <= 6 else SAMPLES_PER_CLASS // 2
        picks = evenly(mine, each)
        chosen += [int(row) for row in picks]
        captions += [names[index]] * len(picks)
    images = to_display(dataset.images[np.array(chosen, dtype=np.int64)])
    title = f"Samples of each class ({words} images)"
    listed = ", ".join(dataset.class_names[index] for index in classes)
    alt = f"A few {words} images of each of {len(classes)} classes: {listed}."
    return plot_sample_grid(images, captions, title=title, columns=SAMPLES_PER_CLASS), alt


@styled
def plot_intensity(pixels: PixelStatistics, shown: str) -> Figure:
    """Draw the histogram of pixel values over all classes, a line a channel."""
    figure = new_figure(5.0, 3.2)
    axes = figure.subplots()
    counts = pixels.counts.sum(axis=0)
    channels = len(counts)
    names = CHANNEL_NAMES.get(channels, tuple(f"channel {i + 1}" for i in range(channels)))
    for channel in range(channels):
        colours = CHANNEL_COLOURS.get(channels)
        style = {"color": colours[channel]} if colours else series_style(channel)
        axes.stairs(
            _shares(counts[channel]), pixels.edges, lw=1.4, label=names[channel], **_stairs(style)
        )
    axes.set(xlabel="pixel value", ylabel="share of pixels", ylim=(0, None))
    draw_title(axes, "Pixel values", shown)
    axes.legend()
    return figure


@styled
def plot_intensity_per_class(
    pixels: PixelStatistics, class_names: Sequence[str], shown: str
) -> Figure:
    """Draw the histogram of pixel values (all channels), a line a class, most frequent first."""
    figure = new_figure(5.0, 3.4 + 0.1 * min(len(class_names), 10))
    axes = figure.subplots()
    names = figure_names(class_names)
    order = np.argsort(-pixels.images, kind="stable")
    for turn, index in enumerate(order[:10]):
        counts = pixels.counts[index].sum(axis=0)
        if pixels.images[index]:
            label = f"{names[index]} (n={pixels.images[index]:,})"
            smooth = _shares(counts).reshape(-1, 4).sum(axis=1)
            axes.stairs(
                smooth, pixels.edges[::4], lw=1.5, label=label, **_stairs(series_style(turn))
            )
    axes.set(xlabel="pixel value", ylabel="share of the class's pixels", ylim=(0, None))
    more = f", 10 most frequent of {len(class_names)} classes" if len(class_names) > 10 else ""
    draw_title(axes, "Pixel values by class", shown + more)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def _stairs(style: Mapping[str, Any]) -> dict[str, Any]:
    """`stairs` takes colour and line style under patch names."""
    return {"edgecolor": style["color"], "linestyle": style.get("linestyle", "-")}


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(counts / max(int(counts.sum()), 1))


@styled
def plot_mean_images(pixels: PixelStatistics, class_names: Sequence[str], shown: str) -> Figure:
    """Draw the mean image of each class, all on one scale of values."""
    used = [int(i) for i in np.argsort(-pixels.images, kind="stable") if pixels.images[i]][
        :MAX_CLASSES
    ]
    names = figure_names(class_names, 14)
    columns = max(1, min(6, len(used)))
    rows = max(1, -(-len(used) // columns))
    figure = new_figure(max(0.2 + 0.95 * columns, 3.4), 0.75 + 1.25 * rows)
    axes = figure.subplots()
    draw_blank(axes, columns, rows * 1.35)
    draw_title(axes, "Mean image of each class", shown)
    low, high = pixels.edges[0], pixels.edges[-1]
    for place, index in enumerate(used):
        row, column = divmod(place, columns)
        image = (pixels.means[index] - low) * (255 / (high - low))
        draw_tile(axes, as_picture(image.clip(0, 255).astype(np.uint8)), column, row * 1.35)
        text = f"{names[index]}\nn={pixels.images[index]:,}"
        axes.text(column + 0.5, row * 1.35 + 0.99, text, ha="center", va="top", fontsize=7)
    if not used:
        axes.text(0.5, 0.5, "no image", ha="center", color=MUTED)
    return figure


def _intensity_alt(pixels: PixelStatistics, shown: str) -> str:
    centres = (pixels.edges[:-1] + pixels.edges[1:]) / 2
    counts = pixels.counts.sum(axis=(0, 1))
    mean = float((centres * counts).sum() / max(int(counts.sum()), 1))
    return (
        f"Histogram of pixel values over all classes, {shown}; mean {mean:.4g} on a range of "
        f"{pixels.edges[0]:.4g} to {pixels.edges[-1]:.4g}."
    )


def _class_means_text(pixels: PixelStatistics, class_names: Sequence[str]) -> str:
    means = [float(pixels.means[i].mean()) for i in range(len(class_names))]
    parts = [f"{name} {mean:.4g}" for name, mean in zip(class_names[:10], means, strict=False)]
    return f"Mean values: {', '.join(parts)}."


# The page of `scanwise check`.


def write_check_page(
    directory: Path,
    check_json: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    plots: Mapping[str, str],
    *,
    dataset: Dataset | None = None,
    split: Split | None = None,
    examples: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> Path:
    """Write check.html (self-contained), check.md and check.json: what was looked at and found.

    Args:
        directory: Holds the figures named by `plots` already.
        check_json: The findings, duplicates, quality and class table of the checks.
        dataset_json: The data set's fingerprint.
        plots: Alt text by figure name, as `write_data_plots` returns it.
        dataset: Where thumbnails come from; needed for `examples`.
        split: To say in which split each thumbnail lies.
        examples: Groups of row numbers to show, by caption: {"Same image in train and test":
            [[3, 907]], "Unlike the rest of their class": [[12], [80]]}.

    Returns:
        The path of check.html.
    """
    shown = Examples(dataset, split, examples) if dataset is not None and examples else None
    page = check_page(directory, check_json, dataset_json, plots, shown)
    findings = all_findings(check_json, dataset_json)
    document = {
        "schema": 1,
        "dataset": dataset_json.get("name"),
        "verdict": page.headline,
        **check_json,
        "findings": [finding.to_json() for finding in findings],
    }
    write_json(directory / "check.json", document)
    write_text(directory / "check.md", render("page.md.j2", {"page": page}))
    write_text(directory / "check.html", render("page.html.j2", {"page": page}))
    return directory / "check.html"
