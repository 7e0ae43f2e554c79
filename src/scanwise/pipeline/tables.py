"""Plain-text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from scanwise.core.types import Dataset, Split


def class_table(dataset: Dataset, split: Split) -> str:
    """Index and name of each class, and its images by split."""
    rows = [("class", "train", "val", "test", "share")]
    digits = len(str(dataset.num_classes - 1))
    totals = dataset.class_counts()
    columns = [dataset.class_counts(part) for part in (split.train, split.val, split.test)]
    for index, name in enumerate(dataset.class_names):
        train, val, test = (f"{int(column[index]):,}" for column in columns)
        rows.append(
            (
                f"{index:>{digits}} {name}",
                train,
                val,
                test,
                f"{totals[index] / max(len(dataset), 1):.1%}",
            )
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        others = (f"  {cell.rjust(width)}" for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  " + row[0].ljust(widths[0]) + "".join(others))
    return "\n".join(lines)
