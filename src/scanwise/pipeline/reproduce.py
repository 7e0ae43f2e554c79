"""`scanwise reproduce RUN`: train again from the run's folder, and compare every number.

The second run takes the first one's settings, seed, split, groups, plan, number of threads, device
and arithmetic. Nothing is chosen anew; only the data are read again, and must be what they were.
"""

from __future__ import annotations

import csv
import itertools
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from scanwise.core.commands import with_commands
from scanwise.core.config import TrainConfig
from scanwise.core.errors import DataError, IntegrityError, RunError
from scanwise.core.runtime import environment_changes
from scanwise.core.types import Dataset, Split
from scanwise.data.checks import check_dataset
from scanwise.data.fingerprint import content_sha256
from scanwise.data.splits import read_splits, split_differences
from scanwise.metrics.predictions import read_predictions
from scanwise.models.backbones import Backbone, with_levels
from scanwise.pipeline.budget import TIME_PLAN, open_budget
from scanwise.pipeline.fitting import fit_model
from scanwise.pipeline.members import read_ensemble
from scanwise.pipeline.messages import Messages
from scanwise.pipeline.plan import Decision
from scanwise.pipeline.runs import Run, check_output_free, new_run_dir
from scanwise.pipeline.same_numbers import MISSING, Check, compare_numbers
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import describe, finish, load_data, with_saved_groups
from scanwise.pipeline.transfer import with_backbone
from scanwise.training.device import available_devices, pick_device

MAX_LISTED = 20
_PRECISION = {"32-true": "32", "bf16-mixed": "bf16"}


@dataclass(frozen=True)
class Reproduction:
    """A run, the one that was trained in its likeness, and whether their numbers are the same."""

    first: Run
    second: Run
    tolerance: float
    checks: tuple[Check, ...]
    promised: str  # what the first run says about its reproducibility
    changes: tuple[str, ...]  # of versions and machine
    notes: tuple[str, ...]

    @property
    def matches(self) -> bool:
        return all(check.matches for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.first.path),
            "reproduced": str(self.second.path),
            "match": self.matches,
            "tolerance": self.tolerance,
            "promised": self.promised,
            "environment_changes": list(self.changes),
            "notes": list(self.notes),
            "checks": [check.to_json() for check in self.checks],
        }

    def text(self) -> str:
        rows = [("number [95 %]", "then", "now", "difference", "")]
        rows += [
            (check.name, check.was, check.now, _gap(check.difference), _word(check))
            for check in self.checks
        ]
        sizes = (
            f"{split} n = {part['n']:,}" for split, part in self.first.metrics["splits"].items()
        )
        lines = [f"{self.first.path}, {', '.join(sizes)}"]
        lines += [aligned(rows), "", self._verdict(), f"the run says of itself: {self.promised}"]
        if self.changes:
            title = (
                "different since then" if self.matches else "possible reasons, different since then"
            )
            lines.append(f"{title}: {'; '.join(self.changes)}")
        elif not self.matches:
            lines.append("versions, processor, device and threads are what they were")
        lines += self.notes
        return "\n".join([*lines, f"second run: {self.second.path}"])

    def _verdict(self) -> str:
        bad = [check for check in self.checks if not check.matches]
        level = f"within {self.tolerance:g}" if self.tolerance else "bit for bit"
        if not bad:
            return f"reproduced: all {len(self.checks)} checks match {level}"
        largest = max(check.difference for check in self.checks if check.difference != MISSING)
        return (
            f"not reproduced: {len(bad)} of {len(self.checks)} checks do not match {level}; "
            f"the largest difference of what both have is {_gap(largest)}"
        )


def _gap(difference: float) -> str:
    return "missing" if difference == MISSING else f"{difference:.3g}"


def _word(check: Check) -> str:
    return "match" if check.matches else "MISMATCH"


def reproduce_run(
    path: Path, output: Path | None = None, *, data: str | None = None, tolerance: float = 0.0
) -> Reproduction:
    """Train a run again and compare; the first run's folder is only read.

    Test is opened once more if it was, and that look is in the ledger of the second run. The
    comparison is also written there, as reproduction.json.

    Args:
        path: The run, finished.
        output: New folder for the second run [beside the first, its name with "-reproduced"].
        data: Where the same data lie now, if they were moved.
        tolerance: Largest absolute difference that counts as a match; 0 is bit for bit.

    Raises:
        RunError: If the run is not finished, holds a network or arrays of one's own, or the
            second run has no place.
        IntegrityError: If data or pretrained weights are not what they were; before training.
    """
    started = time.monotonic()
    first = Run.open(path)
    training = _check_reproducible(first)
    folder = output or _free_name(first.path)
    check_output_free(folder, False)
    notes: list[str] = []
    config = _settings(first, training, folder, data, notes)
    config, backbone = with_backbone(config)
    _check_weights(first, config, backbone)
    dataset, split = _same_data(first, config)
    second = _train_again(first, config, backbone, dataset, split, started)
    notes += _notes(first, second)
    found = Reproduction(
        first,
        second,
        tolerance,
        compare_numbers(first, second, tolerance),
        str(training["reproducibility"]),
        tuple(_changes(first, second)),
        tuple(notes),
    )
    second.write("reproduction.json", found.to_json())
    return found


def _check_reproducible(run: Run) -> dict[str, Any]:
    """training.json of a run that can be trained again from its files.

    Raises:
        RunError: If it can't.
    """
    training = run.read_json(
        "training.json", f"it is not finished; `scanwise train --resume {run.path}` finishes it"
    )
    if facts := read_ensemble(run):
        members = ", ".join(str(each["run"]) for each in facts["members"])
        raise RunError(
            f"{run.path} is an ensemble, which trains nothing: reproduce its members ({members}), "
            "then average them with `scanwise ensemble`."
        )
    for name in ("splits.csv", "predictions.csv", "plan.yaml"):
        if not (run.path / name).is_file():
            raise RunError(f"{run.path} has no {name}; copy the whole run folder.")
    _ = run.metrics, _decisions(run)
    architecture = str(_bundle_config(run).get("architecture", ""))
    if architecture.startswith("custom:"):
        raise RunError(
            f"{run.path} trained a network of your own ({architecture.removeprefix('custom:')}), "
            "and its code is not in the run folder. Train it again from Python and compare: "
            "`scanwise runs compare`."
        )
    if run.dataset["kind"] == "arrays":
        raise RunError(
            f"{run.path} was trained on arrays in memory ({run.dataset['name']}), which are not in "
            "the run folder. Save them with numpy.savez(file, X=images, y=labels), and train on "
            "that file."
        )
    return training


def _decisions(run: Run) -> tuple[Decision, ...]:
    try:
        return tuple(Decision(**row) for row in run.plan)
    except (TypeError, yaml.YAMLError) as error:
        raise RunError(f"can't read {run.path / 'plan.yaml'}: {error}") from error


def _bundle_config(run: Run) -> dict[str, Any]:
    return run.read_json("bundle/config.json", "copy the whole run folder")


def _free_name(path: Path) -> Path:
    """RUN-reproduced beside the run, or with the next free number."""
    whole = path.resolve()
    base = whole if path.name in ("", ".", "..") else path
    names = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    candidates = (base.with_name(f"{base.name}-reproduced{end}") for end in names)
    return next(folder for folder in candidates if not folder.exists())


def _settings(
    run: Run, training: dict[str, Any], folder: Path, data: str | None, notes: list[str]
) -> TrainConfig:
    """The run's settings, with what was chosen by the machine held fast."""
    config = run.config
    changes: dict[str, Any] = {
        "output": str(folder),
        "force": False,
        # Test may have been opened later, by `scanwise evaluate`.
        "no_test": "test" not in run.metrics["splits"],
        "precision": _PRECISION.get(str(training["precision"]), config.precision),
    }
    if data is not None:
        changes["data"] = data
    device = str(training["device"]).partition(":")[0]
    if device in available_devices():
        changes["device"] = device
    else:
        notes.append(f"it was trained on {device}, which is not here: other sums are expected")
        changes |= {"device": "auto", "precision": config.precision}
    return config.model_copy(update=changes)


def _check_weights(run: Run, config: TrainConfig, backbone: Backbone | None) -> None:
    """IntegrityError if the pretrained network is not the one that the run began with."""
    known = (_bundle_config(run).get("backbone") or {}).get("weights_sha256")
    if backbone is None or not known:
        return
    spec = with_levels(backbone, config.levels or "last").spec
    if spec.weights_sha256 != known:
        raise IntegrityError(
            f"the pretrained network {spec.name} is not the one that {run.path} began with "
            f"(SHA-256 was {known[:12]}…, is {spec.weights_sha256[:12]}…). Nothing was trained."
        )


def _same_data(run: Run, config: TrainConfig) -> tuple[Dataset, Split]:
    """The run's data, split and groups.

    Raises:
        IntegrityError: If a sample is missing, new, changed, or has another label or group.
        DataError: If there are no data where they were.
    """
    saved = run.path / "splits.csv"
    try:
        dataset = load_data(config)
    except DataError as error:
        if _is_name(config.data):
            raise
        if not Path(config.data).exists():
            raise DataError(
                f"{error} Start in the folder where the run was started, or name the place of the "
                "same data with --data."
            ) from error
        raise IntegrityError(f"the data of {run.path} can't be read any more: {error}") from error
    changed = [*split_differences(saved, dataset), *_relabelled(run, dataset)]
    if changed:
        rest = f"; and {len(changed) - MAX_LISTED} more" if len(changed) > MAX_LISTED else ""
        raise IntegrityError(
            f"{config.data} is not what {run.path} was trained on, {len(changed)} samples changed: "
            f"{'; '.join(changed[:MAX_LISTED])}{rest}. Nothing was trained."
        )
    facts = run.dataset
    if content_sha256(dataset) != facts["content_sha256"]:
        raise IntegrityError(
            f"{config.data} is not what {run.path} was trained on: the samples are the same, their "
            "order or their number of copies is not. Nothing was trained."
        )
    counts = dataset.class_counts().tolist()
    if counts != facts["counts"]["all"] or list(dataset.class_names) != facts["class_names"]:
        raise IntegrityError(
            f"{config.data} is not what {run.path} was trained on: images of each class were "
            f"{dict(zip(facts['class_names'], facts['counts']['all'], strict=True))}, are "
            f"{dict(zip(dataset.class_names, counts, strict=True))}. Nothing was trained."
        )
    stated = facts["split"]
    split = replace(
        read_splits(saved, dataset),
        origin=stated["origin"],
        seed=stated["seed"],
        note=stated["note"],
    )
    return with_saved_groups(dataset, saved), split


def _is_name(data: str) -> bool:
    """True for medmnist:NAME and demo:NAME, which are no paths."""
    return data.startswith(("medmnist:", "demo:"))


def _relabelled(run: Run, dataset: Dataset) -> list[str]:
    """Samples whose label (of validation and test) or group is not the saved one."""
    row_of = {name: row for row, name in enumerate(dataset.sample_ids)}
    predictions = read_predictions(run.path / "predictions.csv")
    found = []
    if predictions.class_names == dataset.class_names:
        for sample, target in zip(predictions.sample, predictions.targets.tolist(), strict=True):
            row = row_of.get(sample)
            if row is not None and dataset.targets[row].tolist() != target:
                found.append(f"{sample}: another label")
    if dataset.groups is not None:
        with (run.path / "splits.csv").open(encoding="utf-8-sig", newline="") as stream:
            for line in csv.DictReader(stream):
                row = row_of.get(line["path"])
                if row is not None and dataset.groups[row] != line["group"]:
                    was, now = line["group"], dataset.groups[row]
                    found.append(f"{line['path']}: group was '{was}', is '{now}'")
    return sorted(found)


def _train_again(
    first: Run,
    config: TrainConfig,
    backbone: Backbone | None,
    dataset: Dataset,
    split: Split,
    started: float,
) -> Run:
    """The main path from the checks on, with the plan of the first run."""
    say = Messages()
    device = pick_device(config.device)
    report = check_dataset(
        dataset, split, skip_unreadable=config.skip_unreadable, accept_leak=config.accept_leak
    )
    report.raise_if_stopped()
    plan = first.plan
    findings = with_commands(report.findings, first.config.model_dump(), plan)
    report = replace(report, findings=findings)
    run = Run(new_run_dir(config, dataset.name, str(config.model)))
    say.write_to(run)
    say.say(f"Reproducing {first.path} in {run.path}")
    split = describe(run, config, _decisions(first), dataset, split, report, device)
    if (first.path / TIME_PLAN).is_file():  # the clock has decided, and is not asked again
        shutil.copyfile(first.path / TIME_PLAN, run.path / TIME_PLAN)
    trained = fit_model(
        config,
        dataset,
        split,
        model=None,
        backbone=backbone,
        device=device,
        run=run,
        say=say,
        budget=open_budget(config, split, run, say.say, started),
    )
    finish(run, config, dataset, split, report, trained, started)
    return run


def _changes(first: Run, second: Run) -> list[str]:
    """What differs in versions, machine and arithmetic."""
    was, now = (run.read_json("env.json", "it was deleted") for run in (first, second))
    found = environment_changes(was, now)
    facts = [run.read_json("training.json", "it was interrupted") for run in (first, second)]
    words = [[str(part["precision"]), _engine(part["notes"])] for part in facts]
    for name, then, since in zip(("precision", "engine"), *words, strict=True):
        if then != since:
            found.append(f"{name} {then} → {since}")
    return found


def _engine(notes: Sequence[str]) -> str:
    """What ran a frozen network ("onnxruntime", "torch"); '' where there is none."""
    found = re.search(r"; engine (\w+):", " ".join(notes))
    return found[1] if found else ""


def _notes(first: Run, second: Run) -> list[str]:
    """What a reader must know to judge the comparison."""
    notes = []
    training = second.read_json("training.json", "it was interrupted")
    cached = re.search(r"([\d,]+) from the cache", " ".join(training["notes"]))
    if cached and cached[1] != "0":
        notes.append(
            f"{cached[1]} feature vectors of the frozen network came from the cache: its pass over "
            "those images was not repeated (an empty SCANWISE_CACHE repeats it)"
        )
    if " evaluate " in str(first.metrics.get("command")):
        notes.append(
            "the first run's scores were written by `scanwise evaluate`, which computes a frozen "
            "network's features anew and may add in another order"
        )
    if (first.path / TIME_PLAN).is_file():
        stop = first.read_json("training.json", "it was interrupted")["stop_reason"]
        late = f", but a clock also ended it: {stop}" if str(stop).startswith("time limit") else ""
        notes.append(f"the run had a time limit; the second kept to what was planned{late}")
    looks = len(second.test_looks())
    notes.append(
        f"test was opened for the second run: {looks} look in its ledger; the first run's ledger "
        f"still has {len(first.test_looks())}"
        if looks
        else "test was not opened, as in the first run"
    )
    return notes
