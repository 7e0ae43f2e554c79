"""Tune the process once, before torch is loaded: wait policy, thread count, allocator.

Why, measured on 4 cores (`make bench` repeats it):

- **Wait policy.** A thread of torch's OpenMP pool that has finished its share spins for the others.
  As soon as one foreign process wants a core, the spinning threads keep the one they wait for from
  running, and training slows down 7 to 14 times. A short spin, then sleep, costs a few per cent on
  a quiet machine and keeps about half of the speed beside a busy neighbour.
- **Threads.** One a physical core that this process may use (affinity and container quota count).
  Never chosen by load: on a CPU, bit-identical weights need the same number of threads.
  OMP_NUM_THREADS is read but never written, because worker processes would inherit it: joblib gives
  each of its workers a fair share only where the variable is free.
- **Allocator.** glibc returns every large block to the system and faults it in again at the next
  step; keeping it makes training 5-17 % and inference on large images up to 2 times faster, for
  100-200 MB more memory.

SCANWISE_TUNE=0 leaves all of this alone. Imports neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Rounds of the pause instruction before an idle OpenMP thread sleeps; libgomp's default is 300,000.
SPIN_COUNT = 300

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_INT_MAX = 2**31 - 1

PACKAGES = (
    "scanwise", "torch", "lightning-fabric", "monai", "numpy", "scipy", "scikit-learn",
    "imbalanced-learn", "opencv-python-headless", "pillow", "tifffile", "pydicom", "matplotlib",
    "onnxruntime", "safetensors", "pydantic",
)  # fmt: skip


@dataclass
class _State:
    """What was decided in this process, and what came of it."""

    threads: int | None = None
    threads_source: str = ""
    done: dict[str, Any] = field(default_factory=dict)


_state = _State()


def tune_process(threads: int | None = None) -> dict[str, Any]:
    """Set wait policy, thread count and allocator; call it before the first import of torch.

    Calling it again is free and harmless; with `threads` it changes the number of threads. What the
    user set in the environment (OMP_NUM_THREADS, OMP_WAIT_POLICY, GOMP_SPINCOUNT, glibc's tunables)
    is respected.

    Args:
        threads: CPU threads that the user asked for; None keeps or makes the choice.

    Returns:
        For env.json: "threads", "wait_policy" and "allocator", each with its value, its source and
        whether it is in effect.
    """
    if not _state.done:
        on = os.environ.get("SCANWISE_TUNE", "1").strip().lower() not in {"0", "false", "no", "off"}
        off = {"in_effect": False, "source": "SCANWISE_TUNE=0"}
        _state.done = {
            "wait_policy": _set_wait_policy(os.environ) if on else dict(off),
            "allocator": _keep_freed_memory(os.environ) if on else dict(off),
        }
        if on:
            _state.threads, _state.threads_source = choose_threads(os.environ)
    if threads is not None:
        _state.threads, _state.threads_source = threads, "setting 'threads'"
    apply_threads()
    return tuning()


def tuning() -> dict[str, Any]:
    """What `tune_process` set and what is in effect now, in JSON-ready form."""
    torch = sys.modules.get("torch")
    running = int(torch.get_num_threads()) if torch is not None else None
    threads = {
        "value": running if running is not None else _state.threads,
        "source": _state.threads_source or "library default",
        "in_effect": running is not None and running == (_state.threads or running),
    }
    return {"threads": threads, **_state.done}


def thread_count() -> int:
    """Threads that torch computes with, or will when it is loaded."""
    running = getattr(sys.modules.get("torch"), "get_num_threads", None)
    return int(running()) if running else _state.threads or choose_threads(os.environ)[0]


def apply_threads() -> None:
    """Hand the chosen number of threads to the libraries loaded by now (torch, OpenCV)."""
    if _state.threads is None:
        return
    torch, cv2 = sys.modules.get("torch"), sys.modules.get("cv2")
    if torch is not None and torch.get_num_threads() != _state.threads:
        torch.set_num_threads(_state.threads)
    if cv2 is not None and cv2.getNumThreads() != _state.threads:
        cv2.setNumThreads(_state.threads)


def limit_threads(threads: int) -> None:
    """Confine this process, a worker among several, to `threads` threads in every library.

    Call it first thing in the worker. BLAS, OpenMP, torch and OpenCV are limited where they are
    loaded, and by the environment where they are not yet.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["OPENCV_FOR_THREADS_NUM"] = str(threads)
    if "numpy" in sys.modules:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        threadpool_limits(threads)
    tune_process(threads)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run numpy's and scipy's linear algebra in one thread, for problems of some hundred rows.

    OpenBLAS's threads spin and yield while they wait. Beside a busy process a decomposition of
    0.1 s took 8 s on two cores; in one thread it takes 0.15 s, busy or not.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def choose_threads(environ: Mapping[str, str]) -> tuple[int, str]:
    """Threads for this process and why: the user's word, or its physical cores, or its quota."""
    for name in ("SCANWISE_THREADS", "OMP_NUM_THREADS"):
        first = environ.get(name, "").split(",")[0].strip()
        if first.isdigit() and int(first) > 0:
            return int(first), name
    cores = _physical_cores(_allowed_cpus())
    quota = cgroup_cpu_quota()
    if quota is not None and quota < cores:
        return max(1, int(quota)), f"container quota of {quota:g} CPUs"
    return cores, "physical cores"


def _allowed_cpus() -> set[int]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _physical_cores(cpus: set[int], root: Path = Path("/sys/devices/system/cpu")) -> int:
    """Number of different cores among logical CPUs; all of them where the topology is unknown."""
    cores = set()
    for cpu in cpus:
        try:
            siblings = (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
        except OSError:
            return max(1, len(cpus))
        cores.add(siblings.strip())
    return max(1, len(cores))


def cgroup_cpu_quota(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """CPUs that this process's container may use at once, or None where nothing limits it.

    Reads version 2 (`cpu.max` of the group and its parents) and version 1 (`cpu.cfs_quota_us`).
    """
    quotas = []
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder = root / path.lstrip("/")
        elif "cpu" in controllers.split(","):
            folder = root / "cpu" / path.lstrip("/")
        else:
            continue
        for group in (folder, *folder.parents):
            quotas.append(_quota_of(group))
            if group == root:
                break
    found = [quota for quota in quotas if quota is not None]
    return min(found) if found else None


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None


def _set_wait_policy(environ: Any) -> dict[str, Any]:
    """Let idle OpenMP threads sleep soon. Only libgomp (torch's on Linux) was measured."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        if environ.get(name):
            return {name: environ[name], "source": "environment", "in_effect": True}
    if sys.platform != "linux":
        return {"in_effect": False, "source": "not measured on this platform, left alone"}
    loaded = _libgomp_is_loaded()
    environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    return {
        "GOMP_SPINCOUNT": str(SPIN_COUNT),
        "source": "scanwise" if not loaded else "scanwise, but torch was imported before scanwise",
        "in_effect": not loaded,
    }


def _libgomp_is_loaded() -> bool:
    """True if torch's OpenMP library has read its environment already."""
    if "torch" in sys.modules:
        return True
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return False
    return any("libgomp" in line and "/torch/" in line for line in maps.splitlines())


def _keep_freed_memory(environ: Mapping[str, str]) -> dict[str, Any]:
    """Stop glibc from returning large freed blocks to the system."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return {"in_effect": False, "source": "not glibc, left alone"}
    if any(name.startswith("MALLOC_") for name in environ) or "GLIBC_TUNABLES" in environ:
        return {"in_effect": False, "source": "environment sets the allocator, left alone"}
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return {"in_effect": False, "source": "no mallopt here"}
    took = bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))
    return {
        "M_MMAP_MAX": 0,
        "M_TRIM_THRESHOLD": _INT_MAX,
        "source": "scanwise",
        "in_effect": took,
    }


def program_name(path: str) -> str:
    """'scanwise' for /usr/bin/scanwise and for `python -m scanwise`."""
    program = Path(path)
    return program.parent.name if program.name == "__main__.py" else program.name


def environment(device: str | None = None) -> dict[str, Any]:
    """Everything about this machine and process that can move a number, for env.json.

    Args:
        device: The device that computes, in words ("cpu", "cuda: NVIDIA H100").

    Returns:
        JSON-ready: when, packages, python, platform, cpu, cores, memory, git, command, device,
        tuning.
    """
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": _physical_cores(_allowed_cpus()),
        "memory_gib": memory_gib(),
        "device": device,
        "tuning": tuning(),
        "git": git_state(Path.cwd()),
        "command": [program_name(sys.argv[0]), *sys.argv[1:]] if sys.argv else [],
    }


def environment_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What in two env.json can move a number and differs, in words: "torch 2.12.0 → 2.13.0"."""
    pairs: list[tuple[str, Any, Any]] = [
        (name, then.get("packages", {}).get(name), now.get("packages", {}).get(name))
        for name in PACKAGES
    ]
    pairs += [(key, then.get(key), now.get(key)) for key in ("python", "platform", "cpu", "device")]
    pairs.append(("threads", _threads_of(then), _threads_of(now)))
    commits = [(env.get("git") or {}).get("commit") for env in (then, now)]
    pairs.append(("git commit", commits[0], commits[1]))
    return [
        f"{name} {was or 'unknown'} → {became or 'unknown'}"
        for name, was, became in pairs
        if was != became
    ]


def _threads_of(env: Mapping[str, Any]) -> int | None:
    value = env.get("tuning", {}).get("threads", {}).get("value")
    return value if isinstance(value, int) else None


def package_version(package: str) -> str | None:
    """Version of an installed package, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction set extensions of the processor (Linux on x86; empty elsewhere)."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def memory_gib() -> float | None:
    """Physical memory in GiB, or None where the system won't say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(total / 2**30, 1)


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the git checkout around `folder`, or None where there is none.

    Runs no hook or monitor of that repository and takes no lock in it.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "clean": None if changes is None else changes == ""}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *words],
            cwd=folder,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()
