"""The main path, top to bottom: load, check, split, plan, prepare, train, evaluate, report."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from scanwise.core.config import TrainConfig
from scanwise.core.errors import RunError, SplitError
from scanwise.core.runtime import environment
from scanwise.core.types import Dataset, Split
from scanwise.data.checks import CheckReport, check_dataset
from scanwise.data.duplicates import Duplicates, duplicate_groups, find_duplicates
from scanwise.data.fingerprint import dataset_fingerprint
from scanwise.data.load import load
from scanwise.data.splits import make_split, read_splits, write_splits
from scanwise.models.build import build_model, check_model_spec, describe_model
from scanwise.pipeline.evaluate import evaluate_run
from scanwise.pipeline.plan import DataFacts, Decision, make_plan
from scanwise.pipeline.prepared import Prepared, prepare
from scanwise.pipeline.runs import Run, check_output_free, new_run_dir
from scanwise.report.build import build_report
from scanwise.report.data_plots import write_data_plots
from scanwise.training.device import pick_device
from scanwise.training.loop import FitResult, fit


def train(
    config: TrainConfig, *, data: Dataset | None = None, model: nn.Module | None = None
) -> Run:
    """Take a data set to a trained model with an honest report.

    Args:
        config: What the user said; the plan fills the rest.
        data: A loaded data set, instead of `config.data`.
        model: A network of one's own: images float (b, c, h, w) to logits (b, k).

    Returns:
        The finished run: its folder holds everything that was measured.

    Raises:
        ScanwiseError: One of its kinds; nothing is written before the checks have passed.
    """
    started = time.monotonic()
    say = _Messages()
    if config.output:
        check_output_free(Path(config.output), config.force)
    if config.model and model is None:
        check_model_spec(config.model)
    device = pick_device(config.device)

    dataset = data if data is not None else load_data(config)
    split, report = split_and_check(dataset, config)
    say.data(dataset, split, report)
    resolved, decisions, fired = make_plan(config, data_facts(dataset, split))
    say.plan(decisions, fired)

    name = type(model).__name__ if model is not None else str(resolved.model)
    run = Run(new_run_dir(resolved, dataset.name, name))
    split = _describe(run, resolved, decisions, dataset, split, report)
    say.attach(run)

    trained = _train(run, resolved, dataset, split, model, device, resume=False)
    _finish(run, resolved, dataset, split, report, trained, started)
    return run


def resume(path: Path) -> Run:
    """Go on with an interrupted run from its last finished epoch, exactly as if it had not stopped.

    Raises:
        RunError: If there is no run, or it was trained from Python on arrays.
        SplitError: If the data changed since.
    """
    started = time.monotonic()
    run = Run.open(path)
    config = run.config
    device = pick_device(config.device)
    dataset = load_data(config)
    split = read_splits(run.path / "splits.csv", dataset)
    report = check_dataset(
        dataset, split, skip_unreadable=config.skip_unreadable, accept_leak=config.accept_leak
    )
    report.raise_if_stopped()
    _same_data(run, dataset, split)
    trained = _train(run, config, dataset, split, None, device, resume=True)
    _finish(run, config, dataset, split, report, trained, started)
    return run


def reevaluate(path: Path) -> Run:
    """Score validation and test again from the run's bundle; appends to the test ledger."""
    run = Run.open(path)
    config = run.config
    dataset = load_data(config)
    split = read_splits(run.path / "splits.csv", dataset)
    _same_data(run, dataset, split)
    report = check_dataset(
        dataset, split, skip_unreadable=config.skip_unreadable, accept_leak=True
    )
    evaluate_run(run, config.model_copy(update={"no_test": False}), dataset, split, report)
    build_report(run.path)
    return run


def load_data(config: TrainConfig) -> Dataset:
    """The data set that the settings name."""
    return load(
        config.data,
        size=config.size,
        fit=config.fit,
        group=config.group,
        group_regex=config.group_regex,
        page=config.page,
        project=config.project,
        seed=config.seed,
    )


def split_and_check(dataset: Dataset, config: TrainConfig) -> tuple[Split, CheckReport]:
    """Split the data (or take the split that came with it), then look for trouble.

    Where the split is ours to make, near-duplicate images are kept in one split.

    Raises:
        SplitError: If no split is possible, or the given one does not fit.
        IntegrityError: If the user's own split leaks.
        DataError: If the data can't be used.
    """
    duplicates = find_duplicates(dataset.images, dataset.targets)
    if config.splits:
        split = read_splits(Path(config.splits), dataset)
    else:
        split = make_split(
            _keep_together(dataset, duplicates),
            seed=config.seed,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
        )
    report = check_dataset(
        dataset,
        split,
        skip_unreadable=config.skip_unreadable,
        accept_leak=config.accept_leak,
        duplicates=duplicates,
    )
    report.raise_if_stopped()
    return split, report


def _keep_together(dataset: Dataset, duplicates: Duplicates) -> Dataset:
    """The data set with near-duplicate clusters merged into its groups, for making a split."""
    if dataset.given_split is not None or not duplicates.clusters:
        return dataset
    return dataset.with_groups(duplicate_groups(duplicates, len(dataset), dataset.groups))


def data_facts(dataset: Dataset, split: Split) -> DataFacts:
    """The counts that the plan decides by."""
    counts = dataset.class_counts(split.train)
    present = counts[counts > 0]
    return DataFacts(
        n_images=len(dataset),
        n_train=len(split.train),
        smallest_class=int(present.min()) if len(present) else 0,
        from_files=dataset.provenance.files,
    )


def _describe(
    run: Run,
    config: TrainConfig,
    decisions: tuple[Decision, ...],
    dataset: Dataset,
    split: Split,
    report: CheckReport,
) -> Split:
    """Write what is known before training: settings, plan, environment, splits, the data's facts."""
    split = write_splits(run.path / "splits.csv", dataset, split)
    run.write("env.json", environment())
    facts = dataset_fingerprint(dataset, split)
    facts["notes"] = [note.to_json() for note in dataset.notes]
    facts["checks"] = report.to_json()
    run.write("dataset.json", facts)
    write_data_plots(dataset, split, run.path / "plots")
    run.write_settings(config, [decision.to_json() for decision in decisions])
    return split


@dataclass(frozen=True, eq=False)
class Trained:
    """What training made: the network with its best weights, and how it went."""

    model: nn.Module
    info: ModelInfo
    prepared: Prepared
    result: FitResult
    precision: str
    precision_reason: str
    device: torch.device


def fit_model(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    *,
    model: nn.Module | None,
    device: torch.device,
    run_dir: Path | None = None,
    resume: bool = False,
    verbose: bool = True,
) -> Trained:
    """Prepare the data and train one network on one split; the test rows are never read.

    `config` is resolved. With `run_dir`, history, log and checkpoints are written there.
    """
    torch.manual_seed(config.seed)
    prepared = prepare(dataset, split, config, device)
    channels, size_px = prepared.preprocessing.channels, prepared.preprocessing.size_px
    network = as_model(
        model if model is not None else str(config.model),
        num_outputs=dataset.num_classes,
        channels=channels,
        size_px=size_px,
        dropout=config.dropout,
        activation=config.activation,
        head=config.head,
    )
    info = describe_model(None if model is not None else str(config.model), network, size_px)
    loss = make_loss(
        task=dataset.task,
        loss=config.loss,
        label_smoothing=config.label_smoothing or 0.0,
        focal_gamma=config.focal_gamma,
        class_weights=_as_tensor(prepared.class_weights),
        class_counts=prepared.train_counts.tolist(),
        output_activation=config.output_activation,
    ).to(device)
    precision, why = pick_precision(
        config.precision, device, network, loss, prepared.train
    )
    if verbose:
        _announce(prepared, info, device, precision, why)
    settings = LoopSettings.from_config(config, precision=precision)
    result = fit(
        network,
        prepared.train,
        prepared.val,
        loss_fn=loss,
        task=dataset.task,
        settings=settings,
        run_dir=run_dir,
        resume=resume,
        stream=sys.stderr if verbose else None,
    )
    return Trained(network, info, prepared, result, precision, why, device)


def fit_bundle(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    *,
    model: nn.Module | None = None,
    verbose: bool = False,
) -> Bundle:
    """Train and calibrate without a run folder; what `ImageClassifier.fit` does."""
    device = pick_device(config.device)
    trained = fit_model(config, dataset, split, model=model, device=device, verbose=verbose)
    bundle, _ = make_bundle(trained, config, dataset, split)
    return bundle


def make_bundle(
    trained: Trained, config: TrainConfig, dataset: Dataset, split: Split
) -> tuple[Bundle, Calibration]:
    """Wrap the network with its preprocessing, and fit the temperature on validation."""
    untempered = BundleConfig(
        architecture=trained.info.spec
        if trained.info.notes != CUSTOM_NOTES
        else f"custom:{trained.info.name}",
        task=dataset.task,
        class_names=dataset.class_names,
        size_px=trained.prepared.preprocessing.size_px,
        channels=trained.prepared.preprocessing.channels,
        dropout=config.dropout,
        activation=config.activation,
        head=config.head,
        output_activation=config.output_activation,
        scanwise_version=__version__,
        trained_on=dataset.provenance.source,
        synthetic=dataset.provenance.synthetic,
    )
    bundle = Bundle(trained.model, trained.prepared.preprocessing, untempered)
    pixels = bundle.preprocessing.to_pixels(dataset.images[split.val])
    logits = bundle.logits_of(pixels, device=str(trained.device))
    calibration = calibrate(
        class_logits(logits, dataset.task, config.output_activation),
        dataset.targets[split.val],
        dataset.task,
    )
    bundle.config = replace(untempered, temperature=calibration.temperature)
    return bundle, calibration


def _finish(
    run: Run,
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    report: CheckReport,
    trained: Trained,
    started: float,
) -> None:
    """Calibrate, evaluate once, save the bundle, write the report."""
    bundle, calibration = make_bundle(trained, config, dataset, split)
    run.write("training.json", _training_facts(trained, config, time.monotonic() - started))
    evaluate_run(run, config, dataset, split, report, bundle, calibration)
    build_report(run.path)


def _training_facts(trained: Trained, config: TrainConfig, seconds: float) -> dict[str, Any]:
    """training.json: what was trained and how it ended."""
    result, prepared = trained.result, trained.prepared
    weights = prepared.class_weights
    return {
        "model": trained.info.spec,
        "parameters": {
            "total": trained.info.parameters_total,
            "trainable": trained.info.parameters_trainable,
        },
        "best_epoch": result.best_epoch,
        "best_value": result.best_value,
        "monitor": config.monitor,
        "epochs_run": result.epochs_run,
        "stop_reason": result.stop_reason,
        "seconds": result.seconds,
        "seconds_in_all": seconds,
        "device": str(trained.device),
        "precision": trained.precision,
        "precision_reason": trained.precision_reason,
        "class_weights": None if weights is None else weights.tolist(),
        "augmentation": prepared.augmentation.augmentation.describe(),
        "augmentation_reason": prepared.augmentation.reason,
        "num_synthetic": prepared.num_synthetic,
        "preprocessing": prepared.preprocessing.to_json(),
        "notes": [*trained.info.notes, *prepared.messages],
        "findings": [finding.to_json() for finding in prepared.findings],
    }
