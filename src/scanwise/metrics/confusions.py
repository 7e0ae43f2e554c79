"""Which classes are taken for which, what that costs, and which class to mend first."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanwise.core.types import Interval
from scanwise.metrics.counts import confusion_matrix
from scanwise.metrics.intervals import group_numbers
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.shares import share_interval

MAX_PAIRS = 30  # of which an interval is computed, most frequent first


def confusions_document(predictions: Predictions) -> dict[str, Any]:
    """What goes wrong on one split, JSON-ready; every share with n and a 95 % interval.

    Args:
        predictions: Rows of one split; with groups where there are any.

    Returns:
        `n`, `mistakes`; `classes`: of each class (label) its misses and false alarms; `pairs` (not
        for multi-label): which class was taken for which, most frequent first, with the recall
        that it costs; `fix_first`: the class (label) of which most is surely missed, or None.
    """
    many = predictions.task == "multilabel"
    targets, predicted = predictions.targets, predictions.predicted
    wrong = (targets != predicted).any(axis=1) if many else targets != predicted
    classes = [_class_entry(predictions, c) for c in range(len(predictions.class_names))]
    return {
        "task": predictions.task,
        "n": len(predictions),
        "mistakes": {
            "count": int(wrong.sum()),
            "share": share_interval(wrong, groups=group_numbers(predictions.groups)).to_json(),
        },
        "classes": classes,
        "pairs": None if many else _pairs(predictions),
        "fix_first": _fix_first(classes),
    }


def _class_entry(predictions: Predictions, c: int) -> dict[str, Any]:
    """Misses and false alarms of one class against the rest."""
    if predictions.task == "multilabel":
        there, said = predictions.targets[:, c] == 1, predictions.predicted[:, c] == 1
    else:
        there, said = predictions.targets == c, predictions.predicted == c
    return {
        "name": predictions.class_names[c],
        "n": int(there.sum()),
        "missed": int((there & ~said).sum()),
        "miss_rate": share_interval(~said, there, group_numbers(predictions.groups)).to_json(),
        "n_others": int((~there).sum()),
        "false_alarms": int((~there & said).sum()),
        "false_alarm_rate": share_interval(
            said, ~there, group_numbers(predictions.groups)
        ).to_json(),
    }


def _pairs(predictions: Predictions) -> list[dict[str, Any]]:
    names = predictions.class_names
    targets, predicted = predictions.targets, predictions.predicted
    matrix = confusion_matrix(targets, predicted, len(names))
    np.fill_diagonal(matrix, 0)
    found = [(int(matrix[a, b]), int(a), int(b)) for a, b in np.argwhere(matrix)]
    found.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    pairs: list[dict[str, Any]] = []
    for count, actual, said in found[:MAX_PAIRS]:
        there = targets == actual
        lost = share_interval(predicted == said, there, group_numbers(predictions.groups))
        pairs.append(
            {
                "actual": names[actual],
                "said": names[said],
                "count": count,
                "n_actual": int(there.sum()),
                "recall_lost": lost.to_json(),
            }
        )
    by_loss = sorted(range(len(pairs)), key=lambda i: -pairs[i]["recall_lost"]["value"])
    for rank, i in enumerate(by_loss, start=1):
        pairs[i]["rank_by_recall_lost"] = rank
    return pairs


def _fix_first(classes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The class with the highest lower bound of its miss rate: not one of three images by chance.

    None where nothing is missed.
    """
    best, highest = None, -1.0
    for entry in classes:
        low = Interval.from_json(entry["miss_rate"]).low
        if entry["missed"] and low is not None and low > highest:
            best, highest = entry, low
    if best is None:
        return None
    return {
        "class": best["name"],
        "criterion": "highest lower 95 % bound of the share of its images that is missed",
    }
