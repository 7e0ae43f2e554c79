"""Processes that outlive the server: started, found again, told from strangers, stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from scanwise.app import jobs
from scanwise.app.progress import read_progress
from scanwise.core.errors import RunError
from scanwise.training.history import EpochRecord, write_history

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def sleeper(tmp_path: Path):
    """A process that lasts, written down as a job would be."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEP, "train", "cells"], start_new_session=True
    )
    while not psutil.Process(process.pid).cmdline():  # it has just begun
        time.sleep(0.01)
    job = jobs.Job(
        "train-001", ("train", "cells"), "runs/cells-001", process.pid,
        jobs._start_time(process.pid), "2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    (tmp_path / "train-001.json").write_text(json.dumps(asdict(job)))
    yield job
    process.kill()
    process.wait()


def test_a_job_is_found_again_from_its_file(tmp_path, sleeper):
    assert jobs.read_jobs(tmp_path) == [sleeper]
    assert jobs.running(tmp_path) == [sleeper]
    assert jobs.newest(tmp_path, "train", "runs/cells-001") == sleeper
    assert jobs.newest(tmp_path, "check") is None


@pytest.mark.parametrize(
    "stranger",
    [
        {"started": 1.0},  # the number was used anew
        {"words": ("train", "others")},  # another command
        {"pid": 2**22 + 5},  # nothing of this number
    ],
)
def test_a_strange_process_is_never_taken_for_ours(sleeper, stranger):
    other = replace(sleeper, **stranger)
    assert not jobs.is_running(other)
    jobs.stop(other)
    assert jobs.is_running(sleeper), "stopping a stranger must not touch the process"


@pytest.mark.skipif(not jobs.BOOT_ID.exists(), reason="Linux only")
def test_a_clock_that_is_set_does_not_end_a_training(sleeper, monkeypatch):
    born = replace(sleeper, born=jobs._born(sleeper.pid))
    assert born.born
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: real(self) + 3600.0)
    assert jobs.is_running(born)
    assert not jobs.is_running(replace(born, born=f"{born.born}1")), "a process born later"
    assert not jobs.is_running(replace(born, born=f"x{born.born}")), "before the last boot"


def test_one_training_at_a_time(tmp_path, sleeper):
    with pytest.raises(RunError, match="runs/cells-001 is being trained; wait for its end"):
        jobs.start_training(tmp_path, ["train", "more"], "runs/more-001", tmp_path)
    assert jobs.read_jobs(tmp_path) == [sleeper]


def test_a_name_is_given_once(tmp_path):
    assert [jobs._new_name(tmp_path, "train") for _ in range(2)] == ["train-001", "train-002"]


def test_the_command_shown_does_not_name_the_folder_that_is_there(tmp_path):
    words = ("train", "cells", "--epochs", "3", "--output", "runs/cells-001")
    first = jobs.Job("train-001", words, "runs/cells-001", 1, 1.0, "2026-01-01T00:00:00+00:00")
    resumed = replace(first, name="train-002", words=("train", "--resume", "runs/cells-001"))
    (tmp_path / "train-001.json").write_text(json.dumps(asdict(first)))
    anew = "scanwise train cells --epochs 3 --output runs/NAME"
    assert jobs.command_anew(tmp_path, first) == anew
    assert jobs.command_anew(tmp_path, resumed) == anew


def test_stop_interrupts_and_waits(sleeper):
    jobs.stop(sleeper)
    assert not jobs.is_running(sleeper)


def test_a_command_that_fails_tells_its_own_message(tmp_path):
    folder = tmp_path / "jobs"
    folder.mkdir()
    job = jobs.start(folder, "check", ["check", "nowhere"], "checks/x-001", tmp_path)
    assert job.command == "scanwise check nowhere"
    until = time.monotonic() + 60
    while jobs.is_running(job) and time.monotonic() < until:
        time.sleep(0.1)
    message = jobs.error_text(jobs.log_text(folder, job))
    assert message.startswith("nowhere does not exist; give a folder"), message
    progress = read_progress(tmp_path / "checks/x-001", job, folder)
    assert (progress.stage, progress.problem, progress.can_resume) == ("failed", message, False)
    assert jobs._new_name(folder, "check") == "check-002"


def test_damaged_job_files_are_left_out(tmp_path):
    (tmp_path / "train-001.json").write_text('{"name": "tra')
    (tmp_path / "train-002.json").write_text("[]")
    assert jobs.read_jobs(tmp_path) == []


def test_error_text():
    log = "Data: 3\nerror: class 'a' has 2 images;\n  add some."
    assert jobs.error_text(log) == "class 'a' has 2 images;\n  add some."
    assert jobs.error_text("all is well") == ""
    assert "report it" in jobs.error_text("Traceback (most recent call last):\n  x\nKeyError: 1")


def test_progress_follows_the_files(tmp_path, sleeper):
    run = tmp_path / "runs/cells-001"
    assert read_progress(None, None, tmp_path).stage == "none"
    assert read_progress(run, sleeper, tmp_path).stage == "checking"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("epochs: 4\n")
    record = EpochRecord(1, 0.5, 0.8, 0.6, 0.7, 1e-3, 2.0, 10.0, 100.0)
    write_history(run / "history.csv", [record])
    (tmp_path / "train-001.log").write_text("Epoch 1/4\n7/7 - 2s - loss: 0.5 - val_loss: 0.6\n")
    learning = read_progress(run, sleeper, tmp_path)
    assert learning.stage == "learning"
    assert learning.eta_s == 6.0  # three epochs of 2 s
    assert learning.line == "7/7 - 2s - loss: 0.5 - val_loss: 0.6"
    assert learning.history == (record,)
    jobs.stop(sleeper)
    stopped = read_progress(run, sleeper, tmp_path)
    assert (stopped.stage, stopped.can_resume) == ("stopped", True)


def test_a_finished_run_is_finished_without_a_job(disc_run, tmp_path):
    progress = read_progress(disc_run.path, None, tmp_path)
    assert (progress.stage, progress.epochs, len(progress.history)) == ("finished", 8, 8)
    assert " - val_loss: " in progress.line
