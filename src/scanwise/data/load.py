"""One door for every source of images: `load` looks at what it is given and calls the reader."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from scanwise.core.config import Fit
from scanwise.core.errors import ConfigError, DataError, nearest
from scanwise.core.types import Dataset
from scanwise.data.arrays import from_arrays
from scanwise.data.assemble import groups_from_regex
from scanwise.data.cache import ReadOptions
from scanwise.data.folders import load_folder
from scanwise.data.images import is_image_name
from scanwise.data.manifest import load_manifest
from scanwise.data.medmnist import find_medmnist, load_medmnist
from scanwise.data.medmnist_table import MEDMNIST
from scanwise.data.metadata import with_metadata
from scanwise.data.npz import load_npz

__all__ = ["from_arrays", "load"]

ACCEPTED = (
    "a folder with one sub-folder per class, a .csv or .tsv manifest, an .npz file, "
    "medmnist:NAME[@SIZE] or demo:NAME"
)


def load(
    source: str | Path,
    *,
    size: int | None = None,
    fit: Fit = "stretch",
    group: str | None = None,
    group_regex: str | None = None,
    page: int | None = None,
    project: Literal["max"] | None = None,
    seed: int = 0,
    meta: str | Path | None = None,
) -> Dataset:
    """Read a data set.

    Args:
        source: A class folder, a folder of train/val/test, a .csv or .tsv manifest, an .npz,
            "medmnist:NAME[@SIZE]" or "demo:NAME[?key=value&…]".
        size: Side in px that image files are brought to; for MedMNIST the official size.
        fit: How image files reach a square.
        group: Column whose values no split may cut.
        group_regex: Its first capture group in a file's path is the group.
        page: Page of multi-page TIFFs, from 0.
        project: "max" projects multi-page TIFFs over their pages.
        seed: No reader draws by chance, so it changes nothing; callers pass all settings.
        meta: A table with further columns, joined by path or by split and index; `group` may name
            one of them.

    Raises:
        DataError: The source does not exist, is of no kind that is read, or can't be used.
        ConfigError: Settings that contradict each other or the source.
    """
    del seed
    if group and group_regex:
        raise ConfigError("give group or group_regex, not both.")
    if meta is not None:
        images = load(
            source, size=size, fit=fit, group_regex=group_regex, page=page, project=project
        )
        return _grouped(with_metadata(images, Path(meta).expanduser()), str(meta), group, None)
    if page is not None and project is not None:
        raise ConfigError("give page or project, not both.")
    if page is not None and page < 0:
        raise ConfigError(f"page={page}: pages are counted from 0.")
    if size is not None and size < 1:
        raise ConfigError(f"size={size}: a side has 1 px or more.")
    options = ReadOptions(size, fit, page, project)
    scheme, _, rest = str(source).partition(":")
    if scheme == "medmnist":
        return _grouped(_medmnist(rest, size), str(source), group, group_regex)
    if scheme == "demo":
        from scanwise.data.demo import load_demo

        return _grouped(load_demo(str(source)), str(source), group, group_regex)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(_missing(str(source), path))
    return _from_path(path, options, group, group_regex)


def _from_path(
    path: Path, options: ReadOptions, group: str | None, group_regex: str | None
) -> Dataset:
    suffix = path.suffix.lower()
    if (path / "config.yaml").is_file() and (path / "plan.yaml").is_file():
        raise DataError(
            f"{path} is a run of scanwise, not a data set; name the data it was trained on, or use "
            "a command for runs (`scanwise runs compare`, `evaluate`, `report`, …)."
        )
    if path.is_dir():
        if group:
            raise ConfigError(
                f"group '{group}' names a column, and {path} is a folder; use group_regex, or a "
                "CSV manifest."
            )
        return load_folder(path, options, group_regex=group_regex)
    if suffix in {".csv", ".tsv"}:
        return load_manifest(path, options, group=group, group_regex=group_regex)
    if suffix == ".npz":
        return _grouped(_sized(load_npz(path), options.size), str(path), group, group_regex)
    raise DataError(f"{path} can't be read as a data set{_hint(path)}; give {ACCEPTED}.")


def _medmnist(rest: str, size: int | None) -> Dataset:
    name, at, side = rest.partition("@")
    entry = find_medmnist(name)
    if at and not side.isdecimal():
        raise DataError(f"medmnist:{rest}: '@{side}' is no size; write medmnist:{entry.flag}@28.")
    if at and size is not None and int(side) != size:
        raise ConfigError(f"medmnist:{rest} asks for {side} px, but size is {size}.")
    return load_medmnist(entry.flag, int(side) if at else size or 28)


def _sized(dataset: Dataset, size: int | None) -> Dataset:
    """Arrays are not resized: a size that differs is a misunderstanding."""
    if size is not None and dataset.size_px != (size, size):
        height, width = dataset.size_px
        raise ConfigError(
            f"size={size} is for image files; {dataset.provenance.source} holds arrays of "
            f"{width}x{height} px. Leave size out."
        )
    return dataset


def _grouped(dataset: Dataset, source: str, group: str | None, group_regex: str | None) -> Dataset:
    """Groups by a metadata column or by the sample names, where the reader knows neither."""
    if group_regex:
        return dataset.with_groups(groups_from_regex(dataset.sample_ids, group_regex))
    if not group or (group == "group" and dataset.groups is not None):
        return dataset
    if group not in dataset.metadata:
        columns = nearest(group, dataset.metadata) if dataset.metadata else "it has none."
        raise DataError(f"{source} has no column '{group}'; {columns}")
    return dataset.with_groups(dataset.metadata[group])


def _hint(path: Path) -> str:
    suffix = path.suffix.lower()
    if is_image_name(path.name):
        return ": it is one image"
    if suffix == ".npy":
        return ": labels are missing; save both with numpy.savez(file, X=images, y=labels)"
    if suffix in {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"}:
        return ": unpack it first"
    if suffix in {".xlsx", ".xls", ".ods"}:
        return ": save the sheet as 'CSV UTF-8'"
    return f" ('{suffix}')" if suffix else ""


def _missing(source: str, path: Path) -> str:
    """Why there is nothing at `source`, with what may have been meant."""
    flag = source.lower().partition("@")[0]
    if flag in MEDMNIST:
        return f"{source} does not exist here; for the public set give medmnist:{source.lower()}."
    scheme = re.match(r"([A-Za-z]{2,}):", source)
    if scheme:
        return f"unknown source '{scheme[1]}:'; {nearest(scheme[1], ['medmnist', 'demo'])}"
    if path.parent.is_dir():
        siblings = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
        close = nearest(path.name, siblings) if siblings else ""
        if close.startswith("did you mean"):
            return f"{source} does not exist; {close}"
    return f"{source} does not exist; give {ACCEPTED}."
