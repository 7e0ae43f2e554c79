"""Kernel ridge regression on features, and its answers to images that it has not seen.

Leaving images out needs no new fit: with G the inverse of kernel + penalty, the answers of a model
fitted without the rows b are y_b - inverse(G_bb) (G y)_b. So every image is answered by all others,
in the time of one fit.

Source:
    An, Liu and Venkatesh, "Fast cross-validation algorithms for least squares support vector
    machine and kernel ridge regression", Pattern Recognition 40, 2007.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve
from scipy.spatial.distance import cdist

from scanwise.core.runtime import one_blas_thread

Floats = NDArray[np.float64]
OFFSET = 1.0  # added to the kernel: the constant that a regression starts from


def rbf_kernel(parts: Sequence[NDArray[np.floating]]) -> Floats:
    """Likeness of images (n, n), 0 to 1: the mean over several descriptions of them.

    Each is exp(-mean squared difference) of standardised features, so that a wide description
    weighs no more than a narrow one.

    Args:
        parts: Features (n, d) by description; constant ones tell nothing and are left out.
    """
    total = np.zeros((len(parts[0]), len(parts[0])))
    for features in parts:
        rows = np.asarray(features, np.float64)
        scale = rows.std(axis=0)
        varied = scale > 0
        rows = (rows[:, varied] - rows[:, varied].mean(axis=0)) / scale[varied]
        total += np.exp(-cdist(rows, rows, "sqeuclidean") / max(1, rows.shape[1]))
    return total / len(parts)


def answers_without(
    kernel: Floats, targets: Floats, groups: Sequence[NDArray[np.int64]], penalty: float
) -> Floats:
    """Each row's regression value from the rows of all other groups.

    Args:
        kernel: (n, n), symmetric, from `rbf_kernel`.
        targets: (n, k).
        groups: Row numbers; each row is in exactly one of them.
        penalty: > 0, on the squared norm.

    Returns:
        float (n, k).
    """
    n = len(kernel)
    with one_blas_thread():
        system = cho_factor(kernel + OFFSET + penalty * np.eye(n), lower=True, overwrite_a=True)
        inverse = cho_solve(system, np.eye(n))
        weighted = inverse @ targets
        found: Floats = np.empty_like(weighted)
        for rows in groups:
            block = inverse[np.ix_(rows, rows)]
            found[rows] = targets[rows] - solve(block, weighted[rows], assume_a="pos")
    return found
