"""`train --devices 2` as its users meet it: real processes over gloo, one run, one message."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

import scanwise as sw
from scanwise.cli import main
from scanwise.cli.launch import start_processes
from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError, PartialError
from scanwise.pipeline.fitting import fit_bundle
from scanwise.pipeline.train import check_fitted_settings, check_settings

# Augmented, but neither BatchNorm nor dropout: one process and two agree up to rounding.
QUICK = ("--model", "mlp:16", "--dropout", "0", "--batch-size", "50", "--no-report", "--json")
ENVIRON = {"OMP_NUM_THREADS": "1"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "scanwise", "train", *words]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(discs: Path, tmp_path: Path):
    settings = {"model": "mlp:16", "dropout": 0, "batch_size": 50, "report": False, "epochs": 2}
    alone = sw.train(discs, **settings, output=str(tmp_path / "run1"))
    done = subprocess.run(
        command(str(discs), *QUICK, "--epochs", "2", "--devices", "2", "--output", "run2"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | ENVIRON,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]  # one result, by one process
    assert done.stderr.count("Epoch 1/2") == 1
    assert "Processes: 2 on cpu" in done.stderr
    assert "of 50 images 25 each; of 40 images 20 each" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run1", "run2"]
    assert _names(tmp_path / "run1") == _names(tmp_path / "run2")
    np.testing.assert_allclose(
        _numbers(tmp_path, 2, "history.csv"), _numbers(tmp_path, 1, "history.csv"), atol=1e-5
    )
    np.testing.assert_allclose(
        _numbers(tmp_path, 2, "predictions.csv"),
        _numbers(tmp_path, 1, "predictions.csv"),
        atol=1e-5,
    )
    assert metrics["splits"]["test"]["accuracy"] == alone.metrics["splits"]["test"]["accuracy"]
    assert len((tmp_path / "run2" / "test_ledger.csv").read_text().splitlines()) == 2


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _numbers(folder: Path, devices: int, name: str) -> np.ndarray:
    with (folder / f"run{devices}" / name).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wanted = [key for key in rows[0] if key.startswith(("prob_", "loss", "acc", "val_"))]
    assert len(wanted) > 1
    return np.array([[float(row[key]) for key in wanted] for row in rows])


# Read by every Python at its start; only the second process fails, in its second epoch.
SABOTAGE = """
import os

if os.environ.get("RANK") == "1":
    from scanwise.core.errors import ScanwiseError
    from scanwise.prepare.batches import Batches

    iterate = Batches.iterate

    def fail(self, epoch=0, **options):
        if self.training and epoch == 2:
            raise ScanwiseError("the second process can't go on")
        return iterate(self, epoch, **options)

    Batches.iterate = fail
"""


@pytest.mark.slow
def test_an_error_in_one_process_ends_both_with_one_message(discs: Path, tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command(str(discs), *QUICK, "--epochs", "500", "--devices", "2", "--output", "run"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | ENVIRON | {"PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "error: the second process can't go on" in done.stderr
    assert "Traceback" not in done.stderr  # of the first, which lost its companion
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 2
    assert not (tmp_path / "run" / "bundle").exists()


@pytest.mark.parametrize(("exit_code", "expected"), [(3, 3), (-9, "process 1 of 2 .* SIGKILL")])
def test_the_launcher_leaves_as_its_process_did(
    monkeypatch: pytest.MonkeyPatch, exit_code: int, expected: int | str
):
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def fail(arguments: object) -> None:
        failure = ProcessFailure(1, 4321, exit_code, "")
        raise ChildFailedError("scanwise", {1: failure})

    monkeypatch.setattr(torch.distributed.run, "run", fail)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(logging, "disable", lambda level: None)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if isinstance(expected, int):
        with pytest.raises(typer.Exit) as left:
            start_processes(2, 1, None)
        assert left.value.exit_code == expected
    else:
        with pytest.raises(PartialError, match=expected):
            start_processes(2, 1, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "hf:somewhere"}, "hf:somewhere is a pretrained network"),
        ({"model": "resnet18", "weights": "imagenet"}, "imagenet is a pretrained network"),
        ({"time_limit": "5m"}, "--time-limit"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(settings: dict[str, str], words: str):
    with pytest.raises(ConfigError, match=words):
        check_settings(make_config({"devices": 2, **settings}), own_model=False)


def test_batches_that_are_too_small_are_refused(small_split):
    dataset, split = small_split
    config = make_config({"devices": 4, "batch_size": 3, "class_weights": "none"})
    with pytest.raises(ConfigError, match="among 4 processes"):
        check_fitted_settings(config, dataset, split)


def test_only_train_divides_its_work(small_split):
    dataset, split = small_split
    with pytest.raises(ConfigError, match="only a single `scanwise train`"):
        fit_bundle(make_config({"devices": 2, "model": "mlp:4"}), dataset, split)


@pytest.mark.parametrize("study", [("--cv", "3"), ("--seeds", "2")])
def test_studies_do_not_divide_their_trainings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, study: tuple[str, str]
):
    with pytest.raises(SystemExit) as left:
        main(["train", "demo:cells", "--devices", "2", "--output", str(tmp_path / "x"), *study])
    assert left.value.code == 2
    assert "--jobs" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.fixture
def small_split():
    from scanwise.data.load import from_arrays
    from scanwise.data.splits import make_split

    images = np.random.default_rng(0).integers(0, 255, (60, 12, 12, 1)).astype(np.uint8)
    dataset = from_arrays(images, np.arange(60) % 2)
    return dataset, make_split(dataset, seed=0, val_fraction=0.2, test_fraction=0.2)
