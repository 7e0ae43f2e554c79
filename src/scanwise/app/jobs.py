"""Checks and trainings as processes of their own, which outlive the page and the server.

Each has a JSON file beside its log. A server that starts later reads it and finds the process
again by its number, its birth and its command line; all three must fit, since numbers are used
anew.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from scanwise.core.errors import RunError
from scanwise.core.files import write_json

SAME_START_S = 2.0  # clocks that are set move start times a little (where `born` is not known)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PATIENCE_S = (10.0, 5.0, 5.0)  # after an interrupt, after a termination, after a kill
TAIL_BYTES = 64_000

# Processes that this server started: it must collect them when they end.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Job:
    """One command that was started in a workspace."""

    name: str  # "train-003"
    words: tuple[str, ...]  # after `scanwise`
    output: str  # folder it writes, relative to the workspace
    pid: int
    started: float  # the system's start time of the process, s since 1970
    when: str  # UTC, ISO 8601
    born: str = ""  # which boot and how many ticks after it, whatever the clock says; Linux only

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[0]

    @property
    def command(self) -> str:
        return command_text(self.words)


def command_text(words: Sequence[str]) -> str:
    """The command as one types it into a terminal."""
    return shlex.join(["scanwise", *words])


def start(folder: Path, kind: str, words: Sequence[str], output: str, cwd: Path) -> Job:
    """Start `scanwise WORDS` in a session of its own.

    Args:
        folder: Where the JSON and the log go.
        kind: "check" or "train".
        words: The verb and its arguments.
        output: The folder it will write, relative to `cwd`.
        cwd: The workspace.

    Raises:
        RunError: If the process can't be started.
    """
    # -P: a file called torch.py in the workspace is not imported.
    command = [sys.executable, "-P", "-m", "scanwise", *words]
    apart = (
        {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        if os.name == "nt"
        else {"start_new_session": True}
    )
    try:
        name = _new_name(folder, kind)
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                **apart,
            )
    except OSError as error:
        raise RunError(f"can't start scanwise {kind}: {error}.") from error
    _children[process.pid] = process
    job = Job(
        name,
        tuple(words),
        output,
        process.pid,
        _start_time(process.pid),
        datetime.now(UTC).isoformat(timespec="seconds"),
        _born(process.pid),
    )
    write_json(folder / f"{name}.json", asdict(job))
    return job


def start_training(folder: Path, words: Sequence[str], output: str, cwd: Path) -> Job:
    """Start a training, or go on with one, if none runs in this workspace.

    Raises:
        RunError: If one runs, or the process can't be started.
    """
    for job in running(folder):
        if job.kind == "train":
            raise RunError(f"{job.output} is being trained; wait for its end, or stop it first.")
    return start(folder, "train", words, output, cwd)


def _start_time(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:  # it ended at once
        return time.time()


def _born(pid: int) -> str:
    """Boot and clock ticks since it at which a process began; '' where that can't be read.

    Field 22 of /proc/PID/stat (proc_pid_stat(5)); setting the clock does not change it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field is the program's name in brackets, whatever is in it.
        ticks = fields.rpartition(")")[2].split()[19]
        return f"{BOOT_ID.read_text(encoding='ascii').strip()} {int(ticks)}"
    except (OSError, ValueError, IndexError):
        return ""


def _new_name(folder: Path, kind: str) -> str:
    """The next free name, taken by making its log: nobody else gets it."""
    numbers = [
        int(path.stem.rpartition("-")[2])
        for path in folder.glob(f"{kind}-*.log")
        if path.stem.rpartition("-")[2].isdecimal()
    ]
    number = max(numbers, default=0) + 1
    while True:
        name = f"{kind}-{number:03d}"
        try:
            (folder / f"{name}.log").touch(exist_ok=False)
        except FileExistsError:  # another server was quicker
            number += 1
        else:
            return name


def read_jobs(folder: Path) -> list[Job]:
    """All jobs, newest first; files that can't be read are left out."""
    found = []
    for path in folder.glob("*-*.json"):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            found.append(Job(**{**value, "words": tuple(value["words"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda job: (job.when, job.name), reverse=True)


def newest(folder: Path, kind: str, output: str | None = None) -> Job | None:
    """The newest job of a kind, of one output folder if that is named."""
    for job in read_jobs(folder):
        if job.kind == kind and output in (None, job.output):
            return job
    return None


def process_of(job: Job) -> psutil.Process | None:
    """The job's process if it still runs and is really ours; None otherwise."""
    child = _children.get(job.pid)
    if child is not None and child.poll() is not None:
        return None
    try:
        process = psutil.Process(job.pid)
        if not _same_birth(process, job):
            return None
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        given = process.cmdline()
    except psutil.Error:
        return None
    # A process that has just begun has no command line yet.
    return process if not given or given[-len(job.words) :] == list(job.words) else None


def _same_birth(process: psutil.Process, job: Job) -> bool:
    if job.born:
        return _born(job.pid) == job.born
    return abs(float(process.create_time()) - job.started) <= SAME_START_S


def is_running(job: Job | None) -> bool:
    return job is not None and process_of(job) is not None


def running(folder: Path) -> list[Job]:
    """Jobs whose processes still run."""
    return [job for job in read_jobs(folder) if is_running(job)]


def stop(job: Job) -> None:
    """Interrupt a job as Ctrl+C does; end it by force if it does not listen. Waits for its end.

    Raises:
        RunError: If it can't be ended.
    """
    ways = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM))
    for way, patience_s in zip(ways, PATIENCE_S, strict=True):
        process = process_of(job)
        if process is None:
            return
        _send(process, way)
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if process_of(job) is None:
                return
            time.sleep(0.1)
    if is_running(job):
        raise RunError(f"process {job.pid} ({job.command}) did not end; end it by hand.")


def _send(process: psutil.Process, way: signal.Signals) -> None:
    """To the process and those that it started."""
    try:
        if os.name == "nt":
            process.terminate()
        else:
            os.killpg(process.pid, way)  # it leads a session, hence a group
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass
    except (PermissionError, psutil.AccessDenied) as error:
        raise RunError(f"process {process.pid} may not be ended: {error}.") from error


def command_anew(folder: Path, job: Job) -> str:
    """The command that does a job's work once more, into a new folder: its own is taken.

    Of a training that was resumed that is the command that began it.
    """
    began = [each for each in read_jobs(folder) if each.output == job.output]
    for each in reversed([job, *began]):
        if "--output" in each.words:
            words = list(each.words)
            words[words.index("--output") + 1] = f"{Path(job.output).parent.as_posix()}/NAME"
            return command_text(words)
    return job.command


def log_text(folder: Path, job: Job) -> str:
    """The end of what the job printed, as a terminal would show it."""
    try:
        with (folder / f"{job.name}.log").open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(line.rpartition("\r")[2] for line in text.splitlines())


def error_text(log: str) -> str:
    """The message of a command that failed, as it printed it; '' if it printed none.

    >>> error_text("Data: 3 images\\nerror: class 'ill' has 2 images;\\nadd some.")
    "class 'ill' has 2 images;\\nadd some."
    """
    lines = log.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith("error: "):
            return "\n".join([lines[number].removeprefix("error: "), *lines[number + 1 :]]).strip()
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return f"{lines[-1]} (this is a fault of scanwise; please report it with the log)"
    return ""
