"""`scanwise doctor`: is this installation sound? Its parts, and a small training, end to end."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scanwise import __version__
from scanwise.core.config import make_config
from scanwise.core.errors import ScanwiseError
from scanwise.core.files import cache_dir, offline
from scanwise.core.memory import available_bytes
from scanwise.core.packages import missing_packages, pip_line
from scanwise.core.runtime import cpu_model, environment, memory_gib
from scanwise.deploy.answers import BundlePredictions
from scanwise.deploy.opening import open_model
from scanwise.pipeline.export import FORMATS, Exported, export_model
from scanwise.pipeline.export_check import TOLERANCE
from scanwise.pipeline.runs import Run
from scanwise.pipeline.tables import aligned
from scanwise.pipeline.train import load_data, train
from scanwise.training.device import available_devices

DATA = "demo:cells?n=240&size=28"  # made by the program itself
MIN_FREE_BYTES = 10**9  # of memory, and of disk for cache and results
EXTRAS = ("backbones", "dicom", "explain", "ray", "serve", "app", "track", "tune")
NOT_RUN = "not run: an earlier step failed"


class _Trouble(Exception):
    """A step failed; says what is wrong and how to mend it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


@dataclass(frozen=True)
class Step:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str
    seconds: float
    fix: str = ""  # how to mend it; '' where it is ok or was not tried

    def to_json(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "ok": self.ok,
            "detail": self.detail,
            "seconds": round(self.seconds, 2),
            "fix": self.fix,
        }


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found."""

    facts: dict[str, Any]
    steps: tuple[Step, ...]

    @property
    def failed(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if not step.ok), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.failed is None,
            "steps": [step.to_json() for step in self.steps],
            **self.facts,
        }

    def text(self) -> str:
        machine, extras = self.facts["machine"], self.facts["extras"]
        packages = self.facts["packages"]
        shown = ("torch", "onnxruntime", "numpy", "opencv-python-headless", "monai")
        versions = ", ".join(f"{name} {packages[name]}" for name in shown if name in packages)
        present = [name for name, missing in extras.items() if not missing]
        absent = [
            f"  {name}: pip install 'scanwise[{name}]' (lacks {', '.join(missing)})"
            for name, missing in extras.items()
            if missing
        ]
        rows = [("step", "", "seconds")] + [
            (step.name, "ok" if step.ok else "FAILED", f"{step.seconds:.1f}") for step in self.steps
        ]
        table = aligned(rows).splitlines()
        width = max(len(line) for line in table)
        told = [
            f"{line:<{width}}  {detail}"
            for line, detail in zip(table, ["", *(s.detail for s in self.steps)], strict=True)
        ]
        return "\n".join(
            [
                f"scanwise {self.facts['scanwise']}, Python {self.facts['python']}, {versions}",
                f"{machine['cpu']}, {machine['cores']} core(s), {machine['threads']} thread(s), "
                f"{machine['memory_gib']} GiB; {machine['platform']}",
                f"devices: {'; '.join(f'{k} ({v})' for k, v in machine['devices'].items())}",
                f"cache: {self.facts['cache']}; network: "
                f"{'forbidden by SCANWISE_OFFLINE' if self.facts['offline'] else 'allowed'}",
                f"extras here: {', '.join(present) or 'none'}",
                *(["extras not installed (none is needed to train):", *absent] if absent else []),
                *(line.rstrip() for line in told),
            ]
        )


def examine() -> Diagnosis:
    """Look at the installation and run a small training; takes about 20 seconds.

    Nothing is left behind: what is written goes into a temporary folder.
    """
    steps: list[Step] = []
    for name, work in (
        ("packages", _packages),
        ("devices", _devices),
        ("memory", _memory),
        (
            "cache folder",
            lambda: _can_write(cache_dir(), "set SCANWISE_CACHE to a folder of yours"),
        ),
        ("current folder", lambda: _can_write(Path.cwd(), "change into a folder of yours")),
    ):
        steps.append(_try(name, work)[0])
    steps += _end_to_end()
    return Diagnosis(_facts(), tuple(steps))


def _end_to_end() -> list[Step]:
    """Train, predict and export on made-up images; each needs the one before."""
    steps = []
    try:
        folder = tempfile.TemporaryDirectory(prefix="scanwise-doctor-")
    except OSError as error:
        why = f"no temporary folder: {error.strerror or error}"
        return [Step("train", False, why, 0.0, "set TMPDIR to a folder of yours")]
    with folder as name:
        place = Path(name)
        trained, run = _try("train", lambda: _train(place / "run"))
        steps.append(trained)
        predicted, answers = (
            _try("predict", lambda: _predict(run, place)) if run else _skip("predict")
        )
        steps.append(predicted)
        if run and answers:
            steps.append(_try("export", lambda: _export(run, answers, place))[0])
        else:
            steps.append(_skip("export")[0])
    return steps


def _try(name: str, work: Callable[[], tuple[str, Any]]) -> tuple[Step, Any]:
    """Run one step; what it returns besides its words is None where it failed."""
    began = time.perf_counter()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress of the small training
            detail, value = work()
    except _Trouble as trouble:
        return Step(name, False, str(trouble), time.perf_counter() - began, trouble.fix), None
    except ScanwiseError as error:
        fix = "mend what this says, then run `scanwise doctor` again"
        return Step(name, False, str(error), time.perf_counter() - began, fix), None
    except Exception as error:  # whatever is broken here, it is to be told
        lines = str(error).strip().splitlines() or [""]
        what = f"{type(error).__name__}: {lines[0][:200]}"
        fix = (
            "install anew: pip install --force-reinstall scanwise; if it stays, report it with the "
            "output of `scanwise doctor --json`"
        )
        return Step(name, False, what, time.perf_counter() - began, fix), None
    return Step(name, True, detail, time.perf_counter() - began), value


def _skip(name: str) -> tuple[Step, None]:
    return Step(name, False, NOT_RUN, 0.0), None


def _packages() -> tuple[str, None]:
    wrong = missing_packages()
    if wrong:
        raise _Trouble("; ".join(wrong), pip_line(wrong))
    return "all that is needed is here", None


def _devices() -> tuple[str, None]:
    found = available_devices()
    for kind in found:
        ones = torch.ones(8, 8, device=kind)
        if float((ones @ ones).sum()) != 8.0**3:
            raise _Trouble(f"{kind} computes wrongly", f"use --device cpu; check {kind}'s driver")
    return f"{', '.join(found)}: a product was right", None


def _memory() -> tuple[str, None]:
    free = available_bytes()
    if free is None:
        return "not known here", None
    if free < MIN_FREE_BYTES:
        raise _Trouble(f"{free / 1e9:.1f} GB are free", "close other programs, or take more memory")
    return f"{free / 1e9:.1f} GB free", None


def _can_write(folder: Path, fix: str) -> tuple[str, None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".scanwise-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise _Trouble(f"{folder} can't be written to: {error.strerror or error}", fix) from error
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise _Trouble(f"{folder}: {free / 1e9:.1f} GB of disk are free", f"make room, or {fix}")
    return f"can be written, {free / 1e9:.0f} GB free", None


def _train(folder: Path) -> tuple[str, Run]:
    run = train(
        make_config(
            {
                "data": DATA,
                "model": "small_resnet:8",
                "epochs": 3,
                "batch_size": 32,
                "output": str(folder),
                "report": False,
                "device": "cpu",
            }
        )
    )
    return "3 epochs on 240 made-up images, with evaluation and bundle", run


def _predict(run: Run, folder: Path) -> tuple[str, BundlePredictions]:
    """Files must get the answers of the same pixels as arrays, and a broken file its reason."""
    import cv2

    images = load_data(run.config).images[:8]
    files = []
    for number, image in enumerate(images):
        file = folder / f"{number}.png"
        cv2.imwrite(str(file), image[..., ::-1] if image.shape[2] == 3 else image)
        files.append(file)
    broken = folder / "broken.png"
    broken.write_bytes(b"no image")
    model = open_model(run.path)
    of_files, of_array = model.predict([*files, broken]), model.predict(images)
    if not of_files.reasons[-1] or any(of_files.reasons[:-1]):
        raise _Trouble("a file was not read as it should be", "report this, it is a defect")
    if not np.allclose(of_files.probabilities[:-1], of_array.probabilities, rtol=0, atol=1e-6):
        raise _Trouble("files and arrays got different answers", "report this, it is a defect")
    return "8 files answered like their pixels; a broken one was told", model.predict(files)


def _export(run: Run, answers: BundlePredictions, folder: Path) -> tuple[str, Exported]:
    found = export_model(run.path, output=folder / "export")
    if found.failure:
        raise _Trouble(found.failure, "pip install -U onnxruntime onnx onnxscript torch")
    model = open_model(folder / "export" / FORMATS["onnx"])
    again = model.predict(list(answers.samples))
    gap = float(np.abs(again.probabilities - answers.probabilities).max())
    if not gap <= TOLERANCE or again.predicted != answers.predicted:
        raise _Trouble(
            f"the ONNX file differs by {gap:.1e}",
            "pip install -U onnxruntime onnx onnxscript torch",
        )
    n, largest = found.document["n"], found.document["max_probability_difference"]
    return f"ONNX gave the same labels on validation (n = {n}) to {largest:.0e}", found


def _facts() -> dict[str, Any]:
    known = environment()
    return {
        "scanwise": __version__,
        "python": platform.python_version(),
        "packages": known["packages"],
        "extras": {
            extra: [words.partition(" ")[0] for words in missing_packages(extra)]
            for extra in EXTRAS
        },
        "machine": {
            "platform": platform.platform(),
            "cpu": cpu_model(),
            "cores": known["cores"],
            "logical_cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gib": memory_gib(),
            "devices": available_devices(),
        },
        "cache": str(cache_dir()),
        "offline": offline(),
    }
