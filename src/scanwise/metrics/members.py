"""An ensemble beside its members: weights chosen on validation, and the gain over one member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scanwise.core.errors import DataError
from scanwise.core.types import Task
from scanwise.metrics.baselines import compare_words, right_by_image, strata_of
from scanwise.metrics.calibration import cross_entropy_by_image, cross_entropy_loss
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.paired import paired_gain
from scanwise.metrics.predictions import Predictions

GREEDY_STEPS = 50


def greedy_counts(
    probabilities: Sequence[Floats], targets: Ints, task: Task, steps: int = GREEDY_STEPS
) -> list[int]:
    """How often forward selection with replacement picks each of m members.

    Each step adds the member whose addition gives the mean with the lowest log-loss (in a tie the
    first one); of all steps the one with the lowest log-loss is kept.

    Args:
        probabilities: Of validation, never of test: m arrays (n, k).
        targets: Class indices (n,); multi-label (n, k) of 0 and 1.
        task: Decides the log-loss, as in `cross_entropy_loss`.
        steps: Most members, repeats counted.

    Returns:
        m counts, at least one of them above 0.

    Source:
        Caruana, Niculescu-Mizil, Crew and Ksikes, Ensemble selection from libraries of models,
        ICML 2004 (sections 2.1 and 2.2; without its sorted start and its bagging).
    """
    total = np.zeros_like(probabilities[0])
    picked: list[int] = []
    losses: list[float] = []
    for size in range(1, steps + 1):
        tried = [cross_entropy_loss((total + p) / size, targets, task) for p in probabilities]
        best = int(np.argmin(tried))
        total = total + probabilities[best]
        picked.append(best)
        losses.append(tried[best])
    # The fewest picks with that log-loss: adding one member again and again changes the last bit.
    lowest = np.flatnonzero(np.array(losses) <= min(losses) + 1e-12)[0]
    kept = picked[: int(lowest) + 1]
    return [kept.count(member) for member in range(len(probabilities))]


def gain_over(ensemble: Predictions, members: Sequence[Predictions], split: str) -> dict[str, Any]:
    """What the ensemble gains on a split over one member, or over several on average.

    Args:
        ensemble: predictions.csv of the ensemble.
        members: Of the same images in the same order; with several, each image's score is the mean
            of theirs.
        split: "test", or another split that the members were not chosen on.

    Returns:
        `n`, and for `accuracy` (multi-label: the share of right labels) and `log_likelihood` (the
        log-loss of the members minus the ensemble's, nats an image): the gain with its paired 95 %
        interval (by group where there are groups), and `…_is` "better", "worse" or "not
        distinguishable".

    Raises:
        DataError: If the images differ.
    """
    rows = ensemble.of_split(split)
    others = [member.of_split(split) for member in members]
    if any(other.sample != rows.sample for other in others):
        raise DataError("the members' predictions are not of the same images in the same order.")
    strata = strata_of(rows)
    found: dict[str, Any] = {"split": split, "n": len(rows)}
    for name, score in (("accuracy", right_by_image), ("log_likelihood", _log_likelihood)):
        before = np.mean([score(other) for other in others], axis=0)
        gain = paired_gain(before, score(rows), strata, groups=rows.groups)
        found |= {name: gain.to_json(), f"{name}_is": compare_words(gain)}
    return found


def _log_likelihood(part: Predictions) -> Floats:
    return -cross_entropy_by_image(part.probabilities, part.targets, part.task)
