"""Balance of the training split: class weights, sampling, SMOTE; no other split is seen."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scanwise.core.config import Sampler
from scanwise.core.errors import ConfigError, nearest
from scanwise.core.types import Finding

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
