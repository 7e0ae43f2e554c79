"""The workspace: one folder that holds all that the workbench knows, in plain files.

workbench/state.json   what is chosen: data, check, run, model, settings, theme
workbench/jobs/        one JSON and one log for each check and training
images/                pictures dropped into classes
checks/  runs/         what `scanwise check` and `scanwise train` wrote
predictions/           answers to new pictures, and labels given to them
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scanwise.core.errors import RunError
from scanwise.core.files import write_json
from scanwise.pipeline.runs import is_run_folder

STATE = "workbench/state.json"
THEMES = ("auto", "light", "dark")


@dataclass(frozen=True)
class State:
    """What is chosen. Paths inside the workspace are relative to it."""

    data: str = ""  # folder, file, medmnist:NAME or demo:NAME
    check: str = ""  # folder of the newest check of `data`
    run: str = ""  # the run that Train and Results show
    model: str = ""  # run or bundle that Use asks; `run` if empty
    settings: dict[str, Any] = field(default_factory=dict)  # of the next training
    theme: str = "auto"


@dataclass(frozen=True)
class Workspace:
    """A folder, and where things are in it."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Make the folder if it is missing.

        Raises:
            RunError: If it can't be made or written to.
        """
        folder = root.expanduser().resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "workbench" / "jobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"can't use {folder} as the workspace: {error.strerror}; choose another "
                "--workspace."
            ) from error
        return cls(folder)

    @property
    def jobs(self) -> Path:
        return self.root / "workbench" / "jobs"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def predictions(self) -> Path:
        return self.root / "predictions"

    def read(self) -> State:
        """What is chosen; the defaults where the file is missing or damaged."""
        try:
            found = json.loads((self.root / STATE).read_text(encoding="utf-8"))
            known = {each.name for each in fields(State)}
            return State(**{name: value for name, value in found.items() if name in known})
        except (OSError, ValueError, TypeError, AttributeError):
            return State()

    def change(self, **values: Any) -> State:
        """Replace some of what is chosen, on disk too."""
        state = replace(self.read(), **values)
        write_json(self.root / STATE, asdict(state))
        return state

    def place(self, path: str | Path) -> Path:
        """Absolute path of a name that may be relative to the workspace."""
        return self.root / Path(path).expanduser()

    def name_of(self, path: str | Path) -> str:
        """The path as commands run in the workspace name it: relative where it is inside."""
        place = self.place(path)
        inside = place.is_relative_to(self.root) and place != self.root
        return place.relative_to(self.root).as_posix() if inside else str(place)

    def source_name(self, source: str) -> str:
        """A data source as commands run in the workspace name it."""
        return source if is_named(source) else self.name_of(source)

    def new_folder(self, base: str, name: str) -> str:
        """'runs/cells-003': the next free number; the folder is not made.

        >>> Workspace(Path("/w")).new_folder("runs", "My cells")
        'runs/my-cells-001'
        """
        slug = re.sub(r"[^\w.]+", "-", name).strip("-.").lower() or "data"
        here = self.root / base
        taken = [
            int(found.group(1))
            for path in (here.iterdir() if here.is_dir() else ())
            if (found := re.fullmatch(rf"{re.escape(slug)}-(\d+)", path.name))
        ]
        return f"{base}/{slug}-{max(taken, default=0) + 1:03d}"

    def models(self) -> list[str]:
        """Runs with a bundle, newest first, named as `name_of` does."""
        if not self.runs.is_dir():
            return []
        found = [path for path in self.runs.iterdir() if (path / "bundle/config.json").is_file()]
        found.sort(key=lambda path: (path / "bundle/config.json").stat().st_mtime, reverse=True)
        return [self.name_of(path) for path in found]

    def served(self, name: str) -> Path | None:
        """The file that an address names, if pages may embed it; None whatever else it is."""
        place = self.root / name
        try:
            return place if self.is_servable(place) else None
        except (OSError, ValueError):  # too long, or a NUL in it
            return None

    def is_servable(self, path: Path) -> bool:
        """True for report files inside checks/, a run, or predictions/: what pages may embed."""
        real = path.resolve()
        if real.suffix.lower() not in SHOWN:
            return False
        inside = [self.root / name for name in ("checks", "runs", "predictions")]
        if any(real.is_relative_to(folder.resolve()) for folder in inside):
            return real.is_file()
        return False


SHOWN = {".html", ".png", ".svg", ".css", ".csv", ".json", ".md", ".txt", ".yaml"}


def data_name(source: str) -> str:
    """Short name of a data source, for folders and headings.

    >>> data_name("medmnist:breastmnist@28"), data_name("/a/b/my cells/")
    ('breastmnist', 'my cells')
    """
    if is_named(source):
        scheme, _, rest = source.partition(":")
        return re.split(r"[@?]", rest)[0] or scheme
    path = Path(source)
    return path.stem if path.suffix.lower() in {".csv", ".tsv", ".npz"} else path.name or "data"


def is_named(source: str) -> bool:
    """True for medmnist:NAME and demo:NAME, which are no paths."""
    return source.partition(":")[0] in ("medmnist", "demo") and ":" in source


def is_run(path: Path) -> bool:
    return path.is_dir() and is_run_folder(path)
