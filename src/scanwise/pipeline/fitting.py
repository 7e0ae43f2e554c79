"""Fit one network on one split: prepare, simple models, train, calibrate. Test is never read."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from scanwise import __version__
from scanwise.core.config import TrainConfig
from scanwise.core.processes import check_alone
from scanwise.core.types import Dataset, Finding, Split, Task
from scanwise.deploy.bundle import Bundle, BundleConfig, class_logits
from scanwise.metrics.calibration import Calibration, calibrate
from scanwise.models.backbones import Backbone, TransferNet, transfer_net, with_levels
from scanwise.models.build import ModelInfo, as_model, describe_model
from scanwise.models.losses import loss_findings
from scanwise.pipeline.baselines import Baseline, fit_baselines, validation_line
from scanwise.pipeline.budget import Budget, whole
from scanwise.pipeline.finetune import Stage, finetune
from scanwise.pipeline.logistic_head import fit_logistic_head
from scanwise.pipeline.messages import Messages
from scanwise.pipeline.prepared import Prepared, prepare
from scanwise.pipeline.probes import moved, weights_of
from scanwise.pipeline.runs import Run
from scanwise.pipeline.tracking import Listener
from scanwise.pipeline.transfer import (
    Features,
    compute_features,
    describe_transfer,
    fit_head,
    loss_of,
)
from scanwise.prepare.batches import Batches
from scanwise.prepare.rows import PixelRows
from scanwise.report.data_plots import write_augmentation_sheet, write_data_plots
from scanwise.training.device import describe_device, pick_device
from scanwise.training.loop import FitResult, fit
from scanwise.training.settings import loop_settings
from scanwise.training.team import ALONE, Team


@dataclass(frozen=True, eq=False)
class Trained:
    """What training made: the network with its best weights, and how it went."""

    model: nn.Module
    info: ModelInfo
    prepared: Prepared
    result: FitResult
    device: torch.device
    features: Features | None = None  # of a pretrained network
    stages: tuple[Stage, ...] = ()  # of fine-tuning it
    baselines: tuple[Baseline, ...] = ()  # simple models to stand beside it
    weights_moved: float | None = None  # by training, as a share of their length

    @property
    def own_model(self) -> bool:
        """True for a user's module, which can't be rebuilt from a name."""
        return self.info.spec == type(self.model).__name__


def fit_model(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    *,
    model: nn.Module | None,
    backbone: Backbone | None = None,
    device: torch.device,
    run: Run | None = None,
    say: Messages | None = None,
    resume: bool = False,
    budget: Budget | None = None,
    team: Team = ALONE,
    tracking: Listener | None = None,
) -> Trained:
    """Prepare the data and train one network on one split; the test rows are never read.

    `config` is resolved. With `run`, history, log and checkpoints are written to its folder; with
    `say`, progress goes to stderr; with `budget`, as many epochs as it has time for; with
    `tracking`, each epoch is handed to whoever listens. Of a `team` each process calls this, and
    the first alone writes and speaks.

    Raises:
        ConfigError: `devices` and `nodes` ask for processes, and the team is not of so many.
    """
    if team.size == 1:
        check_alone(config.devices, config.nodes)
    run_dir = None if run is None else run.path
    if not team.leads:
        run, say = None, None
    torch.manual_seed(config.seed)
    if backbone is not None:
        backbone = with_levels(backbone, config.levels or "last")
    prepared = prepare(
        dataset,
        split,
        config,
        device,
        backbone=None if backbone is None else backbone.spec,
        share=team.share,
    )
    if backbone is not None:
        return fit_transfer(
            config,
            dataset,
            split,
            prepared,
            backbone,
            device=device,
            run=run,
            say=say,
            resume=resume,
            budget=budget,
            tracking=tracking,
        )
    channels, size_px = prepared.preprocessing.channels, prepared.preprocessing.size_px
    # Dropout, activation and head are inside a module of one's own.
    inside: dict[str, Any] = (
        {"dropout": config.dropout, "activation": config.activation, "head": config.head}
        if model is None
        else {}
    )
    network = as_model(
        model if model is not None else str(config.model),
        num_outputs=dataset.num_classes,
        channels=channels,
        size_px=size_px,
        **inside,
    )
    info = describe_model(None if model is not None else str(config.model), network, size_px)
    if run is not None and config.report:
        _write_pictures(run, dataset, split, prepared)
    if say is not None:
        say.training(prepared, info, describe_device(device))
        say.findings(findings_of_loss(config, dataset.task, prepared))
        if team.size > 1:
            say.say(shares_line(team.size, prepared.train, network, device))
    baselines = baselines_first(config, dataset, split, prepared, None, run=run, say=say)
    if device.type == "cpu" and _is_narrow(network):
        for stream in (prepared.train, prepared.val):
            stream.channels_last = False
    loss = loss_of(config, dataset, prepared)
    settings = loop_settings(config, channels_last=prepared.train.channels_last)
    plan = whole(settings, prepared.train)
    if budget is not None:
        plan = budget.shorten(
            "train", network, prepared.train, prepared.val, loss, dataset.task, settings
        )
    untrained = weights_of(network)
    result = fit(
        network,
        plan.train,
        prepared.val,
        loss_fn=loss,
        task=dataset.task,
        settings=plan.settings,
        stop_when=plan.stop_when,
        run_dir=run_dir,
        resume=resume,
        on_epoch=None if tracking is None else tracking.on_epoch(),
        stream=sys.stderr if say is not None else None,
        team=team,
    )
    return Trained(
        network,
        info,
        prepared,
        result,
        device,
        baselines=baselines,
        weights_moved=moved(untrained, network),
    )


def shares_line(processes: int, train: Batches, network: nn.Module, device: torch.device) -> str:
    """How several processes divide each batch, and what in the network does not divide.

    >>> _shares(5, 2)
    '3, 2'
    """
    sizes = dict.fromkeys(train.step_images)  # two at most: the batch, and the epoch's last
    batches = "; ".join(f"of {size} images {_shares(size, processes)}" for size in sizes)
    line = f"Processes: {processes} on {device.type}, which divide each batch: {batches}."
    if any(isinstance(layer, _BatchNorm) for layer in network.modules()):
        line += " BatchNorm uses the whole batch."
    if any(isinstance(layer, _DropoutNd) and layer.p > 0 for layer in network.modules()):
        line += " Dropout draws other numbers than in one process."
    return line


def _shares(images: int, processes: int) -> str:
    shares = [len(range(rank, images, processes)) for rank in range(processes)]
    return f"{shares[0]} each" if len(set(shares)) == 1 else ", ".join(map(str, shares))


def _is_narrow(network: nn.Module) -> bool:
    """Does a convolution make fewer than 16 channels?

    With such a one in channels-last order the backward pass of torch 2.13 dies on CPUs (SIGFPE or
    SIGSEGV) as soon as it has two threads.
    """
    layers = (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    return any(layer.out_channels < 16 for layer in layers)


def _write_pictures(run: Run, dataset: Dataset, split: Split, prepared: Prepared) -> None:
    """plots/: the data, the classes before and after balancing, what augmentation does."""
    write_data_plots(dataset, split, run.path / "plots", balanced=prepared.epoch_counts)
    sheet = prepared.preview
    write_augmentation_sheet(
        run.path / "plots",
        sheet.originals,
        sheet.augmented.swapaxes(0, 1),
        sheet.enhanced,
        note=sheet.caption,
    )


def baselines_first(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    prepared: Prepared,
    features: Features | None,
    *,
    run: Run | None,
    say: Messages | None,
) -> tuple[Baseline, ...]:
    """Fit the simple models, and say what they score; only for a run that is reported."""
    if run is None:
        return ()
    if config.head == "logistic":  # it is that baseline itself
        features = None
    baselines = fit_baselines(
        dataset,
        split,
        prepared.preprocessing,
        seed=config.seed,
        features=None if features is None else features.extractor.plain,
        features_name="" if features is None else features.extractor.spec.name,
    )
    if say is not None:
        say.say(validation_line(baselines, dataset, split, prepared.preprocessing))
    return baselines


def fit_transfer(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    prepared: Prepared,
    backbone: Backbone,
    *,
    device: torch.device,
    run: Run | None,
    say: Messages | None,
    resume: bool,
    budget: Budget | None = None,
    tracking: Listener | None = None,
) -> Trained:
    """As `fit_model`, on a pretrained backbone: features once, the head, then fine-tuning."""
    if run is not None and config.report:
        _write_pictures(run, dataset, split, prepared)
    torch.manual_seed(config.seed)
    network = transfer_net(
        backbone, num_outputs=dataset.num_classes, dropout=config.dropout, head=config.head
    )
    info = describe_transfer(network)
    if say is not None:
        say.training(prepared, info, describe_device(device))
    features = compute_features(
        backbone,
        prepared,
        views=int(config.views or 1),
        device=device,
        say=None if say is None else say.say,
        budget=budget,
    )
    if say is not None:
        say.say(features.describe())
    baselines = baselines_first(config, dataset, split, prepared, features, run=run, say=say)
    run_dir = None if run is None else run.path
    tell = None if say is None else say.say
    on_epoch = None if tracking is None else tracking.on_epoch()
    if config.head == "logistic":
        result = fit_logistic_head(
            config, dataset, split, prepared, network, features,
            device=device, say=tell,
        )  # fmt: skip
        if on_epoch is not None:
            on_epoch(result.history[-1])
    else:
        result = fit_head(
            config, dataset, prepared, network, features,
            device=device, run_dir=run_dir, resume=resume, on_epoch=on_epoch, say=tell,
            budget=budget,
        )  # fmt: skip
    stages: tuple[Stage, ...] = ()
    if config.finetune not in (None, "head"):
        stages = finetune(
            config,
            dataset,
            split,
            prepared,
            network,
            run_dir=run_dir,
            resume=resume,
            say=tell,
            budget=budget,
            tracking=tracking,
        )
    return Trained(network, info, prepared, result, device, features, stages, baselines)


def fit_bundle(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    *,
    model: nn.Module | None = None,
    backbone: Backbone | None = None,
    verbose: bool = False,
) -> Bundle:
    """Train and calibrate without a run folder; what `ImageClassifier.fit` does."""
    trained = fit_model(
        config,
        dataset,
        split,
        model=model,
        backbone=backbone,
        device=pick_device(config.device),
        say=Messages() if verbose else None,
    )
    bundle, _ = make_bundle(trained, config, dataset, split)
    return bundle


def make_bundle(
    trained: Trained, config: TrainConfig, dataset: Dataset, split: Split
) -> tuple[Bundle, Calibration]:
    """Wrap the network with its preprocessing, and fit the temperature on validation."""
    preprocessing = trained.prepared.preprocessing
    own = trained.own_model
    draft = BundleConfig(
        architecture=f"custom:{trained.info.name}" if own else trained.info.spec,
        task=dataset.task,
        class_names=dataset.class_names,
        size_px=preprocessing.size_px,
        channels=preprocessing.channels,
        dropout=config.dropout,
        activation=config.activation,
        head=config.head,
        output_activation=config.output_activation,
        scanwise_version=__version__,
        trained_on=dataset.provenance.source,
        synthetic=dataset.provenance.synthetic,
        page=config.page,
        project=config.project,
        backbone=trained.model.spec.to_json() if isinstance(trained.model, TransferNet) else None,
        tta=str(config.tta),
    )
    bundle = Bundle(trained.model, preprocessing, draft)
    if trained.features is not None and not any(stage.kept for stage in trained.stages):
        bundle.feature_source = trained.features.extractor.plain
    calibration = fit_temperature(bundle, dataset, split, str(trained.device))
    bundle.config = replace(draft, temperature=calibration.temperature)
    return bundle, calibration


def fit_temperature(bundle: Bundle, dataset: Dataset, split: Split, device: str) -> Calibration:
    """The temperature that fits validation."""
    pixels = PixelRows(bundle.preprocessing, dataset.images, split.val)
    logits = bundle.logits_of(pixels, device=device)
    return calibrate(
        class_logits(logits, dataset.task, bundle.config.output_activation),
        dataset.targets[split.val],
        dataset.task,
    )


def findings_of_loss(config: TrainConfig, task: Task, prepared: Prepared) -> tuple[Finding, ...]:
    return loss_findings(
        task=task,
        loss=config.loss,
        class_weights=prepared.class_weights is not None,
        output_activation=config.output_activation,
    )
