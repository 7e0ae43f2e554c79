"""`train --devices N` on one machine: torchrun starts the processes and ends all if one fails."""

from __future__ import annotations

import logging
import os
import signal
import sys

import typer

from scanwise.core.errors import PartialError
from scanwise.core.processes import check_start, started_by
from scanwise.core.runtime import choose_threads


def start_processes(devices: int, nodes: int, threads: int | None) -> None:
    """Run this command in `devices` processes and leave with their exit code.

    Returns at once where this process is one of them, or is to train alone.

    Raises:
        ConfigError: Several machines, which only torchrun or SLURM can start.
        PartialError: A process was killed.
    """
    if started_by() is not None or devices * nodes == 1:
        return
    if nodes > 1:
        check_start(devices, nodes, None)
    if threads is None and "OMP_NUM_THREADS" not in os.environ:  # the processes share the cores
        os.environ["OMP_NUM_THREADS"] = str(max(1, choose_threads(os.environ)[0] // devices))
    raise typer.Exit(_torchrun(devices, sys.argv[1:]))


def _torchrun(devices: int, words: list[str]) -> int:
    """torchrun's own function, without its report: the process that failed has said why."""
    logging.disable(logging.CRITICAL)
    import torch.distributed.run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(devices)]
    try:
        torchrun.run(torchrun.parse_args([*options, "-m", "scanwise", *words]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise PartialError(
                f"process {rank} of {devices} was ended by {name} (SIGKILL: often for want of "
                "memory), and so the others were; `scanwise train --resume RUN` goes on."
            ) from error
        return failure.exitcode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            sys.stderr.write("stopped.\n")
        return 128 + int(error.sigval)
    return 0
