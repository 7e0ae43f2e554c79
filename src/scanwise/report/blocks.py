"""What a page is made of; the HTML and the Markdown template both draw these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from scanwise.core.types import Finding, Interval
from scanwise.report.advice import Recommendation


@dataclass(frozen=True)
class Paragraph:
    text: str
    kind: str = "paragraph"


@dataclass(frozen=True)
class FactList:
    """Names and values in two columns."""

    items: tuple[tuple[str, str], ...]
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """Cells are text already; `folded` tables start closed on the HTML page."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    folded: bool = False
    words: bool = False  # columns hold words, not numbers: no right alignment
    stacked: bool = False  # intervals stand below their values, for tables of many columns
    faded: tuple[int, ...] = ()  # rows that are shown in grey: too few images to be ranked
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A figure of the plots folder, its SVG ready to stand in a page."""

    name: str
    path: str  # relative to the page, without suffix
    alt: str
    caption: str
    svg: Markup
    wide: bool = False


@dataclass(frozen=True)
class Pictures:
    items: tuple[Picture, ...]
    kind: str = "pictures"


@dataclass(frozen=True)
class Findings:
    items: tuple[Finding, ...]
    empty: str = "Nothing found."
    kind: str = "findings"


@dataclass(frozen=True)
class Steps:
    items: tuple[Recommendation, ...]
    kind: str = "steps"


@dataclass(frozen=True)
class Command:
    """A command line to copy."""

    text: str
    kind: str = "command"


@dataclass(frozen=True)
class Link:
    text: str
    href: str
    kind: str = "link"


@dataclass(frozen=True)
class Tile:
    """A thumbnail with up to three lines below."""

    uri: Markup
    alt: str
    lines: tuple[str, ...]
    small: bool = True


@dataclass(frozen=True)
class Tiles:
    """Thumbnails in groups that belong together (the images of a duplicate)."""

    caption: str
    groups: tuple[tuple[Tile, ...], ...]
    kind: str = "tiles"

    @property
    def several(self) -> bool:
        """Does any group hold more than one image?"""
        return any(len(group) > 1 for group in self.groups)


@dataclass(frozen=True)
class Card:
    """A headline number with its interval, and the trivial answer beside it."""

    title: str
    value: Interval
    trivial: float | None
    trivial_words: str
    n: int
    split: str
    clean: Interval | None = None  # the same on the part of test that shares nothing with train

    @property
    def above(self) -> bool:
        """Is the whole interval above the trivial answer?"""
        low = self.value.low if self.value.low is not None else self.value.value
        return low is not None and self.trivial is not None and low > self.trivial


@dataclass(frozen=True)
class Banner:
    """A line above everything: level is "stop", "warn" or "note"."""

    level: str
    title: str
    text: str


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Any, ...]


@dataclass(frozen=True)
class Page:
    """One whole page: banners, headline, cards, sections."""

    title: str
    subtitle: str
    level: str  # colours the headline: "ok", "bad", "unsure"
    headline: str
    sentence: str
    banners: tuple[Banner, ...] = ()
    cards: tuple[Card, ...] = ()
    sections: tuple[Section, ...] = ()
    chips: tuple[str, ...] = field(default=())


def without_nothing(blocks: Sequence[Any]) -> tuple[Any, ...]:
    """Blocks without the None and empty ones, so that callers can write conditions inline."""
    return tuple(block for block in blocks if block is not None and getattr(block, "items", True))
