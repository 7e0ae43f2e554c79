"""A comparison as a figure: each row's score with its interval, and its difference to the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scanwise.core.types import Interval
from scanwise.report.style import (
    INK,
    MUTED,
    SERIES,
    figure_names,
    new_figure,
    one_line,
    styled,
)

COLOURS = {"better": SERIES[2], "worse": SERIES[1], "not distinguishable": MUTED}
MOST_ROWS = 40


@dataclass(frozen=True)
class Line:
    """One row: its score, and its difference to the base where it has one."""

    name: str
    score: Interval
    by_seed: tuple[float, ...]
    difference: Interval | None
    verdict: str  # "better", "worse", "not distinguishable" or ''


@styled
def plot_comparison(lines: Sequence[Line], *, title: str, metric: str, scored_on: str) -> Figure:
    """Draw scores (left) and differences to the base (right), the first row on top.

    Args:
        lines: Up to 40 are drawn.
        title: The data set.
        metric: What is scored, in words.
        scored_on: Such as "199 test images".
    """
    shown = list(lines[:MOST_ROWS])
    differences = any(line.difference is not None for line in shown)
    figure = new_figure(8.6 if differences else 5.6, 1.5 + 0.34 * len(shown))
    axes = figure.subplots(1, 2 if differences else 1, squeeze=False)[0]
    names = figure_names([line.name for line in shown], max_chars=34)
    places = range(len(shown))
    for place, line in zip(places, shown, strict=True):
        colour = COLOURS.get(line.verdict, INK)
        _point(axes[0], place, line.score, colour)
        if len(line.by_seed) > 1:
            axes[0].plot(line.by_seed, [place] * len(line.by_seed), "|", ms=7, color=MUTED)
        if differences and line.difference is not None:
            _point(axes[1], place, line.difference, colour)
    axes[0].set_yticks(list(places), names)
    axes[0].set(title=one_line(title), xlabel=f"{metric}, 95 %\n({scored_on})")
    if differences:
        axes[1].axvline(0.0, color=INK, lw=0.9)
        axes[1].set_yticks(list(places), [""] * len(shown))
        axes[1].set(title="difference to the base", xlabel=f"difference in {metric}, 95 %")
    for one in axes:
        one.set_ylim(len(shown) - 0.4, -0.6)
    return figure


def _point(axes: Axes, place: int, value: Interval, colour: str) -> None:
    if value.value is None:
        return
    low = value.value if value.low is None else value.low
    high = value.value if value.high is None else value.high
    axes.plot([low, high], [place, place], color=colour, lw=2.2, solid_capstyle="butt")
    axes.plot(value.value, place, "o", ms=5.5, color=colour)
