"""Published results on MedMNIST, shipped as a table: facts of others, nothing measured here.

published_results.csv holds one value a row; published_sources.json says of each source how often
it trained, by which split it chose its checkpoint, and what to mind.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal


@dataclass(frozen=True)
class Source:
    """Where values were published, and how they came about."""

    title: str
    reference: str
    seeds: int | None  # trainings behind a value; None where the source does not say
    selected_on: str  # the split that chose the checkpoint
    protocol: str
    mark: str  # "‡": chosen on test, "‡?": not checked, "" else
    note: str


@dataclass(frozen=True)
class Published:
    """One published value."""

    source: str  # key of `published_sources`
    method: str
    dataset: str  # MedMNIST flag
    data_px: int | None  # side of the data that were used; None where the source does not say
    metric: Literal["ACC", "AUC"]  # as MedMNIST's evaluator computes them
    value: float  # in [0, 1], as rounded there
    sd: float | None  # over seeds
    note: str

    @property
    def is_comparable(self) -> bool:
        """False for values that can hardly be true."""
        return "not compared" not in self.note


@functools.cache
def published_sources() -> Mapping[str, Source]:
    """The sources by key."""
    text = _text("published_sources.json")
    return {key: Source(**entry) for key, entry in json.loads(text).items()}


@functools.cache
def published_results() -> tuple[Published, ...]:
    """Every published value, in the order of the table."""
    rows = csv.DictReader(_text("published_results.csv").splitlines())
    return tuple(
        Published(
            source=row["source"],
            method=row["method"],
            dataset=row["dataset"],
            data_px=int(row["data_px"]) if row["data_px"] else None,
            metric="ACC" if row["metric"] == "ACC" else "AUC",
            value=float(row["value"]),
            sd=float(row["sd"]) if row["sd"] else None,
            note=row["note"],
        )
        for row in rows
    )


def _text(name: str) -> str:
    return (resources.files("scanwise.data") / name).read_text(encoding="utf-8")
