"""What a finished prediction says in a few lines: counts, errors, unknown images, speed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanwise.core.types import Interval, Task
from scanwise.metrics.intervals import wilson_interval
from scanwise.pipeline.answer_rows import LABELS, YES, Said
from scanwise.pipeline.sort_into import Sorted
from scanwise.pipeline.tables import aligned
from scanwise.training.progress import duration


@dataclass
class Tally:
    """Counts rows as they come; holds no row."""

    class_names: tuple[str, ...]
    task: Task
    n: int = 0  # inputs
    errors: int = 0
    first_error: str = ""
    unlike: int = 0
    judged: int = 0  # for which it is known whether they are like the training images
    predicted: list[int] = field(default_factory=list)
    probability_sums: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.predicted = [0] * len(self.class_names)
        self.probability_sums = [0.0] * len(self.class_names)

    def add(self, row: Said) -> None:
        self.n += 1
        if not row.ok:
            self.errors += 1
            self.first_error = self.first_error or row.reason
            return
        names = row.predicted.split(LABELS) if self.task == "multilabel" else [row.predicted]
        for index, (name, value) in enumerate(
            zip(self.class_names, row.probabilities, strict=True)
        ):
            self.predicted[index] += name in names
            self.probability_sums[index] += value
        self.judged += row.in_dist != YES[None]
        self.unlike += row.in_dist == YES[False]

    @property
    def ok(self) -> int:
        return self.n - self.errors

    @property
    def share_unlike(self) -> Interval:
        return wilson_interval(self.unlike, self.judged)

    def mean_probability(self, index: int) -> float | None:
        return self.probability_sums[index] / self.ok if self.ok else None


@dataclass(frozen=True)
class Summary:
    """A finished prediction."""

    model: Path
    output: str
    tally: Tally
    engine: str  # and why
    answered: int  # by this process
    seconds: float
    sorted_files: Sorted | None
    given: Sequence[str] = ()

    @property
    def images_per_s(self) -> float:
        return self.answered / max(self.seconds, 1e-9)

    def text(self) -> str:
        """What the terminal shows."""
        tally = self.tally
        rows = [("class", "predicted", "mean probability")]
        for index, name in enumerate(tally.class_names):
            mean = tally.mean_probability(index)
            said = "-" if mean is None else f"{mean:.3f}"
            rows.append((name, f"{tally.predicted[index]:,}", said))
        errors = f"{tally.errors:,} error{'' if tally.errors == 1 else 's'}"
        lines = [f"{self.output}: {tally.ok:,} of {tally.n:,} answered, {errors}", aligned(rows)]
        if tally.first_error:
            lines.append(f"first error: {tally.first_error}; the column 'reason' has all")
        if tally.judged:
            lines.append(
                f"unlike the training images: {tally.unlike:,}, share {tally.share_unlike} "
                f"(n={tally.judged:,}; about 0.05 is usual)"
            )
        elif tally.ok:
            lines.append("unlike the training images: not known (the model has no reference)")
        if self.sorted_files is not None:
            lines.append(self.sorted_files.text())
        lines.append(
            f"{duration(self.seconds)}, {self.images_per_s:,.1f} images/s; network by {self.engine}"
        )
        return "\n".join([*lines, self._next()] if tally.ok else lines)

    def _next(self) -> str:
        if "@-" not in self.given and (self.model / "predictions.csv").is_file():
            command = shlex.join(["scanwise", "counts", str(self.model), *self.given])
            return f"counts corrected for the model's known mistakes: {command}"
        return (
            "counts corrected for the model's known mistakes need its run folder: "
            "scanwise counts RUN PATHS"
        )

    def to_json(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "schema": 1,
            "model": str(self.model),
            "output": self.output,
            "n": tally.n,
            "ok": tally.ok,
            "errors": tally.errors,
            "classes": {
                name: {
                    "predicted": tally.predicted[index],
                    "mean_probability": tally.mean_probability(index),
                }
                for index, name in enumerate(tally.class_names)
            },
            "unlike_training": {"n": tally.judged, **tally.share_unlike.to_json()},
            "sorted": None if self.sorted_files is None else self.sorted_files.to_json(),
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.images_per_s, 3),
            "engine": self.engine,
            "next": self._next(),
        }
