"""A search as figures: how its trials went one after another, and which settings decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scanwise.core.types import Interval
from scanwise.report.style import INK, MUTED, SERIES, VAL, WRONG, new_figure, one_line, styled


@dataclass(frozen=True)
class TrialPoint:
    """One trial as the figure shows it."""

    number: int
    state: str  # complete, pruned, failed
    value: float | None


@styled
def plot_search_history(
    trials: Sequence[TrialPoint], *, monitor: str, higher: bool, data_name: str, num_val: int
) -> Figure:
    """Draw each trial's value by its state, the best so far, and the default settings' level.

    Args:
        trials: In the order in which they were run; number 0 is the default settings.
        monitor: What they were judged by.
        higher: True where more is better.
        data_name: For the title.
        num_val: Validation images behind every value.
    """
    figure = new_figure(7.2, 3.9)
    axes = figure.subplots()
    known = [trial for trial in trials if trial.value is not None]
    complete = [trial for trial in known if trial.state == "complete"]
    low, high = _frame([float(trial.value or 0.0) for trial in complete or known], higher)
    if complete:
        values = np.array([trial.value for trial in complete], np.float64)
        best = np.maximum.accumulate(values) if higher else np.minimum.accumulate(values)
        ends = [*(trial.number for trial in complete), max(trial.number for trial in trials)]
        label = "best so far"
        axes.step(ends, [*best, best[-1]], where="post", color=INK, lw=1.4, label=label)
        if complete[0].number == 0:
            axes.axhline(values[0], color=MUTED, lw=0.9, ls=":", label="default settings (trial 0)")
    for state, marker, colour in (("complete", "o", VAL), ("pruned", "v", SERIES[0])):
        chosen = [trial for trial in known if trial.state == state]
        levels = np.array([trial.value for trial in chosen], np.float64).clip(low, high)
        if chosen:
            axes.plot(
                [trial.number for trial in chosen], levels, marker, ms=5, color=colour, ls="",
                mfc="none" if state == "pruned" else colour, clip_on=False,
                label=f"{state} ({len(chosen)})",
            )  # fmt: skip
    failed = [trial.number for trial in trials if trial.state == "failed"]
    if failed:
        edge = low if higher else high
        axes.plot(failed, [edge] * len(failed), "x", ms=7, color=WRONG, mew=1.6, clip_on=False,
                  label=f"failed ({len(failed)})")  # fmt: skip
    axes.set_ylim(low, high)
    beyond = any(not low <= float(trial.value or 0.0) <= high for trial in known)
    axes.set(
        title=f"{one_line(data_name)}: trials of the search",
        xlabel="trial" + (" (much worse ones are drawn at the frame's edge)" if beyond else ""),
        ylabel=f"{monitor} ({num_val:,} images)\n{'higher' if higher else 'lower'} is better",
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=5)
    return figure


def _frame(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """Limits that show the good half of the trials well, however bad the worst are."""
    if not values:
        return 0.0, 1.0
    good, middle = (max, min)[not higher](values), float(np.median(values))
    reach = 3.0 * abs(middle - good) or 0.05 * max(abs(good), 1e-6)
    worst = max(min(values), good - reach) if higher else min(max(values), good + reach)
    margin = 0.08 * abs(worst - good) or 0.05 * max(abs(good), 1e-6)
    return min(worst, good) - margin, max(worst, good) + margin


@styled
def plot_importance(shares: Mapping[str, Interval], *, data_name: str, num_trials: int) -> Figure:
    """Draw the share of each setting, the largest on top, with its interval over trials."""
    figure = new_figure(6.2, 1.3 + 0.36 * len(shares))
    axes = figure.subplots()
    places = np.arange(len(shares))[::-1]
    values = np.array([share.value or 0.0 for share in shares.values()])
    reach = np.array(
        [(value - (s.low or 0.0), (s.high or 0.0) - value)
         for value, s in zip(values, shares.values(), strict=True)]
    ).T  # fmt: skip
    axes.barh(places, values, height=0.6, color=SERIES[4])
    axes.errorbar(values, places, xerr=reach, fmt="none", ecolor=INK, capsize=3, lw=1.2)
    axes.set_yticks(places, list(shares))
    axes.grid(axis="y", visible=False)
    axes.set(
        title=f"{one_line(data_name)}: which settings decided",
        xlabel=f"share of importance with 95 % ({num_trials} complete trials)",
        xlim=(0, 1),
    )
    return figure
