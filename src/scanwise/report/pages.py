"""Templates, and the few ways in which values become text on a page."""

from __future__ import annotations

import base64
import functools
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from scanwise.core.types import Interval
from scanwise.report.plots import as_picture

NOT_A_DEVICE = (
    "Research software, not a medical device: not for diagnosis, treatment or clinical decisions."
)
THUMBNAIL_PX = 160


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template of this package. HTML ones escape all values; a missing value is an error."""
    return _environment(template.endswith(".html.j2")).get_template(template).render(context)


@functools.cache
def _environment(html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("scanwise.report"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        md=markdown_text,
        alt=alt_text,
        code=code_text,
        count=count_text,
        percent=percent_text,
        position=position_text,
        slug=slug,
        stack=stack_html,
        unbroken=unbroken_html,
    )
    environment.globals.update(not_a_device=NOT_A_DEVICE)
    return environment


def markdown_text(value: object) -> str:
    """Any text as literal Markdown: a class called '*a*|<b>' stays just that.

    Brackets stay as they are, so that intervals can be read and searched for in the file; what
    could make a link of them is escaped instead.
    """
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|$~]|^#|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"\]([(\[:])", r"]\\\1", text)


def alt_text(value: object) -> str:
    """Alt text of a Markdown image, where brackets must not end it."""
    return re.sub(r"([\[\]])", r"\\\1", markdown_text(value).replace("]\\", "]"))


def code_text(value: object) -> str:
    """A command in a Markdown code span or fence: one line, and no backtick that could close it."""
    return " ".join(str(value).split()).replace("`", "'")


def position_text(value: float) -> str:
    """A share as a CSS percentage within 0 and 100."""
    return f"{min(max(value, 0.0), 1.0) * 100:.2f}"


def count_text(value: object) -> str:
    """1234 as '1,234'; anything that is no number as it is, None as 'not measured'."""
    if value is None:
        return "not measured"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def percent_text(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def stack_html(cell: str) -> Markup:
    """'0.776 [0.749, 0.801]' with its interval (or reason) in an element of its own.

    Narrow screens and wide tables show it below the value.
    """
    found = re.fullmatch(r"(\S+) ([\[(].*)", cell, flags=re.DOTALL)
    if found is None:
        return escape(cell)
    return Markup("{} <small>{}</small>").format(*found.groups())


def unbroken_html(command: str) -> Markup:
    """A command whose short words are never cut at a hyphen when the line wraps."""
    words = [
        Markup("<span>{}</span>").format(word) if len(word) < 40 else escape(word)
        for word in command.split(" ")
    ]
    return Markup(" ").join(words)


def slug(text: str) -> str:
    """A heading as an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def interval_text(value: Interval) -> str:
    """'0.776 [0.749, 0.801]', or 'not measured' / 'not evaluable' with the reason."""
    if value.value is None:
        return value.reason if value.reason and value.reason.startswith("not ") else str(value)
    return str(value)


def seconds_text(seconds: float) -> str:
    """'14 s', '3 min 20 s', '1 h 04 min'"""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def png_uri(image: NDArray[np.uint8], most_px: int = THUMBNAIL_PX) -> Markup:
    """An image (h, w, c), uint8, as a data: address of a PNG no larger than `most_px`."""
    picture = Image.fromarray(np.ascontiguousarray(as_picture(image)))
    picture.thumbnail((most_px, most_px))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return Markup("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii"))
