"""Decision curves: what acting on a model gains over acting on all or on none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from scanwise.report.plots import draw_title
from scanwise.report.style import INK, MUTED, TEST, figure_names, new_figure, styled

MAX_COLUMNS = 3


@dataclass(frozen=True, eq=False)
class Benefit:
    """Net benefit of one class by threshold, float (t,), with its 95 % band."""

    name: str
    threshold: NDArray[np.float64]
    net_benefit: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    treat_all: NDArray[np.float64]
    prevalence: float
    chosen: float | None = None  # a stored threshold


@styled
def plot_decision_curves(benefits: Sequence[Benefit], *, where: str = "") -> Figure:
    """Draw the net benefit of each class by threshold beside calling all and calling none.

    Args:
        benefits: One panel each.
        where: On what, for the titles: "156 test images".
    """
    columns = min(len(benefits), MAX_COLUMNS)
    rows = math.ceil(len(benefits) / columns)
    figure = new_figure(5.0 if columns == 1 else 3.9 * columns, 4.0 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    names = figure_names([benefit.name for benefit in benefits])
    for axes, benefit, name in zip(panels, benefits, names, strict=False):
        _panel(axes, benefit, f"Decision curve: {name}", where)
    for axes in panels[len(benefits) :]:
        axes.set_axis_off()
    return figure


def _panel(axes: Axes, benefit: Benefit, title: str, where: str) -> None:
    steps = benefit.threshold
    axes.fill_between(steps, benefit.low, benefit.high, color=TEST, alpha=0.16, lw=0)
    axes.plot(steps, benefit.net_benefit, color=TEST, label="this model")
    axes.plot(steps, benefit.treat_all, color=MUTED, ls="--", lw=1.4, label="call all")
    axes.axhline(0, color=INK, ls=":", lw=1.4, label="call none")
    if benefit.chosen is not None:
        axes.axvline(benefit.chosen, color=MUTED, lw=0.9, label=f"stored {benefit.chosen:.3g}")
    top = max(benefit.prevalence, float(benefit.high.max()))
    axes.set(
        xlim=(0, 1),
        ylim=(-0.35 * top, 1.12 * top),
        xlabel="threshold probability",
        ylabel="net benefit (true alarms an image)",
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    draw_title(axes, title, where)
    axes.legend(loc="upper right")
