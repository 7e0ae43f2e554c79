"""Logistic regression on features: the best linear classifier for each of a few penalties.

No learning rate, no epochs, no luck: the loss is convex. On a few hundred images with thousands of
features this beats the same layer trained step by step (docs/results.md).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scanwise.core.runtime import one_blas_thread

# Weight of half the squared norm beside the mean loss, from the strongest on. Few images want 1,
# thousands 0.01.
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
MAX_ITERATIONS = 300
SMALL = 20_000_000  # numbers
ABSENT = 20.0  # logits by which a class without training images lies below the others


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear classifier of features as they are: logits = features @ weight.T + bias."""

    penalty: float
    weight: NDArray[np.float32]  # (k, d)
    bias: NDArray[np.float32]  # (k,)


def fit_logistic(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    num_classes: int,
    weights: NDArray[np.float64] | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> Iterator[Linear]:
    """Minimise mean cross-entropy + penalty / 2 · |w|² over standardised features, exactly.

    Args:
        features: float32 (n, v, d), v views of each image; all views count alike.
        targets: int64 (n,), or (n, k) with a 1 for each label an image has.
        num_classes: k; classes without an image get logits far below the others.
        weights: (n,), or (n, k) for several labels, >= 0: how much each image counts [alike].
        penalties: > 0, in the order in which the classifiers are wanted.

    Yields:
        One classifier a penalty; it reads features as they are, the standardisation is inside.
    """
    from sklearn.linear_model import LogisticRegression

    n, views, d = features.shape
    rows = features.reshape(n * views, d)
    mean, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6 * max(1.0, float(scale.max(initial=0.0)))] = np.inf  # constant: no say
    numbers = ((rows - mean) / scale).astype(np.float32)
    # One thread where it is a matter of seconds: see one_blas_thread.
    calm = one_blas_thread if numbers.size <= SMALL else contextlib.nullcontext
    with calm():
        numbers, back = _rotated(numbers)
    labels = np.repeat(targets, views, axis=0)
    columns = [labels] if labels.ndim == 1 else list(labels.T)
    importance = np.ones(targets.shape) if weights is None else weights
    if importance.ndim < targets.ndim:
        importance = importance[:, None] * np.ones(targets.shape)
    shares = np.repeat(importance, views, axis=0).reshape(len(labels), -1)
    models = [LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True) for _ in columns]
    for penalty in penalties:
        weight = np.zeros((num_classes, numbers.shape[1]))
        bias = np.full(num_classes, -ABSENT)
        for number, (model, column) in enumerate(zip(models, columns, strict=True)):
            present = np.unique(column)
            if len(present) < 2:
                if labels.ndim == 2:
                    bias[number] = ABSENT if present[0] else -ABSENT
                else:
                    bias[present[0]] = 0.0
                continue
            model.C = 1 / (penalty * shares[:, number].sum())
            with calm(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # not converged in time: validation judges
                model.fit(numbers, column, sample_weight=shares[:, number])
            coef = np.asarray(model.coef_, np.float64)
            intercept = np.asarray(model.intercept_, np.float64)
            if labels.ndim == 2:
                weight[number], bias[number] = coef[0], intercept[0]
            elif len(present) == 2:  # one logit for the second class, shared out to both
                weight[present] = np.stack([-coef[0], coef[0]]) / 2
                bias[present] = np.array([-intercept[0], intercept[0]]) / 2
            else:
                weight[present], bias[present] = coef, intercept
        plain = (weight if back is None else weight @ back) / scale
        yield Linear(penalty, plain.astype(np.float32), (bias - plain @ mean).astype(np.float32))


def _rotated(
    numbers: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
    """The same rows in as many numbers as there are rows, and the way back, where that is fewer.

    The penalty does not change under rotation and the solution lies in the span of the rows, so
    this loses nothing and saves most of the time.
    """
    n, d = numbers.shape
    if n >= d:
        return numbers, None
    exact = numbers.astype(np.float64)
    squares, left = np.linalg.eigh(exact @ exact.T)  # much faster than a singular decomposition
    kept = squares > 1e-10 * squares[-1]
    sizes, left = np.sqrt(squares[kept]), left[:, kept]
    return (left * sizes).astype(np.float32), (left / sizes).T @ exact
