"""One search: Optuna proposes settings, each is trained and judged on the same images.

The state is the SQLite file alone: a search that was killed goes on from its last finished trial,
and asks for the same settings that it would have asked for. Each trial's sampler is seeded anew
from the seed and the number of trials before it.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from scanwise.core.config import TrainConfig, make_config
from scanwise.core.errors import ConfigError, RunError, ScanwiseError
from scanwise.core.files import atomic_path
from scanwise.core.types import Dataset, Interval, Split
from scanwise.deploy.bundle import class_logits, head_logits
from scanwise.metrics.calibration import apply_temperature
from scanwise.metrics.selection import Answers, Judge
from scanwise.models.backbones import Backbone
from scanwise.pipeline.fitting import Trained, fit_model
from scanwise.pipeline.plan import DataFacts, make_plan
from scanwise.pipeline.tracking import Listener, OnEpoch
from scanwise.pipeline.transfer import loss_of
from scanwise.studies.search_space import (
    Parameter,
    Value,
    combinations,
    defaults_of,
    is_inside,
    value_text,
)
from scanwise.training.device import pick_device
from scanwise.training.history import EpochRecord
from scanwise.training.loop import predict_logits
from scanwise.training.stopping import HIGHER_IS_BETTER

Pruner = Literal["median", "hyperband", "none"]
PRUNERS: tuple[Pruner, ...] = ("median", "hyperband", "none")
STARTUP_TRIALS = 5  # never pruned by the median
MIN_FOR_IMPORTANCE = 10  # finished trials; the best quarter of them is compared with all
IMPORTANCE_RESAMPLES = 200
PIP_LINE = 'pip install "scanwise[tune]"'


@dataclass(frozen=True)
class Trial:
    """One trial as it ended. Number 0 is the default settings."""

    number: int
    settings: dict[str, Value]
    state: Literal["complete", "pruned", "failed"]
    value: float | None  # of the monitored measure; pruned: the last epoch's
    seconds: float
    epochs: int
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Search:
    """What is searched, and on which images.

    `parts` hold the training and validation rows of one training, or of each inner fold; their test
    rows are empty.
    """

    name: str
    said: TrainConfig  # what is fixed
    facts: DataFacts
    space: tuple[Parameter, ...]
    dataset: Dataset
    parts: tuple[Split, ...]
    backbone: Backbone | None
    pruner: Pruner
    folder: Path

    def resolved(self, settings: dict[str, Value] | None = None) -> TrainConfig:
        """The whole settings of a trial: fixed, searched, and the plan's for the rest.

        Raises:
            ConfigError: If they contradict each other.
        """
        said = make_config(self.said.model_dump() | (settings or {}))
        return make_plan(said, self.facts)[0]

    @cached_property
    def planned(self) -> TrainConfig:
        return self.resolved()

    @cached_property
    def judge(self) -> Judge:
        """What compares trials, on all validation rows (each inner fold's, one after another)."""
        rows = np.concatenate([part.val for part in self.parts])
        groups = self.dataset.groups
        monitor = self.planned.monitor or "val_loss"
        return Judge(
            monitor,
            HIGHER_IS_BETTER[monitor],
            self.dataset.targets[rows],
            self.dataset.task,
            None if groups is None else tuple(groups[row] for row in rows),
            self.said.seed,
        )

    def answers_path(self, number: int) -> Path:
        return self.folder / "validation" / f"{self.name}-{number:03d}.npz"

    def answers(self, trial: Trial) -> Answers:
        """What a complete trial said about the validation images."""
        with np.load(self.answers_path(trial.number), allow_pickle=False) as arrays:
            return Answers(arrays["probabilities"], arrays["losses"])


class Stopped(Exception):
    """A trial ends early: pruned, or out of time."""


class Pruned(Stopped):
    pass


class OutOfTime(Stopped):
    pass


def need_optuna() -> Any:
    """Optuna, with its own messages off.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"`scanwise tune` needs Optuna: {PIP_LINE}.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def open_storage(path: Path) -> Iterator[Any]:
    """Optuna's storage in one SQLite file; closed at the end.

    Raises:
        RunError: If the file is no such storage.
    """
    import sqlite3

    optuna = need_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    # The path is not put into the URL, where '?', '%' and braces have meanings of their own.
    try:
        storage = optuna.storages.RDBStorage(
            "sqlite:///study.db", engine_kwargs={"creator": lambda: sqlite3.connect(path)}
        )
    except SQLAlchemyError as error:
        raise RunError(
            f"can't read {path}: {str(error).splitlines()[0]}. Choose another --output."
        ) from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def open_study(storage: Any, search: Search) -> Any:
    """The search's study, new or as it was left; trials that never ended are closed as failed."""
    optuna = need_optuna()
    study = optuna.create_study(
        storage=storage,
        study_name=search.name,
        direction="maximize" if search.judge.higher else "minimize",
        pruner=_make_pruner(optuna, search),
        load_if_exists=True,
    )
    for left in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    return study


def _make_pruner(optuna: Any, search: Search) -> Any:
    steps = int(search.planned.epochs or 1) if len(search.parts) == 1 else len(search.parts)
    if search.pruner == "median":
        # A one-cycle schedule's first third says little about its end.
        return optuna.pruners.MedianPruner(
            n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1 + steps // 3
        )
    if search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=max(1, steps // 9), max_resource=steps, reduction_factor=3
        )
    return optuna.pruners.NopPruner()


def read_trials(study: Any) -> list[Trial]:
    """The trials that ended by themselves, numbered as the user sees them."""
    ended = (one for one in study.get_trials(deepcopy=False) if one.state.is_finished())
    records = [one.user_attrs["record"] for one in ended if "record" in one.user_attrs]
    return [Trial(number=number, **record) for number, record in enumerate(records)]


def best_of(trials: list[Trial], higher: bool) -> Trial | None:
    """The complete trial with the best value, the first of equals; None if none is complete."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    sign = -1.0 if higher else 1.0
    return min(complete, key=lambda trial: sign * float(trial.value or 0.0), default=None)


def run_search(
    search: Search, storage: Any, num_trials: int, deadline: float | None, tell: str = "trial"
) -> list[Trial]:
    """Go on with a search until there are `num_trials`, or no time for another one.

    Args:
        search: What to search.
        storage: Of `open_storage`.
        num_trials: In all, those of earlier calls included.
        deadline: On time.monotonic()'s clock; the first trial is trained all the same.
        tell: How the lines on stderr begin.

    Raises:
        ScanwiseError: If the default settings can't be trained on these data at all.
    """
    study = open_study(storage, search)
    trials = read_trials(study)
    higher = search.judge.higher
    while len(trials) < num_trials:
        if trials and deadline is not None and _typical_s(trials) > deadline - time.monotonic():
            say(f"{tell}s: time is up after {len(trials)} of {num_trials}")
            break
        proposed = _propose(study, search, trials)
        if proposed is None:
            say(f"{tell}s: all {len(trials)} combinations of the choices were tried")
            break
        asked, settings = proposed
        may_stop = deadline if best_of(trials, higher) is not None else None
        try:
            record = _run_trial(search, asked, settings, len(trials), may_stop)
        except OutOfTime:
            _tell(study, asked, None)
            say(f"{tell} {len(trials)}: cut short, time is up")
            break
        _tell(study, asked, record)
        trials = read_trials(study)
        say(_progress(trials, num_trials, search, tell))
    return trials


def say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _typical_s(trials: list[Trial]) -> float:
    """Seconds that another trial will take: the median of those that were not ended early."""
    whole = [trial.seconds for trial in trials if trial.state == "complete"]
    return float(np.median(whole)) if whole else 0.0


def _propose(
    study: Any, search: Search, trials: list[Trial]
) -> tuple[Any, dict[str, Value]] | None:
    """The next trial and its settings; None where every combination was tried."""
    optuna = need_optuna()
    if not trials:
        settings = defaults_of(search.space, search.planned)
        if not is_inside(search.space, settings):
            return study.ask(), settings  # the sampler never hears of it
        study.enqueue_trial(settings, skip_if_exists=True)
    seed = np.random.SeedSequence([search.said.seed, len(trials)]).generate_state(2)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))
    asked = study.ask()
    settings = {parameter.setting: parameter.suggest(asked) for parameter in search.space}
    tried = [trial.settings for trial in trials]
    every = combinations(search.space)
    if every is None or settings not in tried:
        return asked, settings
    study.tell(asked, state=optuna.trial.TrialState.FAIL)
    untried = [one for one in every if one not in tried]
    if not untried:
        return None
    settings = untried[int(seed[1]) % len(untried)]
    study.enqueue_trial(settings)
    asked = study.ask()
    return asked, {parameter.setting: parameter.suggest(asked) for parameter in search.space}


def _tell(study: Any, asked: Any, record: dict[str, Any] | None) -> None:
    """Close a trial in the study; without a record it does not count, and is asked for again."""
    states = need_optuna().trial.TrialState
    if record is not None:
        asked.set_user_attr("record", record)
    if record is None or record["state"] == "failed" or not asked.params:
        study.tell(asked, state=states.FAIL)
    elif record["state"] == "pruned":
        study.tell(asked, state=states.PRUNED)
    else:
        study.tell(asked, record["value"])


def _run_trial(
    search: Search, asked: Any, settings: dict[str, Value], number: int, deadline: float | None
) -> dict[str, Any]:
    """Train one trial on every part; its answers are on disk before it counts.

    Raises:
        OutOfTime: If it ran into the deadline.
        ScanwiseError: If it is the first, and failed for another reason than divergence.
    """
    began = time.monotonic()
    watch = _Watch(search, asked, number, deadline)
    state, reason, value = "complete", "", None
    try:
        value, answers = _train_parts(search, search.resolved(settings), watch)
        _save_answers(search.answers_path(number), answers)
    except Pruned as error:
        state, reason, value = "pruned", str(error), watch.last
    except ScanwiseError as error:
        if number == 0 and "diverged" not in str(error):
            raise
        state, reason = "failed", str(error)
    return {
        "settings": settings,
        "state": state,
        "value": value,
        "seconds": time.monotonic() - began,
        "epochs": watch.epochs,
        "reason": reason,
    }


def epochs_tell(search: Search) -> bool:
    """True if an epoch's value says something of the whole trial: no folds or stages follow."""
    planned = search.planned
    steps = planned.head != "logistic" and planned.finetune in (None, "head")
    return steps and len(search.parts) == 1


class _Watch:
    """Hears of each epoch and each part; ends a trial that is hopeless or out of time."""

    def __init__(self, search: Search, asked: Any, number: int, deadline: float | None) -> None:
        self._search, self._asked, self._number, self._deadline = search, asked, number, deadline
        self._monitor = search.judge.monitor
        self.epochs = 0
        self.last: float | None = None

    def on_epoch(self, stage: str = "") -> OnEpoch:
        """What hears of the epochs of a stage; see `Listener`."""
        return self.epoch

    def epoch(self, record: EpochRecord) -> None:
        self.epochs += 1
        self._check_time()
        if epochs_tell(self._search):
            self._report(getattr(record, self._monitor), record.epoch, f"epoch {record.epoch}")

    def part(self, mean: float, done: int) -> None:
        if done < len(self._search.parts):
            self._check_time()
            self._report(mean, done, f"fold {done} of {len(self._search.parts)}")

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTime

    def _report(self, value: float, step: int, where: str) -> None:
        if not math.isfinite(value):
            return
        self.last = value
        if not self._asked.params:
            return
        self._asked.report(value, step)
        if self._number > 0 and self._asked.should_prune():
            raise Pruned(f"pruned at {where}: {self._monitor} {value:.4f}")


def _train_parts(search: Search, config: TrainConfig, watch: _Watch) -> tuple[float, Answers]:
    """Mean of the monitored measure over the parts, and the answers of all."""
    values, answers = [], []
    for part in search.parts:
        trained = train_part(config, search.dataset, part, search.backbone, watch)
        values.append(_monitored(trained))
        answers.append(_answers(trained, config, search.dataset, part))
        watch.part(float(np.mean(values)), len(values))
    return float(np.mean(values)), Answers(
        np.concatenate([one.probabilities for one in answers]),
        np.concatenate([one.losses for one in answers]),
    )


def train_part(
    config: TrainConfig,
    dataset: Dataset,
    part: Split,
    backbone: Backbone | None,
    listener: Listener | None = None,
) -> Trained:
    """One silent training on train and validation rows."""
    if backbone is not None and config.finetune not in (None, "head"):
        backbone = copy.deepcopy(backbone)  # fine-tuning changes it
    return fit_model(
        config, dataset, part, model=None, backbone=backbone,
        device=pick_device(config.device), tracking=listener,
    )  # fmt: skip


def _monitored(trained: Trained) -> float:
    """The monitored measure of the weights that were kept."""
    kept = [stage.after for stage in trained.stages if stage.kept]
    return float(kept[-1] if kept else trained.result.best_value)


def _answers(trained: Trained, config: TrainConfig, dataset: Dataset, part: Split) -> Answers:
    """Probabilities and the training's own loss of each validation image."""
    if trained.features is not None and not any(stage.kept for stage in trained.stages):
        logits = head_logits(trained.model, trained.features.val[:, 0])
    else:
        logits = predict_logits(trained.model, trained.prepared.val)
    kind = torch.float32 if dataset.task == "multilabel" else torch.int64
    targets = torch.from_numpy(dataset.targets[part.val]).to(kind)
    loss = loss_of(config, dataset, trained.prepared).cpu()
    with torch.inference_mode():
        losses = loss(torch.from_numpy(logits), targets).double().numpy()
    read = class_logits(logits, dataset.task, config.output_activation)
    return Answers(apply_temperature(read, 1.0, dataset.task), losses)


def _save_answers(path: Path, answers: Answers) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, probabilities=answers.probabilities, losses=answers.losses)


def _progress(trials: list[Trial], num_trials: int, search: Search, tell: str) -> str:
    last, best = trials[-1], best_of(trials, search.judge.higher)
    monitor = search.judge.monitor
    value = "-" if last.value is None else f"{last.value:.4f}"
    settings = ", ".join(f"{name} {value_text(one)}" for name, one in last.settings.items())
    words = last.reason if last.state == "failed" else last.state
    record = "" if best is None else f"; best {best.value:.4f} (trial {best.number})"
    default = " (default)" if last.number == 0 else ""
    return (
        f"{tell} {last.number}{default}, {len(trials)} of {num_trials}: {monitor} {value}, "
        f"{settings}, {words}, {last.seconds:.1f} s{record}"
    )


# --- what the study tells about the settings --------------------------------------------------


def importance(study: Any, space: tuple[Parameter, ...], seed: int) -> dict[str, Interval] | str:
    """Share of each setting in what decides between good trials and others, or why not measured.

    PED-ANOVA of the best quarter; the interval is of a bootstrap over trials.

    Source:
        Watanabe, Bansal and Hutter, IJCAI 2023, arXiv:2304.10255.
    """
    optuna = need_optuna()
    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    needed = max(MIN_FOR_IMPORTANCE, 2 * len(space))
    if len(done) < needed:
        return f"not measured: {len(done)} complete trials, {needed} are needed"
    if len({trial.value for trial in done}) == 1:
        return "not measured: all trials came out the same"
    if len(space) == 1:
        return "not measured: only one setting was searched"
    names = [parameter.setting for parameter in space]
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, len(done), len(done)) for _ in range(IMPORTANCE_RESAMPLES)]
    whole = _shares(optuna, study.direction, done, names)
    table = np.array(
        [_shares(optuna, study.direction, [done[i] for i in rows], names) for rows in drawn]
    )
    low, high = np.nanquantile(table, [0.025, 0.975], axis=0)
    found = {
        name: Interval(float(w), min(float(lo), float(w)), max(float(hi), float(w)))
        for name, w, lo, hi in zip(names, whole, low, high, strict=True)
    }
    return dict(sorted(found.items(), key=lambda item: -float(item[1].value or 0.0)))


def _shares(optuna: Any, direction: Any, trials: list[Any], names: list[str]) -> list[float]:
    """Importances in the order of `names`; NaN where a resample can't tell."""
    study = optuna.create_study(direction=direction)
    study.add_trials(trials)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    try:
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    except (ValueError, RuntimeError):  # all drawn trials are one trial
        return [math.nan] * len(names)
    return [float(found.get(name, math.nan)) for name in names]


def question_of(search: Search) -> dict[str, Any]:
    """What a search depends on, JSON-ready; another answer to it is another search."""
    return {
        "settings": search.planned.model_dump(exclude={"device", "precision", "threads", "track"}),
        "search": {parameter.setting: parameter.spelling for parameter in search.space},
        "pruner": search.pruner,
    }


def record_json(trial: Trial) -> dict[str, Any]:
    """A trial as tune.json has it."""
    recorded: dict[str, Any] = json.loads(json.dumps(asdict(trial)))
    return recorded
