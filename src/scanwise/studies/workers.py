"""Run the trainings of a study: here, side by side in processes, or on a Ray cluster."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scanwise.core.errors import ConfigError, PartialError, ScanwiseError, one_line
from scanwise.core.runtime import choose_threads
from scanwise.studies.jobs import Probe, best_jobs
from scanwise.studies.members import Member, Outcome, train_member

Backend = Literal["local", "ray"]
CONNECT_S = 15  # seconds that a cluster has to answer


@dataclass(frozen=True)
class Workers:
    """How many trainings run at a time, and where."""

    jobs: int  # at least 1; 1 trains in this process
    threads: int  # of each worker
    backend: Backend = "local"
    address: str | None = None
    reason: str = ""

    def describe(self) -> str:
        side = "one after another" if self.jobs == 1 else f"{self.jobs} side by side"
        where = "" if self.backend == "local" else f" on Ray ({self.address or 'this machine'})"
        reason = f": {self.reason}" if self.reason else ""
        return f"Trainings run {side}{where}, {self.threads} CPU thread(s) each{reason}"


def plan_workers(
    jobs: str | int,
    members: Sequence[Member],
    probe: Probe | None = None,
    *,
    backend: str = "local",
    address: str | None = None,
) -> Workers:
    """Share the machine's cores out to the trainings.

    Args:
        jobs: How many trainings at a time, or "auto": decided by a measurement.
        members: The trainings.
        probe: What `auto` measures; None where the members train no steps.
        backend: "local" or "ray".
        address: Of a Ray cluster, such as "ray://host:10001" or "host:6379"; None starts one here.

    Raises:
        ConfigError: `jobs` or `backend` is unknown, or an address without Ray.
    """
    cores, _ = choose_threads({})
    if backend not in ("local", "ray"):
        raise ConfigError(f"backend={backend!r} is unknown; choose local or ray.")
    if address is not None and backend != "ray":
        raise ConfigError(f"--address {address} needs --backend ray.")
    wanted = _jobs(jobs)
    if backend == "ray":
        many = wanted or max(1, min(len(members), cores))
        return Workers(many, max(1, cores // many), "ray", address, "" if wanted else "one a core")
    if wanted is not None:
        many = max(1, min(wanted, cores, len(members)))
        why = "as asked" if many == wanted else f"{wanted} asked, {cores} core(s)"
        return Workers(many, max(1, cores // many), reason=why)
    many, why = best_jobs(members, probe, cores)
    return Workers(many, max(1, cores // many), reason=why)


def _jobs(jobs: str | int) -> int | None:
    """The number, None for "auto".

    Raises:
        ConfigError: If it is neither.
    """
    if jobs == "auto":
        return None
    try:
        number = int(jobs)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"jobs={jobs!r} must be auto or a number from 1.")
    return number


def train_members(
    members: Sequence[Member], workers: Workers, tell: Callable[[str], None]
) -> tuple[Outcome, ...]:
    """Train them all; one line a member as they end.

    Finished runs are kept as they are, so a study that was killed goes on where it stopped.

    Returns:
        An outcome for each member, in their order.

    Raises:
        PartialError: Workers died; what is finished stays.
        ConfigError: Ray is not installed, or its cluster does not answer.
    """
    began = time.monotonic()
    run = {"local": _locally, "ray": _on_ray}[workers.backend]
    found: dict[Path, Outcome] = {}
    for outcome in run(members, workers):
        found[outcome.member.folder] = outcome
        tell(_line(outcome, len(found), len(members), time.monotonic() - began))
    return tuple(found[member.folder] for member in members)


def _line(outcome: Outcome, done: int, of: int, passed_s: float) -> str:
    words = {
        "trained": f"{outcome.seconds:.1f} s",
        "resumed": f"resumed, {outcome.seconds:.1f} s",
        "kept": "finished before, kept",
        "failed": f"FAILED: {outcome.error}",
    }[outcome.state]
    left = passed_s / done * (of - done)
    ahead = f" (about {left:.0f} s to go)" if of > done and passed_s > 10 else ""
    return f"{done}/{of} {outcome.member.name}: {words}{ahead}"


def _locally(members: Sequence[Member], workers: Workers) -> Iterator[Outcome]:
    if workers.jobs == 1:
        yield from map(train_member, members)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # Workers that have grown are replaced between two trainings, which is as it should be.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
    pool = Parallel(n_jobs=workers.jobs, return_as="generator_unordered", batch_size=1)
    try:
        yield from pool(delayed(train_member)(member, workers.threads) for member in members)
    except TerminatedWorkerError as error:
        raise PartialError(
            "a worker process died, perhaps for want of memory; finished trainings are kept. The "
            "same command goes on from there; --jobs 1 needs the least memory."
        ) from error


def _on_ray(members: Sequence[Member], workers: Workers) -> Iterator[Outcome]:
    ray = connect(workers.address)
    try:
        # Runs are written where the workers are: the folder must be shared by all machines.
        task = ray.remote(num_cpus=workers.threads, max_retries=1)(train_member)
        here = os.getcwd()
        waiting = {task.remote(member, workers.threads, here): member for member in members}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            member = waiting.pop(done[0])
            try:
                yield ray.get(done[0])
            except ray.exceptions.RayError as error:
                yield Outcome(member, "failed", 0.0, f"Ray: {one_line(error)}")
    finally:
        ray.shutdown()


def connect(address: str | None) -> Any:
    """The ray module, connected to the cluster at `address` (None: one on this machine).

    Raises:
        ConfigError: If Ray is not installed.
        ScanwiseError: If the cluster does not answer within seconds.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError('--backend ray needs Ray: pip install "scanwise[ray]"') from error
    if address is not None:
        _refuse_silent_host(address)
    try:
        ray.init(
            address=address,
            ignore_reinit_error=True,
            log_to_driver=False,
            configure_logging=True,
            logging_level="ERROR",
            include_dashboard=False if address is None else None,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ScanwiseError(
            f"the Ray cluster at {address or 'this machine'} can't be used: "
            f"{str(error).splitlines()[0]}. Nothing was started; what is finished is kept."
        ) from error
    return ray


def _refuse_silent_host(address: str) -> None:
    """Try the port for some seconds: Ray itself would try for minutes.

    Raises:
        ConfigError: If the address has no port.
        ScanwiseError: If nobody answers.
    """
    import socket

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise ConfigError(f"--address {address!r} must be HOST:PORT, ray://HOST:PORT or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ScanwiseError(
            f"no Ray cluster answers at {address}: {error.strerror or error}. Start one with "
            "`ray start --head`, mend the address, or leave --address out. Nothing was started; "
            "what is finished is kept."
        ) from error
