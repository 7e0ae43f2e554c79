"""Pages of images whose labels want a person: suspected ones, and ones to be labelled next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.files import write_text
from scanwise.report.blocks import (
    Banner,
    Command,
    FactList,
    Page,
    Paragraph,
    Section,
    Table,
    Tile,
    Tiles,
    without_nothing,
)
from scanwise.report.pages import NOT_A_DEVICE, png_uri, render
from scanwise.report.plots import to_display

MAX_TILES = 200
MAX_PAIRS = 15


@dataclass(frozen=True, eq=False)
class Suspect:
    """An image (h, w, c) whose label is suspected."""

    image: NDArray[Any]
    name: str
    given: str
    suggested: str
    score: float  # probability of the given label


@dataclass(frozen=True, eq=False)
class ToLabel:
    """An image (h, w, c) to be labelled."""

    image: NDArray[Any]
    name: str
    predicted: str
    uncertainty: float  # in [0, 1]


def write_suspects_page(
    path: Path,
    facts: Sequence[str],
    suspects: Sequence[Suspect],
    data: str,
    num_suspects: int,
    command: str,
) -> None:
    """suspects.html, self-contained: what was done, the images, and how to go on."""
    pairs = Counter((one.given, one.suggested) for one in suspects)
    table = Table(
        "Given and suggested labels of the listed images",
        ("Given", "Suggested", "Images"),
        tuple((a, b, str(count)) for (a, b), count in pairs.most_common(MAX_PAIRS)),
        words=True,
    )
    tiles = Tiles(
        f"Most suspicious first{_first(len(suspects))}. The number is the probability of the given "
        "label; low is suspicious:",
        tuple(
            (
                _tile(
                    one.image,
                    f"{one.name}: labelled {one.given}, suggested {one.suggested}",
                    (f"{one.given} → {one.suggested}?", f"score {one.score:.3f}", one.name),
                ),
            )
            for one in suspects[:MAX_TILES]
        ),
    )
    sections = (
        Section(
            "Suspected labels", (tiles if suspects else Paragraph("No label is contradicted."),)
        ),
        Section(
            "How they were found",
            without_nothing(
                [
                    *(Paragraph(_sentence(fact)) for fact in facts),
                    table if suspects else None,
                    Paragraph(
                        "A suspect is a question, not a finding: rare, odd and difficult images "
                        "are among them. Only a person who can read the image can answer it."
                    ),
                ]
            ),
        ),
        Section(
            "How to go on",
            (
                Paragraph(
                    "Write the right class into the column 'decision' of suspects.csv (also where "
                    "the given one is right; empty means undecided), save it as CSV, then:"
                ),
                Command(command),
            ),
        ),
    )
    page = Page(
        title="Suspected labels",
        subtitle=data,
        level="unsure" if suspects else "ok",
        headline=f"{len(suspects):,} labels to look at, {num_suspects:,} suspected",
        sentence="Models that never saw these images disagree with their labels. No label was "
        "changed.",
        banners=(Banner("note", "RESEARCH USE", NOT_A_DEVICE),),
        sections=sections,
    )
    write_text(path, render("page.html.j2", {"page": page}))


def write_to_label_page(
    path: Path,
    facts: Sequence[tuple[str, str]],
    images: Sequence[ToLabel],
    data: str,
    unreadable: Sequence[tuple[str, str]] = (),
) -> None:
    """to_label.html, self-contained: a contact sheet in the order of the list.

    Args:
        path: Where to write.
        facts: How they were chosen, names and values.
        images: The chosen ones.
        data: Name of the folder they are from.
        unreadable: Path and reason of the files that could not be read.
    """
    bad = Table("Files that can't be read", ("File", "Reason"), tuple(unreadable), words=True)
    tiles = Tiles(
        f"In the order of the list{_first(len(images))}. Uncertainty is 0 for a sure answer and 1 "
        "for none at all:",
        tuple(
            (
                _tile(
                    one.image,
                    f"{one.name}: the model says {one.predicted or 'nothing'}",
                    (
                        f"{number}. {one.predicted or 'none'}?",
                        f"uncertainty {one.uncertainty:.3f}",
                        one.name,
                    ),
                ),
            )
            for number, one in enumerate(images[:MAX_TILES], start=1)
        ),
    )
    page = Page(
        title="Images to label next",
        subtitle=data,
        level="unsure",
        headline=f"{len(images):,} images",
        sentence="The model is unsure of these, and they differ from each other.",
        banners=(Banner("note", "RESEARCH USE", NOT_A_DEVICE),),
        sections=(
            Section("Images", (tiles,)),
            Section(
                "How they were chosen",
                without_nothing([FactList(tuple(facts)), bad if unreadable else None]),
            ),
        ),
    )
    write_text(path, render("page.html.j2", {"page": page}))


def _first(number: int) -> str:
    return f" (the first {MAX_TILES} of {number:,})" if number > MAX_TILES else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _tile(image: NDArray[Any], alt: str, lines: tuple[str, ...]) -> Tile:
    shown = to_display(np.asarray(image)[None])[0]
    return Tile(png_uri(shown), alt, lines, small=max(shown.shape[:2]) < 100)
