"""Trackers beside the run folder, TensorBoard and MLflow: off by default and never in the way.

The run folder holds everything; a tracker gets a copy of the settings, of each epoch and of the
final scores. The first failure of a tracker is said once, then it is off and training goes on.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from scanwise import __version__
from scanwise.core.config import TrainConfig
from scanwise.core.errors import ConfigError
from scanwise.core.files import offline, write_json
from scanwise.pipeline.runs import Run
from scanwise.training.history import EpochRecord

MODULES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
PIP = 'pip install "scanwise[track]"'
MEMORY = "trackers.json"  # which MLflow run this is, so that a resumed training goes on with it

# MLflow's own settings, unless the user set them: fail within seconds, send nothing home, and
# allow the store in plain files, which MLflow 3 opens only when asked to.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}

OnEpoch = Callable[[EpochRecord], None]


class Listener(Protocol):
    """Who hears of each epoch: the trackers of a run, or a search that may end a training."""

    def on_epoch(self, stage: str = "") -> OnEpoch | None:
        """What is called with each epoch's record of a stage; what it raises ends the training."""
        ...


class Tracker(Protocol):
    """What a tracker does; any of it may fail."""

    def start(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None: ...

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self, finished: bool) -> None: ...


def check_trackers(names: str | None) -> None:
    """Refuse trackers whose package is missing, before anything is read or written.

    Raises:
        ConfigError: With the command that installs them.
    """
    for name in tracker_names(names):
        if importlib.util.find_spec(MODULES[name]) is None:
            raise ConfigError(
                f"track={names!r}: the package {MODULES[name]} is not installed; {PIP} brings it, "
                "or leave --track out."
            )


def tracker_names(text: str | None) -> tuple[str, ...]:
    """The names in a setting that was checked ('tensorboard,mlflow')."""
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


class Tracking:
    """The trackers of one run, each guarded; as a context it closes them.

    >>> with open_tracking(run, config, say) as tracking:                       # doctest: +SKIP
    ...     fit(..., on_epoch=tracking.on_epoch())
    ...     tracking.scores(run.metrics, best_epoch)
    """

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._live = dict(trackers)
        self._say = say

    def start(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Hand over the resolved settings, and tags that name the run."""
        self._each(lambda tracker: tracker.start(settings, tags))

    def on_epoch(self, stage: str = "") -> OnEpoch | None:
        """What `fit` calls with each epoch's record; None where nobody listens."""
        return functools.partial(self._epoch, stage) if self._live else None

    def _epoch(self, stage: str, record: EpochRecord) -> None:
        prefix = f"{stage}/" if stage else ""
        values = {prefix + k: v for k, v in record.to_json().items() if k != "epoch"}
        self._scalars(values, record.epoch)

    def scores(self, metrics: Mapping[str, Any], step: int) -> None:
        """Hand over metrics.json: each value with its bounds, by split; only what was scored."""
        values = {
            f"{split}/{name}": value
            for split, part in metrics["splits"].items()
            for name, value in _flat(part).items()
        }
        self._scalars(values, step)

    def _scalars(self, values: Mapping[str, Any], step: int) -> None:
        known = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        self._each(lambda tracker: tracker.scalars(known, step))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._live.items()):
            try:
                call(tracker)
            except Exception as error:  # whatever a foreign package raises, training goes on
                del self._live[name]
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self._say(
                    f"warning: tracker {name} is off from here on ({type(error).__name__}: "
                    f"{reason}); the training goes on, and the run folder has everything."
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._each(lambda tracker: tracker.close(finished=kind is None))


def open_tracking(run: Run, config: TrainConfig, say: Callable[[str], None]) -> Tracking:
    """The trackers that the settings name, started with the run's settings and tags."""
    makers: dict[str, Callable[[Run], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
    tracking = Tracking({name: makers[name](run) for name in tracker_names(config.track)}, say)
    dataset = run.dataset
    tags = {
        "run_folder": str(run.path.resolve()),
        "data": str(dataset["name"]),
        "data_sha256": str(dataset["content_sha256"]),
        "split_sha256": str(dataset["split"]["sha256"]),
        "synthetic": str(bool(dataset["synthetic"])).lower(),
        "scanwise_version": __version__,
    }
    tracking.start(config.model_dump(mode="json"), tags)
    return tracking


def _flat(part: Mapping[str, Any]) -> dict[str, float | None]:
    """n, and value, low and high of each metric of a split."""
    flat: dict[str, float | None] = {"n": part["n"]}
    for name, entry in part.items():
        if isinstance(entry, Mapping) and "value" in entry:
            low, high = entry.get("ci95") or (None, None)
            flat |= {name: entry["value"], f"{name}_low": low, f"{name}_high": high}
    return flat


class TensorBoard:
    """Event files in RUN/tensorboard, flushed at every epoch.

    Records are written here and now: tensorboard's own writer works in a thread, whose failures
    would be noticed late or never.
    """

    def __init__(self, run: Run) -> None:
        self._folder = run.path / "tensorboard"
        self._file: Any = None

    def start(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard.summary import text

        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 1000}.scanwise"
        self._file = RecordWriter((self._folder / name).open("xb"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        for title, table in (("settings", settings), ("run", tags)):
            rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in table.items())
            table_text = f"| | |\n|---|---|\n{rows}"
            summary = text(title, table_text)  # type: ignore[no-untyped-call]
            self._write(Event(wall_time=time.time(), step=0, summary=summary))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        cells = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=cells)))

    def close(self, finished: bool) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, event: Any) -> None:
        self._file.write(event.SerializeToString())
        self._file.flush()


class MLflow:
    """A run in the store of $MLFLOW_TRACKING_URI, or in plain files in RUN/mlruns."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._client: Any = None
        self._run_id = ""

    def start(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        for name, value in MLFLOW_DEFAULTS.items():
            os.environ.setdefault(name, value)
        given = os.environ.get("MLFLOW_TRACKING_URI")
        uri = given or (self._run.path.resolve() / "mlruns").as_uri()
        if offline() and urlsplit(uri).scheme not in ("", "file", "sqlite"):
            raise ConfigError(f"SCANWISE_OFFLINE forbids the network, and the store is {uri}")
        self._client = _mlflow_client(uri)
        self._run_id = self._known_run(uri)
        if not self._run_id:
            self._run_id = self._new_run(uri)
            params = [Param(name, _cell(value)[:6000]) for name, value in settings.items()]
            self._client.log_batch(self._run_id, params=params)
        self._client.log_batch(self._run_id, tags=[RunTag(*pair) for pair in tags.items()])

    def _known_run(self, uri: str) -> str:
        """The MLflow run of an interrupted training, taken up again; '' if there is none."""
        try:
            known = json.loads((self._run.path / MEMORY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        if known.get("uri") != uri:
            return ""
        self._client.update_run(known["run_id"], status="RUNNING")
        return str(known["run_id"])

    def _new_run(self, uri: str) -> str:
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "scanwise"
        found = self._client.get_experiment_by_name(title)
        experiment = found.experiment_id if found else self._client.create_experiment(title)
        made = self._client.create_run(experiment, run_name=self._run.path.name)
        run_id = str(made.info.run_id)
        write_json(self._run.path / MEMORY, {"uri": uri, "run_id": run_id})
        return run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, finished: bool) -> None:
        if self._run_id:
            self._client.set_terminated(self._run_id, "FINISHED" if finished else "FAILED")


def _mlflow_client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
