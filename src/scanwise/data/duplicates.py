"""Exact and near duplicates: clusters, those that cross splits, and those with two labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scanwise.core.types import SPLIT_NAMES, Split, SplitName
from scanwise.data.near_duplicates import find_near_pairs, symmetries

Rows = NDArray[np.int64]

# Images whose pixels are hashed at a time.
HASH_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What is the same picture: clusters of rows, each sorted, the largest first.

    `exact` are pairs (m, 2) whose pixels are equal, as they are or after a flip or quarter turn;
    `near` are pairs that are copies after alignment (re-compressed, cropped, turned, re-lit), or so
    alike that they are photographs of the same thing. `alike_cut` is the similarity from which a pair
    counts as alike, or None where this data set's labels vouch for none.
    """

    num_images: int
    exact: Rows
    near: Rows
    similarity: NDArray[np.float64]
    alike_cut: float | None
    clusters: tuple[Rows, ...]
    conflicts: tuple[Rows, ...]  # clusters of exact copies that carry two labels

    def cluster_of_row(self) -> Rows:
        """Cluster number of each row, int (n,); -1 for images that are alone."""
        numbers = np.full(self.num_images, -1, np.int64)
        for number, rows in enumerate(self.clusters):
            numbers[rows] = number
        return numbers


def find_duplicates(
    images: NDArray[np.generic], targets: NDArray[np.int64], *, near: bool = True, seed: int = 0
) -> Duplicates:
    """Find pictures that occur more than once.

    Args:
        images: (n, h, w, c); a memory map is read in blocks.
        targets: int (n,) or (n, k); copies with different targets are conflicts.
        near: Also search for near duplicates.
        seed: Of the sample that the near-duplicate metric is fitted on.

    Returns:
        Exact pairs (the 8 flips and quarter turns included), near pairs, and their clusters.
    """
    n = len(images)
    exact = _exact_pairs(images)
    found = find_near_pairs(images, targets, seed=seed) if near and n > 2 else None
    close = np.empty((0, 2), np.int64) if found is None else found.rows
    similarity = np.empty(0) if found is None else found.similarity
    if found is not None and len(exact):
        known = exact[:, 0] * n + exact[:, 1]
        fresh = ~np.isin(close[:, 0] * n + close[:, 1], known)
        close, similarity = close[fresh], similarity[fresh]
    clusters = _clusters(n, np.concatenate([exact, close]))
    return Duplicates(
        num_images=n,
        exact=exact,
        near=close,
        similarity=similarity,
        alike_cut=None if found is None else found.alike_cut,
        clusters=clusters,
        conflicts=tuple(
            rows for rows in _clusters(n, exact) if len(np.unique(targets[rows], axis=0)) > 1
        ),
    )


def _exact_pairs(images: NDArray[np.generic]) -> Rows:
    """Pairs of equal pixels in one of the 8 symmetries: each row with the first of its kind."""
    first_of: dict[bytes, int] = {}
    pairs = []
    for start in range(0, len(images), HASH_BLOCK):
        block = np.asarray(images[start : start + HASH_BLOCK])
        # Constant images are "equal" without being copies of anything: nothing to see in them.
        flat = block.reshape(len(block), -1)
        plain = (flat == flat[:, :1]).all(axis=1)
        for offset, key in enumerate(_keys(block)):
            if plain[offset]:
                continue
            row = start + offset
            first = first_of.setdefault(key, row)
            if first != row:
                pairs.append((first, row))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _keys(block: NDArray[np.generic]) -> Iterator[bytes]:
    """One key an image, the same for all of its flips and quarter turns."""
    square = block.shape[1] == block.shape[2]
    turned = list(symmetries(block)) if square else _mirrors(block)
    digests = [
        [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in each]
        for each in turned
    ]
    return (min(of_image) for of_image in zip(*digests, strict=True))


def _mirrors(block: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """The four symmetries of a picture that is not square."""
    return [block, block[:, ::-1], block[:, :, ::-1], block[:, ::-1, ::-1]]


def _clusters(n: int, pairs: Rows) -> tuple[Rows, ...]:
    """Connected rows, as sorted arrays of two or more; the largest first, then by first row."""
    if not len(pairs):
        return ()
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    linked = np.unique(pairs)
    order = linked[np.argsort(labels[linked], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return tuple(sorted(parts, key=lambda rows: (-len(rows), int(rows[0]))))


def split_of_row(split: Split, n: int) -> NDArray[np.int8]:
    """0, 1, 2 for rows in train, val, test; -1 for rows in none."""
    numbers = np.full(n, -1, np.int8)
    for number, name in enumerate(SPLIT_NAMES):
        numbers[split.rows(name)] = number
    return numbers


def crossing_images(duplicates: Duplicates, split: Split) -> dict[str, int]:
    """Images of the later split that have a copy in the earlier one.

    Returns:
        {"train-val": images of val, "train-test": images of test, "val-test": images of test}.
    """
    where = split_of_row(split, duplicates.num_images)
    counts = {"train-val": 0, "train-test": 0, "val-test": 0}
    for rows in duplicates.clusters:
        inside = np.bincount(where[rows][where[rows] >= 0], minlength=3)
        for pair in counts:
            first, second = (SPLIT_NAMES.index(name) for name in pair.split("-"))
            counts[pair] += int(inside[second]) if inside[first] else 0
    return counts


def leaked_rows(duplicates: Duplicates, split: Split) -> dict[SplitName, Rows]:
    """Rows of val and test of which training (for test: or validation) holds a copy."""
    where = split_of_row(split, duplicates.num_images)
    leaked: dict[SplitName, list[int]] = {"val": [], "test": []}
    for rows in duplicates.clusters:
        inside = where[rows]
        if (inside == 0).any():
            leaked["val"] += rows[inside == 1].tolist()
        if np.isin(inside, (0, 1)).any():
            leaked["test"] += rows[inside == 2].tolist()
    return {name: np.array(sorted(rows), np.int64) for name, rows in leaked.items()}


def duplicate_groups(
    duplicates: Duplicates, n: int, groups: Sequence[str] | None = None
) -> tuple[str, ...]:
    """A group name for each row, so that no cluster of copies and no given group is cut.

    Groups that share copies are merged; each takes the name of its first member.
    """
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    links = [units[rows[[0] * (len(rows) - 1)]] for rows in duplicates.clusters]
    others = [units[rows[1:]] for rows in duplicates.clusters]
    pairs = (
        np.column_stack([np.concatenate(links), np.concatenate(others)])
        if links
        else np.empty((0, 2), np.int64)
    )
    size = int(units.max()) + 1 if n else 0
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    merged = connected_components(graph, directed=False)[1][units]
    _, first = np.unique(merged, return_index=True)
    names = [f"image {row}" if groups is None else groups[row] for row in first]
    return tuple(names[number] for number in merged)
