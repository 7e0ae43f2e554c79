"""Nested cross-validation: an honest estimate of tuning and training together.

In each outer fold the whole search runs on the other folds; its best settings (and, beside them,
the default ones) are then trained there and scored once on the fold, which chose nothing.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.files import atomic_path
from scanwise.core.types import Dataset, Interval, Split
from scanwise.data.folds import divide_rows
from scanwise.metrics.evaluate import evaluate_predictions
from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.paired import paired_gain
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.metrics.resampled import estimate, prepare
from scanwise.pipeline.fitting import make_bundle
from scanwise.studies.parts import inner_parts, part_of
from scanwise.studies.search import Search, Trial, best_of, run_search, say, train_part
from scanwise.studies.search_space import Value

SCORES = ("accuracy", "balanced_accuracy", "auroc_macro")
SEARCH_SHARE = 0.8  # of a fold's time; the rest trains the best and the default settings
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class OuterFold:
    """One outer fold: what its search chose, and what that scored on the fold."""

    number: int  # from 1
    rows: Ints  # (n,) held out
    best: Trial
    tuned: Floats  # (n, k) probabilities by the best settings
    default: Floats  # (n, k) by the default ones


@dataclass(frozen=True, eq=False)
class Nested:
    """The folds that were done, of `wanted`, and what they come to."""

    wanted: int
    folds: tuple[OuterFold, ...]
    tuned: Predictions | None  # pooled out-of-fold; None until all folds are done
    default: Predictions | None
    metrics: dict[str, Any]  # of `tuned`, as metrics.json has them
    accuracy_gain: Interval | None  # of tuned over default settings, paired on the same images
    log_loss_gain: Interval | None  # fall of the log-loss

    @property
    def complete(self) -> bool:
        return len(self.folds) == self.wanted


@dataclass(frozen=True, eq=False)
class Outer:
    """One outer fold before anything is trained."""

    held: Ints  # (n,) rows that choose nothing
    plain: Split  # of the rest, for the last training
    parts: tuple[Split, ...]  # of the rest, for the search


def make_outer(
    divided: Dataset, rows: Ints, k: int, *, cv: int | None, val_share: float, seed: int
) -> tuple[Outer, ...]:
    """Outer folds of `rows`, and how the rest of each is divided.

    Args:
        divided: The data set that parts are drawn from (copies of a picture are one group).
        rows: Row numbers; test is not among them.
        k: Number of outer folds.
        cv: Inner folds of each search; None is one validation part.
        val_share: Share of a training's own validation in the rest.
        seed: Decides between the possible folds.

    Raises:
        SplitError: If outer or inner folds can't be made.
    """
    made = []
    for number, (rest, held) in enumerate(divide_rows(divided, rows, k, seed=seed), start=1):
        plain = part_of(divided, rest, val_share, seed + number)
        parts = (plain,) if cv is None else inner_parts(divided, rest, cv, seed + number)
        made.append(Outer(held, plain, parts))
    return tuple(made)


def run_nested(
    search: Search,
    outer: tuple[Outer, ...],
    storage: Any,
    num_trials: int,
    deadline: float | None,
) -> Nested:
    """A search, two trainings and one look at each outer fold; what is on disk is not done again.

    Args:
        search: The search on all rows, whose question each fold's search repeats.
        outer: The folds.
        storage: Of `open_storage`.
        num_trials: Of each fold's search.
        deadline: On time.monotonic()'s clock; no fold begins after it.
    """
    done: list[OuterFold] = []
    count = len(outer)
    for number, fold in enumerate(outer, start=1):
        until = None
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0 and not _path(search, number).is_file():
                say(f"outer fold {number} of {count}: not begun, time is up")
                break
            until = time.monotonic() + SEARCH_SHARE * left_s / (count - number + 1)
        inner = replace(search, name=f"fold-{number}", parts=fold.parts)
        trials = run_search(inner, storage, num_trials, until, f"fold {number} of {count}, trial")
        best = best_of(trials, inner.judge.higher)
        if best is None:
            say(f"outer fold {number} of {count}: no trial could be trained to its end")
            break
        done.append(_scored(inner, fold, number, best))
        say(f"outer fold {number} of {count}: scored once on its {len(fold.held):,} images")
    return summarise(search, tuple(done), count)


def _path(search: Search, number: int) -> Path:
    return search.folder / "nested" / f"fold-{number}.npz"


def _scored(inner: Search, outer: Outer, number: int, best: Trial) -> OuterFold:
    """The fold's answers by the best and by the default settings; from disk where they are."""
    path, key = _path(inner, number), json.dumps(best.settings, sort_keys=True)
    held, plain = outer.held, outer.plain
    if path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            if str(arrays["settings"]) == key and np.array_equal(arrays["rows"], held):
                return OuterFold(number, held, best, arrays["tuned"], arrays["default"])
    tuned = _train_and_answer(inner, plain, held, best.settings)
    default = tuned if best.number == 0 else _train_and_answer(inner, plain, held, {})
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, rows=held, tuned=tuned, default=default, settings=key)
    return OuterFold(number, held, best, tuned, default)


def _train_and_answer(
    inner: Search, plain: Split, held: Ints, settings: dict[str, Value]
) -> Floats:
    """Train on what is left, calibrate on its validation rows, answer the held-out images."""
    config = inner.resolved(settings)
    trained = train_part(config, inner.dataset, plain, inner.backbone)
    bundle, _ = make_bundle(trained, config, inner.dataset, plain)
    pixels = bundle.preprocessing.to_pixels(inner.dataset.images[held])
    return bundle.probabilities_of(pixels, device=str(trained.device))


def summarise(search: Search, folds: tuple[OuterFold, ...], wanted: int) -> Nested:
    """Pool the folds; nothing is claimed of all images before all folds are done."""
    if len(folds) < wanted:
        return Nested(wanted, folds, None, None, {}, None, None)
    dataset = search.dataset
    rows = np.concatenate([fold.rows for fold in folds])
    tuned = _predictions(dataset, rows, np.concatenate([fold.tuned for fold in folds]))
    default = _predictions(dataset, rows, np.concatenate([fold.default for fold in folds]))
    strata = np.zeros(len(rows), np.int64) if dataset.task == "multilabel" else tuned.targets
    gains = [
        paired_gain(score(default), score(tuned), strata, groups=tuned.groups)
        for score in (_right, _log_likelihood)
    ]
    return Nested(
        wanted, folds, tuned, default, evaluate_predictions(tuned, "test"), gains[0], gains[1]
    )


def _predictions(dataset: Dataset, rows: Ints, probabilities: Floats) -> Predictions:
    """Out-of-fold answers; their split is called test, since no part of them chose anything."""
    return make_predictions(
        tuple(dataset.sample_ids[row] for row in rows),
        ("test",) * len(rows),
        dataset.targets[rows],
        probabilities,
        dataset.class_names,
        dataset.task,
        None if dataset.groups is None else tuple(dataset.groups[row] for row in rows),
    )


def _right(said: Predictions) -> Floats:
    """1 where an image's answer is right, multi-label where all its labels are."""
    right = said.predicted == said.targets
    return np.asarray(right.all(axis=1) if right.ndim == 2 else right, np.float64)


def _log_likelihood(said: Predictions) -> Floats:
    """Minus the log-loss of each image; multi-label the mean over labels."""
    shares = said.probabilities.clip(_TINY, 1 - _TINY)
    if said.task == "multilabel":
        chosen = np.where(said.targets == 1, shares, 1 - shares)
        return np.asarray(np.log(chosen).mean(axis=1))
    return np.asarray(np.log(shares[np.arange(len(said)), said.targets]))


def fold_scores(dataset: Dataset, fold: OuterFold, *, default: bool = False) -> dict[str, float]:
    """SCORES of one fold; NaN where one can't be computed."""
    answers = fold.default if default else fold.tuned
    found = estimate(prepare(answers, dataset.targets[fold.rows], dataset.task))
    return {name: float(found[name][0]) for name in SCORES}
