"""`scanwise compare`: a base and its variants on the same images, and what that has shown.

One main path, top to bottom: load and split each data set once, plan every variant, train all
members, pool their answers, compare each variant with the base, write it down.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scanwise import __version__
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError
from scanwise.core.types import Interval, Task
from scanwise.metrics.compare import Comparison, correct_family
from scanwise.metrics.compare import compare as compare_answers
from scanwise.metrics.over_seeds import over_seeds
from scanwise.metrics.predictions import Predictions
from scanwise.metrics.seeds import spread
from scanwise.pipeline.runs import Run
from scanwise.studies.collect import Answers, answers_of, baselines_of
from scanwise.studies.members import Outcome
from scanwise.studies.study import (
    Ground,
    load_grounds,
    make_members,
    open_study,
    probe_of,
    resolve,
    write_study_splits,
)
from scanwise.studies.variants import BASE, Variant, differing, read_variants
from scanwise.studies.workers import plan_workers, train_members

SHOWN = ("accuracy", "auroc_macro", "cross_entropy_loss")
METRICS = ("accuracy", "balanced_accuracy", "auroc_macro", "cross_entropy_loss")


@dataclass(frozen=True)
class Score:
    """A metric of one row: over its seeds, with a 95 % interval and the spread between seeds."""

    interval: Interval
    by_seed: tuple[float, ...]

    def __str__(self) -> str:
        text = str(self.interval)
        if len(self.by_seed) > 1 and np.isfinite(self.by_seed).all():
            text += f" ± {spread(self.by_seed).sd:.3f}"
        return text

    def to_json(self) -> dict[str, Any]:
        return self.interval.to_json() | {
            "by_seed": [value if np.isfinite(value) else None for value in self.by_seed]
        }


@dataclass(frozen=True)
class Row:
    """One line of the table: a variant, or a simple model."""

    name: str
    label: str  # "confounded: …", "equals the base", why it failed, or ''
    facts: dict[str, Any]  # model, activation, lr, …; {} for a simple model
    scores: dict[str, Score]
    validation: Score | None  # of the metric that is compared
    against_base: Comparison | None
    runs: tuple[str, ...] = ()  # folders below members/

    @property
    def verdict(self) -> str:
        return "" if self.against_base is None else self.against_base.verdict

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label": self.label,
            **self.facts,
            "scores": {name: score.to_json() for name, score in self.scores.items()},
            "validation": None if self.validation is None else self.validation.to_json(),
            "against_base": None if self.against_base is None else self.against_base.to_json(),
            "runs": list(self.runs),
        }


@dataclass(frozen=True)
class Table:
    """The rows of one data set."""

    data: str
    task: Task
    split: str  # "test" or "val"
    folds: int | None
    n: int
    num_groups: int | None
    metric: str
    rows: tuple[Row, ...]

    def scored_on(self) -> str:
        where = f"{self.split} images" if self.folds is None else f"images, {self.folds} folds"
        groups = "" if self.num_groups is None else f" in {self.num_groups:,} groups"
        return f"{self.n:,} {where}{groups}"

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "task": self.task,
            "split": self.split,
            "folds": self.folds,
            "n": self.n,
            "num_groups": self.num_groups,
            "metric": self.metric,
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(frozen=True)
class Findings:
    """A finished study: a table for each data set, and the members that failed.

    `answers` are by data set (as given) and variant; those that failed are missing.
    """

    folder: Path
    tables: tuple[Table, ...]
    num_seeds: int
    failed: tuple[Outcome, ...]
    notes: tuple[str, ...]
    grounds: tuple[Ground, ...] = ()
    answers: dict[tuple[str, str], tuple[Answers, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "scanwise": __version__,
            "num_seeds": self.num_seeds,
            "tables": [table.to_json() for table in self.tables],
            "failed": [
                {"member": outcome.member.name, "error": outcome.error} for outcome in self.failed
            ],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Asked:
    """What a study was asked beside the settings of its base."""

    data: tuple[str, ...]
    vary: tuple[str, ...] = ()
    seeds: int = 1
    cv: int | None = None
    metric: str | None = None  # accuracy; multi-label auroc_macro
    jobs: str = "auto"
    backend: str = "local"
    address: str | None = None


def compare(
    config: TrainConfig, asked: Asked, tell: Callable[[str], None] | None = None
) -> Findings:
    """Train a base and its variants on the same splits, and say what is better, if anything is.

    Args:
        config: The base, as for `train`; `output` is the folder of the study.
        asked: Data sets, variants, seeds, folds, and how to run them. An interrupted study goes on
            when it is asked again with the same `output`.
        tell: Gets a line for each step; stderr if None.

    Returns:
        The tables, which were also written to the folder.

    Raises:
        ScanwiseError: Nothing is written before every variant was planned on every data set.
    """
    tell = tell or _to_stderr
    check_asked(config, asked)
    variants = read_variants(config, asked.vary)
    grounds = load_grounds(config, asked.data, asked.seeds, asked.cv)
    planned = {ground.data: plan_variants(config, variants, ground) for ground in grounds}
    for ground in grounds:
        metric_of(asked.metric, ground.checked.dataset.task)
    name = f"{grounds[0].slug}-{'compare' if asked.vary else 'cv' if asked.cv else 'seeds'}"
    folder = open_study(config.output, name, question(config, asked), config.force)
    write_study_splits(folder, grounds)
    trained = [(ground, _trained(planned[ground.data])) for ground in grounds]
    members = make_members(config, trained, folder)
    waiting = [member for member in members if not member.finished]
    workers = plan_workers(
        asked.jobs,
        waiting,
        probe_of(resolve(config, grounds[0]), grounds[0]),
        backend=asked.backend,
        address=asked.address,
    )
    kept = f", {len(members) - len(waiting)} of them finished" if waiting != [*members] else ""
    tell(f"{len(members)} trainings in {folder}{kept}. {workers.describe()}")
    outcomes = train_members(members, workers, tell)
    answers = {
        (ground.data, variant.name): found
        for ground in grounds
        for variant in planned[ground.data]
        if (found := _answers(ground, variant, outcomes, config))
    }
    tables = tuple(
        make_table(ground, planned[ground.data], answers, config, asked) for ground in grounds
    )
    failed = tuple(outcome for outcome in outcomes if not outcome.ok)
    notes = study_notes(tables, asked, failed)
    return Findings(folder, tables, asked.seeds, failed, notes, grounds, answers)


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


def check_asked(config: TrainConfig, asked: Asked) -> None:
    """Refuse what can't be right before any image is read.

    Raises:
        ConfigError: Too few seeds, an unknown metric, or settings that a study has no use for.
    """
    if asked.seeds < 1:
        raise ConfigError(f"seeds={asked.seeds} must be at least 1.")
    if config.devices * config.nodes > 1:
        raise ConfigError(
            "a study trains its models side by side, each in one process (--jobs); leave out "
            "--devices and --nodes."
        )
    if asked.cv is not None and config.no_test:
        raise ConfigError("--cv scores the held-out folds; leave --no-test out.")
    if asked.metric is not None and asked.metric not in METRICS:
        raise ConfigError(f"metric={asked.metric!r} is unknown; choose one of {', '.join(METRICS)}")


def question(config: TrainConfig, asked: Asked) -> dict[str, Any]:
    """study.yaml: all that decides what is trained; how it is run does not belong to it."""
    said = config.model_dump(exclude_unset=True, exclude={"output", "force", "data", "threads"})
    return {
        "data": list(asked.data),
        "base": said,
        "vary": list(asked.vary),
        "seeds": asked.seeds,
        "cv": asked.cv,
        "metric": asked.metric,
    }


def metric_of(asked: str | None, task: Task) -> str:
    """The metric that verdicts rest on."""
    return asked or ("auroc_macro" if task == "multilabel" else "accuracy")


def plan_variants(
    config: TrainConfig, variants: Sequence[Variant], ground: Ground
) -> tuple[Variant, ...]:
    """The variants with the settings in which each differs from the base on these data."""
    plans = [
        resolve(TrainConfig(**(config.model_dump(exclude_unset=True) | variant.changes)), ground)
        for variant in variants
    ]
    base = plans[0].model_dump()
    return tuple(
        replace(variant, differs=differing(base, plan.model_dump()))
        for variant, plan in zip(variants, plans, strict=True)
    )


def _trained(variants: Sequence[Variant]) -> list[Variant]:
    """Those that are trained: one that equals the base would only train the base again."""
    return [variant for variant in variants if variant.name == BASE or variant.differs]


def _scored_split(ground: Ground, config: TrainConfig) -> str:
    has_test = len(ground.places[0].split.test) > 0
    return "test" if has_test and not config.no_test else "val"


def _answers(
    ground: Ground, variant: Variant, outcomes: Sequence[Outcome], config: TrainConfig
) -> tuple[Answers, ...]:
    """What a variant said on one data set, by seed; () if it was not trained or one failed."""
    own = [
        outcome
        for outcome in outcomes
        if (outcome.member.data, outcome.member.variant) == (ground.data, variant.name)
    ]
    if not own or not all(outcome.ok for outcome in own):
        return ()
    members = [outcome.member for outcome in own]
    return answers_of(members, _scored_split(ground, config), ground.checked.dataset.sample_ids)


def make_table(
    ground: Ground,
    variants: Sequence[Variant],
    every: dict[tuple[str, str], tuple[Answers, ...]],
    config: TrainConfig,
    asked: Asked,
) -> Table:
    """Scores of each variant on one data set, and its difference to the base."""
    dataset, scored = ground.checked.dataset, _scored_split(ground, config)
    metric = metric_of(asked.metric, dataset.task)
    answers = {
        variant.name: every[ground.data, variant.name]
        for variant in variants
        if (ground.data, variant.name) in every
    }
    compared = _compare_all(answers, metric)
    rows = [
        _row(variant, answers.get(variant.name), compared.get(variant.name), metric)
        for variant in variants
    ]
    if BASE in answers:
        base = [member for part in answers[BASE] for member in part.members]
        for title, part in baselines_of(base, scored, dataset.sample_ids).values():
            scores = {name: _score([part], name) for name in dict.fromkeys((*SHOWN, metric))}
            rows.append(Row(title, "simple model", {}, scores, None, None))
    first = next((found[0].scored for found in answers.values()), None)
    groups = None if first is None or first.groups is None else len(set(first.groups))
    n = 0 if first is None else len(first)
    return Table(ground.name, dataset.task, scored, asked.cv, n, groups, metric, tuple(rows))


def _compare_all(answers: dict[str, tuple[Answers, ...]], metric: str) -> dict[str, Comparison]:
    """Each variant against the base, corrected for how many there are."""
    if BASE not in answers:
        return {}
    base = [part.scored for part in answers[BASE]]
    names = [name for name in answers if name != BASE]
    found = [
        compare_answers(base, [part.scored for part in answers[name]], metric) for name in names
    ]
    return dict(zip(names, correct_family(found), strict=True))


def _row(
    variant: Variant,
    answers: tuple[Answers, ...] | None,
    against_base: Comparison | None,
    metric: str,
) -> Row:
    if answers is None:
        trained = variant.name == BASE or bool(variant.differs)
        return Row(variant.name, "failed" if trained else variant.label(), {}, {}, None, None)
    parts = [part.scored for part in answers]
    runs = [run for part in answers for run in part.runs]
    return Row(
        name=variant.name,
        label=variant.label(),
        facts=_facts(runs),
        scores={name: _score(parts, name) for name in dict.fromkeys((*SHOWN, metric))},
        validation=_validation(answers, metric),
        against_base=against_base,
        runs=tuple(run.path.name for run in runs),
    )


def _score(parts: Sequence[Predictions], metric: str) -> Score:
    return Score(*over_seeds(parts, metric))


def _validation(answers: Sequence[Answers], metric: str) -> Score | None:
    """The metric on validation, over the seeds; not with folds, where each has another one."""
    if any(len(part.validation) != 1 for part in answers):
        return None
    return _score([part.validation[0] for part in answers], metric)


def _facts(runs: Sequence[Run]) -> dict[str, Any]:
    """What was trained, from the resolved settings of the first run, and the mean time."""
    config = runs[0].config
    trainings = [run.read_json("training.json", "it was deleted") for run in runs]
    parameters = {training["parameters"]["total"] for training in trainings}
    return {
        "model": trainings[0]["model"],
        "activation": config.activation,
        "output_activation": config.output_activation,
        "lr": config.lr,
        "optimizer": config.optimizer,
        "parameters": parameters.pop() if len(parameters) == 1 else sorted(parameters),
        "epochs": [training["epochs_run"] for training in trainings],
        "seconds": float(np.mean([training["seconds"] for training in trainings])),
    }


def study_notes(
    tables: Sequence[Table], asked: Asked, failed: Sequence[Outcome]
) -> tuple[str, ...]:
    """What a reader must know beside the numbers."""
    notes = []
    compared = [row for table in tables for row in table.rows if row.against_base is not None]
    if compared:
        family = max(row.against_base.num_comparisons for row in compared if row.against_base)
        corrected = (
            f"p values were corrected for {family} comparisons a data set (Holm)"
            if family > 1
            else "there was one comparison a data set, so no p value needed correction"
        )
        notes.append(
            "A verdict of better or worse means a corrected p below 0.05 on the same images; "
            f"{corrected}. Intervals are of single comparisons, 95 %."
        )
    if compared and asked.seeds == 1:
        notes.append(
            "One seed: the verdicts are about these trained models, not about training them "
            "again. --seeds 3 or more compares the recipes."
        )
    if any(table.split == "test" and table.folds is None for table in tables) and compared:
        notes.append(
            "Every row looked at the test images once. A row chosen by its test score would be "
            "reported too well: choose by validation."
        )
    if asked.cv is not None:
        notes.append(
            "Out-of-fold answers of all folds were pooled; each image was answered once a seed, by "
            "a model that saw neither it nor its group."
        )
    if any("confounded" in row.label for row in compared):
        notes.append("A confounded row differs in several settings: which one counts is not known.")
    if failed:
        notes.append(f"{len(failed)} trainings failed; their rows have no numbers.")
    return tuple(notes)
