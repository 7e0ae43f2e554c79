"""How much memory this process may still take, asked before something large is held in it."""

from __future__ import annotations

from pathlib import Path

from scanwise.core.errors import DataError
from scanwise.core.runtime import memory_gib

FREE_SHARE = 0.8  # of the available memory that one array may take; the rest is for working on it


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Bytes that can be had without swapping; None where the system won't say.

    Linux: `MemAvailable`, or less where a container's limit (cgroup version 2) leaves less.
    Elsewhere half of the physical memory.
    """
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found = [int(lines["MemAvailable"].split()[0]) * 1024]
    except (OSError, KeyError, ValueError):
        total = memory_gib()
        return None if total is None else int(total * 2**29)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        if limit != "max":  # what the container holds of the file cache is given up when needed
            found.append(int(limit) - used + int(stat.get("file", 0)))
    except (OSError, ValueError):
        pass
    return max(0, min(found))


def check_memory(num_bytes: int, what: str, way_out: str) -> None:
    """Refuse to hold so much in memory that the machine would stall or kill the process.

    Raises:
        DataError: With both sizes; `what` begins the sentence, `way_out` ends it.
    """
    available = available_bytes()
    if available is not None and num_bytes > FREE_SHARE * available:
        raise DataError(
            f"{what} needs {num_bytes / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are "
            f"available; {way_out}"
        )
