"""Images that are already in memory: checked once, at this door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scanwise.core.errors import DataError
from scanwise.core.files import sha256_bytes
from scanwise.core.types import Dataset, Provenance, Task
from scanwise.data.cache import in_threads

_BLOCK = 1024  # images looked at a time, or fewer large ones
_BLOCK_BYTES = 2**25
_ONE_HOT_SHARE = 0.75  # above this, 0/1 rows that sum to 1 are meant as one-hot


def from_arrays(
    images: ArrayLike,
    targets: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    task: Task | None = None,
) -> Dataset:
    """Make a data set of arrays.

    Two-dimensional 0/1 targets are one-hot if every row sums to 1, and several labels per image
    if under three quarters of the rows do. In between we refuse to guess: say it by `task`.

    Args:
        images: (n, h, w) or (n, h, w, c); uint8 and uint16 stay, bool becomes 0 and 255, any other
            number float32.
        targets: Classes (n,) or (n, 1), integers or strings; one-hot (n, k); labels (n, k) of 0, 1.
        groups: n names or numbers of what no split may cut (patients).
        class_names: k names. With integer targets these are indices into them; without, the
            classes are the values that occur.
        name: Short name of the data.
        task: What the targets are; None decides as said above.

    Raises:
        DataError: (a ValueError) Wrong shapes or lengths; NaN or infinite pixels, a constant
            image, a target that is none: with the index of the first.
    """
    pixels = check_images(np.asarray(images), name)
    check_not_constant(pixels, name)
    labels, names, found = parse_targets(np.asarray(targets), class_names, task, name)
    if len(labels) != len(pixels):
        raise DataError(f"{name}: {len(pixels)} images, but {len(labels)} targets.")
    return Dataset(
        name=name,
        images=pixels,
        targets=labels,
        class_names=names,
        sample_ids=tuple(f"{name}#{row}" for row in range(len(pixels))),
        sha256=row_hashes(pixels),
        task=found,
        groups=_group_names(groups, len(pixels), name),
        provenance=Provenance(name, "arrays"),
    )


def check_images(images: NDArray[Any], where: str) -> NDArray[Any]:
    """(n, h, w, c) in uint8, uint16 or float32.

    Raises:
        DataError: Another shape, no images, pixels that are no finite numbers.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4:
        raise DataError(
            f"{where}: images have shape {images.shape}; (n, height, width) or (n, height, width, "
            "channels) is needed."
        )
    if 0 in images.shape:
        raise DataError(f"{where}: images have shape {images.shape}, so there is nothing to read.")
    if images.shape[1] <= 4 and images.shape[3] >= 8:
        raise DataError(
            f"{where}: images have shape {images.shape}, which looks like channels first; give "
            "(n, height, width, channels), say by images.transpose(0, 2, 3, 1)."
        )
    images = known_depth(images, where)
    _check_finite(images, where)
    return images


def known_depth(images: NDArray[Any], where: str) -> NDArray[Any]:
    """The same values in uint8, uint16 or float32; bool becomes 0 and 255.

    Raises:
        DataError: If they are no real numbers.
    """
    if images.dtype.kind == "u" and images.dtype.itemsize <= 2:
        return images.astype(images.dtype.newbyteorder("="), copy=False)
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind not in "iuf":
        raise DataError(f"{where}: images are of type {images.dtype}, which is no intensity.")
    with np.errstate(over="ignore"):
        return images.astype(np.float32, copy=False)


def _check_finite(images: NDArray[Any], where: str) -> None:
    if images.dtype.kind != "f":
        return
    step = _block_rows(images)
    for start in range(0, len(images), step):
        finite = np.isfinite(images[start : start + step]).all(axis=(1, 2, 3))
        if not finite.all():
            first = start + int(finite.argmin())
            raise DataError(f"{where}: image {first} has pixels that are NaN or infinite.")


def _block_rows(images: NDArray[Any]) -> int:
    row_bytes: int = images[:1].nbytes
    return max(1, min(_BLOCK, _BLOCK_BYTES // row_bytes))


def check_not_constant(images: NDArray[Any], where: str) -> None:
    """Raises DataError with the index of the first image whose pixels are all equal."""
    step = _block_rows(images)
    for start in range(0, len(images), step):
        block = images[start : start + step]
        constant = block.max(axis=(1, 2, 3)) == block.min(axis=(1, 2, 3))
        if constant.any():
            first = start + int(constant.argmax())
            value = images[first].flat[0]
            raise DataError(
                f"{where}: image {first} is constant (every pixel is {value:g}); "
                f"{int(constant.sum())} of images {start} to {start + len(block) - 1} are. Leave "
                "them out."
            )


def parse_targets(
    targets: NDArray[Any], class_names: Sequence[str] | None, task: Task | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...], Task]:
    """Targets in any accepted form as indices (n,) or 0/1 (n, k), with class names and the task.

    Raises:
        DataError: With the index of the first target that is wrong.
    """
    names = None if class_names is None else tuple(str(name) for name in class_names)
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"{where}: class_names has a name twice: {list(names)}.")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim == 2:
        return _from_matrix(targets, names, task, where)
    if targets.ndim != 1:
        raise DataError(
            f"{where}: targets have shape {targets.shape}; (n,), (n, 1) or (n, k) is needed."
        )
    if task == "multilabel":
        raise DataError(f"{where}: task 'multilabel' needs targets (n, k), got {targets.shape}.")
    if targets.dtype.kind in "OUST":
        labels, names = _from_names(targets, names, task, where)
    else:
        labels, names = _from_numbers(targets, names, task, where)
    if len(names) < 2:
        raise DataError(f"{where}: targets have one class, '{names[0]}'; two are needed.")
    return labels, names, task or "multiclass"


def _from_matrix(
    targets: NDArray[Any], names: tuple[str, ...] | None, task: Task | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...], Task]:
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{where}: targets (n, k) must be 0 and 1, got type {targets.dtype}.")
    width = targets.shape[1]
    names = names or tuple(str(k) for k in range(width))
    if len(names) != width:
        raise DataError(f"{where}: {len(names)} class names, but targets have {width} columns.")
    binary = ((targets == 0) | (targets == 1)).all(axis=1)
    if not binary.all():
        first = int(binary.argmin())
        raise DataError(f"{where}: target {first} is {targets[first].tolist()}; 0 and 1 expected.")
    single = targets.sum(axis=1) == 1
    one_hot = bool(single.all()) if task is None else task != "multilabel"
    if one_hot or (task is None and single.mean() >= _ONE_HOT_SHARE):
        if not single.all():
            first = int(single.argmin())
            raise DataError(
                f"{where}: target {first} sums to {int(targets[first].sum())}, where one-hot rows "
                "sum to 1; pass task='multilabel' if an image may have none or several."
            )
        return targets.argmax(axis=1).astype(np.int64), names, task or "multiclass"
    return targets.astype(np.int64), names, "multilabel"


def _from_names(
    targets: NDArray[Any], names: tuple[str, ...] | None, task: Task | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    cells = targets.tolist()
    for row, cell in enumerate(cells):
        if not isinstance(cell, str) or not cell:
            raise DataError(f"{where}: target {row} is {cell!r}; a non-empty string is expected.")
    if names is None:
        if task == "ordinal":
            raise DataError(f"{where}: ordinal targets as names need class_names in rising order.")
        names = tuple(sorted(set(cells)))
    index = {name: i for i, name in enumerate(names)}
    for row, cell in enumerate(cells):
        if cell not in index:
            raise DataError(f"{where}: target {row} is '{cell}', which is not in class_names.")
    return np.array([index[cell] for cell in cells], np.int64), names


def _from_numbers(
    targets: NDArray[Any], names: tuple[str, ...] | None, task: Task | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if targets.dtype.kind not in "biuf":
        raise DataError(f"{where}: targets of type {targets.dtype} are no classes.")
    whole = np.isfinite(targets) & (targets == np.trunc(targets))
    if not whole.all():
        first = int(whole.argmin())
        raise DataError(f"{where}: target {first} is {targets[first]}; whole numbers expected.")
    labels = targets.astype(np.int64)
    if names is not None:
        outside = (labels < 0) | (labels >= len(names))
        if outside.any():
            first = int(outside.argmax())
            raise DataError(
                f"{where}: target {first} is {labels[first]}, but {len(names)} class names allow "
                f"0 to {len(names) - 1}."
            )
        return labels, names
    values, labels = np.unique(labels, return_inverse=True)
    if task == "ordinal" and len(values) and values[-1] - values[0] + 1 != len(values):
        raise DataError(
            f"{where}: ordinal levels have gaps: {values.tolist()}; give class_names in rising "
            "order, or number the levels without gaps."
        )
    return labels.astype(np.int64), tuple(str(value) for value in values.tolist())


def row_hashes(images: NDArray[Any]) -> tuple[str, ...]:
    """SHA-256 of each image's shape, depth and pixels."""
    head = f"{images.shape[1:]}{images.dtype.str}".encode()

    def digest(row: int) -> str:
        return sha256_bytes(head + np.ascontiguousarray(images[row]).tobytes())

    # Threads pay only where hashing one image takes longer than handing it over.
    if images[0].nbytes < 1 << 15:
        return tuple(digest(row) for row in range(len(images)))
    return tuple(in_threads(digest, range(len(images))))


def _group_names(groups: ArrayLike | None, n: int, where: str) -> tuple[str, ...] | None:
    if groups is None:
        return None
    values = np.asarray(groups)
    if values.shape != (n,):
        raise DataError(f"{where}: groups have shape {values.shape}, but there are {n} images.")
    cells = values.tolist()
    for row, cell in enumerate(cells):
        if cell is None or cell == "" or cell != cell:  # NaN differs from itself
            raise DataError(f"{where}: group {row} is empty ({cell!r}).")
    return tuple(str(cell) for cell in cells)
