"""Where a training is, read from the files that it writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from scanwise.app import jobs
from scanwise.app.jobs import Job
from scanwise.core.errors import RunError
from scanwise.training.history import EpochRecord, read_history

Stage = Literal["none", "checking", "learning", "judging", "finished", "stopped", "failed"]

STAGE_WORDS: dict[Stage, str] = {
    "none": "Nothing has been trained yet.",
    "checking": "Reading and checking the images …",
    "learning": "Learning.",
    "judging": "Scoring the images that it never saw, and writing the report …",
    "finished": "Finished.",
    "stopped": "Stopped. It can go on from its last whole epoch.",
    "failed": "It could not go on.",
}


@dataclass(frozen=True)
class Progress:
    """What the page shows of a training."""

    stage: Stage
    epochs: int = 0  # planned; 0 where that is not known
    history: tuple[EpochRecord, ...] = ()
    line: str = ""  # the newest epoch line, as the terminal shows it
    eta_s: float | None = None  # of the epochs that are left, if none is saved by stopping early
    problem: str = ""  # the command's own message
    can_resume: bool = False

    @property
    def words(self) -> str:
        if self.stage == "learning" and self.history:
            return f"Learning: {len(self.history)} of {self.epochs} epochs done."
        return STAGE_WORDS[self.stage]

    @property
    def is_live(self) -> bool:
        return self.stage in ("checking", "learning", "judging")


def read_progress(run: Path | None, job: Job | None, folder: Path) -> Progress:
    """Look at a run folder, the process that writes it, and what that printed.

    Args:
        run: The run folder; it need not exist yet.
        job: Its newest job; None for a run that was trained elsewhere.
        folder: Where jobs and logs are.
    """
    if run is None:
        return Progress("none")
    alive = jobs.is_running(job)
    history, epochs = _history(run), _epochs(run)
    log = jobs.log_text(folder, job) if job is not None else ""
    common: dict[str, Any] = {
        "epochs": epochs,
        "history": history,
        "line": _epoch_line(log or _text(run / "log.txt")),
    }
    if alive:
        if not (run / "config.yaml").is_file():
            return Progress("checking", **common)
        if (run / "training.json").is_file() or (epochs and len(history) >= epochs):
            return Progress("judging", **common)
        return Progress("learning", eta_s=_eta_s(history, epochs), **common)
    if _is_finished(run):
        return Progress("finished", **common)
    problem = jobs.error_text(log)
    started = (run / "config.yaml").is_file()
    if problem:
        return Progress("failed", problem=problem, can_resume=started, **common)
    return Progress("stopped" if started or job else "none", can_resume=started, **common)


def _history(run: Path) -> tuple[EpochRecord, ...]:
    try:
        return read_history(run / "history.csv")
    except RunError:  # not there yet, or the last row is being written
        return ()


def _epochs(run: Path) -> int:
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        return int(config.get("epochs") or 0)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        return 0


def _eta_s(history: tuple[EpochRecord, ...], epochs: int) -> float | None:
    if not history or not epochs:
        return None
    mean = sum(record.seconds for record in history) / len(history)
    return mean * max(0, epochs - len(history))


def _epoch_line(log: str) -> str:
    """The last line of the form 7/7 - 2s - loss: …"""
    lines = [line for line in log.splitlines() if " - val_loss: " in line]
    return lines[-1].strip() if lines else ""


def _is_finished(run: Path) -> bool:
    """As Run.finished, without an error where a file is damaged."""
    try:
        from scanwise.pipeline.runs import Run

        return Run.open(run).finished
    except (RunError, ValueError):
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
