"""`scanwise tune`: which settings are best on validation, told with what the choosing costs.

Test rows are taken out of the split before the first trial, so no model is trained, chosen or
scored on them; only the checks of the data, which look for copies across splits, read their pixels.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError, DataError, RunError, ScanwiseError
from scanwise.core.files import sha256_bytes, write_yaml
from scanwise.core.processes import check_alone
from scanwise.core.types import Dataset, Interval, Split
from scanwise.data.fingerprint import content_sha256
from scanwise.models.backbones import Backbone, backbone_slug, is_pretrained
from scanwise.pipeline.messages import Messages
from scanwise.pipeline.plan import DataFacts
from scanwise.pipeline.runs import check_output_free, new_run_dir
from scanwise.pipeline.train import (
    check_fitted_settings,
    check_settings,
    data_facts,
    load_data,
    split_and_check,
)
from scanwise.pipeline.transfer import with_backbone
from scanwise.studies.nested import Nested, Outer, make_outer, run_nested
from scanwise.studies.parts import copies_together, inner_parts
from scanwise.studies.search import (
    Pruner,
    Search,
    Trial,
    best_of,
    epochs_tell,
    importance,
    need_optuna,
    open_storage,
    open_study,
    question_of,
    run_search,
    say,
)
from scanwise.studies.search_space import Parameter, default_space, parse_search
from scanwise.studies.tune_page import write_tuned
from scanwise.studies.tuned import Options, Tuned
from scanwise.training.device import pick_device

STUDY = "study.db"
_HEAD = "tune"  # the search that best.yaml is of; those of outer folds are fold-1, fold-2, ...


def tune(config: TrainConfig, output: Path | None = None, options: Options | None = None) -> Tuned:
    """Search settings, judged on validation only, and write what was found.

    Args:
        config: What is fixed, as for `train`; `time_limit` is that of the whole search.
        output: Folder of the search; one that holds the same search goes on with it. None makes
            runs/DATA-MODEL-tune-NNN.
        options: How to search.

    Returns:
        The result; its folder holds best.yaml, tune.json, tune.md, trials.csv, study.db, plots.

    Raises:
        ConfigError: A setting that can't be searched, or Optuna is missing.
        RunError: `output` is in the way, or holds a search that asked another question.
        ScanwiseError: As `train`; or no trial could be trained.
    """
    began = time.monotonic()
    need_optuna()
    options = options or Options()
    limit_s = config.time_limit
    deadline = None if limit_s is None else began + limit_s
    search, data = _prepare(config, output, options)
    folder = _open_folder(search, config, output)
    search = replace(search, folder=folder)
    question = _question(search, data, options)
    with open_storage(folder / STUDY) as storage:
        _same_question(storage, question, folder)
        _say_plan(search, options)
        share = 1.0 if options.nested is None else 1 / (options.nested + 1)
        first = None if limit_s is None else began + share * limit_s
        trials = run_search(search, storage, options.trials, first)
        if best_of(trials, search.judge.higher) is None:
            reasons = "; ".join(f"trial {one.number}: {one.reason}" for one in trials[:3])
            raise ScanwiseError(f"no trial of {folder} could be trained to its end: {reasons}.")
        found = importance(open_study(storage, search), search.space, search.said.seed)
        nested = None
        if data.outer is not None:
            nested = run_nested(search, data.outer, storage, options.trials, deadline)
    tuned = _summarise(search, options, trials, found, nested, len(data.split.test))
    write_tuned(tuned)
    return tuned


@dataclass(frozen=True, eq=False)
class _Data:
    """The data, and how they are divided."""

    dataset: Dataset
    split: Split  # with its test rows, which no search gets
    outer: tuple[Outer, ...] | None  # with --nested


def _prepare(config: TrainConfig, output: Path | None, options: Options) -> tuple[Search, _Data]:
    """All that can be wrong is found here, before anything is written."""
    if output is not None and (config.force or not (output / STUDY).is_file()):
        check_output_free(output, config.force)
    said = config.model_copy(update={"output": None, "time_limit": None, "force": False})
    check_settings(said, own_model=False)
    check_alone(said.devices, said.nodes)
    pick_device(said.device)
    asked = None if options.search is None else parse_search(options.search, said.monitor)
    said, backbone = with_backbone(said)
    dataset, split, report = split_and_check(load_data(said), said)
    if not len(split.val):
        raise DataError(f"{dataset.name} has no validation images to judge the trials by.")
    Messages().data(dataset, split, report)
    facts = data_facts(dataset, split, pretrained=backbone is not None)
    search = _search(said, facts, asked, dataset, split, backbone, options.pruner)
    if options.search is not None:  # now that the plan chose the monitor
        parse_search(options.search, search.judge.monitor)
    _check_space(search)
    return _divided(search, split, options)


def _divided(search: Search, split: Split, options: Options) -> tuple[Search, _Data]:
    """The search with its inner folds, and the outer folds, where they are asked for."""
    data = _Data(search.dataset, split, None)
    if options.cv is None and options.nested is None:
        return search, data
    rows, seed = np.sort(np.concatenate([split.train, split.val])), search.said.seed
    divided = copies_together(search.dataset, rows)
    if options.cv is not None:
        search = replace(search, parts=inner_parts(divided, rows, options.cv, seed))
    if options.nested is not None:
        share = len(split.val) / len(rows)
        outer = make_outer(divided, rows, options.nested, cv=options.cv, val_share=share, seed=seed)
        data = replace(data, outer=outer)
    return search, data


def _search(
    said: TrainConfig,
    facts: DataFacts,
    asked: tuple[Parameter, ...] | None,
    dataset: Dataset,
    split: Split,
    backbone: Backbone | None,
    pruner: Pruner,
) -> Search:
    part = replace(split, test=np.empty(0, np.int64))
    search = Search(_HEAD, said, facts, asked or (), dataset, (part,), backbone, pruner, Path())
    if asked is not None:
        return search
    return replace(search, space=default_space(said, search.planned, len(split.train)))


def _check_space(search: Search) -> None:
    """Each end of each range, with all else as planned, must be allowed.

    Raises:
        ScanwiseError: As for `train`.
    """
    split = search.parts[0]
    check_fitted_settings(search.planned, search.dataset, split)
    for parameter in search.space:
        for value in parameter.ends():
            if parameter.setting == "model" and is_pretrained(str(value), None):
                raise ConfigError(
                    f"--search model: {value} brings its own weights and image size; tune one "
                    "pretrained network at a time, named by --model."
                )
            config = search.resolved({parameter.setting: value})
            check_settings(config, own_model=False)
            check_fitted_settings(config, search.dataset, split)


# --- the folder, and the question it answers --------------------------------------------------


def _open_folder(search: Search, config: TrainConfig, output: Path | None) -> Path:
    if output is None:
        name = f"{backbone_slug(str(search.planned.model))}-tune"
        return new_run_dir(search.said, search.dataset.name, name)
    if config.force and output.exists():
        shutil.rmtree(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make the folder {output}: {error.strerror}.") from error
    write_yaml(output / "config.yaml", search.planned.model_dump())  # ours, for --force
    return output


def _question(search: Search, data: _Data, options: Options) -> dict[str, Any]:
    """All that the answer depends on but the number of trials and the time."""
    rows = np.concatenate([data.split.train, [-1], data.split.val]).astype(np.int64)
    question = question_of(search) | {
        "cv": options.cv,
        "nested": options.nested,
        "data_sha256": content_sha256(data.dataset),
        "split_sha256": sha256_bytes(rows.tobytes()),
    }
    plain: dict[str, Any] = json.loads(json.dumps(question))  # as it will be read back
    return plain


def _same_question(storage: Any, question: dict[str, Any], folder: Path) -> None:
    """Remember the question, or refuse another one than the folder's.

    Raises:
        RunError: Naming what differs.
    """
    optuna = need_optuna()
    study = optuna.create_study(storage=storage, study_name="question", load_if_exists=True)
    before = study.user_attrs.get("question")
    if before is None:
        study.set_user_attr("question", question)
        return
    differ = [
        f"{name} was {before_value!r}, is {value!r}"
        for name, before_value, value in _pairs(before, question)
        if before_value != value
    ]
    if differ:
        raise RunError(
            f"{folder} holds a search that asked another question: {'; '.join(differ[:5])}. "
            "Choose another --output, or --force to begin anew."
        )


def _pairs(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, old, new) of every entry, those of nested dicts one by one."""
    found: list[tuple[str, Any, Any]] = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [(f"{name}.{inner}", a, b) for inner, a, b in _pairs(old, new)]
        else:
            found.append((name, old, new))
    return found


# --- the result -------------------------------------------------------------------------------


def _summarise(
    search: Search,
    options: Options,
    trials: list[Trial],
    found: dict[str, Interval] | str,
    nested: Nested | None,
    num_test: int,
) -> Tuned:
    """Scores of the best trial and of the default settings, and what choosing cost."""
    judge = search.judge
    best = best_of(trials, judge.higher)
    assert best is not None
    complete = [trial for trial in trials if trial.state == "complete"]
    answers = {trial.number: search.answers(trial) for trial in complete}
    own = answers[best.number]
    default = answers.get(0)
    return Tuned(
        folder=search.folder,
        dataset=search.dataset,
        search=search,
        options=options,
        trials=tuple(trials),
        best=best,
        score=judge.interval(own),
        chosen=judge.chosen(list(answers.values())),
        default=None if default is None else judge.interval(default),
        gain=None if default is None or best.number == 0 else judge.gain(default, own),
        importance=found,
        nested=nested,
        num_test=num_test,
    )


def _say_plan(search: Search, options: Options) -> None:
    judge, planned = search.judge, search.planned
    images = f"{len(judge.targets):,} validation images"
    if options.cv is not None:
        images = f"the mean over {options.cv} inner folds of {len(judge.targets):,} images"
    say(
        f"Search: {judge.monitor} of the best epoch on {images}; model {planned.model}; "
        f"all trials share seed {planned.seed}, so that they differ by their settings alone"
    )
    for parameter in search.space:
        say(f"  {parameter.setting} {parameter.spelling}: {parameter.reason}")
    if options.pruner != "none" and options.cv is None and not epochs_tell(search):
        say("  nothing is pruned: these trainings have no epochs to compare on the way")
