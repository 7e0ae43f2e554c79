"""Slices and corruptions as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scanwise.core.types import Interval
from scanwise.report.plots import draw_title, images_text
from scanwise.report.style import INK, MUTED, TRAIN, WRONG, figure_names, new_figure, styled

MOST_SLICES = 30


@dataclass(frozen=True)
class SliceRow:
    """One slice as the figure shows it."""

    name: str
    n: int
    score: Interval  # share right
    gap: Interval  # to the rest, within class
    ranked: bool
    worse: bool  # below the rest, by the corrected p


@dataclass(frozen=True)
class CorruptionCurve:
    """A metric at severity 1 to 5 of one corruption."""

    name: str
    values: Sequence[Interval]
    drop: str  # the mean relative drop in words


@styled
def plot_slices(rows: Sequence[SliceRow], *, split: str, n: int) -> Figure:
    """Draw the share right of each slice, and its difference to the rest, with 95 % intervals.

    Slices under the least number of images are grey; one that is below the rest by its corrected p
    is in the colour of mistakes. Above MOST_SLICES the first are drawn.
    """
    shown = rows[:MOST_SLICES]
    figure = new_figure(8.6, 1.3 + 0.29 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(shown):
        colour = WRONG if row.worse else TRAIN if row.ranked else MUTED
        _interval(left, place, row.score, colour)
        _interval(right, place, row.gap, colour)
    names = figure_names([row.name for row in shown], 30)
    labels = [f"{name}  n={row.n:,}" for name, row in zip(names, shown, strict=True)]
    left.set_yticks(range(len(shown)), labels)
    for label, row in zip(left.get_yticklabels(), shown, strict=True):
        label.set_color(INK if row.ranked else MUTED)
    left.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.4, -0.6))
    right.axvline(0, color=MUTED, lw=1)
    reach = max([0.1, *(abs(end) for row in shown for end in _ends(row.gap))])
    right.set_xlim(-1.06 * reach, 1.06 * reach)
    left.set_xlabel("share right")
    right.set_xlabel("difference to the rest, within class")
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
    more = f"the first {MOST_SLICES} of {len(rows)}" if len(rows) > len(shown) else ""
    draw_title(left, "Slices", images_text(n, split), more)
    return figure


@styled
def plot_robustness(
    curves: Sequence[CorruptionCurve], clean: Interval, *, quantity: str, split: str, n: int
) -> Figure:
    """Draw one panel a corruption: the metric over severities beside that of clean images."""
    columns = 3
    figure = new_figure(8.6, 2.5 * -(-len(curves) // columns) + 0.3)
    panels = figure.subplots(-(-len(curves) // columns), columns, sharex=True, sharey=True)
    for axes, curve in zip(np.ravel(panels), curves, strict=False):
        _curve(axes, curve, clean)
    for axes in np.ravel(panels)[len(curves) :]:
        axes.set_visible(False)
    for axes in np.atleast_2d(panels)[:, 0]:
        axes.set_ylabel(quantity)
    for axes in np.atleast_2d(panels)[-1]:
        axes.set_xlabel("severity (0: clean)")
    ends = [end for curve in curves for value in curve.values for end in _ends(value)]
    ends += _ends(clean)
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    spare = max(0.03, (0.2 - (high - low)) / 2)  # at least 0.2 high, so that noise looks small
    np.ravel(panels)[0].set_ylim(low - spare, min(high + spare, 1.02))
    figure.suptitle(
        f"{quantity} on worse pictures: {images_text(n, split)}", x=0.01, ha="left",
        fontsize=10, fontweight="bold",
    )  # fmt: skip
    return figure


def _curve(axes: Axes, curve: CorruptionCurve, clean: Interval) -> None:
    values = [clean, *curve.values]
    middle = [np.nan if value.value is None else value.value for value in values]
    low = [np.nan if value.low is None else value.low for value in values]
    high = [np.nan if value.high is None else value.high for value in values]
    severities = np.arange(len(values))
    axes.fill_between(severities, low, high, color=TRAIN, alpha=0.2, lw=0)
    axes.plot(severities, middle, "o-", color=TRAIN, ms=3.5)
    if clean.value is not None:
        axes.axhline(clean.value, color=MUTED, lw=1, ls="--")
    axes.set_xticks(severities)
    axes.set_title(curve.name)
    axes.set_title(
        f"drop {curve.drop}", loc="right", fontsize=7.5, fontweight="normal", color=MUTED
    )


def _interval(axes: Axes, place: int, value: Interval, colour: str) -> None:
    if value.value is None:
        return
    if value.low is not None and value.high is not None:
        axes.plot([value.low, value.high], [place, place], color=colour, lw=4, alpha=0.35)
    axes.plot(value.value, place, "o", color=colour, ms=5)


def _ends(value: Interval) -> list[float]:
    return [end for end in (value.value, value.low, value.high) if end is not None]
