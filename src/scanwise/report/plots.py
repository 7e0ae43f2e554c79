"""The figures of a run: numbers in, Figure out; nothing here saves files or computes metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from scanwise.core.types import Interval
from scanwise.report.history import History
from scanwise.report.style import (
    CELL_INK,
    CELL_PAPER,
    GRID,
    HEAT,
    INK,
    MUTED,
    RIGHT,
    TEST,
    TRAIN,
    VAL,
    WRONG,
    figure_names,
    new_figure,
    one_line,
    series_style,
    styled,
)

MAX_CLASSES = 30  # above this a full matrix can't be read: the top confusions are shown instead
MAX_CURVES = 7  # above this only the classes with the lowest area are coloured


@dataclass(frozen=True)
class Mark:
    """A vertical line on the history: where a finding begins, and its few words."""

    epoch: int
    text: str


@dataclass(frozen=True, eq=False)
class Curve:
    """One ROC or precision-recall curve with its area."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: Interval
    positives: int
    n: int


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Confidence bins: mean confidence, share right and images of each, float (bins,); with ECE."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]
    ece: float | None = None


def images_text(n: int, split: str) -> str:
    """'1,003 validation images'"""
    words = {"train": "training", "val": "validation", "test": "test"}
    return f"{n:,} {words.get(split, split)} image{'' if n == 1 else 's'}"


@styled
def plot_history(
    history: History,
    *,
    best_epoch: int | None = None,
    test_loss: float | None = None,
    test_accuracy: Interval | None = None,
    marks: Sequence[Mark] = (),
    accuracy_name: str = "accuracy",
) -> Figure:
    """Draw loss and accuracy of train and validation by epoch, and the learning rate below.

    Args:
        history: One row an epoch.
        best_epoch: Epoch whose weights were kept; marked on both panels.
        test_loss: Loss of the test split, a horizontal line; None before the evaluation.
        test_accuracy: Accuracy of the test split with its interval, drawn likewise.
        marks: Findings that begin at an epoch.
        accuracy_name: What the accuracy column holds (for multi-label, label-wise accuracy).
    """
    figure = new_figure(5.0, 5.4)
    loss_axes, accuracy_axes, lr_axes = figure.subplots(
        3, 1, sharex=True, height_ratios=[5, 5, 1.6]
    )
    _history_lines(loss_axes, history, history.loss, history.val_loss)
    _history_lines(accuracy_axes, history, history.accuracy, history.val_accuracy)
    if test_loss is not None:
        loss_axes.axhline(test_loss, color=TEST, ls="--", lw=1.4, label="test")
    if test_accuracy is not None and test_accuracy.value is not None:
        _test_line(accuracy_axes, test_accuracy)
    for axes in (loss_axes, accuracy_axes):
        _epoch_marks(axes, best_epoch, marks, named=axes is loss_axes)
        axes.legend(loc="best")
    loss_axes.set(title="Loss by epoch", ylabel="loss")
    accuracy_axes.set(title=f"{accuracy_name.capitalize()} by epoch", ylabel=accuracy_name)
    lr_axes.plot(history.epoch, history.lr, color=MUTED, lw=1.4)
    lr_axes.set(xlabel="epoch", ylabel="lr")
    lr_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lr_axes.yaxis.set_major_locator(MaxNLocator(2))
    lr_axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}" if value else "0")
    return figure


def _history_lines(
    axes: Axes, history: History, train: NDArray[np.float64], val: NDArray[np.float64]
) -> None:
    marker = "o" if len(history) <= 25 else None
    axes.plot(history.epoch, train, color=TRAIN, marker=marker, ms=3, label="train")
    axes.plot(history.epoch, val, color=VAL, marker=marker, ms=3, label="validation")
    both = np.concatenate([train, val])
    both = both[np.isfinite(both)]
    # A divergence would flatten everything else: show at most ten times the median.
    if len(both) and both.max() > 10 * max(np.median(both), 1e-12):
        axes.set_ylim(top=10 * float(np.median(both)))


def _test_line(axes: Axes, accuracy: Interval) -> None:
    assert accuracy.value is not None
    if accuracy.low is not None and accuracy.high is not None:
        axes.axhspan(accuracy.low, accuracy.high, color=TEST, alpha=0.12, lw=0)
    axes.axhline(accuracy.value, color=TEST, ls="--", lw=1.4, label=f"test {accuracy}")


def _epoch_marks(axes: Axes, best_epoch: int | None, marks: Sequence[Mark], *, named: bool) -> None:
    if best_epoch is not None:
        axes.axvline(best_epoch, color=INK, lw=1, ls=":", label=f"kept: epoch {best_epoch}")
    for mark in marks:
        axes.axvline(mark.epoch, color=WRONG, lw=1, ls=(0, (1, 2)))
        if named:
            axes.annotate(
                mark.text,
                (mark.epoch, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                va="top",
                fontsize=7.5,
                color=INK,
            )


@styled
def plot_confusion_matrix(
    matrix: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    split: str = "test",
    accuracy: Interval | None = None,
) -> Figure:
    """Draw counts (k, k) with the row share below each; rows are true classes, shade is row share.

    Above 30 classes the largest confusions are drawn as bars instead.
    """
    matrix = np.asarray(matrix)
    if len(class_names) > MAX_CLASSES:
        return plot_top_confusions(matrix, class_names, split=split)
    k = len(class_names)
    figure = new_figure(min(max(4.8, 2.4 + 0.56 * k), 13), min(max(3.9, 1.7 + 0.52 * k), 12))
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shade = axes.imshow(shares, cmap=HEAT, norm=Normalize(0, 1), aspect="equal")
    _cell_texts(axes, matrix, shares)
    names = figure_names(class_names, 16)
    rows = [f"{name}\n(n={total:,})" for name, total in zip(names, matrix.sum(axis=1), strict=True)]
    axes.set_xticks(range(k), names, rotation=35 if k > 3 else 0, ha="right" if k > 3 else "center")
    axes.set_yticks(range(k), rows if k <= 12 else names)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    score = f"accuracy {accuracy}" if accuracy is not None and accuracy.value is not None else ""
    axes.set(xlabel="predicted class", ylabel="true class")
    draw_title(axes, "Confusion matrix", images_text(int(matrix.sum()), split), score)
    bar = figure.colorbar(shade, ax=axes, shrink=0.75, format=PercentFormatter(1))
    bar.set_label("share of the true class (row)")
    bar.outline.set_visible(False)
    return figure


def _cell_texts(axes: Axes, matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    k = len(matrix)
    size = float(np.interp(k, [2, 5, 10, 30], [11, 9, 7, 4]))
    for row in range(k):
        for column in range(k):
            count, share = int(matrix[row, column]), float(shares[row, column])
            if not count and k > 6:
                continue
            text = f"{count:,}\n{share:.0%}" if k <= 14 else f"{count}"
            ink = CELL_PAPER if share > 0.5 else CELL_INK
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)


@styled
def plot_top_confusions(
    matrix: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    split: str = "test",
    how_many: int = 20,
) -> Figure:
    """Draw the most frequent confusions as bars: 'true as predicted', count, share of the class."""
    matrix = np.asarray(matrix)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(wrong, axis=None, kind="stable")[::-1][:how_many]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    pairs = [(int(i), int(j)) for i, j in pairs if wrong[i, j]]
    names = figure_names(class_names, 18)
    totals = matrix.sum(axis=1)
    figure = new_figure(5.6, max(2.0, 0.9 + 0.26 * len(pairs)))
    axes = figure.subplots()
    counts = [int(wrong[pair]) for pair in pairs]
    axes.barh(range(len(pairs)), counts, color=WRONG, height=0.7)
    for place, (pair, count) in enumerate(zip(pairs, counts, strict=True)):
        share = count / max(int(totals[pair[0]]), 1)
        axes.annotate(
            f"{count:,} ({share:.0%})",
            (count, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(pairs)), [f"{names[i]} as {names[j]}" for i, j in pairs])
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="images (share of the true class)")
    draw_title(
        axes, f"Top confusions of {len(class_names)} classes", images_text(int(matrix.sum()), split)
    )
    return figure


@styled
def plot_label_outcomes(
    counts: NDArray[np.int64], label_names: Sequence[str], *, split: str = "test", n: int
) -> Figure:
    """Draw each label's 2×2 table as two bars: positives found or missed, negatives passed or not.

    Args:
        counts: int (k, 4): true positives, false negatives, false positives, true negatives.
        label_names: k labels.
        split: Where the images are from.
        n: Number of images.
    """
    k = len(label_names)
    figure = new_figure(5.6, 1.5 + 0.3 * k)
    left, right = figure.subplots(1, 2, sharey=True)
    tp, fn, fp, tn = np.asarray(counts, dtype=np.float64).T
    _outcome_bars(left, tp, fn, ("found", "missed"))
    _outcome_bars(right, tn, fp, ("rightly negative", "false alarm"))
    left.set_yticks(range(k), figure_names(label_names, 18))
    left.invert_yaxis()
    left.set_xlabel("of the positives")
    right.set_xlabel("of the negatives")
    figure.suptitle(
        f"Outcome of each label, {images_text(n, split)}",
        x=0.01,
        ha="left",
        fontsize=10,
        weight="bold",
    )
    return figure


def _outcome_bars(
    axes: Axes, good: NDArray[np.float64], bad: NDArray[np.float64], names: tuple[str, str]
) -> None:
    total = good + bad
    share = np.divide(good, total, out=np.zeros_like(good), where=total > 0)
    rest = np.where(total > 0, 1 - share, 0)
    places = np.arange(len(good))
    axes.barh(places, share, color=TRAIN, height=0.72, label=names[0])
    axes.barh(places, rest, left=share, color=WRONG, height=0.72, label=names[1])
    for place in range(len(good)):
        text = f"{int(good[place]):,} / {int(total[place]):,}" if total[place] else "none"
        axes.text(1.02, place, text, va="center", fontsize=7, color=INK)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.grid(axis="y", visible=False)
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, handlelength=1, columnspacing=1
    )


@styled
def plot_roc(
    curves: Sequence[Curve], *, split: str = "test", macro: Interval | None = None
) -> Figure:
    """Draw ROC curves: sensitivity against 1 - specificity, AUROC and interval in the legend."""
    figure, axes = _curve_figure(curves)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":", label="chance 0.500")
    axes.set(xlabel="1 − specificity (false alarms)", ylabel="sensitivity (found)")
    _finish_curves(axes, curves, "ROC", "AUROC", split, macro)
    return figure


@styled
def plot_precision_recall(
    curves: Sequence[Curve], *, split: str = "test", macro: Interval | None = None
) -> Figure:
    """Draw precision-recall curves; the prevalence, which chance reaches, is each curve's floor."""
    figure, axes = _curve_figure(curves)
    if len(curves) <= MAX_CURVES:
        for index, curve in enumerate(curves):
            prevalence = curve.positives / max(curve.n, 1)
            axes.axhline(prevalence, color=series_style(index)["color"], lw=0.9, ls=":", alpha=0.8)
    axes.plot([], [], color=MUTED, lw=1, ls=":", label="chance: the prevalence")
    axes.set(xlabel="sensitivity (found)", ylabel="precision (ppv)")
    _finish_curves(axes, curves, "Precision-recall", "AUPRC", split, macro)
    return figure


def _curve_figure(curves: Sequence[Curve]) -> tuple[Figure, Axes]:
    figure = new_figure(5.0, 4.6 + 0.17 * min(len(curves), MAX_CURVES))
    axes = figure.subplots()
    shown = _coloured(curves)
    names = figure_names([curve.name for curve in curves])
    for index, curve in enumerate(curves):
        if index not in shown:
            axes.plot(curve.x, curve.y, color=GRID, lw=1, zorder=1)
    for turn, index in enumerate(shown):
        label = f"{names[index]}: {curves[index].area} (n={curves[index].positives:,})"
        axes.plot(curves[index].x, curves[index].y, label=label, **series_style(turn))
    if len(shown) < len(curves):
        axes.plot(
            [], [], color=GRID, lw=2, label=f"{len(curves) - len(shown)} others, with more area"
        )
    return figure, axes


def _coloured(curves: Sequence[Curve]) -> list[int]:
    """All curves, or the ones with the least area where there are too many for one picture."""
    if len(curves) <= MAX_CURVES:
        return list(range(len(curves)))
    areas = [curve.area.value if curve.area.value is not None else np.inf for curve in curves]
    return [int(place) for place in np.argsort(areas, kind="stable")[:5]]


def _finish_curves(
    axes: Axes,
    curves: Sequence[Curve],
    title: str,
    area: str,
    split: str,
    macro: Interval | None,
) -> None:
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
    n = max((curve.n for curve in curves), default=0)
    score = f"macro {area} {macro}" if macro is not None and macro.value is not None else ""
    draw_title(axes, title, images_text(n, split), score)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=2.2)


@styled
def plot_reliability(
    before: ReliabilityBins,
    after: ReliabilityBins | None = None,
    *,
    where: str = "",
    labels: bool = False,
) -> Figure:
    """Draw share right against confidence, before and after temperature scaling, and bin counts.

    Args:
        before: Bins as the network gave its probabilities.
        after: Bins after temperature scaling, or None.
        where: On what, for the title: "624 test images".
        labels: Multi-label: bins hold every label's probability and its share of positives.
    """
    figure = new_figure(5.0, 4.8)
    axes, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=":", label="perfect")
    shown = [("as trained" if after is not None else "", before, TRAIN, "o")]
    if after is not None:
        shown.append(("temperature-scaled", after, VAL, "s"))
    edges = np.linspace(0, 1, len(before.count) + 1)
    for place, (name, bins, colour, marker) in enumerate(shown):
        used = bins.count > 0
        ece = "" if bins.ece is None else f"ECE {bins.ece:.3f}"
        label = ", ".join(part for part in (name, ece) if part) or "model"
        axes.plot(
            bins.confidence[used],
            bins.accuracy[used],
            color=colour,
            marker=marker,
            ms=4,
            label=label,
        )
        width = np.diff(edges) * (0.9 / len(shown))
        histogram.bar(edges[:-1] + width * place, bins.count, width, align="edge", color=colour)
    draw_title(axes, "Reliability", where)
    axes.set(ylabel="share positive" if labels else "share right", xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left")
    confidence = "probability of the label" if labels else "confidence of the predicted class"
    histogram.set(xlabel=confidence, ylabel="labels" if labels else "images")
    histogram.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    return figure


@styled
def plot_per_class(
    values: Sequence[Interval],
    class_names: Sequence[str],
    counts: Sequence[int],
    *,
    split: str = "test",
    n: int | None = None,
    quantity: str = "Sensitivity",
) -> Figure:
    """Draw one value and its 95 % interval a class, lowest first, with the images behind it."""
    order = sorted(
        range(len(values)), key=lambda i: (values[i].value is None, values[i].value or 0.0)
    )
    dropped = max(0, len(order) - MAX_CLASSES)
    order = order[:MAX_CLASSES]
    names = figure_names(class_names, 22)
    figure = new_figure(5.0, 1.2 + 0.3 * len(order))
    axes = figure.subplots()
    for place, index in enumerate(order):
        _whisker(axes, place, values[index])
    labels = [f"{names[i]}  n={counts[i]:,}" for i in order]
    axes.set_yticks(range(len(order)), labels)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(order) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{quantity.lower()} with 95 % interval")
    where = images_text(n if n is not None else sum(counts), split)
    shown = f"the {MAX_CLASSES} lowest of {len(values)}" if dropped else ""
    draw_title(axes, f"{quantity} of each class", where, shown)
    return figure


def _whisker(axes: Axes, place: int, value: Interval) -> None:
    if value.value is None:
        axes.text(
            0.02,
            place,
            one_line(f"not evaluable: {value.reason or 'no image'}"),
            va="center",
            fontsize=7.5,
            color=MUTED,
        )
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [place, place], color=TRAIN, lw=4, alpha=0.35)
    axes.plot(value.value, place, "o", color=TRAIN, ms=6)
    ha = "left" if value.value < 0.5 else "right"
    x = (value.high or value.value) + 0.02 if ha == "left" else (value.low or value.value) - 0.02
    axes.text(x, place, f"{value.value:.3f}", va="center", ha=ha, fontsize=8)


def as_picture(image: NDArray[Any]) -> NDArray[Any]:
    """An image (h, w, c) as imshow wants it: (h, w) for one channel, else the first three."""
    if image.ndim == 2 or image.shape[2] == 3:
        return image
    if image.shape[2] < 3:
        return image[:, :, 0]
    return image[:, :, :3]


def evenly(rows: NDArray[np.int64], how_many: int) -> NDArray[np.int64]:
    """At most `how_many` of the rows, evenly spaced: nobody chose them."""
    if len(rows) <= how_many:
        return rows
    return rows[np.linspace(0, len(rows) - 1, how_many).round().astype(np.int64)]


def to_display(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images (m, h, w, c) of any depth as uint8, for looking at: each on its own 1-99 % range."""
    if images.dtype == np.uint8:
        return images
    shown = np.zeros(images.shape, dtype=np.uint8)
    for place, image in enumerate(images):
        values = np.nan_to_num(image.astype(np.float32))
        low, high = np.percentile(values, (1, 99))
        shown[place] = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(
            np.uint8
        )
    return shown


@styled
def plot_sample_grid(
    images: NDArray[np.uint8],
    captions: Sequence[str],
    *,
    title: str,
    columns: int = 6,
    frames: Sequence[str | None] = (),
) -> Figure:
    """Draw images (m, h, w, c) in rows with a caption of up to two lines below each.

    Args:
        images: uint8; one or three channels (of more, the first three are shown).
        captions: m texts.
        title: Above all.
        columns: Images a row.
        frames: Colour of each image's frame, or None.
    """
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    pitch = 1.38 if any("\n" in caption for caption in captions) else 1.22
    figure = new_figure(max(0.1 + 0.95 * columns, 3.6), 0.4 + 0.93 * pitch * rows)
    axes = figure.subplots()
    draw_blank(axes, columns, rows * pitch)
    axes.set_title(one_line(title))
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(place, columns)
        frame = frames[place] if frames else None
        draw_tile(axes, image, column, row * pitch, frame)
        axes.text(
            column + 0.5,
            row * pitch + 0.99,
            caption,
            ha="center",
            va="top",
            fontsize=6.5,
            linespacing=1.15,
        )
    return figure


def plot_predicted_vs_actual(
    images: NDArray[np.uint8],
    actual: Sequence[str],
    predicted: Sequence[str],
    probability: Sequence[float],
    correct: Sequence[bool],
    *,
    title: str = "Predicted and actual class",
    columns: int = 6,
) -> Figure:
    """Draw images with the true class, what the model said and how sure it was.

    Names must be drawable already (`style.figure_names`). Right and wrong differ by mark (✓ ✗) as
    well as by the frame's colour.
    """
    answers = zip(actual, predicted, probability, correct, strict=True)
    captions = [
        f"✓ {said} {share:.0%}" if right else f"✗ {said} {share:.0%}\ntrue: {true}"
        for true, said, share, right in answers
    ]
    frames = [RIGHT if right else WRONG for right in correct]
    figure: Figure = plot_sample_grid(images, captions, title=title, columns=columns, frames=frames)
    return figure


@styled
def plot_augmentation_sheet(
    originals: NDArray[np.uint8],
    variants: NDArray[np.uint8],
    contrast_row: NDArray[np.uint8] | None = None,
    *,
    note: str = "",
) -> Figure:
    """Draw what training will see: originals, the contrast step if any, augmented variants.

    Args:
        originals: uint8 (m, h, w, c), one a column.
        variants: uint8 (m, v, h, w, c), v variants of each original.
        contrast_row: uint8 (m, h, w, c) after contrast enhancement, or None.
        note: The augmentation in words.
    """
    rows: list[tuple[str, NDArray[np.uint8]]] = [("original", originals)]
    if contrast_row is not None:
        rows.append(("contrast", contrast_row))
    rows += [(f"variant {i + 1}", variants[:, i]) for i in range(variants.shape[1])]
    columns = len(originals)
    figure = new_figure(max(0.9 + 0.85 * columns, 3.4), 0.7 + 0.85 * len(rows))
    axes = figure.subplots()
    title = "What training sees" + (f": {one_line(note)}" if note else "")
    draw_blank(axes, columns, len(rows) + 0.1)
    axes.set_title("\n".join(textwrap.wrap(title, 12 * max(columns, 2))), fontsize=9)
    for row, (name, images) in enumerate(rows):
        y = row + (0.1 if row else 0.0)
        axes.text(-0.08, y + 0.5, name, ha="right", va="center", fontsize=8)
        for column, image in enumerate(images):
            draw_tile(axes, image, column, y)
    return figure


def draw_blank(axes: Axes, width: float, height: float) -> None:
    """An axes without axis for pictures, one unit a picture, y down."""
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")


def draw_tile(
    axes: Axes, image: NDArray[Any], x: float, y: float, frame: str | None = None
) -> None:
    """One picture in the unit square at (x, y), with a small margin, kept in proportion."""
    picture = as_picture(image)
    height, width = picture.shape[:2]
    scale = 0.92 / max(height, width)
    w, h = width * scale, height * scale
    left, top = x + (1 - w) / 2, y + (1 - h) / 2
    autoscale = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        picture,
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(left, left + w, top + h, top),
        interpolation="nearest" if max(height, width) < 100 else "antialiased",
        aspect="equal",
    )
    axes.set(xlim=autoscale[0], ylim=autoscale[1])
    if frame:
        axes.add_patch(Rectangle((left, top), w, h, fill=False, edgecolor=frame, linewidth=2.2))


def draw_title(axes: Axes, title: str, *facts: str) -> None:
    """A bold title, and below it, lighter, the facts that make it readable alone."""
    line = ", ".join(fact for fact in facts if fact)
    axes.set_title(title, pad=20 if line else 8)
    if line:
        axes.annotate(
            line,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
            annotation_clip=False,
        )
