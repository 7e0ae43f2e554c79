"""`scanwise runs rm`: delete run folders, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from scanwise.core.errors import RunError
from scanwise.pipeline.runs import CONTENTS, CONTENTS_PATTERN, folder_size, is_run_folder

MAX_LISTED = 10


def check_removable(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The run folders to delete, each once; all are looked at before any is deleted.

    Raises:
        RunError: If one is missing, a link, no run folder, or holds what scanwise did not write.
    """
    chosen: dict[Path, Path] = {}
    for path in paths:
        _refuse(path)
        chosen.setdefault(path.resolve(), path)
    inside = [here for here in chosen if any(above in chosen for above in here.parents)]
    return tuple(path for here, path in chosen.items() if here not in inside)


def _refuse(path: Path) -> None:
    if path.is_symlink():
        raise RunError(f"{path} is a link; name the run folder itself.")
    if not path.is_dir():
        missing = "is a file" if path.exists() else "does not exist"
        raise RunError(f"{path} {missing}; name run folders (`scanwise runs list`).")
    if not is_run_folder(path):
        raise RunError(
            f"{path} is not a run folder (`scanwise runs list` finds them); nothing was removed."
        )
    foreign = [str(found.relative_to(path)) for found in _foreign(path)]
    if foreign:
        rest = f" and {len(foreign) - MAX_LISTED} more" if len(foreign) > MAX_LISTED else ""
        raise RunError(
            f"{path} holds what is no part of a run: {', '.join(foreign[:MAX_LISTED])}{rest}. "
            "Move it away first; nothing was removed."
        )


def _foreign(run: Path) -> Iterator[Path]:
    """What lies in a run folder and is neither a part of the run nor a folder of further runs."""
    for entry in sorted(run.iterdir()):
        if entry.is_symlink():
            yield entry
        elif entry.name in CONTENTS or re.fullmatch(CONTENTS_PATTERN, entry.name):
            continue
        elif entry.is_dir():
            yield from _foreign(entry) if is_run_folder(entry) else _foreign_to_runs(entry)
        else:
            yield entry


def _foreign_to_runs(folder: Path) -> Iterator[Path]:
    """What lies in a folder of runs (members of a study) and is no run."""
    entries = sorted(folder.iterdir())
    if not entries:
        yield folder
    for entry in entries:
        if not entry.is_symlink() and entry.is_dir() and is_run_folder(entry):
            yield from _foreign(entry)
        else:
            yield entry


def remove_run(folder: Path) -> tuple[int, int]:
    """Delete a folder that `check_removable` returned.

    Returns:
        Number of files and bytes that were freed.

    Raises:
        RunError: If something in it can't be deleted; the rest may be gone.
    """
    freed = folder_size(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise RunError(
            f"can't remove all of {folder}: {error}; remove the rest by hand."
        ) from error
    return freed
