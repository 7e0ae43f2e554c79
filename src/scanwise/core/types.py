"""The values that travel from floor to floor: frozen, checked when built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError

Task = Literal["multiclass", "multilabel", "ordinal"]
SplitName = Literal["train", "val", "test"]
Severity = Literal["info", "warning", "error"]

SPLIT_NAMES: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, or the reason why there is none.

    `value` is None when the quantity can't be evaluated; then `reason` says why. `low` and `high`
    are None when only the point is known (too few images, say), again with a `reason`. Beside a
    whole interval `reason` is a caution ("too few to conclude").
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The contract of metrics.json: {"value", "ci95"} or {"value": null, "reason"}."""
        if self.value is None:
            return {"value": None, "reason": self.reason or "not measured"}
        if self.low is None or self.high is None:
            return {"value": self.value, "ci95": None, "reason": self.reason or "no interval"}
        note = {"note": self.reason} if self.reason else {}
        return {"value": self.value, "ci95": [self.low, self.high], **note}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Interval:
        """The inverse of `to_json`."""
        low, high = entry.get("ci95") or (None, None)
        return cls(entry["value"], low, high, entry.get("reason") or entry.get("note"))

    def __str__(self) -> str:
        if self.value is None:
            return f"not evaluable ({self.reason})" if self.reason else "not evaluable"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def signed(self) -> str:
        """A difference with its sign: '+0.021 [-0.004, +0.047]'; without an interval as `str`."""
        if self.value is None or self.low is None or self.high is None:
            return str(self)
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Finding:
    """One thing found in the data or the run: what, how bad, the evidence, what to do.

    `command` is a whole command line, or from the lower floors verb and flags ("train --no-flip"),
    which `core.commands` completes with the user's data and flags.
    """

    code: str
    severity: Severity
    evidence: str
    advice: str = ""
    command: str = ""

    def to_json(self) -> dict[str, str]:
        return {
            "code": self.code,
            "severity": self.severity,
            "evidence": self.evidence,
            "advice": self.advice,
            "command": self.command,
        }


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be decoded: its path as given, its class or '', and the reason."""

    path: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class Provenance:
    """Where a data set came from; the report repeats it.

    `kind` names the reader. `verified` is True when the bytes match the published hash, False when
    they were compared and differ, None when there is nothing to compare with.
    """

    source: str
    kind: Literal["medmnist", "npz", "folder", "split-folder", "manifest", "arrays", "demo"]
    licence: str | None = None
    citation: str | None = None
    url: str | None = None
    verified: bool | None = None
    synthetic: bool = False
    benchmark: str | None = None  # a MedMNIST flag ("dermamnist") where it is one
    files: bool = False  # pixels were decoded from image files (so `fit` and `size_px` applied)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images in memory (or memory-mapped) with everything that must stay aligned to them.

    All row-wise fields have the same length n. `images` may be a read-only memory map: index it,
    never copy it whole.
    """

    name: str  # short slug for folder names: "pneumoniamnist", "bccd_287", "cells"
    images: NDArray[Any]  # (n, h, w, c); uint8, or uint16/float32 where the depth matters
    targets: NDArray[np.int64]  # (n,) in [0, k); multi-label: (n, k) of 0 and 1
    class_names: tuple[str, ...]  # k names, index order
    sample_ids: tuple[str, ...]  # n names: relative path as given, or "name#row" for arrays
    sha256: tuple[str, ...]  # n hex digests: of the file's bytes, or of the row's pixels
    task: Task = "multiclass"
    groups: tuple[str, ...] | None = None  # patient, slide, lesion; a split never cuts one
    given_split: NDArray[np.str_] | None = None  # (n,) "train" | "val" | "test", as delivered
    split_origin: Literal["official", "user"] | None = None  # who made given_split
    weights: NDArray[np.float32] | None = None  # (n,) loss weights from a manifest
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column -> n cells
    original_sizes: NDArray[np.int64] | None = None  # (n, 2) height, width in px before resizing
    paths: tuple[str, ...] | None = None  # n absolute paths where rows are files
    unreadable: tuple[Unreadable, ...] = ()
    notes: tuple[Finding, ...] = ()  # what the reader saw: junk ignored, alpha composited, ...
    provenance: Provenance = Provenance(source="arrays", kind="arrays")

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4:
            raise DataError(f"{self.name}: images must be (n, h, w, c), got {self.images.shape}.")
        expected = (n, self.num_classes) if self.task == "multilabel" else (n,)
        if self.targets.shape != expected:
            raise DataError(
                f"{self.name}: targets have shape {self.targets.shape}, {expected} expected "
                f"for {self.task}."
            )
        for label, column in (
            ("sample_ids", self.sample_ids),
            ("sha256", self.sha256),
            ("groups", self.groups),
            ("given_split", self.given_split),
            ("weights", self.weights),
            ("paths", self.paths),
            *((f"metadata '{key}'", cells) for key, cells in self.metadata.items()),
        ):
            if column is not None and len(column) != n:
                raise DataError(f"{self.name}: {label} has {len(column)} rows, images {n}.")
        if n and self.task != "multilabel":
            low, high = int(self.targets.min()), int(self.targets.max())
            if low < 0 or high >= self.num_classes:
                raise DataError(
                    f"{self.name}: targets lie in [{low}, {high}], but there are "
                    f"{self.num_classes} classes."
                )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return int(self.images.shape[3])

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the stored images."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    def class_counts(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Images of each class (positives of each label) among `rows`, int (k,)."""
        targets = self.targets if rows is None else self.targets[rows]
        if self.task == "multilabel":
            return np.asarray(targets.sum(axis=0), dtype=np.int64)
        return np.bincount(targets, minlength=self.num_classes).astype(np.int64)

    def with_groups(self, groups: tuple[str, ...]) -> Dataset:
        return replace(self, groups=groups)


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of a data set by split; disjoint, each sorted, together all rows used."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    origin: Literal["official", "user", "random", "group", "file"]
    seed: int | None = None
    sha256: str = ""  # of the splits.csv text
    note: str = ""  # how it was made, in words for the report

    def rows(self, name: SplitName) -> NDArray[np.int64]:
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def finite_or_none(value: float) -> float | None:
    """None for NaN and infinities, which JSON can't carry."""
    return value if math.isfinite(value) else None
