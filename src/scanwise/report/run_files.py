"""The files of a run folder, read once; a missing one is empty, a broken one is an error."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from scanwise.core.errors import DataError, RunError
from scanwise.core.types import Finding, Severity
from scanwise.metrics.predictions import Predictions, read_predictions
from scanwise.report.history import History, read_history
from scanwise.report.verdict import Facts


@dataclass(frozen=True, eq=False)
class RunFiles:
    """Everything that a report is made from."""

    path: Path
    config: Mapping[str, Any]
    plan: Sequence[Mapping[str, Any]]
    env: Mapping[str, Any]
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    history: History | None
    predictions: Predictions | None
    looks: Sequence[Mapping[str, str]]
    decisions: Mapping[str, Any] = field(default_factory=dict)
    tries: Sequence[Mapping[str, Any]] = ()  # of recommendations
    explanations: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] = field(default_factory=dict)
    robustness: Mapping[str, Any] = field(default_factory=dict)
    confusions: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, Any] = field(default_factory=dict)
    ood: Mapping[str, Any] = field(default_factory=dict)
    learning_curve: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def argument(self) -> str:
        """How a command names the run: as it was named itself, but no path of this machine."""
        return run_argument(self.path)

    @property
    def task(self) -> str:
        return str(self.dataset.get("task") or "multiclass")

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.predictions is not None:
            return self.predictions.class_names
        return tuple(str(name) for name in self.dataset.get("class_names") or ())

    @property
    def splits(self) -> Mapping[str, Mapping[str, Any]]:
        return self.metrics.get("splits") or {}

    @property
    def clean_test(self) -> Mapping[str, Any] | None:
        """The scores on test images that share nothing with train, where that was measured."""
        return self.metrics.get("clean_test") or (self.metrics.get("clean_splits") or {}).get(
            "test"
        )

    @property
    def counts(self) -> Mapping[str, Sequence[int]]:
        """Images of each class by split ("all", "train", "val", "test")."""
        return self.dataset.get("counts") or {}

    @property
    def checks(self) -> Mapping[str, Any]:
        return self.dataset.get("checks") or {}

    @property
    def split_sha256(self) -> str:
        given = self.metrics.get("split_sha256") or (self.dataset.get("split") or {}).get("sha256")
        return str(given or "")

    def data_findings(self) -> tuple[Finding, ...]:
        """What the checks and the reader said about the data."""
        rows = [*(self.checks.get("findings") or ()), *(self.dataset.get("notes") or ())]
        return tuple(finding_of(row) for row in rows)

    def setting_findings(self) -> tuple[Finding, ...]:
        """What was said of settings that are allowed but seldom meant."""
        return tuple(finding_of(row) for row in self.training.get("findings") or ())

    def facts(self) -> Facts:
        """What the diagnosis looks at."""
        best = self.training.get("best_epoch")
        return Facts(
            history=self.history,
            splits=self.splits,
            baselines=self.metrics.get("baselines") or {},
            counts=self.counts,
            class_names=self.class_names,
            task=self.task,
            best_epoch=int(best) if best else None,
            stop_reason=str(self.training.get("stop_reason") or ""),
            probes=self.training.get("probes") or {},
        )


def run_argument(path: Path) -> str:
    """'runs/cells-001' as given; of an absolute path the name alone."""
    return path.name if path.is_absolute() else path.as_posix()


def read_run(run_dir: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        RunError: If it is no run folder, or one of its files can't be read.
    """
    if not (run_dir / "config.yaml").is_file():
        raise RunError(f"{run_dir} is not a run folder (it has no config.yaml).")
    dataset = _read_json(run_dir / "dataset.json")
    return RunFiles(
        path=run_dir,
        config=_read_yaml(run_dir / "config.yaml") or {},
        plan=_read_yaml(run_dir / "plan.yaml") or [],
        env=_read_json(run_dir / "env.json"),
        dataset=dataset,
        training=_read_json(run_dir / "training.json"),
        metrics=_read_json(run_dir / "metrics.json"),
        history=read_history(run_dir / "history.csv"),
        predictions=_read_predictions(run_dir, dataset.get("task")),
        looks=_read_ledger(run_dir / "test_ledger.csv"),
        decisions=_read_json(run_dir / "decisions.json"),
        tries=_read_json(run_dir / "recommendations.json").get("tries") or (),
        explanations=_read_json(run_dir / "explanations" / "explanations.json"),
        slices=_read_json(run_dir / "slices.json"),
        groups=_read_json(run_dir / "groups.json"),
        robustness=_read_json(run_dir / "robustness.json"),
        confusions=_read_json(run_dir / "confusions.json"),
        unknown=_read_json(run_dir / "unknown.json"),
        ood=_read_json(run_dir / "ood.json"),
        learning_curve=_read_json(run_dir / "learning_curve" / "learning_curve.json"),
    )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; each in the given order."""
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda finding: rank[finding.severity]))


def finding_of(row: Mapping[str, Any]) -> Finding:
    """A finding as report.json and dataset.json hold it."""
    severity = row.get("severity")
    return Finding(
        code=str(row.get("code") or ""),
        severity=cast("Severity", severity if severity in ("info", "warning", "error") else "info"),
        evidence=str(row.get("evidence") or ""),
        advice=str(row.get("advice") or ""),
        command=str(row.get("command") or ""),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"can't read {path}: {error}") from error
    if not isinstance(loaded, dict):
        raise RunError(f"{path} must hold an object, not {type(loaded).__name__}.")
    return loaded


def _read_yaml(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"can't read {path}: {error}") from error


def _read_predictions(run_dir: Path, task: Any) -> Predictions | None:
    path = run_dir / "predictions.csv"
    if not path.is_file():
        return None
    try:
        return read_predictions(path, task=task)
    except DataError as error:
        raise RunError(str(error)) from error


def _read_ledger(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
