"""Pairs of images that show the same thing: flipped, turned, cropped, re-compressed, taken again.

Every image is searched for among all others in 8 symmetries and several views, by a metric that
forgives small movements; its best partners are aligned and compared again. Pairs that pass are of
two kinds. A *copy* differs from its partner by less than compression, light and noise do. A pair is
*alike* when it may be a second photograph of the same thing. How alike is enough differs from data
set to data set, so by default no pair is; the cut is lowered only as far as the labels vouch for
it: chance look-alikes mix the classes, second photographs do not (the target-decoy argument, with
the other classes as decoys).

Source: alignment: Evangelidis and Psarakis, IEEE TPAMI 30, 2008 (cv2.findTransformECC); decoys:
Elias and Gygi, Nature Methods 4, 2007.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scanwise.data.copy_metric import Metric, fit_metric
from scanwise.data.views import (
    NUM_SYMMETRIES,
    Bytes,
    Floats,
    View,
    contrast,
    symmetry,
    thumbnails,
    warp,
    working_copies,
)
from scanwise.metrics.intervals import wilson_interval

BLOCK_CELLS = 2**21  # similarities held at a time; larger blocks fall out of the cache
EMBED_ROWS = 2**15  # thumbnails held at a time
DARKEST_CONTRAST = 1.0  # grey levels; flatter images resemble everything
PARTNERS = 2  # best partners of an image that are aligned; more found no more leaks on DermaMNIST

# Measured on five MedMNIST sets (docs/audit.md): chance pairs stay below, planted copies above.
COPY_ON_GRID = 0.97
COPY_ALIGNED = 0.985
LOWEST_ALIKE = 0.93
MOST_CHANCE_PAIRS = 0.10  # upper bound of the estimated share of chance pairs among those alike

Rows = NDArray[np.int64]

AS_IT_IS = View()
ZOOMED = tuple(View(zoom) for zoom in (1.1, 1.22, 1.45, 1.75, 2.1))
TURNED = (View(1.05, 12), View(1.05, -12))
# The corners of a crop of a tenth.
CORNERED = tuple(View(1.1, 0, (x, y)) for x in (-0.035, 0.035) for y in (-0.035, 0.035))


@dataclass(frozen=True, eq=False)
class NearPairs:
    """Partners found.

    `rows` (m, 2), first < second, each pair once; `similarity` (m,) in [-1, 1], 1 is equal;
    `copies` (m,) tells copies from pairs that are only alike; `alike_cut` is the similarity from
    which a pair counts as alike, or None where the labels don't vouch for any.
    """

    rows: Rows
    similarity: NDArray[np.float64]
    copies: NDArray[np.bool_]
    alike_cut: float | None


def find_near_pairs(
    images: NDArray[np.generic], targets: NDArray[np.int64] | None = None, *, seed: int = 0
) -> NearPairs:
    """Find pairs of images that are copies of one another, or show the same thing again.

    Args:
        images: (n, h, w, c) of any numeric type; a memory map is read in blocks. Types other than
            uint8 are scaled to 8 bits image by image.
        targets: Classes, int (n,). Without them (or multi-label) only copies are found.
        seed: Of the sample that the metrics are fitted on.
    """
    work = working_copies(images)
    rows = np.flatnonzero(contrast(work) >= DARKEST_CONTRAST)
    if len(rows) < 3:
        return NearPairs(np.empty((0, 2), np.int64), np.empty(0), np.empty(0, bool), None)
    work = _kept(work, rows)
    rng = np.random.default_rng(seed)
    moving = fit_metric(work, rng, moved=True, size=64)
    still = fit_metric(work, rng, moved=False, size=96)
    views = search_views(len(rows))
    candidates = search(work, moving, views)
    scores = verify(work, still, moving, views, candidates)
    copies = (scores.on_grid >= COPY_ON_GRID) | (scores.aligned >= COPY_ALIGNED)
    cut = None
    if targets is not None and targets.ndim == 1:
        labels = targets[rows]
        mixed = labels[candidates[:, 0]] != labels[candidates[:, 1]]
        cut = alike_cut(scores.moved, mixed, copies)
    found = copies if cut is None else copies | (scores.moved >= cut)
    similarity = np.where(copies, np.maximum(scores.on_grid, scores.aligned), scores.moved)
    return _each_once(rows[candidates[found, :2]], similarity[found], copies[found], cut)


def _kept(work: Bytes, rows: Rows) -> Bytes:
    """The rows (rising) of `work`, moved to its front: no second copy is made."""
    for place, row in enumerate(rows.tolist()):
        if place != row:
            work[place] = work[row]
    return work[: len(rows)]


def _each_once(
    rows: Rows, similarity: NDArray[np.float64], copies: NDArray[np.bool_], cut: float | None
) -> NearPairs:
    """Pairs found from both sides become one, the better one: copies first, then by similarity."""
    rows = np.sort(rows, axis=1)
    order = np.lexsort((-similarity, ~copies, rows[:, 1], rows[:, 0]))
    rows, similarity, copies = rows[order], similarity[order], copies[order]
    new = np.ones(len(rows), bool)
    new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return NearPairs(rows[new], similarity[new], copies[new], cut)


def alike_cut(
    similarity: NDArray[np.float64], mixed: NDArray[np.bool_], copies: NDArray[np.bool_]
) -> float | None:
    """The lowest similarity at which the labels vouch that at most few pairs are chance.

    Args:
        similarity: Of all aligned candidates, (m,).
        mixed: Whether the two have different labels, (m,).
        copies: Pairs that count anyway and say nothing here, (m,).

    Returns:
        None if no cut in [LOWEST_ALIKE, 1) is vouched for.
    """
    aligned = similarity > -1
    if aligned.sum() < 100:
        return None
    chance = aligned & (similarity < np.median(similarity[aligned]))
    mixed_by_chance = float(mixed[chance].mean()) if chance.any() else 0.0
    if mixed_by_chance < 0.05:
        return None  # (nearly) one class: labels can't tell
    for cut in np.arange(LOWEST_ALIKE, 0.999, 0.005):
        alike = (similarity >= cut) & ~copies
        bound = wilson_interval(int(mixed[alike].sum()), int(alike.sum())).high
        if bound is not None and bound / mixed_by_chance <= MOST_CHANCE_PAIRS:
            return float(cut)
    return None


# --- search ------------------------------------------------------------------------------------


def search_views(n: int) -> tuple[View, ...]:
    """Views that are searched: the time is n² times their number, so fewer for larger sets."""
    if n <= 8_000:
        return (AS_IT_IS, *ZOOMED, *TURNED, *CORNERED)
    if n <= 20_000:
        return (AS_IT_IS, *ZOOMED, *TURNED)
    return (AS_IT_IS, View(1.2)) if n <= 40_000 else (AS_IT_IS,)


def search(work: Bytes, metric: Metric, views: tuple[View, ...]) -> Rows:
    """Best partners of every image: rows (m, 3) of first, second, code of the first's view.

    Blocks of rows are compared with all images, so that memory stays bounded.
    """
    height = _block_rows(len(work))
    index = _embedded(work, metric)
    best_of_column = np.full((len(work), PARTNERS), -2, np.float32)
    row_of_column = np.zeros((len(work), PARTNERS), np.int64)
    found: list[Rows] = []
    for start in range(0, len(work), height):
        rows = np.arange(start, min(start + height, len(work)))
        block = _best_similarity(work[rows], metric, views, index)
        block[np.arange(len(rows)), rows] = -2
        by_column = np.ascontiguousarray(block.T)
        _, columns = _top(block)
        found.append(np.stack([np.repeat(rows, columns.shape[1]), columns.ravel()], axis=1))
        similarity, inside = _top(by_column)
        both = np.concatenate([best_of_column, similarity], axis=1)
        where = np.concatenate([row_of_column, rows[inside]], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :PARTNERS]
        best_of_column = np.take_along_axis(both, order, axis=1)
        row_of_column = np.take_along_axis(where, order, axis=1)
    columns = np.repeat(np.arange(len(work)), PARTNERS)
    found.append(np.stack([row_of_column.ravel(), columns], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return np.column_stack([pairs, _best_codes(work, metric, views, index, pairs)])


def _embedded(work: Bytes, metric: Metric) -> Floats:
    """All images in the metric's space; thumbnails of many are made block by block."""
    step = EMBED_ROWS
    parts = [
        metric.embed(thumbnails(work[start : start + step])) for start in range(0, len(work), step)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _block_rows(n: int) -> int:
    return int(np.clip(BLOCK_CELLS // n, 64, 512))


def _best_similarity(
    block: Bytes, metric: Metric, views: tuple[View, ...], index: Floats
) -> Floats:
    best = np.full((len(block), len(index)), -2, np.float32)
    product = np.empty_like(best)
    for view in views:
        for embedded in metric.embed_symmetries(thumbnails(viewed(block, view))):
            np.matmul(embedded, index.T, out=product)
            np.maximum(best, product, out=best)
    return best


def viewed(images: Bytes, view: View) -> Bytes:
    """Images (n, s, s, c) as the view shows them."""
    if view == AS_IT_IS:
        return images
    matrix = view.matrix(images.shape[1])
    return np.stack([warp(image, matrix) for image in images])


def _top(block: Floats) -> tuple[Floats, Rows]:
    """Largest PARTNERS values of each row and their columns; `block` is spoiled.

    Repeated argmax is several times faster than argpartition for a few values.
    """
    rows = np.arange(len(block))
    keep = min(PARTNERS, block.shape[1])
    values, columns = np.empty((len(block), keep), np.float32), np.empty((len(block), keep), int)
    for k in range(keep):
        columns[:, k] = block.argmax(axis=1)
        values[:, k] = block[rows, columns[:, k]]
        block[rows, columns[:, k]] = -2
    return values, columns.astype(np.int64)


def _best_codes(
    work: Bytes, metric: Metric, views: tuple[View, ...], index: Floats, pairs: Rows
) -> Rows:
    """Which view and symmetry of the first image fits the second best; view * 8 + symmetry."""
    codes = np.zeros(len(pairs), np.int64)
    height = _block_rows(len(work))
    for start in range(0, len(work), height):
        low, high = np.searchsorted(pairs[:, 0], (start, start + height))
        part = pairs[low:high]
        block = work[start : start + height]
        fixed = index[part[:, 1]]
        scores = [
            np.einsum("spe,pe->sp", embedded[:, part[:, 0] - start], fixed)
            for embedded in (
                metric.embed_symmetries(thumbnails(viewed(block, view))) for view in views
            )
        ]
        codes[low:high] = np.concatenate(scores).argmax(axis=0)
    return codes


# --- verification ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores:
    """Similarities of candidates, each (m,) in [-1, 1]; -1 where there is none.

    `on_grid`: as copies, pixel on pixel (only for pairs in one of the 8 symmetries, unmoved).
    `aligned`: as copies, after alignment. `moved`: after alignment, small movements forgiven.
    """

    on_grid: NDArray[np.float64]
    aligned: NDArray[np.float64]
    moved: NDArray[np.float64]


def verify(
    work: Bytes, still: Metric, moving: Metric, views: tuple[View, ...], candidates: Rows
) -> Scores:
    """Align the candidates of `search` and compare them again."""
    step = 500
    blocks = [candidates[start : start + step] for start in range(0, len(candidates), step)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        parts = list(
            pool.map(lambda block: _verify_block(work, still, moving, views, block), blocks)
        )
    joined = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    return Scores(joined[0], joined[1], joined[2])


def _verify_block(
    work: Bytes, still: Metric, moving: Metric, views: tuple[View, ...], candidates: Rows
) -> NDArray[np.float64]:
    shown = np.empty((len(candidates), *work.shape[1:]), np.uint8)
    aligned = np.empty_like(shown)
    held = np.zeros(len(candidates), bool)
    for k, (first, second, code) in enumerate(candidates):
        shown[k] = symmetry(work[first][None], code % NUM_SYMMETRIES)[0]
        aligned[k], held[k] = align(shown[k], work[second], views[code // NUM_SYMMETRIES])
    fixed, moved = thumbnails(work[candidates[:, 1]]), thumbnails(aligned)
    unmoved = candidates[:, 2] < NUM_SYMMETRIES  # the first view is the image as it is
    target = still.embed(fixed)
    return np.stack(
        [
            np.where(unmoved, _cosine(still.embed(thumbnails(shown)), target), -1),
            np.where(held, _cosine(still.embed(moved), target), -1),
            np.where(held, _cosine(moving.embed(moved), moving.embed(fixed)), -1),
        ]
    )


def _cosine(first: Floats, second: Floats) -> NDArray[np.float64]:
    return np.asarray(np.einsum("pe,pe->p", first, second), np.float64)


def align(moving: Bytes, fixed: Bytes, view: View) -> tuple[Bytes, bool]:
    """Move one image onto another by an affine map, starting from the view that the search found.

    Returns:
        The moved image, and whether the map is believable: at least 80 % of the frame covered,
        magnified between 0.8 and 2.9 times, stretched by less than a quarter. If it is not, the
        second image is returned as it is.
    """
    side = fixed.shape[0]
    start = np.asarray(cv2.invertAffineTransform(view.matrix(side)), np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 1e-4)
    grey = _grey(fixed), _grey(moving)
    try:
        _, inverse = cv2.findTransformECC(*grey, start, cv2.MOTION_AFFINE, criteria, None, 1)
    except cv2.error:  # did not converge: the images have nothing in common
        return fixed, False
    if not _believable(np.asarray(inverse), side):
        # Not even warped: OpenCV walks a pixel that lies 10⁹ px outside back by one mirroring of
        # the frame at a time. One such map (dark pictures bring them) took longer than an hour.
        return fixed, False
    return warp(moving, np.asarray(inverse, np.float64), inverse=True), True


def _believable(inverse: NDArray[np.floating], side: int) -> bool:
    if not np.isfinite(inverse).all():
        return False
    whole = np.ones((side, side), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(whole, inverse, (side, side), flags=flags)
    stretch = np.linalg.svd(inverse[:, :2], compute_uv=False)
    return bool(
        inside.mean() > 0.8 and stretch[0] < 1.25 * stretch[1] and 0.35 < stretch.mean() < 1.25
    )


def _grey(image: Bytes) -> Bytes:
    if image.shape[2] == 1:
        return image[..., 0]
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
