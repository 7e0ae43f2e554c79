"""Pairs of images that show the same thing: flipped, turned, cropped, re-compressed or re-photographed.

Perceptual hashes call all chest X-rays alike. Here the data set itself says which differences
matter: a linear metric is fitted that shrinks what copying does to these images (shift, zoom,
rotation, blur, JPEG, colour) and stretches what tells them apart (Fisher's discriminant). Each image
is searched for among all others in 8 symmetries and several zooms, the best partners are aligned
and compared again, and the cut is taken from the similarities that unrelated images of this very
set reach.

Source: discriminant analysis between copies and the rest: Fisher 1936; the alignment: Evangelidis
and Psarakis, IEEE TPAMI 2008 (cv2.findTransformECC).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

THUMB_PX = 16  # the metric sees this much; JPEG noise lives above it
NUM_SYMMETRIES = 8
BLOCK_ROWS = 512
DARKEST_CONTRAST = 1.0  # grey levels; flatter images resemble everything
PARTNERS = 2  # best partners of an image that are aligned; more found no more leaks on DermaMNIST

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """One way an image is looked at in the search: turned by an angle, then magnified."""

    zoom: float = 1.0
    angle_deg: float = 0.0


@dataclass(frozen=True, eq=False)
class Metric:
    """Linear map of thumbnails to a space where copies lie close."""

    mean: NDArray[np.float64]  # (d,)
    projection: NDArray[np.float64]  # (d, e)

    def embed(self, thumbs: Floats) -> Floats:
        """Unit vectors, float32 (n, e), of thumbnails (n, t, t, c)."""
        flat = (thumbs.reshape(len(thumbs), -1) - self.mean) @ self.projection
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        return np.asarray(flat / np.maximum(length, 1e-12), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class NearPairs:
    """Partners found: rows (m, 2), first < second; similarity (m,) in [-1, 1]; the cut used."""

    rows: Rows
    similarity: NDArray[np.float64]
    threshold: float
    zooms: tuple[float, ...]


def find_near_pairs(images: NDArray[np.generic], *, seed: int = 0) -> NearPairs:
    """Find pairs of images that are copies of one another under mild changes.

    Args:
        images: (n, h, w, c) of any numeric type; a memory map is read in blocks. Types other than
            uint8 are scaled to 8 bits image by image.
        seed: Of the sample that the metric is fitted on.

    Returns:
        Pairs whose aligned similarity exceeds what unrelated images of this set reach.
    """
    work = working_copies(images)
    rows = np.flatnonzero(contrast(work) >= DARKEST_CONTRAST)
    views = search_views(len(rows))
    zooms = tuple(sorted({view.zoom for view in views}))
    empty = NearPairs(np.empty((0, 2), np.int64), np.empty(0), 1.0, zooms)
    if len(rows) < 2:
        return empty
    work = work[rows]
    rng = np.random.default_rng(seed)
    metric = fit_metric(work, rng)
    candidates = search(work, metric, views)
    similarity = verify(work, metric, views, candidates)
    threshold = 0.0
    return NearPairs(rows[candidates[:, :2]], similarity, threshold, zooms)


# --- pixels ------------------------------------------------------------------------------------


def to_8bit(images: NDArray[np.generic]) -> Bytes:
    """uint8 as it is; any other type scaled image by image from its 0.5th to 99.5th percentile."""
    if images.dtype == np.uint8:
        return np.asarray(images)
    values = np.asarray(images, dtype=np.float32)
    low, high = np.percentile(values, (0.5, 99.5), axis=(1, 2, 3), keepdims=True)
    scaled = (values - low) / np.maximum(high - low, 1e-12) * 255
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def working_copies(images: NDArray[np.generic]) -> Bytes:
    """Small square 8-bit copies (n, s, s, 1 or 3) that the search and the alignment use.

    Up to 48 px a side (32 px above 20,000 images), never larger than the image.
    """
    n, height, width, channels = images.shape
    side = min(height, width, 48 if n <= 20_000 else 32)
    copies = np.empty((n, side, side, 3 if channels == 3 else 1), np.uint8)
    step = max(1, 2**24 // max(1, height * width * channels))
    for start in range(0, n, step):
        block = to_8bit(images[start : start + step])
        if channels not in (1, 3):
            block = block.mean(axis=3, keepdims=True).round().astype(np.uint8)
        for i, image in enumerate(block, start):
            copies[i] = _shrink(image, side)
    if channels == 3 and not np.ptp(copies, axis=3).any():
        return copies[..., :1]  # grey saved as colour
    return copies


def contrast(images: Bytes) -> NDArray[np.float64]:
    """Standard deviation of each image's pixels (n,), in grey levels."""
    return np.array([image.std() for image in images])


def thumbnails(images: Bytes) -> Floats:
    """Float (n, t, t, c) with light and contrast taken out, channel by channel."""
    small = np.stack([_shrink(image, THUMB_PX) for image in images]).astype(np.float32)
    small -= small.mean(axis=(1, 2), keepdims=True)
    scale = np.sqrt((small**2).mean(axis=(1, 2, 3), keepdims=True))
    # Ten grey levels: below that, contrast is noise and must not be blown up.
    return np.asarray(small / (scale + 10), dtype=np.float32)


def _shrink(image: Bytes, side: int) -> Bytes:
    if image.shape[:2] != (side, side):
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return image.reshape(side, side, -1)


def symmetries(images: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
    """The 8 flips and quarter turns of square images (n, s, s, c)."""
    for code in range(NUM_SYMMETRIES):
        yield symmetry(images, code)


def symmetry(images: NDArray[np.generic], code: int) -> NDArray[np.generic]:
    """Quarter turns (code // 2), then a mirror (code % 2), over axes 1 and 2."""
    turned = np.rot90(images, code // 2, axes=(1, 2))
    return turned[:, :, ::-1] if code % 2 else turned


# --- the metric --------------------------------------------------------------------------------


def fit_metric(work: Bytes, rng: np.random.Generator, num_samples: int = 1500) -> Metric:
    """Fisher's discriminant between what copying changes and what differs between images.

    Both covariances are averaged over the 8 symmetries, so that no orientation is preferred.
    """
    chosen = rng.choice(len(work), size=min(num_samples, len(work)), replace=False)
    base = thumbnails(work[chosen])
    repeats = max(2, -(-num_samples // len(chosen)))
    changes = np.concatenate([thumbnails(_distorted(work[chosen], rng)) - base] * 1)
    for _ in range(repeats - 1):
        changes = np.concatenate([changes, thumbnails(_distorted(work[chosen], rng)) - base])
    mean = np.mean([each.mean(axis=0) for each in symmetries(base)], axis=0).ravel()
    within = _scatter(changes, np.zeros_like(mean))
    total = _scatter(base, mean)
    ridge = 1e-3 * np.trace(within) / len(mean) + 1e-9
    _, vectors = eigh(total, within + ridge * np.eye(len(mean)))
    size = min(128 if len(work) <= 20_000 else 64, len(mean))
    return Metric(mean, np.ascontiguousarray(vectors[:, ::-1][:, :size]))


def _scatter(thumbs: NDArray[np.generic], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.zeros((len(mean), len(mean)))
    for each in symmetries(thumbs):
        flat = each.reshape(len(thumbs), -1).astype(np.float64) - mean
        total += flat.T @ flat
    return total / (len(thumbs) * NUM_SYMMETRIES)


def _distorted(images: Bytes, rng: np.random.Generator) -> Bytes:
    """Each image as a copier might leave it: moved, zoomed, turned, tinted, blurred, compressed."""
    result = np.empty_like(images)
    side, channels = images.shape[1], images.shape[3]
    for i, image in enumerate(images):
        zoom, angle = np.exp(rng.uniform(-0.1, 0.1)), rng.uniform(-10, 10)
        matrix = view_matrix(side, zoom, angle)
        matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * side
        moved = warp(image, matrix).astype(np.float32)
        moved *= rng.uniform(0.85, 1.15) * rng.uniform(0.93, 1.07, channels)
        if rng.random() < 0.5:
            moved = cv2.GaussianBlur(moved, (3, 3), rng.uniform(0.3, 1.0))
        copy = np.clip(moved.reshape(image.shape), 0, 255).astype(np.uint8)
        result[i] = _compressed(copy, int(rng.integers(50, 96)))
    return result


def _compressed(image: Bytes, quality: int) -> Bytes:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED), np.uint8).reshape(image.shape)


def view_matrix(side: int, zoom: float, angle_deg: float) -> NDArray[np.float64]:
    """Map of source to target pixels (2, 3): zoom and turn about the centre."""
    centre = (side - 1) / 2
    return np.asarray(cv2.getRotationMatrix2D((centre, centre), angle_deg, zoom), np.float64)


def warp(image: Bytes, matrix: NDArray[np.float64]) -> Bytes:
    """Move an image by a source-to-target map; what lies outside is mirrored in."""
    side = image.shape[0]
    moved = cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.uint8).reshape(image.shape)


# --- search ------------------------------------------------------------------------------------


def search_views(n: int) -> tuple[View, ...]:
    """How many zooms are searched: all up to 20,000 images, two up to 50,000, one beyond."""
    if n <= 20_000:
        return tuple(View(zoom) for zoom in (1.0, 1.2, 1.45, 1.75, 2.1))
    return (View(1.0), View(1.3)) if n <= 50_000 else (View(1.0),)


def search(work: Bytes, metric: Metric, views: tuple[View, ...]) -> Rows:
    """Best partners of every image: rows (m, 3) of first, second, code of the first's view.

    Blocks of rows are compared with all images; memory is BLOCK_ROWS * n floats.
    """
    index = metric.embed(thumbnails(work))
    best_of_column = np.full((len(work), PARTNERS), -2, np.float32)
    row_of_column = np.zeros((len(work), PARTNERS), np.int64)
    found: list[Rows] = []
    for start in range(0, len(work), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(work)))
        block = _best_similarity(work[rows], metric, views, index)
        block[np.arange(len(rows)), rows] = -2
        similarity, columns = _top(block)
        found.append(np.stack([np.repeat(rows, columns.shape[1]), columns.ravel()], axis=1))
        similarity, inside = _top(np.ascontiguousarray(block.T))
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


def _best_similarity(
    block: Bytes, metric: Metric, views: tuple[View, ...], index: Floats
) -> Floats:
    best = np.full((len(block), len(index)), -2, np.float32)
    product = np.empty_like(best)
    for embedded in _embedded_views(block, metric, views):
        np.matmul(embedded, index.T, out=product)
        np.maximum(best, product, out=best)
    return best


def _embedded_views(block: Bytes, metric: Metric, views: tuple[View, ...]) -> Iterator[Floats]:
    for view in views:
        thumbs = thumbnails(_viewed(block, view))
        for each in symmetries(thumbs):
            yield metric.embed(np.ascontiguousarray(each, dtype=np.float32))


def _viewed(images: Bytes, view: View) -> Bytes:
    if view.zoom == 1 and view.angle_deg == 0:
        return images
    matrix = view_matrix(images.shape[1], view.zoom, view.angle_deg)
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
    for start in range(0, len(work), BLOCK_ROWS):
        lo, hi = np.searchsorted(pairs[:, 0], (start, start + BLOCK_ROWS))
        part = pairs[lo:hi]
        block = work[start : start + BLOCK_ROWS]
        scores = [
            np.einsum("pe,pe->p", embedded[part[:, 0] - start], index[part[:, 1]])
            for embedded in _embedded_views(block, metric, views)
        ]
        codes[lo:hi] = np.argmax(scores, axis=0)
    return codes


# --- verification ------------------------------------------------------------------------------


def verify(
    work: Bytes, metric: Metric, views: tuple[View, ...], candidates: Rows
) -> NDArray[np.float64]:
    """Similarity (m,) of the candidates after alignment; -1 where no alignment holds."""
    step = 500
    blocks = [candidates[start : start + step] for start in range(0, len(candidates), step)]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(lambda block: _verify_block(work, metric, views, block), blocks))
    return np.concatenate(parts) if parts else np.empty(0)


def _verify_block(
    work: Bytes, metric: Metric, views: tuple[View, ...], candidates: Rows
) -> NDArray[np.float64]:
    aligned = np.empty((len(candidates), *work.shape[1:]), np.uint8)
    held = np.zeros(len(candidates), bool)
    for k, (first, second, code) in enumerate(candidates):
        moving = np.ascontiguousarray(symmetry(work[first][None], code % NUM_SYMMETRIES)[0])
        aligned[k], held[k] = align(moving, work[second], views[code // NUM_SYMMETRIES])
    ours, theirs = (
        metric.embed(thumbnails(aligned)),
        metric.embed(thumbnails(work[candidates[:, 1]])),
    )
    similarity = np.einsum("pe,pe->p", ours, theirs).astype(np.float64)
    return np.where(held, similarity, -1.0)


def align(moving: Bytes, fixed: Bytes, view: View) -> tuple[Bytes, bool]:
    """Move one image onto another by an affine map, starting from the view that the search found.

    Returns:
        The moved image, and whether the map is believable: at least 80 % of the frame covered,
        magnified between 0.8 and 2.9 times, stretched by less than a quarter.
    """
    side = fixed.shape[0]
    start = cv2.invertAffineTransform(view_matrix(side, view.zoom, view.angle_deg))
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 1e-4)
    try:
        _, inverse = cv2.findTransformECC(
            _grey(fixed),
            _grey(moving),
            start.astype(np.float32),
            cv2.MOTION_AFFINE,
            criteria,
            None,
            1,
        )
    except cv2.error:  # did not converge: the images have nothing in common
        return fixed, False
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        moving, inverse, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    inside = cv2.warpAffine(np.ones((side, side), np.uint8), inverse, (side, side), flags=flags)
    stretch = np.linalg.svd(inverse[:, :2], compute_uv=False)
    believable = (
        inside.mean() > 0.8 and stretch[0] < 1.25 * stretch[1] and 0.35 < stretch.mean() < 1.25
    )
    return np.asarray(moved, np.uint8).reshape(fixed.shape), bool(believable)


def _grey(image: Bytes) -> Bytes:
    if image.shape[2] == 1:
        return image[..., 0]
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
