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
    WRONG,
    new_figure,
    one_line,
    styled,
)

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
def plot_summary(groups: Sequence[RunGroup]) -> Figure:
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
