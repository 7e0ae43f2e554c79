"""Sort answered files into class folders: copies or links, the originals stay where they are."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scanwise.core.errors import ConfigError, RunError
from scanwise.core.files import csv_lines
from scanwise.core.types import Task
from scanwise.deploy.bundle import Bundle
from scanwise.pipeline.answer_rows import (
    LABELS,
    YES,
    Said,
    names_in,
    read_rows,
    readable,
    said,
)
from scanwise.pipeline.find_inputs import Input, Inputs

REVIEW = "_review"
NONE = "_none"  # several labels, none of which applies
LIST = "sorted.csv"


@dataclass(frozen=True)
class SortPlan:
    """What is asked for."""

    folder: Path
    min_probability: float = 0.9
    way: Literal["copy", "link"] = "copy"


@dataclass(frozen=True)
class Sorted:
    """What was written."""

    plan: SortPlan
    counts: dict[str, int]  # files in each folder
    left_out: int  # that can't be read

    def text(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        done = "copied" if self.plan.way == "copy" else "linked"
        left = f"; {self.left_out:,} unreadable left out" if self.left_out else ""
        return (
            f"{done} into {self.plan.folder}: {parts or 'nothing'}{left} "
            f"(list: {self.plan.folder / LIST}; to undo, delete that folder)"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.plan.folder),
            "way": self.plan.way,
            "min_probability": self.plan.min_probability,
            "counts": self.counts,
            "left_out": self.left_out,
        }


def check_plan(
    plan: SortPlan, inputs: Inputs, class_names: Sequence[str], answers: Path
) -> None:  # fmt: skip
    """Refuse what would mix copies with originals, before anything is predicted.

    Raises:
        ConfigError: The target, or a class folder in it, lies in a folder of the images; the file
            of `answers` lies in the target; rows of arrays; a probability out of range.
        RunError: The target holds something.
    """
    if not 0 <= plan.min_probability <= 1:
        raise ConfigError(f"min_prob={plan.min_probability} must be from 0 to 1.")
    if any(each.row is not None for each in inputs.images):
        raise ConfigError("--sort-into copies files, and the rows of an .npz are none.")
    if plan.folder.exists() and (not plan.folder.is_dir() or any(plan.folder.iterdir())):
        raise RunError(
            f"--sort-into {plan.folder} exists and is not an empty folder; name a new one."
        )
    if answers.resolve().is_relative_to(plan.folder.resolve()):
        raise ConfigError(
            f"-o {answers} lies inside of --sort-into {plan.folder}, which is for the sorted files "
            "alone; name a file elsewhere."
        )
    targets = [plan.folder, *(plan.folder / name for name in _folder_names(class_names).values())]
    sources = [folder.resolve() for folder in inputs.folders]
    for target in (path.resolve() for path in targets):
        inside = [source for source in sources if target.is_relative_to(source)]
        if inside:
            raise ConfigError(
                f"--sort-into {plan.folder}: {target} lies inside {inside[0]}, whose images are "
                "sorted; name a folder outside of it."
            )


def sort_files(plan: SortPlan, inputs: Inputs, answers: Path, bundle: Bundle) -> Sorted:
    """Copy or link each readable file into the folder of its class, doubtful ones into _review.

    Args:
        plan: Where to, and how sure an answer must be.
        inputs: The files.
        answers: Their rows, in the same order.
        bundle: Whose answers they are.

    Raises:
        RunError: If a file can't be written; sorted.csv tells which were.
    """
    folders = _folder_names(bundle.class_names)
    counts: Counter[str] = Counter()
    left_out = 0
    used: set[Path] = set()
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (plan.folder / LIST).open("w", encoding="utf-8", newline="") as listing:
        listing.write(csv_lines([["path", "to", "why"]]))
        for given, cells in zip(inputs.images, read_rows(answers), strict=True):
            row = said(cells)
            left_out += not row.ok
            places, why = destinations(row, bundle, plan.min_probability)
            for place in places:
                folder = folders.get(place, place)
                target = _put(given, plan.folder / folder, plan.way, used)
                counts[folder] += 1
                to = target.relative_to(plan.folder).as_posix()
                listing.write(csv_lines([[readable(given.name), readable(to), why]]))
            if not places:
                listing.write(csv_lines([[readable(given.name), "", why]]))
    return Sorted(plan, dict(sorted(counts.items())), left_out)


def destinations(
    row: Said, bundle: Bundle, min_probability: float
) -> tuple[tuple[str, ...], str]:  # fmt: skip
    """The classes that a file is put under, or _review, or none, and why.

    A class with a stored threshold must reach it; of the others the most probable one is taken.
    """
    if not row.ok:
        return (), row.reason
    if row.in_dist == YES[False]:
        return (REVIEW,), "unlike the training images"
    task: Task = bundle.config.task
    thresholds = bundle.config.thresholds
    chosen = names_in(row.above_threshold)
    if task == "multilabel":
        if not thresholds and row.predicted:
            chosen = tuple(row.predicted.split(LABELS))
        sure = min(max(value, 1 - value) for value in row.probabilities)
        chosen = chosen or (NONE,)
    else:
        if not chosen and row.predicted not in thresholds:
            chosen = (row.predicted,)
        if not chosen:
            return (REVIEW,), f"{row.predicted} does not reach its threshold"
        if len(chosen) > 1:
            return (REVIEW,), f"thresholds of {len(chosen)} classes are reached"
        sure = row.probabilities[bundle.class_names.index(chosen[0])]
    if sure < min_probability:
        return (REVIEW,), f"probability {sure:.3f} below {min_probability:g}"
    return chosen, f"probability {sure:.3f}"


def _put(given: Input, folder: Path, way: str, used: set[Path]) -> Path:
    folder.mkdir(exist_ok=True)
    name = Path(given.file).name
    target, number = folder / name, 2
    while _folded(target) in used:
        target = folder / f"{Path(name).stem}_{number}{Path(name).suffix}"
        number += 1
    used.add(_folded(target))
    try:
        if way == "link":
            os.symlink(os.path.abspath(given.file), target)
        else:
            shutil.copy2(given.file, target)
    except OSError as error:
        hint = "; try --copy" if way == "link" else ""
        raise RunError(
            f"can't write {target}: {error.strerror or error}{hint}. {folder.parent / LIST} tells "
            "what was written before."
        ) from error
    return target


def _folded(path: Path) -> Path:
    """Some file systems take a.png and A.png for the same."""
    return path.with_name(path.name.casefold())


def _folder_names(class_names: Sequence[str]) -> dict[str, str]:
    """A folder name for each class, distinct also where case does not count; _review, _none too."""
    names = {REVIEW: REVIEW, NONE: NONE}
    for name in class_names:
        plain = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name).strip(" .") or "class"
        made, number = plain, 2
        while made.casefold() in {other.casefold() for other in names.values()}:
            made, number = f"{plain}_{number}", number + 1
        names[name] = made
    return names
