"""How every figure looks: colours that colour-blind readers can tell apart, fonts, sizes, files.

Figures are built from `matplotlib.figure.Figure` only; pyplot, with its global state and windows,
is never imported. Ink, grid and series colours are a fixed set of hex codes, so that `inline_svg`
can swap them for CSS variables and one drawing serves light and dark pages.
"""

from __future__ import annotations

import functools
import io
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from xml.sax.saxutils import escape, quoteattr

import matplotlib as mpl
from cycler import cycler
from matplotlib import font_manager
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from scanwise.core.files import atomic_path

PAPER = "#fefefe"  # not pure white: inline_svg finds it by this code and makes it transparent
INK = "#1d2a35"
MUTED = "#5b6873"
GRID = "#dde3e8"
LEGEND = "#fdfefd"  # behind legends, so that lines do not run through the words
CELL_INK = "#0c1720"  # dark text on a light heat-map cell, in light and dark pages alike
CELL_PAPER = "#fdfdfd"

# Okabe & Ito, "Color Universal Design" (2008), in an order that keeps neighbours apart; its yellow
# is left out, since it can't be seen on white.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7a6a2f")
TRAIN, VAL, TEST = SERIES[0], SERIES[1], SERIES[2]
RIGHT, WRONG = SERIES[2], SERIES[1]
LINE_STYLES = ("-", "--", ":", "-.")

HEAT = LinearSegmentedColormap.from_list("scanwise", ["#f3f7fa", "#8fbbdc", "#2f78ad", "#0b3d66"])

# Seen in any of these, a class name outside DejaVu Sans (matplotlib's own font) can be drawn.
WIDE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "SimHei",
    "WenQuanYi Micro Hei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)

DRAWING = threading.Lock()  # for programs that draw in threads: settings are the process's
CSS_PX_PER_POINT = 1.6  # how large a figure may get on a wide page

P = ParamSpec("P")
R = TypeVar("R")


@functools.cache
def font_families() -> tuple[str, ...]:
    """DejaVu Sans, then whatever this machine has for other scripts."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in WIDE_FONTS if name in installed))


@functools.cache
def settings() -> Any:
    """The rcParams of all figures."""
    return {
        "font.family": list(font_families()),
        "font.size": 9,
        "text.parse_math": False,  # a class called "a$b$" is not a formula
        "text.color": INK,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.labelcolor": INK,
        "axes.labelsize": 9,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.prop_cycle": cycler(color=SERIES),
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.fontsize": 8,
        "legend.facecolor": LEGEND,
        "legend.edgecolor": "none",
        "legend.framealpha": 0.85,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "svg.fonttype": "none",  # text stays text: searchable, and the page's own font draws it
        "svg.hashsalt": "scanwise",  # the same figure gives the same file
        "image.composite_image": False,
    }


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a plot function under `settings`, leaving matplotlib's own settings alone."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(settings()):
            return function(*args, **kwargs)

    return run


def new_figure(width: float = 5.0, height: float = 3.6) -> Figure:
    """An empty figure, inches; call it inside a `styled` function."""
    return Figure(figsize=(width, height), layout="constrained")


def series_style(index: int) -> dict[str, Any]:
    """Colour and line style of the i-th series; styles differ once the colours are used up."""
    turn, place = divmod(index, len(SERIES))
    return {"color": SERIES[place], "linestyle": LINE_STYLES[turn % len(LINE_STYLES)]}


@functools.cache
def _fonts() -> tuple[Any, ...]:
    paths = (font_manager.findfont(name) for name in font_families())
    return tuple(font_manager.get_font(path) for path in paths)


def can_draw(text: str) -> bool:
    """True if every character has a glyph in the fonts of this machine."""
    return all(any(font.get_char_index(ord(character)) for font in _fonts()) for character in text)


def figure_names(names: Sequence[str], max_chars: int = 20) -> tuple[str, ...]:
    """Class names as figures can show them: one line, short, drawable, still distinct.

    A name that no font here can draw becomes "class 3" (its index from 0); pages give it in full.
    """
    shown: list[str] = []
    for index, name in enumerate(names):
        line = " ".join(name.split()) or f"class {index}"
        if not can_draw(line):
            line = f"class {index}"
        if len(line) > max_chars:
            head = (max_chars - 1) * 2 // 3
            line = f"{line[:head].rstrip()}…{line[-(max_chars - 1 - head) :].lstrip()}"
        shown.append(f"{line} ({index})" if line in shown else line)
    return tuple(shown)


def one_line(text: str) -> str:
    """Free text for a title: one line, undrawable characters replaced by '?'."""
    return "".join(c if can_draw(c) else "?" for c in " ".join(text.split()))


def save_figure(figure: Figure, path: Path, alt: str, *, dpi: int = 144) -> str:
    """Write `path`.png and `path`.svg atomically, each carrying its alt text.

    Args:
        figure: What to save.
        path: File name without suffix.
        alt: What the figure says, for readers who can't see it.

    Returns:
        The SVG text.
    """
    stream = io.StringIO()
    with mpl.rc_context(settings()):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    save_png(figure, path.with_name(path.name + ".png"), alt, dpi=dpi)
    svg = _describe_svg(stream.getvalue(), alt)
    with atomic_path(path.with_name(path.name + ".svg")) as temporary:
        temporary.write_text(svg, encoding="utf-8", newline="\n")
    return svg


def save_png(figure: Figure, path: Path, alt: str, *, dpi: int = 144) -> None:
    """Write one PNG atomically, with its alt text as "Description"."""
    with mpl.rc_context(settings()), atomic_path(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=dpi, metadata={"Software": None, "Description": alt}
        )


def _describe_svg(svg: str, alt: str) -> str:
    """Put the alt text where screen readers look for it, and drop empty metadata."""
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    label = f'<svg role="img" aria-label={quoteattr(alt)} '
    return re.sub(
        r"<svg ([^>]*)>",
        lambda found: f"{label}{found.group(1)}>\n <title>{escape(alt)}</title>",
        svg,
        count=1,
    )


def read_alt(svg: str) -> str:
    """The alt text that `save_figure` put into an SVG, still XML-escaped; '' if there is none."""
    found = re.search(r"<title>(.*?)</title>", svg, flags=re.DOTALL)
    return found.group(1) if found else ""


CSS_COLOURS = {
    PAPER: "var(--fig-paper)",
    LEGEND: "var(--fig-legend)",
    INK: "var(--fig-ink)",
    MUTED: "var(--fig-muted)",
    GRID: "var(--fig-grid)",
    **{colour: f"var(--s{index})" for index, colour in enumerate(SERIES)},
}


def inline_svg(svg: str, prefix: str) -> str:
    """An SVG of `save_figure` made ready to stand inside an HTML page.

    Its ids get a prefix (a page holds many figures), its colours become CSS variables, its size
    becomes the most it may grow to, and its <title> goes (browsers would show it as a tooltip
    everywhere; the aria-label stays).
    """
    body = svg[svg.index("<svg") :]
    size = re.search(r'width="([\d.]+)pt"', body)
    most = round(float(size.group(1)) * CSS_PX_PER_POINT) if size else 600
    body = re.sub(r"\n? <title>.*?</title>", "", body, count=1, flags=re.DOTALL)
    # A <style> element inside an inline SVG would apply to the whole page.
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'\b(width|height)="[\d.]+pt" ?', "", body, count=2)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", body)
    body = body.replace("<svg ", f'<svg style="max-width:{most}px" ', 1)
    body = re.sub(r"'DejaVu Sans'(, '[^']*')*", "var(--fig-font)", body)
    for colour, variable in CSS_COLOURS.items():
        body = body.replace(colour, variable)
    return body
