"""Tables of the docs that a benchmark writes: what stands between two marks of a page."""

from __future__ import annotations

from pathlib import Path

from scanwise.core.files import write_text


def write_between(page: Path, start: str, end: str, text: str) -> None:
    """Replace what stands between two lines of a page; ValueError where one is missing."""
    before, rest = page.read_text(encoding="utf-8").split(start, 1)
    _, after = rest.split(end, 1)
    write_text(page, f"{before}{start}\n{text}\n{end}{after}")
