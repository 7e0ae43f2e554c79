"""Cheap questions to a finished training, so that a diagnosis can name a cause and not a symptom.

At most 512 training images, as they are, and the validation images pass the network once more; the
test split is not read. The answers go to `probes` of training.json; `report.causes` judges them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scanwise.core.types import Dataset, Split
from scanwise.data.border import border_probe
from scanwise.metrics.ranks import auroc
from scanwise.pipeline.prepared import Prepared
from scanwise.prepare.batches import Batches, batch_bounds
from scanwise.prepare.collected import Collected
from scanwise.training import checkpoint
from scanwise.training.validation import EvaluationStream, evaluating

SAMPLE = 512  # training images that are asked
BATCH = 64  # of the pass with the batches' own statistics


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of images in eval mode, and how bright they are as it sees them."""

    probabilities: NDArray[np.float64]  # (n, k); (n, 0) without a network
    targets: NDArray[np.int64]  # (n,)
    brightness: NDArray[np.float64]  # (n,) mean of each image's normalised values
    contrast: NDArray[np.float64]  # (n,) their standard deviation

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.probabilities.argmax(axis=1) == self.targets)


def probe_training(
    model: nn.Module | None,
    prepared: Prepared,
    dataset: Dataset,
    split: Split,
    *,
    seed: int,
    weights_moved: float | None,
    steps: int,
    last: Path | None = None,
) -> dict[str, Any]:
    """`probes` of training.json.

    Args:
        model: The network with its kept weights; None where it is frozen and only its features were
            used, so that images are not passed through it again.
        prepared: What it was trained on.
        dataset: The images and labels.
        split: Its rows.
        seed: Draws the training images.
        weights_moved: See `moved`.
        steps: Of the optimiser, up to the weights that were kept.
        last: Checkpoint of the last epoch, if there is one.
    """
    found: dict[str, Any] = {
        "weights_moved": weights_moved,
        "steps": steps,
        "batch_mix": batch_mix(prepared.train, prepared.targets),
        "pixels": None,
        "answers": None,
        "border": None,
    }
    if not len(split.val):
        return found
    stream = plain_stream(prepared, seed, prepared.val.batch_size)
    if dataset.task == "multilabel":
        model = None
    train, val = ask(model, stream), ask(model, prepared.val)
    found["pixels"] = pixel_shift(train, val)
    if model is not None:
        found["answers"] = _answers(model, prepared, train, val, seed, last)
    if dataset.task != "multilabel":
        border = border_probe(
            dataset.images, dataset.targets, dataset.class_names, split.train, seed=seed
        )
        found["border"] = None if border is None else border.to_json()
    return found


def _answers(
    model: nn.Module,
    prepared: Prepared,
    train: Answers,
    val: Answers,
    seed: int,
    last: Path | None,
) -> dict[str, Any]:
    """Right answers on training and validation images, and with the batches' own statistics."""
    kept = _two_ways(model, prepared, train, seed)
    final = None
    if last is not None and last.is_file() and kept["variance_off"] is not None:
        other = _last_weights(model, last)
        asked = ask(other, plain_stream(prepared, seed, prepared.val.batch_size))
        final = _two_ways(other, prepared, asked, seed)
    return {
        "n_train": len(train.targets),
        **kept,
        "last": final,  # the same of the last epoch's weights
        "n_val": len(val.targets),
        "val_right": int(val.right.sum()),
    }


def _two_ways(model: nn.Module, prepared: Prepared, stored: Answers, seed: int) -> dict[str, Any]:
    """Right answers by stored and by the batches' own statistics, and how far these lie apart."""
    own, off = None, None
    if any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        with batch_statistics(model), variances_seen(model) as seen:
            again = ask(model, plain_stream(prepared, seed, BATCH), keep_mode=True)
        own, off = int(again.right.sum()), variance_off(seen)
    return {
        "train_right": int(stored.right.sum()),
        "train_right_batch_statistics": own,
        "variance_off": off,
    }


def _last_weights(model: nn.Module, path: Path) -> nn.Module:
    """A copy of the network with the weights (the averaged ones, if any) of the last epoch.

    The kept epoch may lie before a fault began to show.
    """
    tensors = checkpoint.load_tensors(path)[0]
    averaged = any(name.startswith("average/") for name in tensors)
    other = copy.deepcopy(model)
    checkpoint.load_model(other, tensors, "average/" if averaged else "model/")
    return other


def plain_stream(prepared: Prepared, seed: int, batch_size: int) -> Batches:
    """Training images without augmentation, a random sample in random order."""
    real = prepared.train.rows[prepared.train.rows < len(prepared.pixels) - prepared.num_synthetic]
    rows = np.random.default_rng([seed, 7]).permutation(real)[:SAMPLE]
    if len(rows) % batch_size == 1 and len(rows) > 1:
        rows = rows[:-1]  # a batch of one has no statistics
    return Batches(
        prepared.pixels,
        prepared.targets,
        prepared.preprocessing,
        rows=rows,
        batch_size=batch_size,
        task=prepared.train.task,
        device=prepared.val.device,
        channels_last=prepared.val.channels_last,
        resident_limit_bytes=0,  # asked once: not worth a copy in memory
    )


def ask(model: nn.Module | None, stream: EvaluationStream, *, keep_mode: bool = False) -> Answers:
    """Pass a stream through a network once, in eval mode unless `keep_mode`."""
    logits, targets, moments = Collected(), Collected(), Collected()
    with evaluating(nn.Identity() if model is None or keep_mode else model):
        for images, truth, _ in stream.iterate(0):
            flat = images.float().flatten(1)
            moments.add(torch.stack([flat.mean(dim=1), flat.std(dim=1)], dim=1).cpu())
            targets.add(truth.cpu())
            logits.add(
                torch.zeros(len(images), 0) if model is None else model(images).float().cpu()
            )
    shown = moments.whole().double().numpy()
    return Answers(
        probabilities=logits.whole().double().softmax(dim=1).numpy(),
        targets=targets.whole().long().numpy(),
        brightness=shown[:, 0],
        contrast=shown[:, 1],
    )


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm uses each batch's own mean and variance; all else is in eval mode.

    Nothing is updated: without `track_running_stats` torch leaves the stored statistics alone.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    before = [layer.track_running_stats for layer in layers]
    with evaluating(model):
        for layer in layers:
            layer.train()
            layer.track_running_stats = False
        try:
            yield
        finally:
            for layer, tracked in zip(layers, before, strict=True):
                layer.track_running_stats = tracked


@contextmanager
def variances_seen(model: nn.Module) -> Iterator[dict[_BatchNorm, list[Tensor]]]:
    """Inside, each BatchNorm notes the variance (c,) of every batch that it gets."""
    seen: dict[_BatchNorm, list[Tensor]] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        maps = given[0].float()
        by_channel = maps.transpose(0, 1).flatten(1)
        seen.setdefault(layer, []).append(by_channel.var(dim=1, unbiased=False).cpu())

    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def variance_off(seen: dict[_BatchNorm, list[Tensor]]) -> float | None:
    """By what factor stored variances miss those seen, either way: the median channel, >= 1."""
    factors = []
    for layer, variances in seen.items():
        if layer.running_var is not None:
            now = torch.stack(variances).mean(dim=0) + layer.eps
            factors.append((now / (layer.running_var.cpu() + layer.eps)).log().abs())
    return float(torch.cat(factors).median().exp()) if factors else None


def pixel_shift(train: Answers, val: Answers) -> dict[str, Any]:
    """How well brightness, or contrast, tells validation images from training images.

    Images as the network sees them, after normalisation. The AUROC of each: 0.5 where they are
    alike, 0 or 1 where every validation image is darker or brighter than every training image.
    """
    which = np.concatenate([np.zeros(len(train.targets)), np.ones(len(val.targets))])
    found: dict[str, Any] = {"n_train": len(train.targets), "n_val": len(val.targets)}
    for name in ("brightness", "contrast"):
        mine, theirs = getattr(train, name), getattr(val, name)
        values = np.concatenate([mine, theirs])
        found[name] = {
            "train": float(mine.mean()),
            "val": float(theirs.mean()),
            "auroc": auroc(values, which) if np.isfinite(values).all() else None,
        }
    return found


def batch_mix(train: Batches, targets: NDArray[np.int64]) -> dict[str, Any] | None:
    """How unevenly the batches of the first epoch mix the classes; about 1 in random order.

    Pearson's chi-squared of the table batch by class over its degrees of freedom. In order of class
    it comes near the number of images in a batch. None for several labels an image, or one batch.
    """
    if train.task == "multilabel" or train.num_images < 2:
        return None
    present, codes = np.unique(targets[train.order(1)], return_inverse=True)
    bounds = batch_bounds(len(codes), train.batch_size, train.training)
    if len(bounds) < 2 or len(present) < 2:
        return None
    table = np.stack(
        [np.bincount(codes[start:stop], minlength=len(present)) for start, stop in bounds]
    ).astype(np.float64)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    chi_squared = float(((table - expected) ** 2 / expected).sum())
    freedom = (len(bounds) - 1) * (len(present) - 1)
    return {"ratio": chi_squared / freedom, "freedom": freedom}


def weights_of(model: nn.Module) -> list[Tensor]:
    """Copies of the trainable matrices and kernels, for `moved`."""
    return [tensor.detach().cpu().clone() for tensor in _matrices(model)]


def moved(before: list[Tensor], model: nn.Module) -> float | None:
    """How far training moved the weights, as a share of their length; mere shrinking left out.

    |w - s w0| / |w0| over all matrices and kernels, with the s that brings it nearest: weight decay
    shrinks weights also where no gradient comes. None without any.
    """
    if not before:
        return None
    now = [tensor.detach().cpu() for tensor in _matrices(model)]
    sums = torch.zeros(2, dtype=torch.float64)
    # One tensor at a time in float64: those of a large first layer take much memory.
    for first, last in zip(before, now, strict=True):
        if not bool(torch.isfinite(last).all()):
            return None
        first, last = first.double().flatten(), last.double().flatten()
        sums += torch.stack([first @ first, first @ last])
    length, product = sums.tolist()
    if not length:
        return None
    residue = sum(
        float(last.double().sub_(first.double(), alpha=product / length).square_().sum())
        for first, last in zip(before, now, strict=True)
    )
    return math.sqrt(residue / length)


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return [each for each in model.parameters() if each.requires_grad and each.ndim > 1]
