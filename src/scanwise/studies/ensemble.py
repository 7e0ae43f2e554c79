"""`scanwise ensemble`: several trained runs as one bundle, scored like any run.

The members' validation answers choose weights and the single member to compare with; the test
answers are only compared. What the ensemble scores, its own saved bundle said.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.config import TrainConfig, make_config
from scanwise.core.errors import ConfigError, DataError, IntegrityError, RunError
from scanwise.core.files import sha256_file, write_yaml
from scanwise.core.types import Dataset, Finding, Interval, Split
from scanwise.data.checks import check_dataset
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.metrics.calibration import cross_entropy_loss
from scanwise.metrics.members import greedy_counts
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.pipeline.baselines import FOLDER as BASELINES
from scanwise.pipeline.evaluate import evaluate_run
from scanwise.pipeline.members import FILE, write_members
from scanwise.pipeline.plan import Decision
from scanwise.pipeline.runs import Run, check_output_free, is_run_folder, new_run_dir
from scanwise.pipeline.summary import run_summary
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import describe, reload_data
from scanwise.report.build import build_report
from scanwise.report.ensemble import gain_sentence, looks_sentence
from scanwise.training.device import pick_device

METHODS = ("soft", "greedy")
FEW_VAL = 100  # below this a choice of weights follows chance (CAPABILITIES U2)
# How the images are read: of the first member, where members spell it differently.
DATA_SETTINGS = ("data", "size", "fit", "group", "group_regex", "page", "project")
SCORES = ("n", "accuracy", "cross_entropy_loss")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A run that may be averaged, with its answers."""

    run: Run
    bundle: Bundle
    answers: Predictions  # of validation, and of test where it was opened

    @property
    def name(self) -> str:
        return str(self.run.path)

    @property
    def split_sha256(self) -> str:
        return str(self.run.dataset["split"]["sha256"])

    @property
    def opened_test(self) -> bool:
        return "test" in self.answers.split


@dataclass(frozen=True, eq=False)
class Choice:
    """Weights of the candidates, and the candidates to compare with."""

    method: str  # soft or greedy
    folds: bool
    weights: tuple[float, ...]  # sum to 1; 0 leaves one out
    compared: tuple[int, ...]
    compared_words: str
    weights_from: str  # how the weights came about, in words


def ensemble(
    runs: Sequence[str | Path],
    *,
    method: str = "soft",
    output: str | Path | None = None,
    folds: bool = False,
    force: bool = False,
) -> Run:
    """Average trained runs, and score the average as one model.

    Args:
        runs: Finished run folders, or folders that hold some; at least two runs in all.
        method: "soft" (equal weights), or "greedy" (weights chosen on validation).
        output: New folder [runs/DATA-ensemble-NNN].
        folds: The runs are folds of a cross-validation: same data, other splits. Then validation
            is not measured, and test only where all folds hold back the same test images.
        force: Replace an existing run in `output`.

    Returns:
        A run like any other, with ensemble.yaml, answers/NN.csv and one bundle. Test is opened if
        every member's was (with `folds`: if it is shared), once.

    Raises:
        ConfigError: Unknown method, or greedy folds.
        RunError: Fewer than two runs, one twice, an unfinished one, classes, task, data or split
            that differ, or `output` in the way.
        IntegrityError: A bundle, or a splits.csv, is not what it was.
        SplitError: The images changed since.
    """
    _check_method(method, folds)
    if output is not None:
        check_output_free(Path(output), force)
    found = [_open(path) for path in find_runs(runs)]
    check_alike(found, folds)
    choice = choose_folds(found) if folds else choose(found, method)
    dataset, split = reload_data(found[0].run, found[0].run.config)
    if folds:
        split = fold_split(found, dataset, split)
    opens = len(split.test) > 0 and (folds or all(each.opened_test for each in found))
    settings = shared_settings([each.run.config for each in found])
    settings |= {"no_test": not opens, "report": True}
    config = make_config(settings | {"output": output and str(output), "force": force})
    run = Run(new_run_dir(config, dataset.name, "ensemble"))
    try:
        _write(run, config, settings, dataset, split, found, choice)
    except BaseException:
        shutil.rmtree(run.path)  # nothing half-written
        raise
    return run


def _check_method(method: str, folds: bool) -> None:
    if method not in METHODS:
        raise ConfigError(f"method={method!r} must be one of {', '.join(METHODS)}.")
    if folds and method == "greedy":
        raise ConfigError(
            "greedy selection needs validation images that no member was trained on; folds have "
            "none in common. Leave --method out."
        )


# Which runs.


def find_runs(paths: Sequence[str | Path]) -> list[Path]:
    """The run folders at or in `paths`, in the given order (inside a folder: by name).

    Raises:
        RunError: A path without a run, a run named twice, or fewer than two in all.
    """
    folders = [folder for path in paths for folder in _runs_at(Path(path))]
    seen: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in seen:
            raise RunError(f"{folder} is named twice; a run can vote once.")
        seen[folder.resolve()] = folder
    if len(folders) < 2:
        listed = f"only {folders[0]}" if folders else "none"
        raise RunError(
            f"an ensemble needs at least two runs, got {listed}; train more with other seeds or "
            "models on the same split (--splits RUN/splits.csv)."
        )
    return folders


def _runs_at(path: Path) -> list[Path]:
    if not path.is_dir():
        raise RunError(f"{path} is not a folder; name run folders, or a folder that holds some.")
    # One or two floors down: STUDY/RUN, STUDY/members/RUN. A run folder holds no such file below.
    inside = sorted(each for way in ("*", "*/*") for each in path.glob(way) if is_run_folder(each))
    if inside:
        return inside
    if is_run_folder(path):
        return [path]
    raise RunError(f"{path} is not a run folder, and holds none.")


def _open(folder: Path) -> Candidate:
    """A finished run, its bundle compared with its hashes.

    Raises:
        RunError: It is an ensemble itself, or was interrupted.
        IntegrityError: Its bundle or its splits.csv was changed.
    """
    run = Run.open(folder)
    if (folder / FILE).is_file():
        raise RunError(f"{folder} is an ensemble itself; name its members instead.")
    finished = (run.bundle, folder / "metrics.json", folder / "predictions.csv")
    if missing := [path.name for path in finished if not path.exists()]:
        raise RunError(
            f"{folder} has no {missing[0]}: its training was interrupted. `scanwise train --resume "
            f"{folder}` finishes it."
        )
    splits = folder / "splits.csv"
    stated = run.dataset["split"]["sha256"]
    if not splits.is_file() or sha256_file(splits) != stated:
        raise IntegrityError(
            f"{splits} is not the split that {folder} was trained on (SHA-256 {stated[:12]}); copy "
            "the run again."
        )
    bundle = Bundle.from_pretrained(folder)
    try:
        answers = read_predictions(folder / "predictions.csv", splits, bundle.config.task)
    except DataError as error:
        raise IntegrityError(f"predictions are not as they were written: {error}") from error
    return Candidate(run, bundle, answers)


def check_alike(found: Sequence[Candidate], folds: bool) -> None:
    """Refuse runs whose answers can't be averaged and scored together.

    Raises:
        RunError: Naming two runs, what differs, and both values.
    """
    first = found[0]
    for other in found[1:]:
        _same("classes", first, other, [list(each.bundle.class_names) for each in (first, other)])
        _same("tasks", first, other, [each.bundle.config.task for each in (first, other)])
        data = [each.run.dataset["content_sha256"][:12] for each in (first, other)]
        _same("images (content SHA-256)", first, other, data)
        if not folds:
            shas = [each.split_sha256[:12] for each in (first, other)]
            remedy = (
                f"Train on one split (scanwise train DATA --splits {first.name}/splits.csv), or "
                "give --folds for the folds of a cross-validation."
            )
            _same("splits (SHA-256)", first, other, shas, remedy)
            _same_samples(first, other)
    _check_different_models(found)
    if folds and len({each.split_sha256 for each in found}) == 1:
        raise RunError(
            f"all {len(found)} runs have the same split ({first.split_sha256[:12]}), so they are "
            "no folds; leave --folds out."
        )


def _same(
    what: str, first: Candidate, other: Candidate, values: Sequence[Any], remedy: str = ""
) -> None:
    if values[0] != values[1]:
        raise RunError(
            f"{first.name} and {other.name} have different {what}: {values[0]} and {values[1]}; "
            f"their answers can't be averaged. {remedy}".rstrip()
        )


def _same_samples(first: Candidate, other: Candidate) -> None:
    for name in ("val", "test"):
        if not all(name in each.answers.split for each in (first, other)):
            continue
        samples = [each.answers.of_split(name).sample for each in (first, other)]
        _same(f"numbers of {name} images", first, other, [len(part) for part in samples])
        for pair in zip(*samples, strict=True):
            _same(f"{name} images", first, other, pair)


def _check_different_models(found: Sequence[Candidate]) -> None:
    """Refuse one model under two names: it would only count twice."""
    seen: dict[str, str] = {}
    for each in found:
        weights = sha256_file(each.run.bundle / "model.safetensors")
        if weights in seen:
            raise RunError(
                f"{seen[weights]} and {each.name} hold the same model (equal weights); averaging "
                "it with itself brings nothing. Train with another --seed."
            )
        seen[weights] = each.name


# Weights.


def choose(found: Sequence[Candidate], method: str) -> Choice:
    """Weights and the best single member, by validation alone."""
    parts = [each.answers.of_split("val") for each in found]
    n, task = len(parts[0]), parts[0].task
    probabilities = [part.probabilities for part in parts]
    losses = [cross_entropy_loss(given, parts[0].targets, task) for given in probabilities]
    best = int(np.argmin(losses))
    words = (
        f"the best single member ({found[best].name}, chosen by log-loss on {n:,} validation "
        "images)"
    )
    if method == "soft":
        equal = (1 / len(found),) * len(found)
        return Choice(method, False, equal, (best,), words, "every member has the same weight")
    counts = greedy_counts(probabilities, parts[0].targets, task)
    picks = f"{sum(counts)} pick{'s' if sum(counts) > 1 else ''}"
    return Choice(
        method,
        False,
        tuple(count / sum(counts) for count in counts),
        (best,),
        words,
        f"weights are shares of {picks} by log-loss on {n:,} validation images",
    )


def choose_folds(found: Sequence[Candidate]) -> Choice:
    """Equal weights; no fold is the best one, since each has validation images of its own."""
    m = len(found)
    return Choice(
        "soft",
        True,
        (1 / m,) * m,
        tuple(range(m)),
        f"a single one of the {m} fold models on average",
        "every fold's model has the same weight",
    )


def fold_split(found: Sequence[Candidate], dataset: Dataset, split: Split) -> Split:
    """The split of a fold ensemble: train is what any member was trained or chosen on.

    Test is there if all folds hold back the same; validation is empty.
    """
    splits = [_splits_of(each.run) for each in found]
    tests = [{name for name, part in of.items() if part == "test"} for of in splits]
    used = {name for of in splits for name, part in of.items() if part in ("train", "val")}
    shared = tests[0] if all(test == tests[0] for test in tests) else set()
    chosen = np.array([name in shared for name in dataset.sample_ids])
    seen = np.array([name in used for name in dataset.sample_ids])
    held = f"{int(chosen.sum()):,} test images that all share" if shared else "no shared test set"
    return Split(
        train=np.flatnonzero(seen),
        val=np.empty(0, np.int64),
        test=np.flatnonzero(chosen),
        origin=split.origin,
        seed=split.seed,
        note=f"{len(found)} folds, {held}; train is what any of them was trained or chosen on.",
    )


def _splits_of(run: Run) -> dict[str, str]:
    """Split of each image, as splits.csv has it."""
    with (run.path / "splits.csv").open(encoding="utf-8", newline="") as stream:
        return {row["path"]: row["split"] for row in csv.DictReader(stream)}


# The run folder.


def shared_settings(configs: Sequence[TrainConfig]) -> dict[str, Any]:
    """The settings that all members were trained with; those of the images by the first one."""
    first, *others = [config.model_dump() for config in configs]
    return {
        name: value
        for name, value in first.items()
        if name in DATA_SETTINGS or all(other[name] == value for other in others)
    }


def _write(
    run: Run,
    config: TrainConfig,
    settings: dict[str, Any],
    dataset: Dataset,
    split: Split,
    found: Sequence[Candidate],
    choice: Choice,
) -> None:
    report = check_dataset(dataset, split, skip_unreadable=True, accept_leak=True)
    device = pick_device("auto")
    split = describe(run, config, _decisions(found, choice), dataset, split, report, device)
    write_yaml(run.path / "config.yaml", settings)  # only what all members share
    whole = EnsembleBundle(
        [
            Member(each.bundle, weight, each.run.path.resolve().name)
            for each, weight in zip(found, choice.weights, strict=True)
            if weight > 0
        ],
        choice.method,
    )
    write_members(run, _facts(found, choice), _answers(found, choice.folds, split))
    titles = None if choice.folds else _inherit_baselines(run, found[choice.compared[0]].run)
    run.write(
        "training.json",
        {
            "model": whole.config.architecture,
            "parameters": {"total": whole.num_parameters()},
            "findings": [each.to_json() for each in _findings(found, choice)],
        },
    )
    evaluate_run(
        run,
        config,
        dataset,
        split,
        report,
        whole,
        None,
        baseline_titles=titles,
        device=str(device),
    )
    build_report(run.path)


def _decisions(found: Sequence[Candidate], choice: Choice) -> tuple[Decision, ...]:
    """plan.yaml: the members' weights and where they come from."""
    members = {each.name: weight for each, weight in zip(found, choice.weights, strict=True)}
    return (
        Decision("members", list(members), "you", "the runs that were named"),
        Decision("method", choice.method, "you", "how they vote"),
        Decision("weights", list(members.values()), f"method {choice.method}", choice.weights_from),
    )


def _facts(found: Sequence[Candidate], choice: Choice) -> dict[str, Any]:
    """ensemble.yaml."""
    return {
        "schema": 1,
        "method": choice.method,
        "folds": choice.folds,
        "weights_from": choice.weights_from,
        "selected_on": "val" if choice.method == "greedy" else None,
        "compared_with": {"members": list(choice.compared), "words": choice.compared_words},
        "members": [
            {
                "run": each.name,
                "model": each.bundle.config.architecture,
                "weight": weight,
                "split_sha256": each.split_sha256,
                "bundle_sha256": sha256_file(each.run.bundle / "SHA256SUMS"),
                "predictions_sha256": sha256_file(each.run.path / "predictions.csv"),
                "test_looks": len(each.run.test_looks()),
                "val": {key: each.run.metrics["splits"]["val"][key] for key in SCORES},
            }
            for each, weight in zip(found, choice.weights, strict=True)
        ],
    }


def _answers(found: Sequence[Candidate], folds: bool, split: Split) -> list[Predictions | None]:
    """The members' answers to what the ensemble is scored on; of folds only those on test."""
    if not folds:
        return [each.answers for each in found]
    scored = len(split.test) > 0
    return [
        each.answers.of_split("test") if scored and each.opened_test else None for each in found
    ]


def _inherit_baselines(run: Run, best: Run) -> dict[str, str]:
    """Take over the simple models' answers of the best single member; return their titles."""
    if (best.path / BASELINES).is_dir():
        shutil.copytree(best.path / BASELINES, run.path / BASELINES)
    return {name: str(entry["title"]) for name, entry in best.known_baselines().items()}


def _findings(found: Sequence[Candidate], choice: Choice) -> tuple[Finding, ...]:
    """What must be known before the ensemble's scores are believed."""
    if choice.folds:
        evidence = (
            "validation is not measured: each image outside a shared test set was in the training "
            "or the validation of some member. A pooled out-of-fold score of these runs belongs to "
            "single models, not to this ensemble."
        )
        return (Finding("M003", "info", evidence, "Score it on images that no fold has seen."),)
    if choice.method != "greedy":
        return ()
    n = len(found[0].answers.of_split("val"))
    selected = (
        f"the weights were chosen on these {n:,} validation images, so the validation score is "
        "selected on: expect less on new images."
    )
    findings = [Finding("M001", "info", selected, "Judge the ensemble by test.")]
    if n < FEW_VAL:
        few = f"weights of {len(found)} runs were chosen on {n} validation images, under {FEW_VAL}."
        advice = "Such a choice follows chance; --method soft chooses nothing."
        findings.append(Finding("M002", "warning", few, advice))
    return tuple(findings)


# What is shown.


def ensemble_summary(run: Run) -> str:
    """Members and weights, warnings, the gain; then what every run shows."""
    facts = run.metrics["ensemble"]
    rows = [("member", "weight", "val n", "val log-loss", "val accuracy")]
    for each in facts["members"]:
        val = each["val"]
        scores = [str(Interval.from_json(val[key])) for key in SCORES[:0:-1]]
        rows.append((each["run"], f"{each['weight']:.3f}", f"{val['n']:,}", *scores))
    what = "fold models" if facts["folds"] else "runs"
    lines = [
        f"{facts['method']} vote of {len(facts['members'])} {what}; {facts['weights_from']}",
        aligned(rows),
        gain_sentence(facts, run.metrics["dataset"]["task"]),
        looks_sentence(facts),
    ]
    for finding in run.read_json("training.json", "it was deleted")["findings"]:
        lines.append(
            f"{finding['severity']}: {finding['code']} {finding['evidence']} {finding['advice']}"
        )
    return "\n".join(lines) + "\n" + run_summary(run)
