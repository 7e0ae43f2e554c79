"""The vectorised bootstrap of AUROC beside a loop over scikit-learn, on the same resamples.

7,180 images of nine classes (PathMNIST's test set in size): AUROC (macro, one class against the
rest) of 1,000 stratified resamples. Both draw the same images, so that their intervals must be the
same. The two take turns, each for its own share of the resamples; medians are compared.

    python benchmarks/bootstrap.py

Prints seconds for 1,000 resamples of each and their ratio; exit code 1 if the areas differ by more
than 1e-9 or the ratio is below 50.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from scanwise.metrics.intervals import resample_weights
from scanwise.metrics.resampled import one_value, prepare

N, K, RESAMPLES = 7180, 9, 1000
TURNS, OF_LOOP = 5, 10  # the loop does 10 of the resamples each turn: it takes half a minute in all
LEAST = 50


def images() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, K, N)
    scores = rng.normal(size=(N, K))
    scores[np.arange(N), targets] += 1.5
    return softmax(2 * scores, axis=1).round(4), targets  # rounded: with ties


def by_loop(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Each resample's rows gathered and scored, as one writes it by hand."""
    found = []
    for column in weights.T.astype(np.int64):
        rows = np.repeat(np.arange(len(targets)), column)
        drawn = probabilities[rows]
        found.append(roc_auc_score(targets[rows], drawn, multi_class="ovr", average="macro"))
    return np.array(found)


def vectorised(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    scored = prepare(probabilities, targets, "multiclass")
    blocks = resample_weights(targets, None, RESAMPLES, seed=0)
    return np.concatenate([one_value(scored, block, "auroc_macro") for block in blocks])


def main() -> int:
    probabilities, targets = images()
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    weights = np.concatenate(list(resample_weights(targets, None, RESAMPLES, seed=0)), axis=1)
    loop_s, ours_s, gaps = [], [], []
    for turn in range(TURNS):
        chosen = slice(turn * OF_LOOP, (turn + 1) * OF_LOOP)
        began = time.perf_counter()
        areas = by_loop(probabilities, targets, weights[:, chosen])
        loop_s.append((time.perf_counter() - began) * RESAMPLES / OF_LOOP)
        began = time.perf_counter()
        ours = vectorised(probabilities, targets)
        ours_s.append(time.perf_counter() - began)
        gaps.append(float(np.abs(ours[chosen] - areas).max()))
    ratio = statistics.median(a / b for a, b in zip(loop_s, ours_s, strict=True))
    low, high = np.quantile(ours, [0.025, 0.975])
    print(f"{RESAMPLES:,} resamples of {N:,} images of {K} classes, AUROC (macro)")
    print(f"scikit-learn in a loop {statistics.median(loop_s):7.2f} s ({OF_LOOP} timed a turn)")
    interval = f"interval [{low:.6f}, {high:.6f}]"
    print(f"vectorised             {statistics.median(ours_s):7.2f} s, {interval}")
    print(f"ratio                  {ratio:7.1f} (median of {TURNS} turns)")
    print(f"largest difference of an area {max(gaps):.1e}")
    return int(ratio < LEAST or max(gaps) > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
