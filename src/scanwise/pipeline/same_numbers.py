"""Do two runs have the same numbers? Metrics, epochs, probabilities and weights, one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.errors import RunError
from scanwise.core.files import sha256_file
from scanwise.core.types import SPLIT_NAMES, Interval
from scanwise.metrics.predictions import read_predictions
from scanwise.pipeline.runs import Run

# Of an epoch; how long it took is no result.
EPOCH_COLUMNS = (
    "loss", "accuracy", "val_loss", "val_accuracy", "val_auc", "val_balanced_acc", "lr",
)  # fmt: skip
MISSING = math.inf  # the difference to a number that is not there


@dataclass(frozen=True)
class Check:
    """One number of the first run beside that of the second."""

    name: str
    was: str
    now: str
    difference: float  # largest absolute one; infinite where one of the two is missing
    matches: bool

    def to_json(self) -> dict[str, Any]:
        finite = math.isfinite(self.difference)
        return {
            "name": self.name,
            "was": self.was,
            "now": self.now,
            "max_abs_difference": self.difference if finite else None,
            "match": self.matches,
        }


def threads_of(path: Path) -> int | None:
    """CPU threads that a run computed with, by its env.json; sums depend on them.

    Raises:
        RunError: If there is no run.
    """
    run = Run.open(path)
    if not (run.path / "env.json").is_file():
        return None
    threads = run.read_json("env.json", "").get("tuning", {}).get("threads", {}).get("value")
    return threads if isinstance(threads, int) and threads > 0 else None


def compare_numbers(first: Run, second: Run, tolerance: float) -> tuple[Check, ...]:
    """Every check of two finished runs on one split.

    Args:
        first, second: The runs.
        tolerance: Largest absolute difference that counts as a match; 0 is bit for bit. Counts
            (epochs, changed classes) must be equal all the same.

    Raises:
        RunError: If a file of a run is missing or can't be read.
    """
    return (
        *_metrics(first.metrics, second.metrics, tolerance),
        *_training(first, second, tolerance),
        *_predictions(first, second, tolerance),
        _weights(first, second, tolerance),
    )


def _check(name: str, said: Sequence[str], difference: float, tolerance: float) -> Check:
    was, now = said
    return Check(name, was, now, difference, difference <= tolerance)


def _metrics(
    first: Mapping[str, Any], second: Mapping[str, Any], tolerance: float
) -> Iterator[Check]:
    """Each number with an interval, then all other numbers of the split in one line."""
    for split in SPLIT_NAMES:
        was, now = first["splits"].get(split), second["splits"].get(split)
        if was is None or now is None:
            if was is not now:
                words = [
                    "not measured" if part is None else f"n = {part['n']:,}" for part in (was, now)
                ]
                yield _check(f"{split} metrics", words, MISSING, tolerance)
            continue
        named = [key for key, entry in was.items() if _is_score(entry)]
        for key in named:
            difference = max_difference(was[key], now.get(key))
            words = [_score_text(part.get(key)) for part in (was, now)]
            yield _check(f"{split} {key}", words, difference, tolerance)
        rest = [{k: v for k, v in part.items() if k not in named} for part in (was, now)]
        yield _leaves(f"{split} all other numbers", rest[0], rest[1], tolerance)
    rest = [
        {key: part.get(key) for key in ("baselines", "calibration", "clean_splits")}
        for part in (first, second)
    ]
    yield _leaves("baselines and calibration", rest[0], rest[1], tolerance)


def _is_score(entry: Any) -> bool:
    return isinstance(entry, dict) and "value" in entry and "ci95" in entry


def _score_text(entry: Any) -> str:
    return str(Interval.from_json(entry)) if isinstance(entry, dict) else "missing"


def _leaves(name: str, was: Any, now: Any, tolerance: float) -> Check:
    difference = max_difference(was, now)
    sizes = [f"{sum(1 for _ in _numbers(part))} numbers" for part in (was, now)]
    return _check(name, sizes, difference, tolerance)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def max_difference(was: Any, now: Any) -> float:
    """Largest absolute difference of the numbers in two JSON values.

    Infinite where one has what the other lacks, or a word differs; reasons, which repeat numbers in
    words, are left out.

    >>> max_difference({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]})
    0.5
    """
    if isinstance(was, dict) and isinstance(now, dict):
        if was.keys() != now.keys():
            return MISSING
        keys = [key for key in was if not key.endswith(("reason", "note"))]
        return max((max_difference(was[key], now[key]) for key in keys), default=0.0)
    if isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            return MISSING
        return max((max_difference(*pair) for pair in zip(was, now, strict=True)), default=0.0)
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (was, now)]
    if all(numbers):
        return abs(float(was) - float(now))
    return 0.0 if was == now else MISSING


def _training(first: Run, second: Run, tolerance: float) -> Iterator[Check]:
    """Epochs, one line a column; of a head that is fitted in one go its one record."""
    was, now = (run.read_json("training.json", "it was interrupted") for run in (first, second))
    for key in ("epochs_run", "best_epoch"):
        gap = abs(was[key] - now[key])
        yield Check(key.replace("_", " "), str(was[key]), str(now[key]), float(gap), gap == 0)
    if was["fitted"] is not None and now["fitted"] is not None:
        rows = [{key: part["fitted"][key] for key in EPOCH_COLUMNS} for part in (was, now)]
        yield _leaves("fitted head: loss and accuracy", rows[0], rows[1], tolerance)
    for name in _histories(first):
        yield from _epochs(name, first.path / name, second.path / name, tolerance)


def _histories(run: Run) -> list[str]:
    """history.csv, and those of the stages of fine-tuning."""
    stages = sorted(run.path.glob("finetune-*/history.csv"))
    found = [file.relative_to(run.path).as_posix() for file in stages]
    return (["history.csv"] if (run.path / "history.csv").is_file() else []) + found


def _epochs(name: str, was_file: Path, now_file: Path, tolerance: float) -> Iterator[Check]:
    from scanwise.training.history import read_history

    if not now_file.is_file():
        yield Check(name, "written", "missing", MISSING, False)
        return
    was, now = read_history(was_file), read_history(now_file)
    title = name.removesuffix("history.csv") + "every epoch's"
    for column in EPOCH_COLUMNS:
        values = [[epoch.to_json()[column] for epoch in part] for part in (was, now)]
        difference = max_difference(values[0], values[1])
        counts = [f"{len(part)} epochs" for part in (was, now)]
        yield _check(f"{title} {column}", counts, difference, tolerance)


def _predictions(first: Run, second: Run, tolerance: float) -> Iterator[Check]:
    """For each split: the largest difference of a probability, and how many classes changed."""
    was, now = (read_predictions(run.path / "predictions.csv") for run in (first, second))
    for split in SPLIT_NAMES:
        if split not in was.split or split not in now.split:
            continue
        one, two = was.of_split(split), now.of_split(split)
        n = f"n = {len(one):,}", f"n = {len(two):,}"
        if one.sample != two.sample or one.class_names != two.class_names:
            yield Check(f"{split} predictions", *n, MISSING, False)
            continue
        difference = float(np.abs(one.probabilities - two.probabilities).max())
        yield Check(f"{split} probabilities", *n, difference, difference <= tolerance)
        changed = int((one.predicted != two.predicted).reshape(len(one), -1).any(axis=1).sum())
        yield Check(
            f"{split} predicted classes changed", "", str(changed), float(changed), not changed
        )


def _weights(first: Run, second: Run, tolerance: float) -> Check:
    """The weights of both bundles."""
    files = [run.bundle / "model.safetensors" for run in (first, second)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise RunError(f"{missing[0]} is missing; copy the whole run folder.")
    hashes = [sha256_file(file)[:12] for file in files]
    difference = 0.0 if hashes[0] == hashes[1] else _tensor_difference(files)
    return Check("weights (SHA-256)", hashes[0], hashes[1], difference, difference <= tolerance)


def _tensor_difference(files: Sequence[Path]) -> float:
    from safetensors.numpy import load_file

    was, now = (load_file(file) for file in files)
    if {k: v.shape for k, v in was.items()} != {k: v.shape for k, v in now.items()}:
        return MISSING
    gaps = (
        np.abs(was[key].astype(np.float64) - now[key].astype(np.float64)).max()
        for key in was
        if was[key].size
    )
    return float(max(gaps, default=0.0))
