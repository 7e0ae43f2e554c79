"""recommendations.json in the report: which recommendations were tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scanwise.core.types import Interval
from scanwise.report.blocks import Paragraph, Table


def tries_blocks(tries: Sequence[Mapping[str, Any]], path: str) -> tuple[Any, ...]:
    """A table of the tries, or how to make some."""
    if not tries:
        return (
            Paragraph(f"Tried: nothing yet. `scanwise recommend {path} --try 1` tries the first."),
        )
    first = tries[0]
    rows = tuple(
        (
            str(one["title"]),
            str(one["outcome"]),
            f"{one['metric']} {one['base_value']:.3f} to {one['try_value']:.3f}",
            Interval.from_json(one["difference"]).signed(),
            "not tested" if one["corrected_p"] is None else f"{one['corrected_p']:.3f}",
            str(one["run"]),
        )
        for one in tries
    )
    note = (
        f"On the same {first['n']:,} validation images; test was not opened. Paired difference, "
        f"try minus this run, with its 95 % interval; p after Holm's correction for "
        f"{first['num_comparisons']} comparison{'s' if first['num_comparisons'] > 1 else ''}. One "
        "seed: says nothing of training again."
    )
    titles = ("Recommendation", "Outcome", "Measured", "Difference [95 %]", "p", "Run")
    return (Table("Recommendations that were tried", titles, rows, note, words=True),)
