"""A comparison as a figure: each row's score with its interval, and its difference to the base."""
"""Many runs in one picture: each score with its interval, beside what one constant answer gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scanwise.core.types import Interval
from scanwise.report.style import (
    INK,
    MUTED,
    SERIES,
    figure_names,
    WRONG,
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
ROW_INCHES = 0.30
LABEL_CHARS = 38


@dataclass(frozen=True)
class ScoredRun:
    """One row of the picture."""

    label: str
    accuracy: Interval
    auroc: Interval
    majority: float | None
    has_skill: bool
    note: str = ""  # stands in place of the scores where there are none


@dataclass(frozen=True)
class RunGroup:
    """Rows that stand together: runs on the same test images."""

    title: str
    rows: tuple[ScoredRun, ...]


@styled
def plot_comparison(groups: Sequence[RunGroup]) -> Figure:
    """Draw accuracy and macro AUROC of every run, grouped by data set.

    Filled blue dots are runs with skill, open orange diamonds runs without; the dark stroke in each
    row is the score of the best constant answer (AUROC: 0.5).
    """
    lines = sum(len(group.rows) for group in groups) + 1.35 * len(groups)
    figure = new_figure(9.6, 1.35 + ROW_INCHES * lines)
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (1, 1)})
    place, ticks, labels = 0.0, [], []
    for group in groups:
        place += 0.35
        left.text(
            0, place, one_line(group.title), transform=left.get_yaxis_transform(),
            weight="bold", color=INK, va="center", fontsize=9,
        )  # fmt: skip
        for row in group.rows:
            place += 1
            ticks.append(place)
            labels.append(_shortened(row.label))
            _draw_score(left, place, row, row.accuracy, row.majority)
            _draw_score(right, place, row, row.auroc, 0.5 if row.auroc.value is not None else None)
        place += 1
    left.set_yticks(ticks, labels)
    left.set_ylim(place - 0.4, -0.4)
    _finish(left, "Test accuracy (several labels: exact match), 95 %")
    _finish(right, "Test AUROC (macro), 95 %")
    right.axvline(0.5, color=MUTED, lw=0.9, ls=":")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw_score(
    axes: Axes, place: float, row: ScoredRun, score: Interval, trivial: float | None
) -> None:
    if score.value is None:
        words = row.note or f"not measured ({score.reason})"
        axes.text(0.5, place, one_line(words), color=MUTED, va="center", ha="center", fontsize=8)
        return
    colour = SERIES[0] if row.has_skill else WRONG
    if score.low is not None and score.high is not None:
        axes.plot((score.low, score.high), (place, place), color=colour, lw=2, zorder=2)
    marker, fill = ("o", colour) if row.has_skill else ("D", "white")
    axes.plot(
        score.value, place, marker, ms=6.5, mfc=fill, mec=colour, mew=1.6, zorder=3, color=colour
    )
    if trivial is not None:
        axes.plot((trivial, trivial), (place - 0.34, place + 0.34), color=INK, lw=2, zorder=1)
    axes.text(
        1.02, place, f"{score.value:.3f}", transform=axes.get_yaxis_transform(), color=INK,
        va="center", fontsize=8,
    )  # fmt: skip


def _finish(axes: Axes, title: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_xlabel(title)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], marker="o", color=SERIES[0], mfc=SERIES[0], mec=SERIES[0], label="skill"),
        Line2D(
            [], [], marker="D", color=WRONG, mfc="white", mec=WRONG,
            label="no skill or collapsed",
        ),
        Line2D(
            [], [], marker="|", color=INK, ls="none", ms=11, mew=2,
            label="one constant answer (AUROC: chance)",
        ),
    ]  # fmt: skip


def _shortened(label: str) -> str:
    line = one_line(label)
    return line if len(line) <= LABEL_CHARS else f"{line[: LABEL_CHARS - 1]}…"
