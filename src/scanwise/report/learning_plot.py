"""The learning curve as a figure: measured points, fitted band, and what doubling would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from scanwise.core.types import Interval
from scanwise.report.plots import MAX_CURVES
from scanwise.report.style import (
    INK,
    MUTED,
    VAL,
    figure_names,
    new_figure,
    one_line,
    series_style,
    styled,
)


@dataclass(frozen=True, eq=False)
class Band:
    """A fitted curve with its 95 % band, float (m,) each."""

    sizes: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LearningSeries:
    """Measured errors of one quantity, and the fit where there is one."""

    name: str
    sizes: NDArray[np.float64]  # (s,) training images
    errors: tuple[Interval, ...]  # (s,)
    band: Band | None
    doubled: Interval | None  # error at twice the largest size


@styled
def plot_learning_curve(
    overall: LearningSeries,
    classes: Sequence[LearningSeries],
    *,
    data_name: str,
    num_val: int,
    repeats: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Draw the overall error with its band and, beside it, the classes.

    Args:
        overall: Mean error over repeats at each size.
        classes: The same for each class; above seven only those with the largest error.
        data_name: For the title.
        num_val: Validation images behind every point.
        repeats: (size, error) of each single training, drawn as faint dots.
    """
    figure = new_figure(8.6, 3.8)
    left, right = figure.subplots(1, 2)
    if repeats:
        left.plot(*np.transpose(repeats), ".", color=MUTED, alpha=0.6, label="one training")
    _draw(left, overall, VAL)
    left.set(
        title=f"{one_line(data_name)}: error by training images",
        ylabel=f"{overall.name} ({num_val:,} validation images)",
    )
    left.legend(loc="best")
    shown = sorted(classes, key=lambda series: -(series.errors[-1].value or 0.0))[:MAX_CURVES]
    names = figure_names([series.name for series in shown])
    for index, (series, name) in enumerate(zip(shown, names, strict=True)):
        style = series_style(index)
        values = [np.nan if e.value is None else e.value for e in series.errors]
        right.plot(series.sizes, values, marker="o", ms=3.5, label=name, **style)
        if series.doubled is not None and series.doubled.value is not None:
            ends = (series.sizes[-1], 2 * series.sizes[-1])
            right.plot(ends, (values[-1], series.doubled.value), ":", color=style["color"], lw=1.2)
            right.plot(ends[1], series.doubled.value, "o", mfc="none", ms=5, color=style["color"])
    more = f" (the {len(shown)} worst of {len(classes)})" if len(shown) < len(classes) else ""
    right.set(title=f"By class{more}", ylabel="1 − sensitivity")
    if shown:
        right.legend(loc="best")
    for axes in (left, right):
        _size_axis(axes, overall)
    return figure


def _draw(axes: Axes, series: LearningSeries, colour: str) -> None:
    known = [i for i, e in enumerate(series.errors) if e.value is not None]
    values = np.array([series.errors[i].value for i in known], np.float64)
    reach = np.array([_reach(series.errors[i]) for i in known], np.float64).reshape(-1, 2).T
    axes.errorbar(
        series.sizes[known], values, yerr=reach, fmt="o", ms=4.5, capsize=3, lw=1.2,
        color=colour, label="measured, mean and 95 %",
    )  # fmt: skip
    if series.band is not None:
        band = series.band
        axes.plot(band.sizes, band.middle, color=INK, lw=1.4, label="fitted a·n^-b + c")
        axes.fill_between(band.sizes, band.low, band.high, color=INK, alpha=0.12, lw=0)
    if series.doubled is not None and series.doubled.value is not None:
        axes.errorbar(
            [2 * series.sizes[-1]], [series.doubled.value],
            yerr=np.array([_reach(series.doubled)]).T, fmt="D", mfc="none", ms=6, capsize=3,
            lw=1.2, color=INK, label="twice the images (extrapolated)",
        )  # fmt: skip


def _reach(error: Interval) -> tuple[float, float]:
    """Lengths of the error bar below and above."""
    if error.value is None or error.low is None or error.high is None:
        return 0.0, 0.0
    return max(0.0, error.value - error.low), max(0.0, error.high - error.value)


def _size_axis(axes: Axes, series: LearningSeries) -> None:
    axes.set_xscale("log", base=2)
    ticks = [*series.sizes, *([2 * series.sizes[-1]] if series.doubled is not None else [])]
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.axvline(series.sizes[-1], color=MUTED, lw=0.9, ls=":")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("training images (dotted line: all there are)")
