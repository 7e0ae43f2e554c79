"""What the system page says: the machine, the versions, the models' hashes."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from scanwise import __version__
from scanwise.app.workspace import Workspace
from scanwise.core.errors import ScanwiseError
from scanwise.core.runtime import PACKAGES, cpu_model
from scanwise.pipeline.predict import model_sha256

Rows = list[tuple[str, str]]


def machine_rows(root: Path) -> Rows:
    """Processor, load, memory, disk, graphics card."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(root)
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return [
        ("Processor (CPU)", f"{cpu_model()}, {cores} cores, {os.cpu_count()} threads"),
        ("In use now", f"{psutil.cpu_percent():.0f} % of the processor"),
        ("Memory (RAM)", f"{gib(memory.available)} free of {gib(memory.total)}"),
        ("Disk of the workspace", f"{gib(disk.free)} free of {gib(disk.total)}"),
        ("Graphics card (GPU)", gpu_words()),
        ("System", platform.platform()),
    ]


def gpu_words() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        return f"{', '.join(names)}; {gib(free)} free of {gib(total)}"
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return "none found; everything works on the processor"


def version_rows() -> Rows:
    """scanwise, Python, and the packages that can move a number."""
    rows = [("scanwise", __version__), ("Python", platform.python_version())]
    for name in (*PACKAGES, "nicegui"):
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return list(dict(rows).items())


def model_rows(workspace: Workspace) -> Rows:
    """Every model of the workspace and the SHA-256 of its list of hashes."""
    rows = []
    for name in workspace.models():
        try:
            rows.append((name, model_sha256(workspace.place(name))))
        except (ScanwiseError, OSError) as error:
            rows.append((name, f"not usable: {error}"))
    return rows


def gib(size: float) -> str:
    """
    >>> gib(3 * 2**30)
    '3.0 GiB'
    """
    return f"{size / 2**30:.1f} GiB"
