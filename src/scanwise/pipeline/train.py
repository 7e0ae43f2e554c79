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
