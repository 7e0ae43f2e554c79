"""Balance of the training split: class weights, sampling, SMOTE; no other split is seen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from imblearn.over_sampling import SMOTE, RandomOverSampler
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from scanwise.core.config import Sampler
from scanwise.core.errors import ConfigError, DataError, nearest
from scanwise.core.types import Finding

EMBEDDING_DIMS = 50
EMBEDDING_SIDE_PX = 32  # larger images are shrunk to this before the embedding
EMBEDDING_FIT_IMAGES = 20_000

WEIGHT_RULES = ("none", "balanced", "sqrt")


def class_weights(
    counts: NDArray[np.int64],
    spec: str,
    class_names: Sequence[str],
    *,
    num_images: int | None = None,
) -> NDArray[np.float64] | None:
    """Weight of each class in the loss, from the counts of the training split.

    `balanced` is n / (K · n_c) over the K classes that occur, so that weights average 1 over
    images; `sqrt` is proportional to its root, also averaging 1. A class without images weighs 0:
    it can't be learned, and infinity would poison the others. `NAME=W,NAME=W` sets weights by hand;
    classes that are not named keep 1.

    For multi-label data (`num_images` given) they are weights of the positives of each label:
    (n − n_c) / n_c for `balanced`, its root for `sqrt`; a label without positives keeps 1.

    Args:
        counts: Training images of each class (positives of each label), int (k,).
        spec: `none`, `balanced`, `sqrt` or `NAME=W,NAME=W`.
        class_names: k names.
        num_images: Number of training images; multi-label only.

    Returns:
        float (k,), or None for `none`.

    Raises:
        ConfigError: Unknown rule or class (with the nearest), or a weight that is not a number ≥ 0.
    """
    if spec == "none":
        return None
    if spec not in WEIGHT_RULES:
        return _weights_by_name(spec, class_names)
    present = counts > 0
    safe = np.where(present, counts, 1).astype(np.float64)
    if num_images is not None:
        ratio = np.where(present, (num_images - safe) / safe, 1.0)
        return ratio if spec == "balanced" else np.sqrt(ratio)
    weights = np.where(present, counts.sum() / (present.sum() * safe), 0.0)
    if spec == "sqrt":
        weights = np.sqrt(weights)
        weights *= counts.sum() / (weights * counts).sum()
    return weights


def _weights_by_name(spec: str, class_names: Sequence[str]) -> NDArray[np.float64]:
    # A class name may itself hold a comma or an equals sign; a weight ends at a comma or the end.
    pairs = re.findall(r"(.+?)=([^,=]+)(?:,|$)", spec)
    if not pairs or sum(len(name) + len(text) + 2 for name, text in pairs) != len(spec) + 1:
        raise ConfigError(
            f"class_weights={spec!r}: give {', '.join(WEIGHT_RULES)} or NAME=W,NAME=W; "
            f"{nearest(spec, WEIGHT_RULES)}"
        )
    weights = np.ones(len(class_names))
    for name, text in pairs:
        if name.strip() not in class_names:
            raise ConfigError(
                f"class_weights: unknown class '{name.strip()}'; "
                f"{nearest(name.strip(), class_names)}"
            )
        weights[list(class_names).index(name.strip())] = _weight(name.strip(), text)
    if not weights.any():
        raise ConfigError(f"class_weights={spec!r}: at least one weight must be above 0.")
    return weights


def _weight(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"class_weights: '{name}={text}' is not a number of 0 or more.")
    return value


def describe_class_weights(
    counts: NDArray[np.int64], weights: NDArray[np.float64] | None
) -> tuple[str, str]:
    """The two lines of the training guide (seed S2): class distribution and class weights.

    The guide prints 2.63, 1.04 and 0.59 beside the counts 36, 91 and 160, for which n / (K · n_c)
    is 2.66, 1.05 and 0.60: its weights were measured on another part of the data than its counts.
    Here both lines are of the same images.

    >>> describe_class_weights(np.array([36, 91, 160]), np.array([2.657, 1.051, 0.598]))[1]
    'Class weights: {0: 2.66, 1: 1.05, 2: 0.60}'
    """
    distribution = ", ".join(f"{i}: {count}" for i, count in enumerate(counts.tolist()))
    if weights is None:
        listed = ", ".join(f"{i}: {1:.2f}" for i in range(len(counts)))
    else:
        listed = ", ".join(f"{i}: {weight:.2f}" for i, weight in enumerate(weights.tolist()))
    return f"Class distribution: {{{distribution}}}", f"Class weights: {{{listed}}}"


def balance_findings(
    counts: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    weights: NDArray[np.float64] | None,
    sampler: Sampler,
    smote: bool = False,
) -> tuple[Finding, ...]:
    """What a user should know about the chosen balance.

    B001: imbalance is corrected more than once. B002: a class without training images weighs 0.
    """
    findings = []
    used = [
        name
        for name, on in (
            ("class weights", weights is not None and len(set(weights[counts > 0].tolist())) > 1),
            (f"the {sampler} sampler", sampler != "shuffle"),
            ("SMOTE", smote),
        )
        if on
    ]
    if len(used) > 1:
        evidence = f"{' and '.join(used)} correct the same imbalance: rare classes count double."
        findings.append(
            Finding(
                code="B001",
                severity="warning",
                evidence=evidence,
                advice="Use one of them.",
                command="train --class-weights none"
                if weights is not None
                else "train --sampler shuffle",
            )
        )
    absent = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    if weights is not None and absent:
        names = ", ".join(f"'{name}'" for name in absent)
        findings.append(
            Finding(
                code="B002",
                severity="warning",
                evidence=f"no training image of {names}: weight 0, it can't be learned.",
                advice="Add images of it, or leave the class out.",
            )
        )
    return tuple(findings)


def sample_order(
    targets: NDArray[np.int64],
    sampler: Sampler,
    rng: np.random.Generator,
    n: int | None = None,
) -> NDArray[np.int64]:
    """Draw the order of one epoch; its length does not depend on the sampler.

    `balanced` gives each class that occurs the same number of draws, `sqrt` a number proportional
    to the root of its count. Within a class all images are drawn once before any is drawn again.
    Multi-label images are drawn with replacement, with the weight of their rarest positive label
    (1 / count, or its root; images without positives count as a label of their own).

    Args:
        targets: Of the training images, int (m,) or (m, k) of 0 and 1.
        sampler: `shuffle`, `balanced` or `sqrt`.
        rng: Source of randomness.
        n: Length of the epoch [m].

    Returns:
        Positions in `targets`, int (n,).
    """
    m = len(targets)
    n = m if n is None else n
    if sampler == "shuffle":
        return _cycle(np.arange(m), n, rng)
    if targets.ndim == 2:
        return rng.choice(m, n, p=_label_shares(targets, sampler))
    quotas = _round_randomly(n * _class_shares(np.bincount(targets), sampler), n, rng)
    parts = [_cycle(np.flatnonzero(targets == c), q, rng) for c, q in enumerate(quotas) if q]
    return rng.permutation(np.concatenate(parts))


def drawn_counts(
    targets: NDArray[np.int64], sampler: Sampler, num_classes: int
) -> NDArray[np.float64]:
    """Images of each class (positives of each label) that an epoch draws on average, float (k,).

    Args:
        targets: Of the training images, int (m,) or (m, k) of 0 and 1.
        sampler: `shuffle`, `balanced` or `sqrt`.
        num_classes: k.

    >>> drawn_counts(np.array([0, 0, 0, 1]), "balanced", 2)
    array([2., 2.])
    """
    m = len(targets)
    if targets.ndim == 2:
        shares = np.full(m, 1 / m) if sampler == "shuffle" else _label_shares(targets, sampler)
        return np.asarray(m * shares @ targets, dtype=np.float64)
    counts = np.bincount(targets, minlength=num_classes)
    if sampler == "shuffle":
        return counts.astype(np.float64)
    return m * _class_shares(counts, sampler)


def _class_shares(counts: NDArray[np.int64], sampler: Sampler) -> NDArray[np.float64]:
    """Share of an epoch that each class gets, float (k,); 0 for classes without images."""
    shares = np.where(counts > 0, counts ** (0.5 if sampler == "sqrt" else 0.0), 0.0)
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def _cycle(rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n rows: shuffled passes over all of them, the last one cut."""
    passes = [rng.permutation(rows) for _ in range(-(-n // len(rows)))]
    return np.concatenate(passes)[:n]


def _round_randomly(
    exact: NDArray[np.float64], total: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Integers of the same sum; the seats left over go by lot, so no class is always short."""
    floors = np.floor(exact + 1e-9).astype(np.int64)
    left = total - int(floors.sum())
    if left > 0:
        rest = np.clip(exact - floors, 0, None)
        floors[rng.choice(len(exact), left, replace=False, p=rest / rest.sum())] += 1
    return floors


def _label_shares(targets: NDArray[np.int64], sampler: Sampler) -> NDArray[np.float64]:
    power = 0.5 if sampler == "sqrt" else 1.0
    none = targets.sum(axis=1, keepdims=True) == 0
    labels = np.concatenate([targets, none.astype(targets.dtype)], axis=1)
    counts = np.maximum(labels.sum(axis=0), 1)
    weights = (labels * (1.0 / counts) ** power).max(axis=1)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Training images made by SMOTE (m of them); they never enter another split.

    Image i is (1 − step) · a + step · b of the training images a, b = `parents[i]`; copies have
    a = b.
    """

    images: NDArray[np.uint8]  # (m, h, w, c)
    targets: NDArray[np.int64]  # (m,)
    parents: NDArray[np.int64]  # (m, 2) positions in the training images given
    steps: NDArray[np.float64]  # (m,) in [0, 1]
    notes: tuple[str, ...] = ()  # what could not be done as asked


def smote(
    pixels: NDArray[np.uint8],
    targets: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    seed: int,
    space: str = "smote",
    features: NDArray[np.floating[Any]] | None = None,
    num_neighbours: int = 5,
) -> Synthetic:
    """Fill every class up to the size of the largest with images between neighbours (SMOTE).

    A network learns from images, not from features, so the synthetic sample is always an image:
    the pixels between two neighbours. What the space decides is who counts as a neighbour. `smote`
    looks in an embedding: `features` if given, else the first 50 principal components of the
    images themselves (at most 32 px a side), fitted on these images. `smote-pixels` measures all
    pixels, noise included. Both blend two pictures, and a blend of two cells is not a cell: look at
    the thumbnails.

    Args:
        pixels: Training images only, uint8 (n, h, w, c).
        targets: Their classes, int (n,).
        class_names: k names, for the notes.
        seed: Of the draws.
        space: `smote` or `smote-pixels`.
        features: Embedding of the same images, float (n, d).
        num_neighbours: k of SMOTE. A class with fewer than k + 1 images is filled with copies
            instead; `notes` say so.

    Returns:
        The synthetic images alone; `with_synthetic` appends them.

    Raises:
        ConfigError: Multi-label targets, or an unknown space.
        DataError: If features and images differ in number.

    Source:
        Chawla et al., JAIR 2002, doi:10.1613/jair.953; sampled by imbalanced-learn.
    """
    if targets.ndim != 1:
        raise ConfigError("balance: SMOTE needs one class an image; multi-label images have many.")
    if space not in ("smote", "smote-pixels"):
        raise ConfigError(f"balance='{space}': {nearest(space, ('smote', 'smote-pixels'))}")
    if features is not None and len(features) != len(pixels):
        raise DataError(f"features have {len(features)} rows, images {len(pixels)}.")
    counts = np.bincount(targets, minlength=len(class_names))
    goal = int(counts.max())
    short = {c: goal for c, count in enumerate(counts.tolist()) if 0 < count < goal}
    copied = {c: goal for c in short if counts[c] < num_neighbours + 1}
    blended = {c: goal for c in short if c not in copied}
    points = _points(pixels, features, space, seed) if blended else None
    blends = _between_neighbours(points, targets, blended, num_neighbours, seed)
    copies = _copies(targets, copied, seed)
    pairs = _Pairs(
        np.concatenate([blends.parents, copies.parents]),
        np.concatenate([blends.steps, copies.steps]),
    )
    notes = tuple(
        f"Class '{class_names[c]}' has {counts[c]} training images, fewer than "
        f"{num_neighbours + 1}: it was filled with copies, not with SMOTE."
        for c in copied
    )
    return _render(pixels, targets, pairs, notes)


def with_synthetic(
    pixels: NDArray[np.uint8], targets: NDArray[np.int64], synthetic: Synthetic
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Training images with the synthetic ones behind them.

    Args:
        pixels: The training images that `smote` was given, uint8 (n, h, w, c).
        targets: Their classes, int (n,).

    Returns:
        Pixels (n + m, h, w, c), targets (n + m,) and the mark of synthetic rows, bool (n + m,).
    """
    marks = np.arange(len(pixels) + len(synthetic.images)) >= len(pixels)
    return (
        np.concatenate([pixels, synthetic.images]),
        np.concatenate([targets, synthetic.targets]),
        marks,
    )


class _Neighbours(BaseEstimator):  # type: ignore[misc]
    """Nearest neighbours for imbalanced-learn's SMOTE, measured in a space of our choice.

    SMOTE hands over rows of an identity matrix; `points` (a function, which scikit-learn's clone
    does not copy) gives the coordinates that belong to those rows.
    """

    def __init__(self, points: Any, n_neighbors: int) -> None:
        self.points = points
        self.n_neighbors = n_neighbors

    def fit(self, rows: csr_matrix, y: object = None) -> _Neighbours:
        self.index_ = NearestNeighbors(n_neighbors=self.n_neighbors).fit(self.points(rows.indices))
        return self

    def kneighbors(self, rows: csr_matrix, return_distance: bool = True) -> Any:
        return self.index_.kneighbors(self.points(rows.indices), return_distance=return_distance)

    def kneighbors_graph(self, rows: csr_matrix) -> Any:
        return self.index_.kneighbors_graph(self.points(rows.indices))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Which two images (positions) each synthetic one lies between, and how far from the first."""

    parents: NDArray[np.int64]  # (m, 2)
    steps: NDArray[np.float64]  # (m,)


def _between_neighbours(
    points: Any,
    targets: NDArray[np.int64],
    goals: dict[int, int],
    num_neighbours: int,
    seed: int,
) -> _Pairs:
    """Let SMOTE draw in barycentric coordinates: a synthetic row names its parents and its step."""
    if not goals:
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    n = len(targets)
    sampler = SMOTE(
        sampling_strategy=goals,
        random_state=seed,
        k_neighbors=_Neighbours(points, num_neighbours + 1),
    )
    drawn, _ = sampler.fit_resample(identity(n, format="csr", dtype=np.float64), targets)
    made = drawn[n:].tocoo()
    rows, columns, shares = made.row, made.col, made.data
    order = np.lexsort((columns, rows))
    rows, columns, shares = rows[order], columns[order], shares[order]
    first = np.searchsorted(rows, np.arange(drawn.shape[0] - n))
    last = np.searchsorted(rows, np.arange(drawn.shape[0] - n), side="right") - 1
    # A step of exactly 0 or 1 leaves one parent.
    steps = np.where(first == last, 0.0, shares[last])
    return _Pairs(np.stack([columns[first], columns[last]], axis=1).astype(np.int64), steps)


def _copies(targets: NDArray[np.int64], goals: dict[int, int], seed: int) -> _Pairs:
    """Fill classes with copies of their own images."""
    if not goals:
        return _Pairs(np.empty((0, 2), np.int64), np.empty(0))
    sampler = RandomOverSampler(sampling_strategy=goals, random_state=seed)
    sampler.fit_resample(np.arange(len(targets))[:, None], targets)
    chosen = sampler.sample_indices_[len(targets) :].astype(np.int64)
    return _Pairs(np.stack([chosen, chosen], axis=1), np.zeros(len(chosen)))


def _render(
    pixels: NDArray[np.uint8],
    targets: NDArray[np.int64],
    pairs: _Pairs,
    notes: tuple[str, ...],
) -> Synthetic:
    images = np.empty((len(pairs.steps), *pixels.shape[1:]), np.uint8)
    for i, ((a, b), step) in enumerate(zip(pairs.parents, pairs.steps, strict=True)):
        blend = (1 - step) * pixels[a].astype(np.float64) + step * pixels[b]
        images[i] = np.rint(blend)
    return Synthetic(images, targets[pairs.parents[:, 0]], pairs.parents, pairs.steps, notes)


def _points(
    pixels: NDArray[np.uint8],
    features: NDArray[np.floating[Any]] | None,
    space: str,
    seed: int,
) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
    """A function from positions to coordinates (m, d) in the space where neighbours are sought."""
    if space == "smote-pixels":
        # One class at a time becomes float; the whole set would take four times its memory.
        return lambda chosen: pixels[chosen].reshape(len(chosen), -1).astype(np.float32)
    embedding = _embed(pixels, seed) if features is None else np.asarray(features)
    return lambda chosen: embedding[chosen]


def _embed(pixels: NDArray[np.uint8], seed: int) -> NDArray[np.float32]:
    """The first principal components of (shrunk) images, fitted on them: float (n, ≤50)."""
    side = EMBEDDING_SIDE_PX
    if max(pixels.shape[1:3]) > side:
        shrunk = [cv2.resize(x, (side, side), interpolation=cv2.INTER_AREA) for x in pixels]
        pixels = np.stack(shrunk)
    flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    dims = min(EMBEDDING_DIMS, *flat.shape)
    rows = np.arange(len(flat))
    if len(rows) > EMBEDDING_FIT_IMAGES:
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(rows), EMBEDDING_FIT_IMAGES, replace=False))
    model = PCA(n_components=dims, svd_solver="randomized", random_state=seed).fit(flat[rows])
    return np.asarray(model.transform(flat), dtype=np.float32)
