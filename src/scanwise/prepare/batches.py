"""Batches by index from one uint8 array, augmented and normalised as a batch on the device.

There is no data loader and no worker: a split that fits stays on the device (on the CPU: in the
array it already lives in), and a larger one is read from its memory map one batch ahead.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scanwise.core.config import Sampler
from scanwise.core.errors import ConfigError, DataError
from scanwise.core.types import Task
from scanwise.prepare.augment import Augmentation
from scanwise.prepare.balance import sample_order
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.prepare.rows import RESIDENT_LIMIT_BYTES

_UPLOAD_BYTES = 2**26  # copied to a device at a time
FREE_GPU_SHARE = 0.6  # of free GPU memory that a resident split may take

Batch = tuple[Tensor, Tensor, Tensor | None]


class Batches:
    """A split as a stream of batches; each epoch is a pure function of (seed, epoch).

    Training batches come in random order, with `augmentation`. If the last one would hold a single
    image, that image joins the batch before it: batch normalisation can't learn from one. No image
    is dropped. Evaluation batches (`training=False`) come in the order of `rows`.

    With a `share` each batch is the same as without, and the processes divide its images.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8] | Tensor,
        targets: NDArray[np.int64],
        preprocessing: Preprocessing,
        *,
        rows: NDArray[np.int64] | None = None,
        weights: NDArray[np.float32] | None = None,
        batch_size: int = 128,
        training: bool = False,
        augmentation: Augmentation | None = None,
        sampler: Sampler = "shuffle",
        seed: int = 0,
        task: Task = "multiclass",
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        resident_limit_bytes: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Take a split.

        Args:
            pixels: `Preprocessing.to_pixels` of the data set, uint8 (n, h, w, c): an array, a
                memory map or a tensor. Never copied whole if it is large.
            targets: int (n,), or (n, k) of 0 and 1 for multi-label.
            preprocessing: Whose mean and std normalise.
            rows: Rows of the split, int (m,) [all n].
            weights: Loss weight of each row, float (n,) [none].
            batch_size: Images a step.
            training: Random order and augmentation, or neither.
            augmentation: For training only [none].
            sampler: Order of training images.
            seed: With the epoch's number, decides order and augmentation.
            task: `multilabel` makes float targets, all others int64.
            device: Where batches are made and used.
            channels_last: Memory order of the images.
            resident_limit_bytes: Largest split that is held on the device [512 MiB on the CPU, 60 %
                of the free memory of a GPU].
            share: (rank, size) of one of several processes: it gets every size-th image of each
                batch from the rank-th on. One that a batch is too small for gets its first image
                with weight 0.

        Raises:
            DataError: If pixels are not uint8 (n, h, w, c) of the model's form, or lengths differ.
            ConfigError: Batch size below 1; augmentation or sampler without training.
        """
        _check(pixels, targets, weights, preprocessing)
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1.")
        if not training and (augmentation is not None or sampler != "shuffle"):
            raise ConfigError("evaluation batches take neither augmentation nor a sampler.")
        self.preprocessing = preprocessing
        self.rows = np.arange(len(pixels)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.batch_size = batch_size
        self.training = training
        self.augmentation = augmentation
        self.sampler: Sampler = sampler
        self.seed = seed
        self.task: Task = task
        self.device = torch.device(device)
        self.channels_last = channels_last
        self.share = share
        if not len(self.rows):
            raise DataError("there are no images to make batches of.")
        self._source = _open(pixels, self.rows, self.device, resident_limit_bytes)
        kind = torch.float32 if task == "multilabel" else torch.int64
        self._row_targets = np.asarray(targets)[self.rows]
        self._targets = torch.from_numpy(self._row_targets).to(self.device, kind)
        self._weights = (
            None
            if weights is None
            else torch.from_numpy(np.asarray(weights, np.float32)[self.rows]).to(self.device)
        )
        scale, shift = preprocessing.scale_shift()
        self._scale_shift = (
            torch.from_numpy(scale).to(self.device),
            torch.from_numpy(shift).to(self.device),
        )

    @property
    def num_images(self) -> int:
        """Images an epoch yields, to all processes together."""
        return len(self.rows)

    @property
    def step_images(self) -> list[int]:
        """Images of each step of an epoch, in all processes together."""
        bounds = batch_bounds(self.num_images, self.batch_size, self.training)
        return [stop - start for start, stop in bounds]

    @property
    def steps_per_epoch(self) -> int:
        return len(batch_bounds(self.num_images, self.batch_size, self.training))

    def __len__(self) -> int:
        return self.steps_per_epoch

    @property
    def resident(self) -> bool:
        """True if the pixels lie in the device's memory (or are shared with the array given)."""
        return isinstance(self._source, _Resident)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of the data set in the order in which this epoch yields them."""
        return self.rows[self._positions(epoch)]

    def iterate(self, epoch: int = 0, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield (images, targets, weights) of one epoch.

        Args:
            epoch: Its number. The same number gives the same batches, whatever was asked before.
            start_step: Steps to leave out, for going on in the middle of an epoch.

        Yields:
            Images float32 (b, c, h, w); targets int64 (b,) or float32 (b, k); weights float32 (b,)
            or None. All on the device, new memory at each step.
        """
        positions = self._positions(epoch)
        bounds = batch_bounds(self.num_images, self.batch_size, self.training)
        steps = range(start_step, len(bounds))
        parts = (positions[slice(*bounds[step])][self._part(*bounds[step])] for step in steps)
        seeds = np.random.SeedSequence([self.seed, epoch, 1]).generate_state(len(bounds), np.uint64)
        generator = torch.Generator()
        for step, (batch, index) in zip(steps, self._source.gather(parts), strict=True):
            # A seed for each step, so that starting in the middle meets the same numbers.
            generator.manual_seed(int(seeds[step] >> np.uint64(1)))
            weights = None if self._weights is None else self._weights.index_select(0, index)
            start, stop = bounds[step]
            if self.share[0] >= stop - start:  # none is left for this process
                weights = torch.zeros(len(batch), device=self.device)
            images = self._finish(batch, generator, start, stop)
            yield images, self._targets.index_select(0, index), weights

    def _part(self, start: int, stop: int) -> slice:
        """This process's images of the batch from start to stop; the first where there is none."""
        rank, size = self.share
        return slice(rank, None, size) if rank < stop - start else slice(0, 1)

    def _finish(self, batch: Tensor, generator: torch.Generator, start: int, stop: int) -> Tensor:
        if not self.training or self.augmentation is None or self.augmentation.is_none:
            return self.preprocessing.normalise(batch, channels_last=self.channels_last)
        return self.augmentation.apply(
            batch.permute(0, 3, 1, 2),
            generator,
            scale_shift=self._scale_shift,
            channels_last=self.channels_last,
            part=None if self.share == (0, 1) else (stop - start, self._part(start, stop)),
        )

    def _positions(self, epoch: int) -> NDArray[np.int64]:
        """Positions in `rows` in the order of this epoch."""
        if not self.training:
            return np.arange(len(self.rows))
        rng = np.random.default_rng([self.seed, epoch, 0])
        return sample_order(self._row_targets, self.sampler, rng)


def batch_bounds(n: int, size: int, training: bool) -> list[tuple[int, int]]:
    """First and last position of each batch of `size` among n images.

    In training a last batch of one image joins the one before: BatchNorm can't learn from one.
    """
    starts = list(range(0, n, size))
    if training and size > 1 and len(starts) > 1 and n % size == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))


class _Resident:
    """Pixels in the device's memory; a batch is one index_select."""

    def __init__(self, pixels: Tensor, places: NDArray[np.int64]) -> None:
        self._pixels = pixels
        self._places = torch.from_numpy(places)  # position in the split -> row of _pixels

    def gather(self, parts: Iterator[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (pixels (b, h, w, c), positions (b,)) for each part of the split's positions."""
        device = self._pixels.device
        for part in parts:
            positions = torch.from_numpy(part)
            rows = self._places.index_select(0, positions)
            yield self._pixels.index_select(0, rows.to(device)), positions.to(device)


class _Mapped:
    """Pixels in a memory map; the next batch is read by a thread while the last one is used."""

    def __init__(
        self, pixels: NDArray[np.uint8], rows: NDArray[np.int64], device: torch.device
    ) -> None:
        self._pixels = np.asarray(pixels)  # without memmap's slow indexing; still not copied
        self._rows = rows
        self._device = device

    def gather(self, parts: Iterator[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """As `_Resident.gather`."""
        with ThreadPoolExecutor(1, thread_name_prefix="scanwise-read") as pool:
            waiting = None
            for part in parts:
                ahead = pool.submit(self._read, part)
                if waiting is not None:
                    yield self._send(*waiting)
                waiting = (ahead.result, part)
            if waiting is not None:
                yield self._send(*waiting)

    def _read(self, part: NDArray[np.int64]) -> Tensor:
        rows = self._rows[part]
        # In the order of the file, so that the disk reads forwards; then back.
        forwards = np.argsort(rows, kind="stable")
        batch = np.empty((len(rows), *self._pixels.shape[1:]), np.uint8)
        batch[forwards] = self._pixels[rows[forwards]]
        tensor = torch.from_numpy(batch)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _send(self, result: Any, part: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        batch: Tensor = result()
        positions = torch.from_numpy(part).to(self._device)
        return batch.to(self._device, non_blocking=True), positions


def _open(
    pixels: NDArray[np.uint8] | Tensor,
    rows: NDArray[np.int64],
    device: torch.device,
    limit_bytes: int | None,
) -> _Resident | _Mapped:
    """Hold the split on the device if it fits, else read it as it is needed."""
    if isinstance(pixels, Tensor) and pixels.device == device:
        return _Resident(pixels, rows)
    on_disk = _is_memory_map(pixels)
    if device.type == "cpu" and isinstance(pixels, np.ndarray) and not on_disk:
        return _Resident(_as_tensor(pixels), rows)  # shares the array's memory
    array = pixels.cpu().numpy() if isinstance(pixels, Tensor) else np.asarray(pixels)
    needed = len(rows) * int(np.prod(array.shape[1:]))
    if needed > (_limit_bytes(device) if limit_bytes is None else limit_bytes):
        return _Mapped(array, rows, device)
    return _Resident(_uploaded(array, rows, device), np.arange(len(rows)))


def _uploaded(array: NDArray[np.uint8], rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Rows of an array on the device, part by part: the host never holds them all as well."""
    held = torch.empty((len(rows), *array.shape[1:]), dtype=torch.uint8, device=device)
    step = max(1, _UPLOAD_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(rows), step):
        held[start : start + step] = torch.from_numpy(array[rows[start : start + step]])
    return held


def _limit_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(FREE_GPU_SHARE * free)
    return RESIDENT_LIMIT_BYTES


def _is_memory_map(pixels: object) -> bool:
    """True for a memmap and for views of one."""
    while isinstance(pixels, np.ndarray):
        if isinstance(pixels, np.memmap):
            return True
        pixels = pixels.base
    return False


def _as_tensor(array: NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # torch warns that a read-only array could be written through the tensor; we only read.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array))


def _check(
    pixels: NDArray[np.uint8] | Tensor,
    targets: NDArray[np.int64],
    weights: NDArray[np.float32] | None,
    preprocessing: Preprocessing,
) -> None:
    form = (*preprocessing.size_px, preprocessing.channels)
    if tuple(pixels.shape[1:]) != form or pixels.dtype not in (np.uint8, torch.uint8):
        raise DataError(
            f"pixels are {pixels.dtype} {tuple(pixels.shape)}, uint8 (n, {form[0]}, {form[1]}, "
            f"{form[2]}) expected; make them with Preprocessing.to_pixels."
        )
    for name, column in (("targets", targets), ("weights", weights)):
        if column is not None and len(column) != len(pixels):
            raise DataError(f"{name} have {len(column)} rows, pixels {len(pixels)}.")
