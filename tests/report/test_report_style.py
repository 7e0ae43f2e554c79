"""Names that figures can show, SVG fit for pages, colours with contrast."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import scanwise.report
from scanwise.core.types import Interval
from scanwise.report.plots import plot_per_class
from scanwise.report.style import (
    SERIES,
    can_draw,
    figure_names,
    inline_svg,
    new_figure,
    read_alt,
    save_figure,
    styled,
)


@styled
def figure_with(title: str) -> Figure:
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([0, 1], [1, 2], label=title)
    axes.set_title(title)
    axes.legend()
    return figure


def test_names_are_short_one_line_and_distinct() -> None:
    long = "a very long class name that goes on and on"
    shown = figure_names([long, long, "two\nlines", "", "ok"])
    assert len(set(shown)) == 5
    assert all(len(name) <= 24 and "\n" not in name for name in shown)
    assert shown[2] == "two lines"
    assert shown[3] == "class 3"


def test_undrawable_names_become_numbers_without_a_warning(tmp_path: Path) -> None:
    name = "\U000f0000"  # private use: no font has it
    assert not can_draw(name)
    assert figure_names(["a", name]) == ("a", "class 1")
    values = [Interval(0.9, 0.8, 0.95), Interval(0.7, 0.5, 0.8)]
    save_figure(plot_per_class(values, ["a", name], [10, 12]), tmp_path / "f", "alt")


def test_dollars_are_not_formulas(tmp_path: Path) -> None:
    svg = save_figure(figure_with("a$b$c"), tmp_path / "f", "alt")
    assert "a$b$c" in svg


def test_saved_figures_carry_their_alt_text_and_are_the_same_twice(tmp_path: Path) -> None:
    alt = 'Class "<b>" & more'
    first = save_figure(figure_with("one"), tmp_path / "f", alt)
    second = save_figure(figure_with("one"), tmp_path / "g", alt)
    assert first == second
    assert (tmp_path / "f.svg").read_text(encoding="utf-8") == first
    root = ElementTree.fromstring(first)
    assert root.attrib["aria-label"] == alt
    assert root.attrib["role"] == "img"
    with Image.open(tmp_path / "f.png") as image:
        assert image.text["Description"] == alt  # type: ignore[attr-defined]
    assert read_alt(first) == 'Class "&lt;b&gt;" &amp; more'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.png", "f.svg", "g.png", "g.svg"]


def test_inline_svg_is_prefixed_themed_and_well_formed(tmp_path: Path) -> None:
    svg = save_figure(figure_with("one"), tmp_path / "f", "alt")
    body = inline_svg(svg, "fig-x")
    root = ElementTree.fromstring(body)
    ids = {node.attrib["id"] for node in root.iter() if "id" in node.attrib}
    assert ids
    assert all(name.startswith("fig-x-") for name in ids)
    targets = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', body))
    assert targets <= ids
    assert SERIES[0] not in body
    assert "var(--s0)" in body
    assert "<style" not in body
    assert "<title" not in body


def luminance(code: str) -> float:
    channels = np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_keeps_wcag_aa_contrast(theme: str) -> None:
    css = (Path(scanwise.report.__file__).parent / "templates" / "page.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark", 1)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light.split("* {")[0]))
    if theme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", dark.split("* {")[0]))
    for text in ("ink", "muted", "accent"):
        for ground in ("paper", "card"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text in ("warn", "bad", "accent"):
        assert contrast(colours[text], colours[f"{text}-soft"]) >= 4.5, text
    assert contrast(colours["fig-ink"], colours["card"]) >= 4.5
    assert contrast(colours["fig-muted"], colours["card"]) >= 4.5
    for series in ("s0", "s1", "s2"):  # lines and marks: 3 to 1
        assert contrast(colours[series], colours["card"]) >= 3, series
