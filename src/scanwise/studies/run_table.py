"""`scanwise runs list`: every run below a folder, best validation score first.

Reads a few small files of each run and imports neither torch nor scikit-learn, so hundreds of runs
are listed in a second or two. A run that can't be read is a row too, with the reason.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from scanwise.core.errors import ConfigError, RunError, nearest
from scanwise.core.types import Interval
from scanwise.pipeline.runs import CONTENTS, SUMMARY_PAGE, Run, is_run_folder
from scanwise.pipeline.tables import aligned

State = Literal["finished", "interrupted", "broken"]

METRICS = (
    "accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro",
    "precision_weighted", "recall_weighted", "f1_weighted", "specificity_macro", "mcc", "kappa",
    "auroc_macro", "auprc_macro", "ece", "brier",
)  # fmt: skip
LOWER_IS_BETTER = ("ece", "brier")
NEWEST_FIRST = "date"
NOT_MEASURED = Interval(None, reason="not measured")

# libyaml reads a config.yaml eight times as fast as Python's own parser.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError)


@dataclass(frozen=True)
class RunRow:
    """One run as the list shows it."""

    path: Path
    name: str  # the path below the folder that was listed
    state: State
    reason: str = ""  # why it is not finished
    data: str = ""
    source: str = ""  # of the data, as it was given
    model: str = ""
    date: str = ""  # UTC, to the second
    seed: int | None = None
    split_sha256: str = ""
    n_val: int | None = None
    val: Interval = NOT_MEASURED
    n_test: int | None = None
    test: Interval | None = None  # None where test was not opened
    test_looks: int = 0
    seconds: float | None = None

    def to_json(self, metric: str) -> dict[str, Any]:
        """The row, its scores named by `metric`."""
        return {
            "name": self.name,
            "path": str(self.path),
            "state": self.state,
            "reason": self.reason,
            "data": self.data,
            "source": self.source,
            "model": self.model,
            "date": self.date,
            "seed": self.seed,
            "split_sha256": self.split_sha256,
            "metric": metric,
            "n_val": self.n_val,
            "val": self.val.to_json(),
            "n_test": self.n_test,
            "test": None if self.test is None else self.test.to_json(),
            "test_looks": self.test_looks,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class RunTable:
    """The runs below a folder, in the order asked for."""

    folder: Path
    metric: str
    rows: tuple[RunRow, ...]
    by_date: bool = False

    def to_json(self) -> list[dict[str, Any]]:
        return [row.to_json(self.metric) for row in self.rows]

    def text(self) -> str:
        """A table for the terminal, and what to keep in mind when reading it."""
        if not self.rows:
            return f"no runs below {self.folder}."
        head = (
            "run", "data", "model", "date (UTC)", "seed", "n val", f"val {self.metric} [95 %]",
            "n test", "test", "looks", "seconds", "state",
        )  # fmt: skip
        lines = [aligned([head, *(_cells(row) for row in self.rows)])]
        lines += [
            f"  {row.name}: {row.state}, {row.reason}"
            for row in self.rows
            if row.state != "finished"
        ]
        return "\n".join([*lines, *self._notes()])

    def _notes(self) -> list[str]:
        finished = [row for row in self.rows if row.state == "finished"]
        splits = {(row.source, row.split_sha256) for row in finished}
        notes = []
        if finished and not self.by_date:
            notes.append("Best validation score first; test never sorts.")
        if len(splits) > 1:
            notes.append(
                f"{len(splits)} different splits or data sets: their scores are not of the same "
                "images. `scanwise runs compare A B` compares runs that share their test images."
            )
        return notes


def list_runs(folder: Path, *, sort: str = "accuracy", data: str | None = None) -> RunTable:
    """Every run below a folder.

    Args:
        folder: Searched to any depth; may itself be a run. Links to folders are not followed.
        sort: A metric, the best validation score first, or "date", the newest first.
        data: Only runs on this data set: its name, or the source as it was given.

    Raises:
        ConfigError: If `sort` is none of these; a score of the test split never sorts.
        RunError: If the folder does not exist, or no run is on `data`.
    """
    by_date = sort == NEWEST_FIRST
    metric = METRICS[0] if by_date else _checked_metric(sort)
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; name the one that holds your runs.")
    rows = [read_row(path, folder, metric) for path in find_runs(folder)]
    if data is not None:
        rows = _only(rows, data, folder)
    rows.sort(key=_newest_first if by_date else _best_first(metric))
    return RunTable(folder, metric, tuple(rows), by_date)


def _checked_metric(name: str) -> str:
    known = (*METRICS, NEWEST_FIRST)
    if name.startswith("test"):
        raise ConfigError(
            f"sort={name!r} would choose by the test split, which is only for the last, unbiased "
            f"score; {nearest(name.removeprefix('test').strip('_') or name, known)}"
        )
    if name not in known:
        raise ConfigError(f"sort={name!r} is no metric; {nearest(name, known)}")
    return name


def _only(rows: list[RunRow], data: str, folder: Path) -> list[RunRow]:
    chosen = [row for row in rows if data in (row.data, row.source)]
    if not chosen:
        names = {row.data for row in rows if row.data}
        hint = nearest(data, names) if names else "there are no runs at all."
        raise RunError(f"no run below {folder} is on the data set {data!r}; {hint}")
    return chosen


def _best_first(metric: str) -> Callable[[RunRow], tuple[bool, float, str]]:
    sign = 1 if metric in LOWER_IS_BETTER else -1

    def key(row: RunRow) -> tuple[bool, float, str]:
        scored = row.state == "finished" and row.val.value is not None
        return not scored, sign * (row.val.value or 0.0) if scored else 0.0, row.name

    return key


def _newest_first(row: RunRow) -> tuple[float, str]:
    try:
        return -datetime.fromisoformat(row.date).timestamp(), row.name
    except ValueError:
        return math.inf, row.name


def find_runs(folder: Path) -> Iterator[Path]:
    """Run folders at or below `folder`, by name; members of studies too, but no copies."""
    for place, folders, _ in os.walk(folder):
        here = Path(place)
        if (here / SUMMARY_PAGE).is_file():
            folders.clear()
        elif is_run_folder(here):
            yield here
            folders[:] = [name for name in folders if name not in CONTENTS]
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def read_row(path: Path, folder: Path, metric: str) -> RunRow:
    """What the list says of one run; never an error of a run folder that is not as it should be."""
    name = path.name if path == folder else path.relative_to(folder).as_posix()
    row = RunRow(path=path, name=name or str(path.resolve().name), state="broken")
    try:
        return _read(row, Run(path), metric)
    except (RunError, *_UNREADABLE) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, LookupError):
            words = f"a file has no {words}"
        return replace(row, reason=words)


def _read(row: RunRow, run: Run, metric: str) -> RunRow:
    try:
        config = yaml.load((run.path / "config.yaml").read_text(encoding="utf-8"), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"can't read config.yaml: {error}") from error
    if not isinstance(config, dict):
        raise ValueError("config.yaml does not hold 'key: value' lines")
    row = replace(
        row,
        source=str(config["data"]),
        data=str(config["data"]),
        model=str(config.get("model", "")),  # an ensemble states what its members share
        seed=None if config.get("seed") is None else int(config["seed"]),
        date=run_date(run),
        test_looks=len(run.test_looks()),
    )
    if (run.path / "dataset.json").is_file():
        facts = run.dataset
        row = replace(row, data=str(facts["name"]), split_sha256=str(facts["split"]["sha256"]))
    if (run.path / "training.json").is_file():
        training = run.read_json("training.json", "")
        seconds = training.get("seconds_in_all")  # an ensemble trained nothing
        row = replace(
            row,
            model=str(training["model"]),
            seconds=None if seconds is None else float(seconds),
        )
    if unfinished := why_unfinished(run, config):
        return replace(row, state="interrupted", reason=unfinished)
    splits = run.metrics["splits"]
    return replace(
        row,
        state="finished",
        n_val=int(splits["val"]["n"]) if "val" in splits else None,
        val=Interval.from_json(splits["val"][metric]) if "val" in splits else NOT_MEASURED,
        n_test=int(splits["test"]["n"]) if "test" in splits else None,
        test=Interval.from_json(splits["test"][metric]) if "test" in splits else None,
    )


def run_date(run: Run) -> str:
    """When the run began (UTC); of runs that did not note it, when their settings were written."""
    if (run.path / "env.json").is_file():
        noted = run.read_json("env.json", "").get("when")
        if noted:
            return str(noted)
    written = (run.path / "config.yaml").stat().st_mtime
    return datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")


def why_unfinished(run: Run, config: Mapping[str, Any]) -> str:
    """Where a run stopped (or is now), '' for a finished one; as `Run.finished` has it."""
    if not (run.path / "metrics.json").is_file():
        done = _epochs_done(run)
        return (
            f"{done} of {config.get('epochs')} epochs; `scanwise train --resume {run.path}` goes on"
        )
    if not run.bundle.is_dir():
        return f"it has no bundle; `scanwise train --resume {run.path}` goes on"
    if config.get("report", True) and not (run.path / "report.json").is_file():
        return f"it has no report; `scanwise report {run.path}` writes it"
    return ""


def _epochs_done(run: Run) -> int:
    file = run.path / "history.csv"
    if not file.is_file():
        return 0
    with file.open(encoding="utf-8", newline="") as stream:
        return max(0, sum(1 for _ in csv.reader(stream)) - 1)


def _cells(row: RunRow) -> tuple[str, ...]:
    measured = row.state == "finished"
    return (
        row.name,
        row.data,
        row.model,
        row.date[:16].replace("T", " "),
        "" if row.seed is None else str(row.seed),
        "" if row.n_val is None else f"{row.n_val:,}",
        str(row.val) if measured else "",
        "" if row.n_test is None else f"{row.n_test:,}",
        ("not opened" if row.test is None else str(row.test)) if measured else "",
        str(row.test_looks) if row.test_looks else "",
        "" if row.seconds is None else f"{row.seconds:.0f}",
        row.state,
    )
