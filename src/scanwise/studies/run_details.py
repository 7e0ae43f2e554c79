"""`scanwise runs show`: one run on one screen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scanwise.core.commands import said_settings
from scanwise.core.config import TrainConfig
from scanwise.core.errors import RunError
from scanwise.core.types import SPLIT_NAMES
from scanwise.pipeline.runs import Run, folder_size, size_text
from scanwise.pipeline.summary import looks_text, score_lines
from scanwise.studies.run_table import run_date, why_unfinished


@dataclass(frozen=True)
class RunDetails:
    """What is known of one run."""

    run: Run
    config: TrainConfig
    said: dict[str, Any]  # what the user chose
    plan: list[dict[str, Any]]  # what was chosen for the user, with reasons
    dataset: dict[str, Any] | None
    training: dict[str, Any] | None
    unfinished: str  # where it stopped, '' for a finished run

    def to_json(self) -> dict[str, Any]:
        split = self.dataset["split"] if self.dataset else None
        return {
            "run": str(self.run.path),
            "state": "interrupted" if self.unfinished else "finished",
            "reason": self.unfinished,
            "date": run_date(self.run),
            "said": {"data": self.config.data, **self.said},
            "plan": self.plan,
            "dataset": self.dataset and {key: self.dataset[key] for key in ("name", "source", "n")},
            "split": split,
            "training": self.training,
            "metrics": None if self.unfinished else self.run.metrics,
            "test_looks": self.run.test_looks(),
            "files": _files(self.run),
        }

    def text(self) -> str:
        state = f"interrupted: {self.unfinished}" if self.unfinished else "finished"
        lines = [f"{self.run.path}: {state}", *self._origin(), "", *self._settings(), ""]
        if self.unfinished:
            lines.append(looks_text(len(self.run.test_looks())))
        else:
            lines += score_lines(self.run)
        files, size = folder_size(self.run.path)
        lines.append(f"files: {files} ({size_text(size)}): {', '.join(_files(self.run))}")
        return "\n".join(lines)

    def _origin(self) -> list[str]:
        lines = [f"began: {run_date(self.run)}"]
        if self.dataset:
            split, counts = self.dataset["split"], self.dataset["split"]["n"]
            sizes = ", ".join(f"{name} {counts[name]:,}" for name in SPLIT_NAMES)
            lines.append(
                f"data: {self.dataset['name']} ({self.dataset['source']}), "
                f"{self.dataset['n']:,} images in {len(self.dataset['class_names'])} classes"
            )
            lines.append(f"split: {sizes} ({split['origin']}, {split['sha256'][:12]})")
        if self.training:
            total = self.training["parameters"]["total"]
            lines.append(f"model: {self.training['model']}, {total:,} parameters")
            if "seconds" in self.training:  # an ensemble trained nothing
                lines.append(
                    f"time: {self.training['seconds']:.1f} s of training, "
                    f"{self.training['seconds_in_all']:.1f} s in all, on {self.training['device']}"
                )
        return lines

    def _settings(self) -> list[str]:
        said = ", ".join(f"{name} {value}" for name, value in self.said.items())
        lines = [f"you said: {said or 'nothing but the data'}"]
        if self.plan:
            lines.append("the plan chose:")
            rows = [(row["setting"], str(row["value"]), row["reason"]) for row in self.plan]
            widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
            lines += [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows]
        return lines


def show_run(path: Path) -> RunDetails:
    """Read one run, finished or interrupted.

    Raises:
        RunError: If there is no run, or a file of it can't be read.
        ConfigError: If its config.yaml can't be read.
    """
    run = Run.open(path)
    config = run.config
    try:
        plan = run.plan
        said = said_settings(config.model_dump(), plan)
        return RunDetails(
            run=run,
            config=config,
            said=said,
            plan=[row for row in plan if row["source"] not in ("you", "default")],
            dataset=_json(run, "dataset.json"),
            training=_json(run, "training.json"),
            unfinished=why_unfinished(run, config.model_dump()),
        )
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        words = " ".join(str(error).split())
        raise RunError(f"can't read {run.path}: {words}.") from error


def _json(run: Run, name: str) -> dict[str, Any] | None:
    return run.read_json(name, "") if (run.path / name).is_file() else None


def _files(run: Run) -> list[str]:
    """Names in the run folder, folders with a slash."""
    entries = sorted(run.path.iterdir(), key=lambda entry: entry.name)
    return [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
