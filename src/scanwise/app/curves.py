"""Learning curves as one small SVG in the colours of the report, cheap enough to redraw often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 520, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 32


def curves_svg(
    title: str, lines: Sequence[tuple[str, Sequence[float]]], epochs: int, *, top: float | None
) -> str:
    """Draw values by epoch.

    Args:
        title: What is drawn, for the label that screen readers say.
        lines: Name and values by epoch from 1, NaN where unknown; the first solid, the second
            dashed.
        epochs: Epochs planned: the width of the picture.
        top: Upper end of the axis; None: the largest value.

    Returns:
        An <svg> element; without values, an empty frame that says so.
    """
    known = [value for _, values in lines for value in values if math.isfinite(value)]
    high = top if top is not None else _round_up(max(known, default=1.0))
    last = max(epochs, *(len(values) for _, values in lines), 2)
    parts = [_grid(high), _axis(last)]
    for index, (name, values) in enumerate(lines):
        parts.append(_line(index, name, values, last, high))
    if not known:
        parts.append(
            f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" class="c-note" text-anchor="middle">'
            "no epoch is done yet</text>"
        )
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(_alt(title, lines))}">{"".join(parts)}</svg>'
    )


def _alt(title: str, lines: Sequence[tuple[str, Sequence[float]]]) -> str:
    said = [
        f"{name} {values[-1]:.3f} after epoch {len(values)}, {values[0]:.3f} after the first"
        for name, values in lines
        if len(values) and math.isfinite(values[-1])
    ]
    return f"{title}: {'; '.join(said) or 'no epoch is done yet'}"


def _x(epoch: float, last: int) -> float:
    return LEFT + (epoch - 1) / (last - 1) * (WIDTH - LEFT - RIGHT)


def _y(value: float, high: float) -> float:
    share = min(max(value / high, 0.0), 1.0)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(high: float) -> str:
    parts = []
    for step in range(5):
        value = high * step / 4
        y = _y(value, high)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="c-grid"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" class="c-tick" text-anchor="end">'
            f"{value:.3g}</text>"
        )
    return "".join(parts)


def _axis(last: int) -> str:
    step = max(1, round(last / 6))
    ticks = [1, *range(1 + step, last, step), last]
    if len(ticks) > 2 and ticks[-1] - ticks[-2] < step * 0.6:
        del ticks[-2]
    return "".join(
        f'<text x="{_x(tick, last):.1f}" y="{HEIGHT - 12}" class="c-tick" '
        f'text-anchor="middle">{tick}</text>'
        for tick in dict.fromkeys(ticks)
    )


def _line(index: int, name: str, values: Sequence[float], last: int, high: float) -> str:
    points = [
        (_x(epoch, last), _y(value, high))
        for epoch, value in enumerate(values, start=1)
        if math.isfinite(value)
    ]
    if not points:
        return ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    # A dot for one, a ring for the other: told apart without colour.
    end = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="c-end c-{index}"/>'
    return (
        f'<polyline points="{path}" class="c-line c-{index}"><title>{escape(name)}</title>'
        f"</polyline>{end}"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 10 times a power of ten: axes with plain numbers."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value * 0.999)
