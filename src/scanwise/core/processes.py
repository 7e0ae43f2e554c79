"""One of several processes that train one network: who started it, and who speaks for all.

Reads the environment that torchrun and SLURM's srun give to each process. Imports nothing heavy.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from scanwise.core.errors import ConfigError
from scanwise.core.runtime import program_name

# A process that fails before it has met the others leaves the first one time to say the same; one
# that does not know why it fails leaves its launcher time to end it.
BEFORE_SPEAKING_S = 5.0
# One that fails because another did is ended by its launcher; without such, by itself.
BEFORE_LEAVING_S = 10.0


class Start(NamedTuple):
    """How this process was started along with others."""

    by: str  # "torchrun" or "srun"
    processes: int
    rank: int


@dataclass
class _State:
    """What this process knows once it has met the others."""

    rank: int = 0
    claim: Callable[[], bool | None] | None = None


_state = _State()


def started_by(environ: Mapping[str, str] = os.environ) -> Start | None:
    """The launcher that started this process and its companions; None if it was started alone."""
    if "TORCHELASTIC_RUN_ID" in environ:
        return Start("torchrun", int(environ["WORLD_SIZE"]), int(environ["RANK"]))
    # Set by srun, and not in the batch script that calls it.
    if "SLURM_STEP_NUM_TASKS" in environ:
        processes, rank = environ["SLURM_STEP_NUM_TASKS"], environ.get("SLURM_PROCID", "0")
        return Start("srun", int(processes), int(rank))
    return None


def check_start(devices: int, nodes: int, start: Start | None) -> None:
    """The processes that were started must be those that were asked for.

    Args:
        devices: Processes on each machine.
        nodes: Machines.
        start: How this process was started.

    Raises:
        ConfigError: With the command line that starts as many as were asked for.
    """
    wanted = devices * nodes
    if wanted == 1 and (start is None or start.by == "srun"):
        return  # several tasks of SLURM may well be several trainings
    if start is None:
        asked = f"--devices {devices}" + (f" --nodes {nodes}" if nodes > 1 else "")
        raise ConfigError(f"{asked} needs {wanted} processes: {start_words(devices, nodes)}")
    if start.processes == wanted:
        return
    if wanted == 1:
        raise ConfigError(
            f"{start.by} started {start.processes} processes: say --devices {start.processes} to "
            f"train one network in all of them, or leave {start.by} out."
        )
    raise ConfigError(
        f"{start.by} started {start.processes} processes, but --devices {devices} --nodes "
        f"{nodes} asks for {wanted}: {start_words(devices, nodes)}"
    )


def check_alone(devices: int, nodes: int) -> None:
    """For what trains many times, or in one process only.

    Raises:
        ConfigError: If a training was to be divided among processes.
    """
    if devices * nodes > 1:
        raise ConfigError(
            f"devices={devices}, nodes={nodes}: only a single `scanwise train` divides its "
            "training among processes; leave them out here (--jobs, where it is, trains side by "
            "side)."
        )


def start_words(devices: int, nodes: int) -> str:
    """The command lines that start the processes of this command (or script) and its arguments."""
    program = ["-m", "scanwise"] if program_name(sys.argv[0]) == "scanwise" else sys.argv[:1]
    words = shlex.join([*program, *sys.argv[1:]])
    if nodes == 1:
        return f"run `torchrun --nproc-per-node {devices} {words}`."
    return (
        f"on each of the {nodes} machines run `torchrun --nnodes {nodes} --nproc-per-node {devices}"
        f" --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 {words}`, or in SLURM `srun "
        f"--nodes {nodes} --ntasks-per-node {devices} python {words}`."
    )


def meet(rank: int, claim: Callable[[], bool | None]) -> None:
    """From now on this process has companions.

    Args:
        rank: Its number among them.
        claim: True in the first that calls it, None where that can't be known any more.
    """
    _state.rank, _state.claim = rank, claim


def is_first() -> bool:
    """True in the process that writes and prints: rank 0, or the only one."""
    return _state.rank == 0


def may_report_failure(*, expected: bool = True) -> bool:
    """True in one of the processes that fail: it tells why.

    The others wait to be ended by their launcher, and leave by themselves if it doesn't.

    Args:
        expected: Not so where the reason may be that another process is gone: time for the
            launcher, which knows, to end this one.
    """
    if _state.claim is None:
        start = started_by()
        if start is not None and start.by == "torchrun" and start.rank > 0:
            time.sleep(BEFORE_SPEAKING_S)
        return True
    if not expected:
        time.sleep(BEFORE_SPEAKING_S)
    first = _state.claim()
    if first is False:
        time.sleep(BEFORE_LEAVING_S)
    return bool(first)
