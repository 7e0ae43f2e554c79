"""The main path, top to bottom: load, check, split, plan, prepare, train, evaluate, report."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from scanwise.core.commands import with_commands
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, DataError, RunError, SplitError
from scanwise.core.files import sha256_bytes
from scanwise.core.memory import check_memory
from scanwise.core.runtime import environment
from scanwise.core.types import Dataset, Split
from scanwise.data.checks import CheckReport, check_dataset
from scanwise.data.duplicates import Duplicates, duplicate_groups, find_duplicates
from scanwise.data.fingerprint import content_sha256, dataset_fingerprint
from scanwise.data.grades import with_task
from scanwise.data.load import load
from scanwise.data.metadata import with_metadata
from scanwise.data.splits import (
    make_split,
    read_split_groups,
    read_splits,
    splits_csv,
    write_splits,
)
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.ensemble import EnsembleBundle
from scanwise.models.backbones import Backbone, backbone_slug, is_pretrained
from scanwise.models.build import check_model_spec
from scanwise.pipeline.budget import clock_decided, open_budget
from scanwise.pipeline.evaluate import evaluate_run
from scanwise.pipeline.fitting import (
    Trained,
    findings_of_loss,
    fit_model,
    fit_temperature,
    make_bundle,
)
from scanwise.pipeline.members import read_ensemble
from scanwise.pipeline.messages import Messages
from scanwise.pipeline.plan import DataFacts, Decision, make_plan
from scanwise.pipeline.probes import probe_training
from scanwise.pipeline.runs import Run, check_output_free, new_run_dir
from scanwise.pipeline.tracking import Tracking, check_trackers, open_tracking
from scanwise.pipeline.transfer import with_backbone
from scanwise.prepare.augment import flip_is_safe, parse_augmentation
from scanwise.prepare.balance import class_weights
from scanwise.prepare.contrast import parse_contrast
from scanwise.report.build import build_report
from scanwise.training.checkpoint import LAST
from scanwise.training.device import describe_device, pick_device
from scanwise.training.team import ALONE, Team, join_team

MISSING = "it was deleted"


class Checked(NamedTuple):
    """A data set, how it is split, and what the checks found."""

    dataset: Dataset
    split: Split
    report: CheckReport


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
    team = join_team(config.devices, config.nodes, pick_device(config.device))
    check_settings(config, own_model=model is not None, team=team)
    config, backbone = with_backbone(config)
    with team.leader_first("data"):
        dataset = load_data(config, data)
        checked = split_and_check(dataset, config)
    check_same_data(team, checked)
    return train_on(checked, config, backbone, model=model, started=started, team=team)


def train_on(
    checked: Checked,
    config: TrainConfig,
    backbone: Backbone | None,
    *,
    model: nn.Module | None = None,
    started: float,
    team: Team = ALONE,
) -> Run:
    """The main path from checked data on; `config` is what the user said.

    Of a `team` every process trains, and the first alone writes, prints and opens the test split.
    """
    dataset, split, report = checked
    say = Messages(silent=not team.leads)
    say.data(dataset, split, report)
    resolved, decisions, fired = make_plan(
        config,
        data_facts(dataset, split, pretrained=backbone is not None, own_model=model is not None),
    )
    say.plan(decisions, fired)

    check_fitted_settings(resolved, dataset, split)
    name = type(model).__name__ if model is not None else backbone_slug(str(resolved.model))
    run = Run(
        Path(team.leaders_text("run", lambda: str(new_run_dir(resolved, dataset.name, name))))
    )
    device = team.device(pick_device(config.device))
    if team.leads:
        say.write_to(run)
        own = None if model is None else name
        split = describe(run, resolved, decisions, dataset, split, report, device, own)
    checked = Checked(dataset, split, report)
    _fit_and_finish(run, resolved, checked, backbone, model, device, say, team, started)
    return run


def _fit_and_finish(
    run: Run,
    config: TrainConfig,
    checked: Checked,
    backbone: Backbone | None,
    model: nn.Module | None,
    device: torch.device,
    say: Messages,
    team: Team,
    started: float,
    *,
    resume: bool = False,
) -> None:
    """Train, and let the first process evaluate and report."""
    dataset, split, report = checked
    with ExitStack() as stack:
        tracking = Tracking({}, say.say)
        if team.leads:
            stack.enter_context(run.hold())
            tracking = open_tracking(run, config, say.say)
        stack.enter_context(tracking)
        trained = fit_model(
            config,
            dataset,
            split,
            model=model,
            backbone=backbone,
            device=device,
            run=run,
            say=say,
            resume=resume,
            budget=open_budget(config, split, run, say.say, started),
            team=team,
            tracking=tracking,
        )
        if team.leads:
            finish(run, config, dataset, split, report, trained, started)
            tracking.scores(run.metrics, trained.result.best_epoch)
    team.finish()


def check_settings(config: TrainConfig, *, own_model: bool, team: Team = ALONE) -> None:
    """Refuse what can be seen to be wrong before any image is read.

    Raises:
        ScanwiseError: RunError, ModelError or ConfigError.
    """
    if config.output and team.leads:
        check_output_free(Path(config.output), config.force)
    if config.devices * config.nodes > 1:
        _check_divisible(config)
    if config.model and not own_model and not is_pretrained(config.model, config.weights):
        check_model_spec(config.model, head=config.head, activation=config.activation)
    if config.augment and config.augment != "auto":
        parse_augmentation(config.augment)
    parse_contrast(config.contrast)
    check_trackers(config.track)


def _check_divisible(config: TrainConfig) -> None:
    """Refuse what several processes can't do together.

    Raises:
        ConfigError: A pretrained network, or a time limit.
    """
    if is_pretrained(config.model, config.weights):
        raise ConfigError(
            f"{config.weights or config.model} is a pretrained network, whose features one process "
            "computes once; leave out --devices and --nodes, or train a network from the start "
            "(such as --model resnet18 without --weights)."
        )
    if config.time_limit is not None:
        raise ConfigError(
            "--time-limit plans by one process's clock; with --devices or --nodes say --epochs."
        )


def check_same_data(team: Team, checked: Checked) -> None:
    """All processes must train on the same images, split alike.

    Raises:
        DataError: If this one read others than the first.
    """
    if team.size == 1:
        return
    text = content_sha256(checked.dataset) + splits_csv(checked.dataset, checked.split)
    mine = sha256_bytes(text.encode())
    if mine != team.leaders_text("data hash", lambda: mine):
        raise DataError(
            f"one process read other images from {checked.dataset.provenance.source} than the "
            "first; all machines must have the same data, at the same path."
        )


def check_fitted_settings(config: TrainConfig, dataset: Dataset, split: Split) -> None:
    """Refuse settings that do not go with these classes, before the run folder is made.

    Raises:
        ConfigError: Unknown class in the weights, SMOTE for several labels an image, or batches of
            fewer images than processes.
        DataError: SMOTE for more images than fit in memory.
        ModelError: Images smaller than the network takes.
    """
    multilabel = dataset.task == "multilabel"
    class_weights(
        dataset.class_counts(split.train),
        str(config.class_weights),
        dataset.class_names,
        num_images=len(split.train) if multilabel else None,
    )
    processes, batch_size = config.devices * config.nodes, int(config.batch_size or 1)
    if batch_size < processes:
        raise ConfigError(
            f"batch_size={batch_size} can't be divided among {processes} processes; raise "
            f"--batch-size to {processes} or more."
        )
    if multilabel and config.balance != "none":
        raise ConfigError("--balance smote needs one class an image; leave it out for multi-label.")
    if config.balance != "none":
        images = len(dataset) + 2 * len(split.train)
        check_memory(
            images * int(np.prod(dataset.images.shape[1:])),
            "SMOTE holds all images at once, which",
            "use --class-weights balanced or --sampler balanced instead.",
        )
    if config.model and not is_pretrained(config.model, config.weights):
        check_model_spec(
            config.model, size_px=dataset.size_px, head=config.head, activation=config.activation
        )


def resume(path: Path) -> Run:
    """Go on with an interrupted run from its last finished epoch, exactly as if it had not stopped.

    Raises:
        RunError: If there is no run, or it trains a network of one's own.
        SplitError: If the data changed since.
    """
    started = time.monotonic()
    run = Run.open(path)
    config = run.config
    if own := run.read_json("env.json", "it stopped before training").get("own_model"):
        raise RunError(
            f"{path} trains a network of your own ({own}), which its files can't rebuild; train "
            "anew."
        )
    team = join_team(config.devices, config.nodes, pick_device(config.device))
    say = Messages(silent=not team.leads)
    device = team.device(pick_device(config.device))
    with team.leader_first("data"):
        dataset, split = reload_data(run, config)
        report = check_dataset(
            dataset, split, skip_unreadable=config.skip_unreadable, accept_leak=config.accept_leak
        )
    report.raise_if_stopped()
    if team.leaders([run.finished] if team.leads else None, 1)[0]:
        say.say(f"{run.path} is finished: nothing to resume, and test is not opened again.")
        return run
    if team.leads:
        say.write_to(run)
    config, backbone = with_backbone(config)
    checked = Checked(dataset, split, report)
    _fit_and_finish(run, config, checked, backbone, None, device, say, team, started, resume=True)
    return run


def reevaluate(path: Path) -> Run:
    """Score validation and test again with the run's bundle; the look goes into the test ledger."""
    run = Run.open(path)
    if not run.bundle.is_dir():
        raise RunError(
            f"{path} has no bundle: its training was interrupted. `scanwise train --resume {path}` "
            "finishes it."
        )
    if read_ensemble(run).get("folds"):
        raise RunError(
            f"{path} is an ensemble of folds: no image but the test set they share is untouched by "
            "all, and it was scored when the ensemble was made. `scanwise ensemble` makes it anew."
        )
    config = run.config.model_copy(update={"no_test": False})
    dataset, split = reload_data(run, config)
    bundle = Bundle.from_pretrained(run.path)
    whole = not isinstance(bundle, EnsembleBundle)  # its members are calibrated, it is not
    calibration = fit_temperature(bundle, dataset, split, "cpu") if whole else None
    report = check_dataset(dataset, split, skip_unreadable=True, accept_leak=True)
    evaluate_run(run, config, dataset, split, report, bundle, calibration)
    build_report(run.path)
    with open_tracking(run, run.config, run.log) as tracking:
        training = run.read_json("training.json", MISSING)
        tracking.scores(run.metrics, int(training.get("best_epoch") or 0))
    return run


def reload_data(run: Run, config: TrainConfig) -> tuple[Dataset, Split]:
    """The run's data and split, which must be what they were.

    Raises:
        SplitError: If an image is missing, new or changed.
    """
    saved = run.path / "splits.csv"
    stated = run.dataset["split"]
    dataset = load_data(config)
    split = replace(
        read_splits(saved, dataset),
        origin=stated["origin"],
        seed=stated["seed"],
        note=stated["note"],
    )
    if content_sha256(dataset) != run.dataset["content_sha256"]:
        raise SplitError(
            f"{config.data} changed since {run.path} was trained: the images are the same, their "
            "order is not. Restore the data, or train anew."
        )
    return with_saved_groups(dataset, saved), split


def load_data(config: TrainConfig, data: Dataset | None = None) -> Dataset:
    """The data set that the settings name (or one at hand), as the task that they say."""
    if data is None:
        data = load(
            config.data,
            size=config.size,
            fit=config.fit,
            group=config.group,
            group_regex=config.group_regex,
            page=config.page,
            project=config.project,
            seed=config.seed,
            meta=config.meta,
        )
    elif config.meta:
        data = with_metadata(data, Path(config.meta))
    return with_task(data, config.task, config.class_order)


def split_and_check(dataset: Dataset, config: TrainConfig) -> Checked:
    """`find_trouble`, which must not forbid training.

    Raises:
        SplitError: If no split is possible, or the given one does not fit.
        IntegrityError: If the user's own split leaks.
        DataError: If the data can't be used.
    """
    checked = find_trouble(dataset, config)
    checked.report.raise_if_stopped()
    return checked


def find_trouble(dataset: Dataset, config: TrainConfig) -> Checked:
    """Split the data (or take the split that came with it), then run every check.

    Where the split is ours to make, near-duplicate images are kept in one split. A splits.csv that
    is reused brings its groups along: the data set is returned with them.
    """
    if config.splits:
        split = read_splits(Path(config.splits), dataset)
        dataset = with_saved_groups(dataset, Path(config.splits))
    duplicates = find_duplicates(dataset.images, dataset.targets)
    if not config.splits:
        try:
            split = _new_split(dataset, duplicates, config)
        except SplitError as error:
            raise SplitError(f"{error}{_unreadable_words(dataset)}") from error
    return look_through(dataset, split, config, duplicates)


def look_through(
    dataset: Dataset, split: Split, config: TrainConfig, duplicates: Duplicates | None = None
) -> Checked:
    """Run every check of a data set and its split; commands in findings are the user's."""
    report = check_dataset(
        dataset,
        split,
        skip_unreadable=config.skip_unreadable,
        accept_leak=config.accept_leak,
        duplicates=duplicates,
    )
    findings = with_commands(report.findings, config.model_dump())
    return Checked(dataset, split, replace(report, findings=findings))


def _unreadable_words(dataset: Dataset) -> str:
    """Which files are missing because they can't be read; '' where none is."""
    bad = dataset.unreadable
    if not bad:
        return ""
    listed = "; ".join(f"{each.path} ({each.reason})" for each in bad[:5])
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    return f" Besides, {len(bad)} files can't be read: {listed}{more}."


def with_saved_groups(dataset: Dataset, splits: Path) -> Dataset:
    """The data set with the groups of a splits.csv, unless it has groups of its own."""
    groups = read_split_groups(splits, dataset) if dataset.groups is None else None
    return dataset if groups is None else dataset.with_groups(groups)


def _new_split(dataset: Dataset, duplicates: Duplicates, config: TrainConfig) -> Split:
    """The delivered split, or one that keeps near-duplicates (merged into the groups) together."""
    delivered = dataset.given_split is not None and (dataset.given_split == "val").any()
    together = not delivered and bool(duplicates.clusters)
    split = make_split(
        dataset.with_groups(duplicate_groups(duplicates, len(dataset), dataset.groups))
        if together
        else dataset,
        seed=config.seed,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
    )
    if not together:
        return split
    images = sum(len(rows) for rows in duplicates.clusters)
    note = f"{split.note} Copies are kept together: {images} images in {len(duplicates.clusters)}"
    return replace(split, note=f"{note} clusters.")


def data_facts(
    dataset: Dataset, split: Split, *, pretrained: bool = False, own_model: bool = False
) -> DataFacts:
    """The counts that the plan decides by."""
    counts = dataset.class_counts(split.train)
    present = counts[counts > 0]
    return DataFacts(
        n_images=len(dataset),
        n_train=len(split.train),
        smallest_class=int(present.min()) if len(present) else 0,
        from_files=dataset.provenance.files,
        pretrained=pretrained,
        mirrors=flip_is_safe(dataset.class_names),
        own_model=own_model,
    )


def describe(
    run: Run,
    config: TrainConfig,
    decisions: tuple[Decision, ...],
    dataset: Dataset,
    split: Split,
    report: CheckReport,
    device: torch.device,
    own_model: str | None = None,
) -> Split:
    """Write what is known before training: settings, plan, environment, splits, facts."""
    split = write_splits(run.path / "splits.csv", dataset, split)
    facts = dataset_fingerprint(dataset, split)
    facts["notes"] = [note.to_json() for note in dataset.notes]
    facts["checks"] = report.to_json()
    run.write("dataset.json", facts)
    hashes = {"data_sha256": facts["content_sha256"], "split_sha256": split.sha256}
    facts_of_run = environment(describe_device(device)) | hashes
    run.write("env.json", facts_of_run | ({"own_model": own_model} if own_model else {}))
    run.write_settings(config, [decision.to_json() for decision in decisions])
    return split


def finish(
    run: Run,
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    report: CheckReport,
    trained: Trained,
    started: float,
) -> None:
    """Calibrate, evaluate once, save the bundle, write the report."""
    facts = _training_facts(run, trained, dataset, config, time.monotonic() - started)
    facts["probes"] = probe_training(
        trained.model if trained.features is None else None,
        trained.prepared,
        dataset,
        split,
        seed=config.seed,
        weights_moved=trained.weights_moved,
        steps=trained.result.best_epoch * trained.prepared.train.steps_per_epoch,
        last=run.path / "checkpoints" / LAST,
    )
    bundle, calibration = make_bundle(trained, config, dataset, split)
    run.write("training.json", facts)
    durations = {"training": facts["seconds"], "in_all": facts["seconds_in_all"]}
    run.write("env.json", run.read_json("env.json", MISSING) | {"seconds": durations})
    evaluate_run(
        run,
        config,
        dataset,
        split,
        report,
        bundle,
        calibration,
        baselines=trained.baselines,
        device=str(trained.device),
    )
    if config.report:
        build_report(run.path)


def _training_facts(
    run: Run, trained: Trained, dataset: Dataset, config: TrainConfig, seconds: float
) -> dict[str, Any]:
    """training.json: what was trained and how it ended."""
    result, prepared = trained.result, trained.prepared
    weights = prepared.class_weights
    findings = with_commands(
        [*prepared.findings, *findings_of_loss(config, dataset.task, prepared)],
        config.model_dump(),
        run.plan,
    )
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
        # Of a head that is fitted in one go; what is trained in epochs has history.csv.
        "fitted": None if result.epochs_run else result.history[-1].to_json(),
        "seconds": result.seconds,
        "seconds_in_all": seconds,
        "device": str(trained.device),
        "processes": config.devices * config.nodes,
        "precision": result.precision,
        "precision_reason": result.precision_reason,
        "reproducibility": clock_decided(result.reproducibility, config.time_limit),
        "class_weights": None if weights is None else weights.tolist(),
        "augmentation": prepared.augmentation.augmentation.describe(),
        "augmentation_reason": prepared.augmentation.reason,
        "finetune": [stage.to_json() for stage in trained.stages],
        "num_synthetic": prepared.num_synthetic,
        "preprocessing": prepared.preprocessing.to_json(),
        "notes": [*trained.info.notes, *prepared.messages, *_feature_notes(trained)],
        "findings": [finding.to_json() for finding in findings],
    }


def _feature_notes(trained: Trained) -> list[str]:
    if trained.features is None:
        return []
    return [trained.features.describe(), *(stage.describe() for stage in trained.stages)]
