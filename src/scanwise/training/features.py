"""Features of a frozen backbone: computed once for each image and view, cached, then batched.

View 0 is the image as it is; view v > 0 is one fixed augmented version, drawn from the image's
content and v alone. So a cache that lost a part is filled up again with the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scanwise.core.config import Sampler
from scanwise.core.files import atomic_path, cache_dir, sha256_bytes
from scanwise.core.types import Task
from scanwise.models.backbones import BackboneSpec
from scanwise.prepare.augment import Augmentation
from scanwise.prepare.balance import sample_order
from scanwise.prepare.batches import batch_bounds
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.training.engine import BATCH, Engine

SHARD_ROWS = 512  # feature vectors a file; what a killed process loses at most
KEY_BYTES = 32
_SPARE_BYTES = 200 * 2**20


@dataclass
class FeatureCache:
    """Feature vectors on disk by key, in memory-mapped files of some hundred vectors each.

    Files are written whole or not at all and never changed; damaged ones count as absent. Without
    room on the disk nothing is kept, and `not_cached` says so.
    """

    folder: Path
    num_features: int
    not_cached: str = ""
    _shards: list[NDArray[Any]] = field(default_factory=list)
    _places: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _pending: list[tuple[bytes, NDArray[np.float32]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.glob("*.npy")):
            with contextlib.suppress(OSError, ValueError, EOFError):
                self._take(np.load(path, mmap_mode="r", allow_pickle=False))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype([("key", f"V{KEY_BYTES}"), ("features", "<f4", (self.num_features,))])

    def _take(self, shard: NDArray[Any]) -> None:
        if shard.dtype != self.dtype or shard.ndim != 1:
            return
        number = len(self._shards)
        self._shards.append(shard)
        for row, key in enumerate(shard["key"]):
            self._places[key.tobytes()] = (number, row)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def get(self, key: bytes) -> NDArray[np.float32]:
        shard, row = self._places[key]
        vector: NDArray[np.float32] = self._shards[shard]["features"][row]
        return vector

    def put(self, key: bytes, features: NDArray[np.float32]) -> None:
        """Keep one vector; it reaches the disk with the next full file or `flush`."""
        self._pending.append((key, features))
        if len(self._pending) >= SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        shard = np.empty(len(self._pending), self.dtype)
        for row, (key, features) in enumerate(self._pending):
            shard["key"][row] = np.void(key)
            shard["features"][row] = features
        self._pending.clear()
        if not self.not_cached:
            self.not_cached = self._write(shard)
        self._take(shard)

    def _write(self, shard: NDArray[Any]) -> str:
        """'' or why nothing could be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < shard.nbytes + _SPARE_BYTES:
                return f"{self.folder} has {free / 1e9:.1f} GB free"
            path = self.folder / f"{uuid.uuid4().hex}.npy"
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, shard, allow_pickle=False)
        except OSError as error:
            return f"{self.folder}: {error.strerror or error}"
        return ""


@dataclass(frozen=True, eq=False)
class Extraction:
    """How many vectors were wanted, and how many had to be computed."""

    features: NDArray[np.float32]  # (n, v, d)
    num_computed: int


class Images(Protocol):
    """An array of prepared pixels, uint8 (n, h, w, c), or something that is read like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


class FeatureExtractor:
    """Pixels to cached feature vectors, for one backbone, preprocessing and augmentation."""

    def __init__(
        self,
        spec: BackboneSpec,
        engine: Engine,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
    ) -> None:
        self.spec, self.engine = spec, engine
        self.preprocessing, self.augmentation = preprocessing, augmentation
        form = f"{preprocessing.mean} {preprocessing.std} {preprocessing.size_px}"
        identity = f"1 {spec.weights_sha256} {spec.input_px} {engine.identity} {form}"
        folder = cache_dir() / "features" / sha256_bytes(identity.encode())[:32]
        self.cache = FeatureCache(folder, spec.num_features)
        self._views = augmentation.model_dump_json().encode()
        scale, shift = preprocessing.scale_shift()
        self._scale_shift = (torch.from_numpy(scale), torch.from_numpy(shift))

    def extract(
        self,
        pixels: Images,
        *,
        views: int = 1,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Extraction:
        """Features of every image and view, from the cache or the backbone.

        Args:
            pixels: Prepared pixels uint8 (n, h, w, c); may be a memory map.
            views: v >= 1; view 0 is the plain image.
            on_batch: Called with (vectors done, vectors to compute).

        Returns:
            float32 (n, v, d).
        """
        contents = [_content(image) for image in (pixels[i] for i in range(len(pixels)))]
        keys = [self._key(content, view) for content in contents for view in range(views)]
        missing = [i for i, key in enumerate(keys) if key not in self.cache]
        result = np.empty((len(keys), self.spec.num_features), np.float32)
        absent = set(missing)
        for i, key in enumerate(keys):
            if i not in absent:
                result[i] = self.cache.get(key)
        parts = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
        done = 0
        for part, images in zip(parts, self._ahead(pixels, keys, parts, views), strict=True):
            vectors = self.engine.features(images)
            for i, vector in zip(part, vectors, strict=True):
                result[i] = vector
                self.cache.put(keys[i], vector)
            done += len(part)
            if on_batch is not None:
                on_batch(done, len(missing))
        self.cache.flush()
        return Extraction(result.reshape(len(pixels), views, -1), len(missing))

    def count_missing(self, pixels: Images, views: int = 1) -> int:
        """How many vectors of these images and views are not in the cache."""
        contents = [_content(pixels[i]) for i in range(len(pixels))]
        keys = (self._key(content, view) for content in contents for view in range(views))
        return sum(key not in self.cache for key in keys)

    def plain(self, pixels: Images) -> NDArray[np.float32]:
        """Features (n, d) of images as they are."""
        return self.extract(pixels).features[:, 0]

    def _ahead(
        self,
        pixels: Images,
        keys: Sequence[bytes],
        parts: Sequence[list[int]],
        views: int,
    ) -> Iterator[Tensor]:
        """Normalised batches, the next one made while the backbone is at the last one."""
        with ThreadPoolExecutor(1, thread_name_prefix="scanwise-views") as pool:
            waiting = None
            for part in parts:
                ahead = pool.submit(self._batch, pixels, keys, part, views)
                if waiting is not None:
                    yield waiting.result()
                waiting = ahead
            if waiting is not None:
                yield waiting.result()

    def _batch(self, pixels: Images, keys: Sequence[bytes], part: list[int], views: int) -> Tensor:
        return torch.stack([self._view(pixels[i // views], i % views, keys[i]) for i in part])

    def _view(self, image: NDArray[np.uint8], view: int, key: bytes) -> Tensor:
        """One normalised image, float (c, h, w)."""
        tensor = torch.from_numpy(np.array(image))[None]
        if view == 0:
            return self.preprocessing.normalise(tensor)[0]
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "little"))
        levels = tensor.permute(0, 3, 1, 2)
        return self.augmentation.apply(levels, generator, scale_shift=self._scale_shift)[0]

    def _key(self, content: bytes, view: int) -> bytes:
        """Of the content: the same picture under another name has the same features."""
        if view == 0:
            return content
        return hashlib.sha256(content + self._views + b" %d" % view).digest()


def _content(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


class FeatureBatches:
    """Cached features as a stream of batches, as `prepare.batches.Batches` is one of images.

    Each epoch is a pure function of (seed, epoch). An image's views take turns: epoch e shows view
    (e + a number of the image's own) mod v, so that every batch mixes views.
    """

    def __init__(
        self,
        features: NDArray[np.float32],
        targets: NDArray[np.int64],
        *,
        weights: NDArray[np.float32] | None = None,
        batch_size: int = 128,
        training: bool = False,
        sampler: Sampler = "shuffle",
        seed: int = 0,
        task: Task = "multiclass",
        device: torch.device | str = "cpu",
    ) -> None:
        """Take a split.

        Args:
            features: float32 (n, v, d).
            targets: int (n,), or (n, k) of 0 and 1 for multi-label.
            weights: Loss weight of each image, float (n,) [none].
            batch_size: Images a step.
            training: Random order and turning views; else view 0 in order.
            sampler: Order of training images.
            seed: With the epoch's number, decides the order.
            task: `multilabel` makes float targets, all others int64.
            device: Where training happens.
        """
        self.device = torch.device(device)
        self.training, self.sampler, self.seed = training, sampler, seed
        self.batch_size = batch_size
        self._features = torch.from_numpy(features).to(self.device)
        kind = torch.float32 if task == "multilabel" else torch.int64
        self._row_targets = targets
        self._targets = torch.from_numpy(targets).to(self.device, kind)
        self._weights = None if weights is None else torch.from_numpy(weights).to(self.device)
        self._offsets = np.random.default_rng([seed, 1]).integers(0, 2**31, len(targets))

    @property
    def num_images(self) -> int:
        return len(self._features)

    @property
    def steps_per_epoch(self) -> int:
        return len(batch_bounds(self.num_images, self.batch_size, self.training))

    def iterate(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield (features (b, d), targets, weights or None)."""
        order = np.arange(self.num_images)
        views = np.zeros(self.num_images, np.int64)
        if self.training:
            rng = np.random.default_rng([self.seed, epoch, 0])
            order = sample_order(self._row_targets, self.sampler, rng)
            views = (self._offsets + epoch) % self._features.shape[1]
        for start, stop in batch_bounds(self.num_images, self.batch_size, self.training):
            rows = torch.from_numpy(order[start:stop]).to(self.device)
            chosen = torch.from_numpy(views[order[start:stop]]).to(self.device)
            weights = None if self._weights is None else self._weights[rows]
            yield self._features[rows, chosen], self._targets[rows], weights
