"""`scanwise train --cv K --seeds N`: one recipe, trained on every fold and with every seed.

Trains as a comparison without variants does. The score is that of all out-of-fold answers together;
the folds' own scores stand beside it, since their spread is what a single training may give.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError
from scanwise.core.files import write_json, write_text
from scanwise.core.types import Interval, Split
from scanwise.data.splits import draw_part, splits_csv
from scanwise.metrics.evaluate import evaluate_predictions, metrics_document
from scanwise.metrics.predictions import write_predictions
from scanwise.metrics.seeds import Spread, spread
from scanwise.pipeline.runs import Run
from scanwise.pipeline.train import train_on
from scanwise.pipeline.transfer import with_backbone
from scanwise.studies.collect import Answers
from scanwise.studies.compare import SHOWN, Asked, Findings, compare
from scanwise.studies.study import Ground
from scanwise.studies.variants import BASE

Deploy = Literal["ensemble", "refit"]
OUT_OF_FOLD = "out_of_fold"
BEST_MEMBERS = 3  # networks of --preset best
Machines = tuple[str, str, str | None]  # jobs, backend, address
ONE_MACHINE: Machines = ("auto", "local", None)
MEASURED = tuple(dict.fromkeys((*SHOWN, "balanced_accuracy")))


@dataclass(frozen=True)
class Part:
    """One training: a fold, a seed, or both."""

    run: str
    seed: int
    fold: int | None  # from 0
    n: int
    scores: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "seed": self.seed,
            "fold": None if self.fold is None else self.fold + 1,
            "n": self.n,
            **{name: score.to_json() for name, score in self.scores.items()},
        }


@dataclass(frozen=True)
class Repeated:
    """A recipe over folds and seeds."""

    findings: Findings
    parts: tuple[Part, ...]
    deployed: str  # folder of the model to use; '' where none was asked for
    notes: tuple[str, ...]

    def spread_of(self, name: str) -> Spread | None:
        """Mean ± SD of a metric over the trainings; None where one is not evaluable."""
        values = [part.scores[name].value for part in self.parts]
        known = [value for value in values if value is not None]
        return spread(known) if known and len(known) == len(values) else None

    def to_json(self) -> dict[str, Any]:
        spreads = {name: self.spread_of(name) for name in MEASURED}
        return self.findings.to_json() | {
            "parts": [part.to_json() for part in self.parts],
            "mean_sd": {
                name: None if one is None else {"mean": one.mean, "sd": one.sd, "n": one.n}
                for name, one in spreads.items()
            },
            "deployed": self.deployed or None,
            "notes": [*self.findings.notes, *self.notes],
        }


def cross_validate(
    config: TrainConfig,
    asked: Asked,
    deploy: Deploy | None = None,
    tell: Callable[[str], None] | None = None,
) -> Repeated:
    """Train one recipe on K folds, with N seeds, or both.

    Args:
        config: As for `train`; `output` is the folder of the study.
        asked: One data set, no variants; folds or several seeds.
        deploy: "ensemble" keeps all models as one bundle, which is scored where no image that it is
            scored on was trained on; "refit" trains one more model on the images of all folds, on
            which no score is known.
        tell: Gets a line for each step; stderr if None.

    Returns:
        The pooled score, the score of each training, and where the model to use is.

    Raises:
        ConfigError: `deploy` without folds or seeds.
        ScanwiseError: As `compare`.
    """
    if deploy is not None and deploy not in ("ensemble", "refit"):
        raise ConfigError(f"deploy={deploy!r} is unknown; choose ensemble or refit.")
    if deploy == "refit" and asked.cv is None:
        raise ConfigError("--deploy refit trains on the images of all folds; it needs --cv K.")
    if deploy is not None and asked.cv is None and asked.seeds < 2:
        raise ConfigError("--deploy makes one model out of several; it needs --cv K or --seeds N.")
    findings = compare(config, asked, tell)
    answers = findings.answers.get((asked.data[0], BASE), ())
    parts = tuple(_part(run, answer, asked) for answer in answers for run in answer.runs)
    for answer in answers:
        _write_out_of_fold(findings, answer)
    deployed, notes = "", list(_notes(asked))
    if deploy is not None and not findings.failed:
        deployed, words = _deploy(deploy, config, asked, findings, answers)
        notes.append(words)
    return Repeated(findings, parts, deployed, tuple(notes))


def _part(run: Run, answer: Answers, asked: Asked) -> Part:
    member = next(one for one in answer.members if one.folder == run.path)
    scored = run.metrics["splits"].get(answer.scored.split[0])
    scores = {name: Interval.from_json(scored[name]) for name in MEASURED}
    return Part(run.path.name, answer.seed, member.fold, int(scored["n"]), scores)


def _write_out_of_fold(findings: Findings, answer: Answers) -> None:
    """out_of_fold/seedN: pooled answers in the files of a run, so that they can be recomputed."""
    ground = findings.grounds[0]
    dataset = ground.checked.dataset
    folder = findings.folder / OUT_OF_FOLD / f"seed{answer.seed}"
    write_predictions(folder / "predictions.csv", answer.scored)
    rows = {name: row for row, name in enumerate(dataset.sample_ids)}
    tested = np.sort([rows[name] for name in answer.scored.sample])
    none = np.empty(0, np.int64)
    split = Split(none, none, tested, origin=answer.members[0].split_origin, seed=answer.seed)  # type: ignore[arg-type]
    write_text(folder / "splits.csv", splits_csv(dataset, split))
    name = answer.scored.split[0]
    document = metrics_document(
        {"name": dataset.name, "task": dataset.task, "class_names": list(dataset.class_names)},
        "",
        {name: evaluate_predictions(answer.scored, name)},
        pooled_from=[run.path.name for run in answer.runs],
    )
    write_json(folder / "metrics.json", document)


def _notes(asked: Asked) -> tuple[str, ...]:
    if asked.cv is None:
        return ("All seeds were trained and tested on the same images: ± is chance in training.",)
    return (
        "± is the SD of single trainings, each on its own fold; it is not the error of the mean, "
        "since folds share training images.",
    )


def train_best(
    config: TrainConfig,
    *,
    members: int = BEST_MEMBERS,
    machines: Machines = ONE_MACHINE,
    tell: Callable[[str], None] | None = None,
) -> Repeated:
    """`--preset best`: the recipe with several seeds, and the mean vote of all as the model.

    Args:
        config: As for `train`; `output` is the folder of the study.
        members: Networks that vote, at least 2.
        machines: Jobs, backend and address, as of `compare`.
        tell: As `cross_validate`.
    """
    jobs, backend, address = machines
    asked = Asked((config.data,), seeds=members, jobs=jobs, backend=backend, address=address)
    return cross_validate(config, asked, "ensemble", tell)


def _deploy(
    deploy: Deploy,
    config: TrainConfig,
    asked: Asked,
    findings: Findings,
    answers: Sequence[Answers],
) -> tuple[str, str]:
    """Make the model to use: its folder, and what is known of it."""
    folder = findings.folder / deploy
    if (folder / "bundle").is_dir():
        return str(folder), "The model to use was made before and kept."
    if deploy == "ensemble":
        from scanwise.studies.ensemble import ensemble

        runs = [run.path for answer in answers for run in answer.runs]
        ensemble(runs, output=folder, folds=asked.cv is not None, force=True)
        if asked.cv is None:
            return str(folder), (
                f"The model to use is the mean vote of {len(runs)} networks, and was scored as "
                "one model."
            )
        return str(folder), (
            f"The model to use is the average of {len(runs)} fold models. The out-of-fold score is "
            "that of single ones: each image was answered by one model that had not seen it. The "
            "ensemble itself was not measured."
        )
    shutil.rmtree(folder, ignore_errors=True)
    _refit(config, findings.grounds[0], str(folder))
    return str(folder), (
        "The model to use was trained once more on the images of all folds. The out-of-fold score "
        "is an estimate for this recipe with fewer images, not a measurement of this model."
    )


def _refit(config: TrainConfig, ground: Ground, output: str) -> None:
    """One more training: what was in the folds is train and validation; a delivered test stays."""
    dataset = ground.checked.dataset
    folds = [place.split for place in ground.places if place.seed == ground.places[0].seed]
    rows = np.sort(np.concatenate([fold.test for fold in folds]))
    train = draw_part(dataset, rows, 1 - config.val_fraction, seed=config.seed)
    split = Split(
        train,
        np.setdiff1d(rows, train),
        np.setdiff1d(np.arange(len(dataset)), rows),
        origin=folds[0].origin,
        seed=config.seed,
        note=f"refit on the images of all {len(folds)} folds, stratified, seed {config.seed}.",
    )
    settings = config.model_copy(update={"output": output, "data": ground.data})
    settings, backbone = with_backbone(settings)
    checked = ground.checked._replace(split=split)
    train_on(checked, settings, backbone, started=time.monotonic())
