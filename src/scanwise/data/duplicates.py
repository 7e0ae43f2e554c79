"""Exact and near duplicates: clusters, those that cross splits, and those with two labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scanwise.core.types import SPLIT_NAMES, Split, SplitName
from scanwise.data.pair_cache import remembered_near_pairs
from scanwise.data.views import symmetries

Rows = NDArray[np.int64]

BLOCK_BYTES = 2**23  # pixels read at a time; sums need eight times as much at most
PAIRS_OF_SPLITS: tuple[tuple[SplitName, SplitName], ...] = (
    ("train", "val"),
    ("train", "test"),
    ("val", "test"),
)


@dataclass(frozen=True)
class Pair:
    """Two rows that show the same picture; `similarity` is 1 for exact copies."""

    first: int
    second: int
    kind: Literal["exact", "near"]
    similarity: float


@dataclass(frozen=True, eq=False)
class Duplicates:
    """What is the same picture: clusters of rows, each sorted, the largest first.

    `exact` are pairs (m, 2) whose pixels are equal, as they are or after a flip or quarter turn;
    `near` are pairs that are copies after alignment (re-compressed, cropped, turned, re-lit:
    `copies` says which), or so alike that they are photographs of the same thing. `alike_cut` is
    the similarity from which a pair counts as alike, or None where this data set's labels vouch
    for none.
    """

    num_images: int
    exact: Rows
    near: Rows
    similarity: NDArray[np.float64]  # of the near pairs, in [-1, 1]
    copies: NDArray[np.bool_]  # whether a near pair is a copy, not only alike
    alike_cut: float | None
    clusters: tuple[Rows, ...]
    conflicts: tuple[Rows, ...]  # clusters of copies (exact or near) that carry two labels

    def cluster_of_row(self) -> Rows:
        """Cluster number of each row, int (n,); -1 for images that are alone."""
        numbers = np.full(self.num_images, -1, np.int64)
        for number, rows in enumerate(self.clusters):
            numbers[rows] = number
        return numbers

    def pairs(self) -> Iterator[Pair]:
        """Exact pairs, then near ones, the most similar first."""
        for first, second in self.exact.tolist():
            yield Pair(first, second, "exact", 1.0)
        for k in np.argsort(-self.similarity, kind="stable"):
            first, second = self.near[k].tolist()
            yield Pair(first, second, "near", float(self.similarity[k]))


def find_duplicates(
    images: NDArray[np.generic], targets: NDArray[np.int64], *, near: bool = True, seed: int = 0
) -> Duplicates:
    """Find pictures that occur more than once.

    Args:
        images: (n, h, w, c) of any numeric type; a memory map is read in blocks.
        targets: int (n,) or (n, k); copies with different targets are conflicts.
        near: Also search for near duplicates (n² / 10⁸ times some ten seconds).
        seed: Of the sample that the near-duplicate metric is fitted on.

    Returns:
        Exact pairs (the 8 flips and quarter turns included), near pairs, and their clusters.
        Images of a single colour are no one's copy.
    """
    n = len(images)
    exact = _exact_pairs(images)
    found = remembered_near_pairs(images, targets, seed=seed) if near and images.size else None
    if found is None:
        close, similarity = np.empty((0, 2), np.int64), np.empty(0)
        copies, cut = np.empty(0, bool), None
    else:
        new = ~_same_exact_cluster(n, exact, found.rows)
        close, similarity = found.rows[new], found.similarity[new]
        copies, cut = found.copies[new], found.alike_cut
    sure = connected_rows(n, np.concatenate([exact, close[copies]]))
    return Duplicates(
        num_images=n,
        exact=exact,
        near=close,
        similarity=similarity,
        copies=copies,
        alike_cut=cut,
        clusters=connected_rows(n, np.concatenate([exact, close])),
        conflicts=tuple(rows for rows in sure if (targets[rows] != targets[rows[0]]).any()),
    )


# --- exact copies ------------------------------------------------------------------------------


def _exact_pairs(images: NDArray[np.generic]) -> Rows:
    """Pairs of equal pixels in one of the 8 symmetries: each row with the first of its kind.

    Sums that no symmetry changes sort out almost all images, so that few are hashed 8 times.
    """
    if not images.size:
        return np.empty((0, 2), np.int64)
    sums = np.concatenate([_sums(block) for _, block in _blocks(images)])
    _, kind, size = np.unique(sums, axis=0, return_inverse=True, return_counts=True)
    first_of: dict[bytes, int] = {}
    pairs = []
    for row in np.flatnonzero(size[kind.ravel()] > 1).tolist():
        image = np.asarray(images[row])
        if (image == image[:1, :1]).all():
            continue
        first = first_of.setdefault(_key(image), row)
        if first != row:
            pairs.append((first, row))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _blocks(images: NDArray[np.generic]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    step = max(1, BLOCK_BYTES // max(1, images[0].nbytes))
    for start in range(0, len(images), step):
        yield start, np.asarray(images[start : start + step])


def _sums(block: NDArray[np.generic]) -> NDArray[np.uint64]:
    """Sums of the pixels' bit patterns and of their squares, channel by channel, (b, 2c)."""
    bits = np.ascontiguousarray(block).view(f"u{block.dtype.itemsize}")
    b, h, w, c = bits.shape
    # A column of 8-bit squares stays below 2^32 where images have fewer than 66,000 lines.
    wide: NDArray[Any] = bits.reshape(b, h, w * c).astype(
        np.uint32 if bits.itemsize == 1 else np.uint64
    )
    # Lines first: sums along the three values of a pixel would be ten times slower.
    lines = (each.sum(axis=1, dtype=wide.dtype) for each in (wide, wide * wide))
    sums = [each.reshape(b, w, c).sum(axis=1, dtype=np.uint64) for each in lines]
    return np.concatenate(sums, axis=1)


def _key(image: NDArray[np.generic]) -> bytes:
    """One key for an image (h, w, c) and all of its flips and quarter turns."""
    hashes = (
        hashlib.blake2b(
            repr(each.shape).encode() + np.ascontiguousarray(each).tobytes(), digest_size=16
        )
        for each in symmetries(image[None])
    )
    return min(each.digest() for each in hashes)


def _same_exact_cluster(n: int, exact: Rows, pairs: Rows) -> NDArray[np.bool_]:
    """Which pairs are exact copies already."""
    names = np.arange(n)
    names[exact[:, 1]] = exact[:, 0]
    return np.asarray(names[pairs[:, 0]] == names[pairs[:, 1]])


def connected_rows(n: int, pairs: Rows) -> tuple[Rows, ...]:
    """Connected rows, as sorted arrays of two or more; the largest first, then by first row."""
    if not len(pairs):
        return ()
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    linked = np.unique(pairs)
    order = linked[np.argsort(labels[linked], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return tuple(sorted(parts, key=lambda rows: (-len(rows), int(rows[0]))))


# --- splits ------------------------------------------------------------------------------------


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
    counts = {f"{first}-{second}": 0 for first, second in PAIRS_OF_SPLITS}
    for rows in duplicates.clusters:
        inside = dict(zip(SPLIT_NAMES, _in_each_split(where[rows]), strict=True))
        for first, second in PAIRS_OF_SPLITS:
            counts[f"{first}-{second}"] += inside[second] if inside[first] else 0
    return counts


def _in_each_split(numbers: NDArray[np.int8]) -> list[int]:
    return [int((numbers == number).sum()) for number in range(len(SPLIT_NAMES))]


def leaked_rows(
    duplicates: Duplicates, split: Split, groups: Sequence[str] | None = None
) -> dict[SplitName, Rows]:
    """Rows of val and test that are no news, because an earlier split holds the same thing.

    Args:
        duplicates: What `find_duplicates` found.
        split: The split to judge.
        groups: Patient or slide of each row; a group that an earlier split holds counts too.
            Rows whose group is '' belong to none.

    Returns:
        {"val": rows with a copy (or their group) in train, "test": the same in train or val}.
    """
    where = split_of_row(split, duplicates.num_images)
    leaked: dict[SplitName, list[int]] = {"val": [], "test": []}
    for rows in _alike_or_grouped(duplicates, groups):
        inside = where[rows]
        if (inside == 0).any():
            leaked["val"] += rows[inside == 1].tolist()
        if ((inside == 0) | (inside == 1)).any():
            leaked["test"] += rows[inside == 2].tolist()
    return {name: np.unique(np.array(rows, np.int64)) for name, rows in leaked.items()}


def _alike_or_grouped(duplicates: Duplicates, groups: Sequence[str] | None) -> Iterable[Rows]:
    yield from duplicates.clusters
    if groups is None:
        return
    names, number = np.unique(np.array(groups), return_inverse=True)
    order = np.argsort(number, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    yield from (rows for name, rows in zip(names, parts, strict=True) if name != "")


def clean_test_rows(
    duplicates: Duplicates, split: Split, groups: Sequence[str] | None = None
) -> Rows:
    """Rows of test of which no earlier split holds a copy (or, with `groups`, the group)."""
    return np.setdiff1d(split.test, leaked_rows(duplicates, split, groups)["test"])


def duplicate_groups(
    duplicates: Duplicates, n: int, groups: Sequence[str] | None = None
) -> tuple[str, ...]:
    """A group name for each row, so that no cluster of copies and no given group is cut.

    Groups that share copies are merged; each takes the name of its first member. Rows without a
    group ('' in `groups`) are groups of their own.
    """
    own = [f"image {row}" for row in range(n)]
    names = own if groups is None else [group or own[row] for row, group in enumerate(groups)]
    units = np.unique(np.array(names), return_inverse=True)[1]
    pairs = [np.empty((0, 2), np.int64)]
    for rows in duplicates.clusters:
        pairs.append(np.stack([np.repeat(units[rows[:1]], len(rows) - 1), units[rows[1:]]], axis=1))
    links = np.concatenate(pairs)
    size = int(units.max()) + 1 if n else 0
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(size, size))
    merged = connected_components(graph, directed=False)[1][units] if n else units
    _, first = np.unique(merged, return_index=True)
    return tuple(names[first[number]] for number in merged)
