"""Tables of text: CSV and TSV files as spreadsheets write them."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scanwise.core.errors import DataError

MAX_LISTED = 20


@dataclass(frozen=True)
class Table:
    """Cells by column, all stripped; `lines` are the line numbers in the file."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def cells(self, column: str) -> tuple[str, ...]:
        at = self.columns.index(column)
        return tuple(row[at] for row in self.rows)


def plain_header(path: Path, cells: Sequence[str]) -> list[str]:
    """Column names as they are written."""
    del path
    return [cell.strip() for cell in cells]


def read_table(path: Path, names: Callable[[Path, Sequence[str]], list[str]]) -> Table:
    """Read a table of text.

    Args:
        path: The .csv (comma, semicolon or tab) or .tsv file, UTF-8 or UTF-16 with a mark.
        names: Column names of the header's cells; raises where the header is not usable.

    Raises:
        DataError: If the file can't be read, has no rows, rows of another length, or columns of
            the same name.
    """
    text = _read_text(path)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True
    )
    rows, lines, short = [], [], []
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _distinct(path, names(path, cells))
            elif len(cells) != len(header):
                short.append(f"line {reader.line_num}: {len(cells)} cells")
            else:
                rows.append(tuple(unicodedata.normalize("NFC", cell.strip()) for cell in cells))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error
    if header is None or not (rows or short):
        raise DataError(
            f"{path} lists no images; it needs a header line (path,label …) and more lines."
        )
    if short:
        raise DataError(
            f"{path}: the header has {len(header)} columns, but {len(short)} lines differ: "
            f"{'; '.join(short[:MAX_LISTED])}. Quote cells that contain the separator."
        )
    return Table(path, tuple(header), tuple(rows), tuple(lines))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}.") from error
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); save it as 'CSV UTF-8'."
        ) from error
    if "\0" in text:
        raise DataError(f"{path} is not a text file (it contains zero bytes).")
    return text


def _delimiter(path: Path, text: str) -> str:
    """The separator that the header uses most; a tab in .tsv files."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=first.count)


def _distinct(path: Path, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} has columns of the same name: {', '.join(map(repr, twice))}.")
    return names
