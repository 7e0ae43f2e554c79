"""What the temperature did to the probabilities of a split: before and after, with intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scanwise.metrics.calibration import NUM_BINS, raw_probabilities
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import (
    NUM_RESAMPLES,
    group_numbers,
    logit_interval,
    percentile_interval,
    resample_weights,
)
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.resampled import Scored, prepare

QUALITIES = ("ece", "brier", "cross_entropy_loss")


def calibration_effect(
    predictions: Predictions,
    temperature: float,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Calibration error, Brier score and log-loss of one split before and after its temperature.

    Args:
        predictions: Of one split, calibrated; what they were before is computed back.
        temperature: That was applied.
        seed: Of the bootstrap, the same resamples for before and after.
        num_resamples: Of the bootstrap.

    Returns:
        n, `accuracy` before and after (exact match for labels) and `decisions_changed`, which is 0
        unless a tie was broken; and of each quality {"before": …, "after": …} with intervals.
    """
    groups = group_numbers(predictions.groups)
    raw = raw_probabilities(predictions.probabilities, temperature, predictions.task)
    sides = {"before": raw, "after": predictions.probabilities}
    scored = {
        side: prepare(given, predictions.targets, predictions.task) for side, given in sides.items()
    }
    found: dict[str, Any] = {
        "n": len(predictions),
        "accuracy": {side: _accuracy(one) for side, one in scored.items()},
        "decisions_changed": int((scored["before"].predicted != scored["after"].predicted).sum()),
        **{name: {} for name in QUALITIES},
    }
    for side, one in scored.items():
        for name, interval in _intervals(one, groups, num_resamples, seed).items():
            found[name][side] = interval
    return found


def _accuracy(scored: Scored) -> float:
    right = scored.predicted == scored.targets
    return float(right.reshape(len(right), -1).all(axis=1).mean())


def _intervals(
    scored: Scored, groups: Ints | None, num_resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    n = len(scored.targets)
    strata = np.zeros(n, dtype=np.int64) if scored.task == "multilabel" else scored.targets
    draws = np.concatenate(
        [_qualities(scored, w) for w in resample_weights(strata, groups, num_resamples, seed)],
        axis=1,
    )
    values = _qualities(scored, np.ones((n, 1)))[:, 0]
    units, noun = (n, "n") if groups is None else (len(np.unique(groups)), "groups")
    found = {}
    for row, name in enumerate(QUALITIES):
        value, drawn = float(values[row]), draws[row]
        if name == "brier":
            highest = 1.0 if scored.task == "multilabel" else 2.0
            interval = logit_interval(value, drawn, units=units, noun=noun, highest=highest)
        else:
            top, ece = (1.0, True) if name == "ece" else (math.inf, False)
            interval = percentile_interval(
                value, drawn, units=units, noun=noun, highest=top, recentre=ece
            )
        found[name] = interval.to_json()
    return found


def _qualities(scored: Scored, weights: Floats) -> Floats:
    """ECE (of NUM_BINS bins), Brier score and log-loss under r weightings of the images, (3, r)."""
    total = weights.sum(axis=0)
    gaps = np.abs(np.asarray(scored.gaps @ weights))
    assert gaps.shape[0] == NUM_BINS
    return np.stack(
        [
            gaps.sum(axis=0) / (total * scored.decisions),
            scored.brier @ weights / total,
            scored.cross_entropy @ weights / total,
        ]
    )
