"""The run folder: where it is, what is in it, and the ledger of looks at the test split."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from scanwise.core.config import TrainConfig, make_config, read_yaml_settings
from scanwise.core.errors import RunError
from scanwise.core.files import atomic_path, only_one, sha256_bytes, write_json, write_yaml
from scanwise.core.runtime import program_name

# A folder may be replaced by --force only if it is one of ours.
MARKERS = ("plan.yaml", "config.yaml")

# A folder with this page holds copies of runs' files (`scanwise summary`), but no run.
SUMMARY_PAGE = "TRAINING_SUMMARY.md"

# All that scanwise writes into a run folder; `runs rm` deletes no folder that holds more.
CONTENTS = {
    "config.yaml": "the settings as they were said",
    "plan.yaml": "every setting that was chosen for you, with its reason",
    "env.json": "versions, processor, device, threads, commit, and when the run began",
    "log.txt": "what the screen showed",
    "dataset.json": "the data: classes, counts, split, what the checks found",
    "splits.csv": "`path,sha256,split,group` of each image; reuse it with `--splits`",
    "metadata.csv": "further columns (sex, site, age) of validation and test images",
    "history.csv": "a row an epoch: losses, accuracies, learning rate, times",
    "training.json": "how the training ended: best epoch, why it stopped, what it was probed for",
    "time_plan.json": "what `--time-limit` measured and decided",
    "predictions.csv": "`sample,split,target,predicted,prob_<class>…` of validation and test",
    "one_view.csv": "the same by each picture alone, where `--tta` averages views",
    "metrics.json": "every score of every split with its interval",
    "metrics.md": "the same as tables",
    "decisions.json": "temperature, thresholds and prediction sets with their evidence",
    "confusions.json": "which classes are mistaken for which",
    "slices.json": "scores of parts of the images, such as sex, site, age",
    "groups.json": "one verdict a patient, slide or lesion",
    "robustness.json": "scores on worse pictures",
    "unknown.json": "the share of images told to be unlike the training images",
    "unknown_scores.csv": "how unlike, for each image of validation and test",
    "ood.json": "how well foreign images are told",
    "recommendations.json": "what was tried, and whether it helped",
    "reproduction.json": "this run beside the one that it repeats, number by number",
    "test_ledger.csv": "each look at test: when, by which command",
    "report.html": "the report, one file that needs no network",
    "report.md": "the same as Markdown",
    "report.json": "the same for programs, with all findings",
    "bundle": "the model with all that it needs, to use or to move",
    "checkpoints": "to go on after an interruption",
    "plots": "the figures of the report",
    "errors": "the gallery of mistakes: open `errors/index.html`",
    "explanations": "maps of evidence and their tests",
    "baselines": "the simple models that the network must beat",
    "learning_curve": "scores on growing parts of the training images",
    "export": "the model as one file for other programs, and the proof that it answers alike",
    "medmnist": "probabilities in the form that MedMNIST's own evaluator reads",
    "ensemble.yaml": "an ensemble: its members and weights",
    "answers": "an ensemble: the answers of each member",
    "tensorboard": "logs for TensorBoard",
    "mlruns": "logs for MLflow",
}
# Stages of fine-tuning, and what an interrupted atomic write or a killed training leaves.
CONTENTS_PATTERN = r"finetune-\d+|\..+\.part|\.lock"


def new_run_dir(config: TrainConfig, data_name: str, model_name: str) -> Path:
    """Make the folder of a new run: --output, or runs/DATA-MODEL-NNN with the next free number.

    Raises:
        RunError: If --output holds something already (and is not ours to replace).
    """
    if config.output:
        folder = Path(config.output)
        check_output_free(folder, config.force)
        if folder.exists() and any(folder.iterdir()):
            shutil.rmtree(folder)
        _make(folder, exist_ok=True)
        return folder
    slug = re.sub(r"[^\w.]+", "-", f"{data_name}-{model_name}").strip("-").lower()
    base = Path("runs")
    _make(base, exist_ok=True)
    taken = [
        int(found.group(1))
        for path in base.iterdir()
        if (found := re.fullmatch(rf"{re.escape(slug)}-(\d+)", path.name))
    ]
    number = max(taken, default=0) + 1
    while True:
        folder = base / f"{slug}-{number:03d}"
        try:
            _make(folder)
        except FileExistsError:  # another run took the number meanwhile
            number += 1
        else:
            return folder


def _make(folder: Path, *, exist_ok: bool = False) -> None:
    """Make a folder.

    Raises:
        RunError: If it can't be made.
        FileExistsError: If it exists, without `exist_ok`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise RunError(f"{folder} is a file; name a new folder with --output.") from None
        raise
    except OSError as error:
        raise RunError(
            f"can't make the folder {folder}: {error.strerror}; choose another --output."
        ) from error


def check_output_free(
    folder: Path, force: bool, markers: tuple[str, ...] = MARKERS, what: str = "run"
) -> None:
    """Refuse an --output that would overwrite something or can't be made.

    Args:
        folder: The folder to be.
        force: Whether a folder of ours may be replaced.
        markers: Files of which one must be there for it to be ours.
        what: What it then is, for the message.

    Raises:
        RunError: If the folder is a file, or holds files and `force` is off or it is not ours,
            or nothing can be written there.
    """
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if above != folder and not above.is_dir():
        raise RunError(f"--output {folder}: {above} is a file; name a new folder.")
    if not os.access(above, os.W_OK):
        raise RunError(f"--output {folder}: {above} can't be written to; choose another --output.")
    if folder.is_file():
        raise RunError(f"--output {folder} is a file; name a new folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not force:
        raise RunError(f"{folder} exists; choose another --output, or --force to replace it.")
    if not any((folder / marker).exists() for marker in markers):
        raise RunError(
            f"{folder} is not a scanwise {what}; --force won't replace it. Name a new folder."
        )


def is_run_folder(folder: Path) -> bool:
    """plan.yaml is ours alone; a config.yaml without it is ours if another file of a run is there.

    Studies keep a config.yaml of their settings: they are no runs, their members are.
    """
    if (folder / MARKERS[0]).is_file():
        return True
    others = ("splits.csv", "metrics.json", "training.json", "dataset.json")
    return (folder / MARKERS[1]).is_file() and any((folder / name).is_file() for name in others)


def folder_size(folder: Path) -> tuple[int, int]:
    """Number of files below a folder and their bytes; links are counted, not followed."""
    sizes = [
        os.lstat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(folder)
        for name in names
    ]
    return len(sizes), sum(sizes)


def size_text(size: int) -> str:
    """
    >>> size_text(1_234_567)
    '1.2 MB'
    """
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) training: its folder, and what the files in it say."""

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run folder.

        Raises:
            RunError: If there is no run at `path`.
        """
        folder = Path(path)
        if not (folder / "config.yaml").is_file():
            raise RunError(f"{folder} is not a run folder (it has no config.yaml).")
        return cls(folder)

    def hold(self) -> AbstractContextManager[None]:
        """Keep other processes from training in this folder.

        Raises:
            RunError: On entering, if one does.
        """
        return only_one(
            self.path / ".lock",
            f"{self.path} is being trained by another process; wait for it, or stop it first.",
        )

    @property
    def config(self) -> TrainConfig:
        return make_config(read_yaml_settings(self.path / "config.yaml"))

    @property
    def plan(self) -> list[dict[str, Any]]:
        """plan.yaml: every setting, who chose it and why."""
        plan: list[dict[str, Any]] = yaml.safe_load(
            (self.path / "plan.yaml").read_text(encoding="utf-8")
        )
        return plan

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json as a dict.

        Raises:
            RunError: If the run was never evaluated.
        """
        return self.read_json(
            "metrics.json", "it was not evaluated; `scanwise evaluate RUN` does it"
        )

    @property
    def dataset(self) -> dict[str, Any]:
        """dataset.json: the fingerprint of the data and the findings of the checks."""
        return self.read_json("dataset.json", "the run stopped before its data were described")

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def finished(self) -> bool:
        """Trained, evaluated and (where one was asked for) reported."""
        needed = ["bundle", "metrics.json", *(["report.json"] if self.config.report else [])]
        return all((self.path / name).exists() for name in needed)

    def read_json(self, name: str, why_missing: str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            raise RunError(f"{self.path} has no {name}: {why_missing}.")
        try:
            loaded = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"can't read {file}: {error}.") from error
        if not isinstance(loaded, dict):
            raise RunError(f"{file} must hold an object, not {type(loaded).__name__}.")
        return loaded

    def write_settings(self, config: TrainConfig, plan: list[dict[str, Any]]) -> None:
        """Write config.yaml (resolved) and plan.yaml (who chose what, and why)."""
        write_yaml(self.path / "plan.yaml", plan)
        write_yaml(self.path / "config.yaml", config.model_dump())

    def write(self, name: str, value: Any) -> None:
        write_json(self.path / name, value)

    def known_baselines(self) -> dict[str, Any]:
        """`baselines` of metrics.json as it is now; {} if it was never evaluated."""
        if not (self.path / "metrics.json").is_file():
            return {}
        found: dict[str, Any] = self.metrics.get("baselines") or {}
        return found

    def log(self, text: str) -> None:
        """Append a line to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(text.rstrip("\n") + "\n")

    def config_sha256(self) -> str:
        return sha256_bytes((self.path / "config.yaml").read_bytes())

    def record_test_look(self, command: str | None = None) -> int:
        """Append one look at the test split to test_ledger.csv; return how many there were."""
        ledger = self.path / "test_ledger.csv"
        looks = self.test_looks()
        looks.append(
            {
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": command or command_line(),
                "config_sha256": self.config_sha256(),
            }
        )
        with (
            atomic_path(ledger) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, ["when", "command", "config_sha256"])
            writer.writeheader()
            writer.writerows(looks)
        return len(looks)

    def test_looks(self) -> list[dict[str, str]]:
        """Every look at the test split so far."""
        ledger = self.path / "test_ledger.csv"
        if not ledger.is_file():
            return []
        with ledger.open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))


def command_line() -> str:
    """The command as typed, with the program's path shortened to its name."""
    program, *arguments = sys.argv or ["python"]
    name = program_name(program)
    return " ".join([name, *(f"'{word}'" if " " in word else word for word in arguments)])
