"""Which unlabelled images are most worth labelling: unsure answers, unlike each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from scanwise.core.errors import DataError
from scanwise.core.types import Task
from scanwise.metrics.inputs import Floats, Ints


def uncertainty(probabilities: Floats, task: Task = "multiclass") -> Floats:
    """Entropy of each answer as a share of the greatest possible one, (n,) in [0, 1].

    Args:
        probabilities: Calibrated, (n, k); rows sum to 1, multi-label: each label in [0, 1].
        task: Of several labels the mean over labels is taken.

    >>> uncertainty(np.array([[1.0, 0.0], [0.5, 0.5]]))
    array([0., 1.])
    """
    if task == "multilabel":
        bits = (entr(probabilities) + entr(1 - probabilities)) / np.log(2)
        return np.asarray(bits.mean(axis=1), np.float64)
    return np.asarray(entr(probabilities).sum(axis=1) / np.log(probabilities.shape[1]), np.float64)


def choose_different(unsure: Floats, features: NDArray[np.float32], how_many: int) -> Ints:
    """Rows to label, most wanted first: greedily the largest uncertainty times distance.

    The first row is the most uncertain one; each further one has the largest product of its
    uncertainty and its distance to the nearest row chosen before (k-centre, weighted).

    Args:
        unsure: (n,), 0 or more.
        features: (n, d), on comparable scales.
        how_many: Rows to choose, from 1; at most n are returned.

    Returns:
        Row numbers; the same for the same input (the first row wins a tie).

    Raises:
        DataError: If lengths differ or `how_many` is below 1.

    Source:
        k-centre: Gonzalez, Theor. Comput. Sci. 38, 1985; for labelling: Sener and Savarese, ICLR
        2018, arXiv:1708.00489.
    """
    if len(unsure) != len(features):
        raise DataError(f"{len(unsure)} uncertainties for {len(features)} rows of features.")
    if how_many < 1:
        raise DataError(f"n={how_many}: at least one image must be asked for.")
    if not len(unsure):
        return np.empty(0, np.int64)
    chosen = [int(np.argmax(unsure))]
    left = np.ones(len(unsure), bool)
    left[chosen] = False
    nearest = np.full(len(unsure), np.inf)
    while len(chosen) < how_many and left.any():
        gap = features - features[chosen[-1]]
        nearest = np.minimum(nearest, np.sqrt(np.einsum("nd,nd->n", gap, gap)))
        chosen.append(int(np.argmax(np.where(left, unsure * nearest, -1.0))))
        left[chosen[-1]] = False
    return np.array(chosen, np.int64)
