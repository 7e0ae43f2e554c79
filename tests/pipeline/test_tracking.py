"""Trackers: what they are handed, read back from their files, and that none stops a training."""

from __future__ import annotations

import importlib.util
import math
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import scanwise as sw
from scanwise.cli import main
from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError
from scanwise.pipeline import tracking as module
from scanwise.pipeline.runs import Run
from scanwise.pipeline.tracking import MLflow, TensorBoard, Tracking, open_tracking, tracker_names
from scanwise.pipeline.train import reevaluate
from scanwise.training.history import EpochRecord, read_history

RECORD = EpochRecord(3, 0.5, 0.7, 0.6, math.nan, 1e-3, 2.0, 10.0, 100.0)


@pytest.fixture(autouse=True)
def _own_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tracking sets in the environment is taken back."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in module.MLFLOW_DEFAULTS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def tracked(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A short training with both trackers, whose test split was not opened."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    return sw.train(
        discs, model="mlp:8", epochs=2, batch_size=64, output=str(folder), no_test=True,
        track="tensorboard, mlflow",
    )  # fmt: skip


def event_values(folder: Path) -> dict[str, dict[int, float]]:
    """Values by tag and step, by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def mlflow_run(run: Run, uri: str = "") -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri or (run.path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("scanwise")
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == 1
    return found[0], client


def test_the_log_says_nothing_of_failed_trackers(tracked: Run) -> None:
    assert "tracker" not in (tracked.path / "log.txt").read_text()
    assert tracked.config.track == "tensorboard,mlflow"


def test_event_files_hold_history_and_scores_with_bounds(tracked: Run) -> None:
    values = event_values(tracked.path / "tensorboard")
    for record in read_history(tracked.path / "history.csv"):
        for name in ("loss", "val_loss", "val_auc", "lr", "images_per_s"):
            assert values[name][record.epoch] == pytest.approx(getattr(record, name), rel=1e-6)
    accuracy = tracked.metrics["splits"]["val"]["accuracy"]
    scored = [list(values[f"val/accuracy{end}"].values()) for end in ("", "_low", "_high")]
    assert scored == [
        [pytest.approx(value, rel=1e-6)] for value in (accuracy["value"], *accuracy["ci95"])
    ]
    assert values["val/n"] == {next(iter(values["val/accuracy"])): 80}


def test_event_files_hold_settings_as_text(tracked: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked.path / "tensorboard")).Reload()
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
             for tag in events.Tags()["tensors"]}  # fmt: skip
    assert "| model | mlp:8 |" in texts["settings/text_summary"]
    assert str(tracked.path.resolve()) in texts["run/text_summary"]


def test_mlflow_store_holds_the_same(tracked: Run) -> None:
    found, client = mlflow_run(tracked)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == tracked.path.name
    assert found.data.params["model"] == "mlp:8"
    assert found.data.params["epochs"] == "2"
    assert found.data.tags["run_folder"] == str(tracked.path.resolve())
    assert found.data.tags["split_sha256"] == tracked.dataset["split"]["sha256"]
    history = read_history(tracked.path / "history.csv")
    logged = client.get_metric_history(found.info.run_id, "val_loss")
    assert [(m.step, m.value) for m in logged] == [(r.epoch, r.val_loss) for r in history]
    auroc = tracked.metrics["splits"]["val"]["auroc_macro"]
    assert found.data.metrics["val/auroc_macro"] == auroc["value"]
    assert found.data.metrics["val/auroc_macro_high"] == auroc["ci95"][1]


def test_test_scores_come_only_after_evaluation(tracked: Run, tmp_path: Path) -> None:
    import shutil

    run = Run(shutil.copytree(tracked.path, tmp_path / "run"))
    tags = event_values(run.path / "tensorboard")
    assert not any(tag.startswith("test/") for tag in tags)
    reevaluate(run.path)
    values = event_values(run.path / "tensorboard")
    expected = run.metrics["splits"]["test"]["accuracy"]["value"]
    assert list(values["test/accuracy"].values()) == [pytest.approx(expected, rel=1e-6)]


def test_an_interrupted_run_goes_on_in_the_same_mlflow_run(copied_run: Run) -> None:
    config = copied_run.config.model_copy(update={"track": "mlflow"})
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), open_tracking(copied_run, config, said.append):
        raise KeyboardInterrupt
    assert mlflow_run(copied_run)[0].info.status == "FAILED"
    with open_tracking(copied_run, config, said.append) as tracking:
        tracking.on_epoch()(RECORD)  # type: ignore[misc]
    found, _ = mlflow_run(copied_run)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 0.5
    assert "val_accuracy" not in found.data.metrics  # NaN was not measured
    assert not said


# --- nothing stops a training -------------------------------------------------------------------


class Broken:
    """A tracker that fails at the first epoch."""

    def __init__(self) -> None:
        self.calls = 0

    def start(self, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None: ...

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.calls += 1
        raise RuntimeError("no room\nleft")

    def close(self, finished: bool) -> None:
        raise AssertionError("a tracker that is off is not called again")


def test_a_tracker_that_raises_is_off_and_training_goes_on(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Broken()
    monkeypatch.setattr(module, "TensorBoard", lambda run: broken)
    run = sw.train(
        discs, model="mlp:8", epochs=2, batch_size=64, output=str(tmp_path / "run"),
        track="tensorboard",
    )  # fmt: skip
    assert broken.calls == 1
    assert run.metrics["splits"]["test"]["n"] == 80
    lines = [line for line in (run.path / "log.txt").read_text().splitlines() if "tracker" in line]
    assert len(lines) == 1
    assert "tensorboard is off from here on (RuntimeError: no room left)" in lines[0]


def test_one_failure_leaves_the_other_tracker_on(copied_run: Run) -> None:
    said: list[str] = []
    broken, good = Broken(), TensorBoard(copied_run)
    with Tracking({"a": broken, "b": good}, said.append) as tracking:
        tracking.start({"model": "x"}, {})
        listen = tracking.on_epoch("finetune-1")
        assert listen is not None
        listen(RECORD)
        listen(RECORD)
    assert len(said) == 1
    assert event_values(copied_run.path / "tensorboard")["finetune-1/loss"] == {3: 0.5}


def test_no_tracker_no_callback() -> None:
    assert Tracking({}, print).on_epoch() is None


def test_a_folder_that_cannot_be_written_to(copied_run: Run) -> None:
    (copied_run.path / "tensorboard").write_text("in the way")
    (copied_run.path / "mlruns").write_text("in the way")
    said: list[str] = []
    config = copied_run.config.model_copy(update={"track": "tensorboard,mlflow"})
    with open_tracking(copied_run, config, said.append) as tracking:
        assert tracking.on_epoch() is None
    assert len(said) == 2
    assert "FileExistsError" in said[0]
    assert "mlflow is off" in said[1]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address where connections are taken and never answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_a_server_that_does_not_answer_costs_seconds(
    copied_run: Run, kind: str, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCANWISE_OFFLINE")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9" if kind == "nobody" else
                       silent_server)  # fmt: skip
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    said: list[str] = []
    began = time.monotonic()
    with Tracking({"mlflow": MLflow(copied_run)}, said.append) as tracking:
        tracking.start({"model": "x"}, {})
        assert tracking.on_epoch() is None
    assert time.monotonic() - began < 20  # mostly mlflow's import
    assert len(said) == 1
    assert "127.0.0.1" in said[0]


def test_offline_means_that_no_server_is_asked(
    copied_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANWISE_OFFLINE", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(module, "_mlflow_client", lambda uri: pytest.fail("asked"))
    said: list[str] = []
    Tracking({"mlflow": MLflow(copied_run)}, said.append).start({}, {})
    assert "SCANWISE_OFFLINE forbids the network" in said[0]


# --- what the user may say ----------------------------------------------------------------------


def test_names() -> None:
    assert tracker_names(None) == ()
    assert tracker_names("mlflow, tensorboard,mlflow") == ("mlflow", "tensorboard")
    assert make_config({"track": "mlflow, mlflow"}).track == "mlflow"
    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorb"):
        make_config({"track": "mlflow,tensorbord"})
    with pytest.raises(ConfigError, match="unknown tracker ''"):
        make_config({"track": ""})


def test_a_missing_package_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else real(name)
    )
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["train", "demo:cells", "--track", "mlflow", "--output", str(out)])
    assert stop.value.code == 2
    assert 'pip install "scanwise[track]"' in capsys.readouterr().err
    assert not out.exists()
