"""The log of a service's answers: one JSON line an image, with neither pixels nor names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.errors import DataError
from scanwise.deploy.answers import Answer
from scanwise.metrics.inputs import Floats


def answer_line(
    answer: Answer, *, time: str, request_id: str, model: str, sha256: str
) -> dict[str, Any]:
    """One line of the log.

    Args:
        answer: To an image that could be read.
        time: ISO 8601, UTC.
        request_id: What feedback refers to.
        model: Its name in the service.
        sha256: Of the bundle's list of hashes.
    """
    score = answer.unknown_score
    return {
        "time": time,
        "request_id": request_id,
        "model": model,
        "sha256": sha256,
        "predicted": answer.predicted,
        "decision": answer.decision,
        "probabilities": dict(answer.probabilities),
        "in_distribution": answer.in_distribution,
        "unknown_score": None if score is None or not math.isfinite(score) else score,
    }


@dataclass(frozen=True, eq=False)
class Served:
    """Answers of one model out of logs, in order; n of them."""

    times: tuple[str, ...]
    probabilities: Floats  # (n, k)
    unknown_scores: Floats  # (n,), NaN where not known
    other_models: int  # lines of other models, left out
    cut_lines: int  # last lines that a crash cut off, left out

    def __len__(self) -> int:
        return len(self.times)


def read_log(
    paths: Sequence[Path], class_names: Sequence[str], sha256: str, *, any_version: bool = False
) -> Served:
    """Read the lines of one model.

    Args:
        paths: The logs.
        class_names: Of the model, in its order.
        sha256: Of its bundle's list of hashes.
        any_version: Take lines of other bundles too, where their classes are the same.

    Raises:
        DataError: A file can't be read, or a line (named) is none of ours.
    """
    times, rows, scores = [], [], []
    others = cut = 0
    for path in paths:
        lines, torn = _lines(path)
        cut += torn
        for number, line in lines:
            entry = _entry(path, number, line)
            same_classes = set(entry["probabilities"]) == set(class_names)
            if not same_classes or (entry["sha256"] != sha256 and not any_version):
                others += 1
                continue
            times.append(str(entry["time"]))
            rows.append([float(entry["probabilities"][name]) for name in class_names])
            score = entry["unknown_score"]
            scores.append(math.nan if score is None else float(score))
    probabilities = np.array(rows, np.float64).reshape(len(rows), len(class_names))
    return Served(tuple(times), probabilities, np.array(scores, np.float64), others, cut)


def _lines(path: Path) -> tuple[list[tuple[int, str]], int]:
    """Numbered lines that are not empty, and whether a cut last one was left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read the log {path}: {error}.") from error
    *whole, last = text.split("\n")
    numbered = [(number, line) for number, line in enumerate(whole, start=1) if line.strip()]
    return numbered, int(bool(last.strip()))


def _entry(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
        probabilities = [float(value) for value in entry["probabilities"].values()]
        if not all(0 <= value <= 1 for value in probabilities):
            raise ValueError("a probability is not in [0, 1]")
        for key in ("time", "sha256", "unknown_score"):
            entry[key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} line {number} is no line of `scanwise serve --log`: {error!r}."
        ) from error
    return dict(entry)
