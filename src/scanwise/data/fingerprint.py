"""What a data set is, in numbers: dataset.json."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import SPLIT_NAMES, Dataset, Split
from scanwise.data.splits import group_summary

BLOCK = 2048  # images read at a time, or fewer large ones
BLOCK_BYTES = 2**26


def dataset_fingerprint(dataset: Dataset, split: Split) -> dict[str, Any]:
    """The facts of a data set and its split, JSON-ready; holds no path and no pixel.

    `content_sha256` is the hash over all rows' hashes in order: equal for equal data.
    """
    counts = {"all": dataset.class_counts().tolist()} | {
        name: dataset.class_counts(split.rows(name)).tolist() for name in SPLIT_NAMES
    }
    present = [count for count in counts["all"] if count]
    height, width = dataset.size_px
    provenance = dataset.provenance
    return {
        "schema": 1,
        "name": dataset.name,
        "source": provenance.source,
        "kind": provenance.kind,
        "licence": provenance.licence,
        "citation": provenance.citation,
        "synthetic": provenance.synthetic,
        "verified": provenance.verified,
        "benchmark": provenance.benchmark,
        "task": dataset.task,
        "n": len(dataset),
        "image": {
            "height": height,
            "width": width,
            "channels": dataset.channels,
            "dtype": str(dataset.images.dtype),
        },
        "original_sizes": _sizes(dataset),
        "class_names": list(dataset.class_names),
        "counts": counts,
        "imbalance_ratio": max(present) / min(present) if present else None,
        "groups": _groups(dataset, split),
        "split": {
            "origin": split.origin,
            "seed": split.seed,
            "sha256": split.sha256,
            "note": split.note,
            "n": {name: len(split.rows(name)) for name in SPLIT_NAMES},
        },
        "content_sha256": content_sha256(dataset),
        **_intensities(dataset),
    }


def content_sha256(dataset: Dataset) -> str:
    """SHA-256 over the rows' own hashes, in order."""
    return hashlib.sha256("\n".join(dataset.sha256).encode()).hexdigest()


def _sizes(dataset: Dataset) -> dict[str, list[int]] | None:
    if dataset.original_sizes is None:
        return None
    sizes = dataset.original_sizes
    return {
        "min": sizes.min(axis=0).tolist(),
        "median": np.median(sizes, axis=0).astype(int).tolist(),
        "max": sizes.max(axis=0).tolist(),
    }


def _groups(dataset: Dataset, split: Split) -> dict[str, Any] | None:
    if dataset.groups is None:
        return None
    found = group_summary(dataset, split)
    return {
        "n": len(set(dataset.groups)),
        "by_split": dict(found.counts) if found else {},
        "shared": len(found.shared) if found else 0,
    }


def _channel_sums(block: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of each channel (c,) of images (b, h, w, c); lines first is fourteen times faster."""
    b, h, w, c = block.shape
    lines = block.reshape(b * h, w * c).sum(axis=0, dtype=np.float64)
    return np.asarray(lines.reshape(w, c).sum(axis=0))


def _intensities(dataset: Dataset) -> dict[str, Any]:
    """Mean of each channel, range of values, and whether colour images are grey."""
    total = np.zeros(dataset.channels)
    low, high, grey = np.inf, -np.inf, dataset.channels == 3
    step = max(1, min(BLOCK, BLOCK_BYTES // max(1, dataset.images[:1].nbytes)))
    for start in range(0, len(dataset), step):
        block = np.asarray(dataset.images[start : start + step])
        total += _channel_sums(block)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        grey = grey and bool((block == block[..., :1]).all())
    pixels = len(dataset) * dataset.size_px[0] * dataset.size_px[1]
    return {
        "channel_mean": (total / max(pixels, 1)).tolist(),
        "intensity_range": [low, high] if np.isfinite([low, high]).all() else None,
        "grey_as_rgb": grey,
    }
