"""The trainings of a study: each an ordinary run on a split that the study made and wrote down."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanwise.core.config import TrainConfig, make_config
from scanwise.core.errors import ScanwiseError

if TYPE_CHECKING:  # a worker limits its threads before torch is loaded
    from scanwise.core.types import Dataset
    from scanwise.pipeline.runs import Run

# What decides which images are read: equal for members that share their data.
_DATA_SETTINGS = ("data", "size", "fit", "group", "group_regex", "page", "project")


@dataclass(frozen=True)
class Member:
    """One training of a study. Its settings travel as plain values, to other machines too."""

    name: str  # "base, seed 0, fold 2"
    variant: str  # "base" or "lr=1e-4"
    data: str
    seed: int
    fold: int | None  # from 0; None without cross-validation
    settings: dict[str, Any]  # what the user would have said for this run
    split_origin: str  # who made the split that `settings["splits"]` holds
    split_note: str

    @property
    def folder(self) -> Path:
        return Path(self.settings["output"])

    @property
    def finished(self) -> bool:
        from scanwise.pipeline.runs import Run

        return (self.folder / "config.yaml").is_file() and Run.open(self.folder).finished

    @property
    def config(self) -> TrainConfig:
        return make_config(self.settings)


@dataclass(frozen=True)
class Outcome:
    """How a member's training ended."""

    member: Member
    state: str  # "trained", "resumed", "kept" or "failed"
    seconds: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.state != "failed"


def train_member(member: Member, threads: int | None = None, folder: str | None = None) -> Outcome:
    """Train a member, go on where it was interrupted, or keep it where it is finished.

    Args:
        member: What to train.
        threads: CPU threads of this worker; None trains in the study's own process.
        folder: Working directory of the study, from which its paths are meant; None stays here.

    Returns:
        How it ended; a mistake that a message explains is a failed outcome, not an exception, so
        that the other members go on.
    """
    if threads is not None:
        from scanwise.core.runtime import limit_threads

        limit_threads(threads)
    if folder is not None:
        os.chdir(folder)
    began = time.monotonic()
    try:
        with _silent():
            state = _train(member)
    except ScanwiseError as error:
        return Outcome(member, "failed", time.monotonic() - began, str(error))
    return Outcome(member, state, time.monotonic() - began)


def _train(member: Member) -> str:
    from scanwise.data.splits import read_splits
    from scanwise.pipeline.runs import Run
    from scanwise.pipeline.train import look_through, resume, train_on, with_saved_groups
    from scanwise.pipeline.transfer import with_backbone

    began = time.monotonic()
    if (member.folder / "config.yaml").is_file():
        run = Run.open(member.folder)
        if run.finished:
            return "kept"
        if _resumable(run):
            resume(member.folder)
            return "resumed"
    shutil.rmtree(member.folder, ignore_errors=True)
    config, backbone = with_backbone(member.config)
    dataset = _loaded(tuple((name, getattr(config, name)) for name in _DATA_SETTINGS))
    file = Path(str(config.splits))
    split = replace(
        read_splits(file, dataset),
        origin=member.split_origin,  # type: ignore[arg-type]
        note=member.split_note,
    )
    # A leak of an official split is stamped, not refused: so its origin comes before the checks.
    checked = look_through(with_saved_groups(dataset, file), split, config)
    checked.report.raise_if_stopped()
    train_on(checked, config, backbone, started=began)
    return "trained"


def _resumable(run: Run) -> bool:
    """Was it stopped after its split and settings were written down?"""
    return all((run.path / name).is_file() for name in ("splits.csv", "dataset.json", "env.json"))


@functools.lru_cache(maxsize=2)
def _loaded(settings: tuple[tuple[str, Any], ...]) -> Dataset:
    """Data of the members of one worker: loaded once."""
    from scanwise.pipeline.train import load_data

    return load_data(make_config(dict(settings)))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Members run side by side: what one says stands in its log.txt, not on the terminal."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):
        yield
