"""Further columns of a data set (sex, site, scanner, age) from a table beside it.

Rows are joined by a column `sample`, `path` or `file_name` (the sample's name as splits.csv has
it), else by `split` and `index`: the delivered split and the row in it, from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scanwise.core.errors import DataError
from scanwise.core.types import Dataset
from scanwise.data.assemble import SPLIT_ALIASES
from scanwise.data.tables import Table, plain_header, read_table

NAME_COLUMNS = ("sample", "path", "file_name")
PLACE_COLUMNS = ("split", "index")
ROW_NUMBER = "split_index"  # of arrays: where the row was, which is no property of the image
Place = tuple[str, int]  # delivered split, row in it


def with_metadata(dataset: Dataset, path: Path) -> Dataset:
    """The data set with the columns of a table; a column of the same name is replaced.

    Raises:
        DataError: As `read_metadata`.
    """
    places = None if dataset.given_split is None else number_places(dataset.given_split.tolist())
    found = read_metadata(path, dataset.sample_ids, places)
    return replace(dataset, metadata={**dataset.metadata, **found})


def number_places(splits: Sequence[str]) -> tuple[Place, ...]:
    """Split and running row number in it of images in delivered order.

    >>> number_places(["train", "test", "train"])
    (('train', 0), ('test', 0), ('train', 1))
    """
    seen: Counter[str] = Counter()
    places = []
    for split in splits:
        places.append((split, seen[split]))
        seen[split] += 1
    return tuple(places)


def read_metadata(
    path: Path, samples: Sequence[str], places: Sequence[Place] | None
) -> dict[str, tuple[str, ...]]:
    """Columns of a table, a cell for each image.

    Args:
        path: A .csv or .tsv file with a header.
        samples: Name of each image, as splits.csv has it.
        places: Delivered split of each image and its row there; None where there is none.

    Returns:
        Column name -> n cells, '' where a cell is empty; without the columns that were joined by.

    Raises:
        DataError: If the table can't be joined, has an image twice, or lacks one.
    """
    table = read_table(path, plain_header)
    by_name = next((name for name in NAME_COLUMNS if name in table.columns), None)
    if by_name is not None:
        used: tuple[str, ...] = (by_name,)
        keys: Sequence[object] = [cell.replace("\\", "/") for cell in table.cells(by_name)]
        wanted: Sequence[object] = samples
    else:
        used, keys, wanted = PLACE_COLUMNS, _place_keys(table, places), places or ()
    row_of = _rows_by_key(table, keys)
    missing = [key for key in wanted if key not in row_of]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing):,} of {len(wanted):,} images, first "
            f"{_said(missing[0])}; its column{'s' if len(used) > 1 else ''} {' and '.join(used)} "
            f"must name every image once, as in {_said(next(iter(row_of)))}. Leave cells empty "
            "where a value is not known."
        )
    columns = [name for name in table.columns if name not in used]
    if not columns:
        raise DataError(f"{path} has no column besides {' and '.join(used)}; nothing to join.")
    rows = [row_of[key] for key in wanted]
    cells = {name: table.cells(name) for name in columns}
    return {name: tuple(column[row] for row in rows) for name, column in cells.items()}


def _place_keys(table: Table, places: Sequence[Place] | None) -> list[Place]:
    """Split and index of each row of the table.

    Raises:
        DataError: If it has no such columns, the data no delivered split, or a cell is none.
    """
    if not set(PLACE_COLUMNS) <= set(table.columns):
        raise DataError(
            f"{table.path} can't be joined to the images: it needs a column 'path' (the sample as "
            "in splits.csv), or 'split' and 'index'; its columns are "
            f"{', '.join(map(repr, table.columns))}."
        )
    if places is None:
        raise DataError(
            f"{table.path} is joined by split and index, but these data came without a split; "
            "give a column 'path' with each sample's name."
        )
    found = []
    cells = zip(table.cells("split"), table.cells("index"), table.lines, strict=True)
    for split, index, line in cells:
        known = SPLIT_ALIASES.get(split.lower())
        if known is None or not index.isdecimal():
            raise DataError(
                f"{table.path}, line {line}: split '{split}', index '{index}'; train, val or test "
                "and a whole number from 0 are expected."
            )
        found.append((known, int(index)))
    return found


def _rows_by_key(table: Table, keys: Sequence[object]) -> dict[object, int]:
    row_of: dict[object, int] = {}
    for row, key in enumerate(keys):
        first = row_of.setdefault(key, row)
        if first != row:
            raise DataError(
                f"{table.path}, line {table.lines[row]}: {_said(key)} was in line "
                f"{table.lines[first]} already; one row an image is needed."
            )
    return row_of


def _said(key: object) -> str:
    return f"'{key}'" if isinstance(key, str) else "{} row {}".format(*key)  # type: ignore[misc]
