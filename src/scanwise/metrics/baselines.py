"""The network beside simple models on the same images: is its effort worth anything?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.paired import paired_gain
from scanwise.metrics.predictions import Predictions

KEPT = ("n", "accuracy", "balanced_accuracy", "auroc_macro")


def baseline_scores(network: Predictions, baseline: Predictions, split: str) -> dict[str, Any]:
    """What a baseline scores on a split, and what the network gains over it.

    Args:
        network: predictions.csv.
        baseline: The same images, in the same order.
        split: "val" or "test".

    Returns:
        `n`, `accuracy`, `balanced_accuracy` and `auroc_macro` of the baseline, each with its 95 %
        interval; `gain`, the network's accuracy minus the baseline's with a paired 95 % interval
        (multi-label: the share of right labels); `network_is` "better", "worse" or "not
        distinguishable", by whether that interval holds 0.

    Raises:
        DataError: If the two are not about the same images.
    """
    first, second = baseline.of_split(split), network.of_split(split)
    if first.sample != second.sample:
        raise DataError("the baseline's predictions are not of the same images in the same order.")
    found = evaluate_predictions(baseline, split)
    right = [right_by_image(part) for part in (first, second)]
    gain = paired_gain(right[0], right[1], strata_of(second), groups=second.groups)
    return {
        **{key: found[key] for key in KEPT},
        "gain": gain.to_json(),
        "network_is": compare_words(gain),
    }


def strata_of(part: Predictions) -> Ints:
    """What a resampling keeps the counts of (n,): the class; multi-label: nothing."""
    return np.zeros(len(part), np.int64) if part.targets.ndim == 2 else part.targets


def compare_words(gain: Interval) -> str:
    """'better', 'worse' or 'not distinguishable', by the gain's interval."""
    if gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
        return "not distinguishable"
    return "better" if gain.low > 0 else "worse"


def toughest_baseline(baselines: Mapping[str, Mapping[str, Any]], split: str) -> str | None:
    """The baseline with the highest accuracy on a split; None if there is none."""
    scores = {
        name: entry["splits"][split]["accuracy"]["value"] or 0.0
        for name, entry in baselines.items()
        if split in entry["splits"]
    }
    return max(scores, key=scores.__getitem__) if scores else None


def right_by_image(part: Predictions) -> Floats:
    """1 for right and 0 for wrong (n,); multi-label: the share of right labels."""
    same: Floats = np.equal(part.predicted, part.targets).astype(np.float64)
    return np.asarray(same.mean(axis=1)) if same.ndim == 2 else same
