"""Training on a pretrained backbone: its features once, the head in seconds, then fine-tuning."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ModelError
from scanwise.core.types import Dataset
from scanwise.deploy.bundle import Bundle
from scanwise.models.backbones import (
    Backbone,
    BackboneSpec,
    OwnFeatures,
    TransferNet,
    count_features,
    is_pretrained,
    open_backbone,
    tensors_sha256,
)
from scanwise.models.build import ModelInfo, count_parameters
from scanwise.models.losses import make_loss
from scanwise.models.parts import set_views
from scanwise.pipeline.budget import Budget, whole
from scanwise.pipeline.prepared import Prepared
from scanwise.pipeline.tracking import OnEpoch
from scanwise.prepare.preprocessing import Preprocessing
from scanwise.training.engine import check_unchanged, make_engine
from scanwise.training.features import FeatureBatches, FeatureExtractor
from scanwise.training.loop import FitResult, fit
from scanwise.training.settings import loop_settings

SHOW_AFTER_S = 2.0  # progress of the backbone's pass is told from here on


def _open_source(config: TrainConfig) -> tuple[Backbone | None, Preprocessing | None]:
    """The backbone that the settings name, loaded, and how an earlier run prepared its pictures.

    Both are None for a network without weights; hub names bring no preparation.

    Raises:
        ModelError: As `open_backbone`, or settings that do not go with a pretrained network.
    """
    if not is_pretrained(config.model, config.weights):
        if config.head == "logistic":
            raise ModelError(
                "--head logistic is for pretrained networks; name one by --model hf:…, timm:… or "
                "run:…, or write --head linear."
            )
        for name in ("finetune", "views", "levels"):
            if getattr(config, name) is not None:
                raise ModelError(
                    f"--{name} is for pretrained networks; name one by --model hf:…, timm:… or "
                    "run:…, or leave it out."
                )
        return None, None
    model = config.model or "efficientnet_b0"
    if config.activation != "relu":
        raise ModelError(
            f"--activation {config.activation} does not go with {model}; leave it out."
        )
    scheme, _, rest = model.partition(":")
    if scheme == "run":
        if config.weights is not None:
            raise ModelError(f"--weights does not go with {model}, which brings its own.")
        bundle = Bundle.from_pretrained(Path(rest).expanduser())
        return _backbone_of_run(rest, bundle), bundle.preprocessing
    return open_backbone(model, config.weights), None


def with_backbone(config: TrainConfig) -> tuple[TrainConfig, Backbone | None]:
    """The backbone, if the settings name one, and the settings that follow from it.

    Image files are read at the backbone's size, and its contrast and way to a square are those
    that an earlier run was trained with, unless others were asked for.
    """
    backbone, preparation = _open_source(config)
    if backbone is None:
        return config, None
    config = config.model_copy(update={"model": config.model or "efficientnet_b0"})
    if preparation is not None:
        same = {"contrast": str(preparation.contrast), "fit": preparation.fit}
        unsaid = {key: value for key, value in same.items() if key not in config.model_fields_set}
        config = config.model_copy(update=unsaid)
    path = Path(config.data)
    from_files = path.is_dir() or path.suffix.lower() in {".csv", ".tsv"}
    if config.size is not None or not from_files:
        return config, backbone
    return config.model_copy(update={"size": backbone.spec.input_px[0]}), backbone


def _backbone_of_run(source: str, bundle: Bundle) -> Backbone:
    """The trained network of an earlier run, without its head.

    Raises:
        ModelError: If its network is the user's own module.
    """
    set_views(bundle.model, "none")
    name = f"run:{Path(source).expanduser().resolve().name}"
    if isinstance(bundle.model, TransferNet):
        inner = bundle.model.spec
        spec = replace(
            inner,
            name=f"{name} ({inner.name})",
            weights_sha256=tensors_sha256(bundle.model.backbone),
        )
        return Backbone(spec, bundle.model.backbone)
    config = bundle.config
    if not hasattr(bundle.model, "features"):
        raise ModelError(
            f"{name} holds {config.architecture}, which has no features to start from."
        )
    module = OwnFeatures(bundle.model).eval().requires_grad_(False)
    form = {
        "spec": config.architecture,
        "num_outputs": len(config.class_names),
        "channels": config.channels,
        "size_px": list(config.size_px),
        "dropout": config.dropout,
        "activation": config.activation,
        "head": config.head,
    }
    spec = BackboneSpec(
        kind="scanwise",
        name=f"{name} ({config.architecture})",
        input_px=config.size_px,
        mean=bundle.preprocessing.mean,
        std=bundle.preprocessing.std,
        num_features=count_features(module, name, config.channels, config.size_px),
        weights_sha256=tensors_sha256(module),
        config=form,
    )
    return Backbone(spec, module)


@dataclass(frozen=True, eq=False)
class Features:
    """The features that the head is trained on, and how they came about."""

    train: NDArray[np.float32]  # (n, v, d)
    val: NDArray[np.float32]  # (m, 1, d)
    extractor: FeatureExtractor
    seconds: float
    num_computed: int
    num_vectors: int
    rows: NDArray[np.int64]  # (n,) of the prepared pixels: those of the features in `train`

    def describe(self) -> str:
        """One line for people."""
        spec, engine = self.extractor.spec, self.extractor.engine
        views = self.train.shape[1]
        cached = self.num_vectors - self.num_computed
        each = f"{views} views of each training image" if views > 1 else "one view of each image"
        rate = f" ({self.num_computed / self.seconds:.0f} images/s)" if self.num_computed else ""
        line = (
            f"Features: {self.num_vectors:,} vectors of {spec.num_features} from {spec.name}, "
            f"{each}: {self.num_computed:,} computed in {self.seconds:.1f} s{rate}, {cached:,} "
            f"from the cache; engine {engine.verdict.engine}: {engine.verdict.reason}"
        )
        problem = self.extractor.cache.not_cached
        return f"{line}; not cached: {problem}" if problem else line


def compute_features(
    backbone: Backbone,
    prepared: Prepared,
    *,
    views: int,
    device: torch.device,
    say: Callable[[str], None] | None,
    budget: Budget | None = None,
) -> Features:
    """Run the backbone once over all views of train and over validation; test is never read.

    With a `budget`, over as many views and training images as it has time for.
    """
    began = time.perf_counter()
    pixels = prepared.pixels
    rows = prepared.train.rows
    sample = prepared.preprocessing.normalise(torch.from_numpy(np.array(pixels[rows[:8]])))
    engine = make_engine(backbone, sample, device)
    extractor = FeatureExtractor(
        backbone.spec, engine, prepared.preprocessing, prepared.augmentation.augmentation
    )
    if budget is not None:
        views, rows = budget.plan_features(
            extractor, _Rows(pixels, rows), _Rows(pixels, prepared.val.rows), views,
            rows, prepared.targets[rows],
        )  # fmt: skip
    tell = _progress(say)
    train = extractor.extract(_Rows(pixels, rows), views=views, on_batch=tell)
    val = extractor.extract(_Rows(pixels, prepared.val.rows), on_batch=tell)
    return Features(
        train.features,
        val.features,
        extractor,
        time.perf_counter() - began,
        train.num_computed + val.num_computed,
        train.features.shape[0] * views + len(val.features),
        rows,
    )


class _Rows:
    """Chosen rows of an array, read one at a time (a memory map is not copied whole)."""

    def __init__(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        self._pixels, self._rows = pixels, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = self._pixels[self._rows[index]]
        return image


def _progress(say: Callable[[str], None] | None) -> Callable[[int, int], None] | None:
    """Tell how far the backbone's pass is, every few seconds."""
    if say is None:
        return None
    tell = say
    began = last = time.monotonic()

    def report(done: int, in_all: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < max(SHOW_AFTER_S, (now - began) / 5) or done == in_all:
            return
        last = now
        left = (now - began) / done * (in_all - done)
        tell(f"Features: {done:,} of {in_all:,} computed, ETA {left:.0f}s")

    return report


def validation_batches(
    dataset: Dataset, prepared: Prepared, features: Features, device: torch.device
) -> FeatureBatches:
    """Validation's features as the loop and the scores take them."""
    targets = prepared.targets[prepared.val.rows]
    return FeatureBatches(features.val, targets, batch_size=4096, task=dataset.task, device=device)


def fit_head(
    config: TrainConfig,
    dataset: Dataset,
    prepared: Prepared,
    network: TransferNet,
    features: Features,
    *,
    device: torch.device,
    run_dir: Path | None,
    resume: bool,
    on_epoch: OnEpoch | None = None,
    say: Callable[[str], None] | None,
    budget: Budget | None = None,
) -> FitResult:
    """Train the head by steps on cached features; the backbone does not change by a bit."""
    train = FeatureBatches(
        features.train,
        prepared.targets[features.rows],
        weights=None if prepared.weights is None else prepared.weights[features.rows],
        batch_size=int(config.batch_size or 1),
        training=True,
        sampler=config.sampler,
        seed=config.seed,
        task=dataset.task,
        device=device,
    )
    val = validation_batches(dataset, prepared, features, device)
    loss, settings = loss_of(config, dataset, prepared), loop_settings(config)
    plan = whole(settings, train)
    if budget is not None:
        # What comes after the head gets half of the time that is left.
        share = 1.0 if config.finetune in (None, "head") else 0.5
        plan = budget.shorten(
            "head", network.head, train, val, loss, dataset.task, settings, share=share
        )
    result = fit(
        network.head,
        plan.train,
        val,
        loss_fn=loss,
        task=dataset.task,
        settings=plan.settings,
        stop_when=plan.stop_when,
        run_dir=run_dir,
        resume=resume,
        on_epoch=on_epoch,
        stream=None if say is None else sys.stderr,
    )
    check_backbone(network)
    return result


def check_backbone(network: TransferNet) -> None:
    """The frozen network must be, to the bit, what it was.

    Raises:
        ScanwiseError: If it is not: a defect of ours.
    """
    after = tensors_sha256(network.backbone.cpu())
    check_unchanged(network.spec.weights_sha256, after, network.spec.name)


def loss_of(config: TrainConfig, dataset: Dataset, prepared: Prepared) -> Any:
    """The loss per image that the settings ask for."""
    weights = prepared.class_weights
    return make_loss(
        task=dataset.task,
        loss=config.loss,
        label_smoothing=config.label_smoothing or 0.0,
        focal_gamma=config.focal_gamma,
        class_weights=None if weights is None else torch.from_numpy(weights).float(),
        class_counts=prepared.train_counts.tolist(),
        output_activation=config.output_activation,
    )


def describe_transfer(network: TransferNet) -> ModelInfo:
    """Exact parameter counts, with the part that is trained."""
    total, trainable = count_parameters(network)
    height, width = network.spec.input_px
    from_all = " of all levels" if network.spec.levels == "all" else ""
    notes = (
        f"pretrained {network.spec.name}, {network.spec.num_features} features{from_all}, images "
        f"resized to "
        f"{height}×{width} px; SHA-256 of the weights {network.spec.weights_sha256[:12]}…",
    )
    return ModelInfo(network.spec.name, network.spec.name, total, trainable, notes)
