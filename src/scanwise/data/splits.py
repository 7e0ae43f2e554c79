"""Train, validation and test rows: made once, by classes and groups, written down and reused.

Everything that is fitted later (statistics, weights, resampling, thresholds) sees training rows
only, so the split is the first thing that happens to a data set. It looks at targets, groups and
names, never at pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import SplitError
from scanwise.core.files import sha256_bytes, write_text
from scanwise.core.types import SPLIT_NAMES, Dataset, Split, SplitName
from scanwise.data.stratify import Units, share_out

_Rows = NDArray[np.int64]
_HEADER = ("path", "sha256", "split", "group")
UNUSED = "unused"  # of a splits.csv: an image that this training leaves alone
_MAX_LISTED = 20
# Where a class or group is too rare for all splits, the earlier ones get it.
_PRIORITY: tuple[SplitName, ...] = ("train", "test", "val")


@dataclass(frozen=True)
class SharedGroup:
    """A group that lies in more than one split, with its images in each."""

    group: str
    images: Mapping[SplitName, int]

    def __str__(self) -> str:
        return f"{self.group} ({', '.join(f'{n} {s}' for s, n in self.images.items() if n)})"


@dataclass(frozen=True)
class GroupSummary:
    """Number of groups in each split, and those that lie in several."""

    total: int
    counts: Mapping[SplitName, int]
    shared: tuple[SharedGroup, ...]

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return f"{self.total} groups ({parts}), {len(self.shared)} shared between splits"


@dataclass(frozen=True)
class SplitFacts:
    """What `check_split` counted."""

    images: Mapping[SplitName, int]
    class_counts: Mapping[SplitName, tuple[int, ...]]  # images (positives) of each class
    groups: GroupSummary | None  # None where the data set has no groups


# --- Making a split -------------------------------------------------------------------------------


def make_split(
    dataset: Dataset, *, seed: int = 0, val_fraction: float = 0.15, test_fraction: float = 0.15
) -> Split:
    """Divide a data set into train, val and test.

    A delivered split is used as it is. Where it lacks val, that is taken from its training rows;
    where it has train and val but no test, there is no test set: who delivered it keeps one
    elsewhere. Training rows alone are no split and are treated like data without one: rows are
    drawn by chance, each class in its share and at least once in each split (multi-label: each
    label set in its share). With groups (patients, slides), whole groups are drawn, and classes get
    their share as far as groups allow. The result depends on targets, groups and sample ids, and
    not on the order of the rows.

    Args:
        dataset: The data; `groups` and `given_split` are used where present.
        seed: Decides between the possible splits.
        val_fraction: Wanted share of validation, in (0, 1): of all rows, or of the delivered
            training rows where only this part is missing.
        test_fraction: The same for test; 0 draws none.

    Returns:
        A split of all rows; `note` says how it was made and what groups did not allow.

    Raises:
        SplitError: If a class has too few images or groups, a group name is empty, or a delivered
            split has unknown names, no training rows or a class that can't be learned.
    """
    if not (val_fraction > 0 and test_fraction >= 0 and val_fraction + test_fraction < 1):
        raise SplitError(
            f"val_fraction ({val_fraction}) and test_fraction ({test_fraction}) must be positive "
            "and leave a rest for training; 0.15 each is usual."
        )
    delivered = _delivered_rows(dataset)
    if delivered is None or not (len(delivered["val"]) or len(delivered["test"])):
        wanted: dict[SplitName, float] = {
            "train": 1 - val_fraction - test_fraction,
            "val": val_fraction,
        }
        if test_fraction:
            wanted["test"] = test_fraction
        split = _drawn_split(dataset, wanted, seed)
    else:
        split = _completed_split(dataset, delivered, val_fraction, seed)
    _refuse_unlearnable_classes(dataset, split)
    check_split(dataset, split)
    return replace(split, sha256=sha256_bytes(splits_csv(dataset, split).encode()))


def draw_part(dataset: Dataset, rows: _Rows, fraction: float, *, seed: int) -> _Rows:
    """A share of `rows` by chance, as a split is drawn: each class in its share, whole groups.

    Args:
        dataset: The data; an image whose group is '' stands alone.
        rows: Row numbers to draw from, int (n,).
        fraction: Wanted share, in (0, 1); groups may make it larger or smaller.
        seed: Decides between the possible parts.

    Returns:
        Row numbers, sorted; where a class is rare it has at least one, if groups allow.
    """
    part = _shared_out(dataset, rows, (fraction, 1 - fraction), seed)
    return np.sort(rows[part == 0])


def partition(dataset: Dataset, rows: _Rows, k: int, *, seed: int) -> _Rows:
    """Divide `rows` into k equal parts by chance: each class in its share, whole groups.

    Returns:
        Part of each row, int (n,), values in [0, k); a part may be empty where groups are few.
    """
    return _shared_out(dataset, rows, (1 / k,) * k, seed)


def _shared_out(dataset: Dataset, rows: _Rows, fractions: tuple[float, ...], seed: int) -> _Rows:
    """Part of each of `rows`, int (n,), whatever their order; a nameless group is one image."""
    if dataset.groups is not None and "" in dataset.groups:
        names = zip(dataset.groups, dataset.sample_ids, strict=True)
        dataset = dataset.with_groups(tuple(group or f"\0{name}" for group, name in names))
    order = np.argsort(np.array([dataset.sample_ids[row] for row in rows]), kind="stable")
    unit_of_row = _unit_of_row(dataset, rows[order])
    units = _units(dataset, rows[order], unit_of_row)
    part = np.empty(len(rows), np.int64)
    part[order] = share_out(units, fractions, np.random.default_rng(seed))[unit_of_row]
    return part


def _delivered_rows(dataset: Dataset) -> dict[SplitName, _Rows] | None:
    """Rows of each split as delivered; None where nothing was delivered."""
    if dataset.given_split is None:
        return None
    names = np.asarray(dataset.given_split)
    unknown = np.flatnonzero(~np.isin(names, SPLIT_NAMES))
    if len(unknown):
        examples = [f"{dataset.sample_ids[row]}: '{names[row]}'" for row in unknown]
        raise SplitError(
            f"{dataset.name}: a split is train, val or test, but {len(unknown)} rows have another "
            f"name: {_first(examples)}."
        )
    rows = {name: np.flatnonzero(names == name) for name in SPLIT_NAMES}
    if not len(rows["train"]):
        raise SplitError(f"{dataset.name}: the delivered split has no 'train' rows to learn from.")
    return rows


def _drawn_split(dataset: Dataset, wanted: Mapping[SplitName, float], seed: int) -> Split:
    """A split of all rows by chance."""
    rows = np.arange(len(dataset))
    names = tuple(wanted)
    _refuse_rare_classes(dataset, names)
    parts = _draw(dataset, rows, wanted, seed)
    way = "stratified random split" if dataset.groups is None else "stratified split by groups"
    if dataset.given_split is not None:
        drawn = " and ".join(f"'{name}'" for name in names[1:])
        way = f"delivered without {drawn}, which were drawn from its training images: {way}"
    asked = " / ".join(f"{100 * wanted[name]:.0f}" for name in names)
    got = " / ".join(f"{100 * len(parts[name]) / len(rows):.1f}" for name in names)
    note = f"{way}, seed {seed}: {got} % of {len(rows)} images ({asked} % wanted)"
    return Split(
        train=parts["train"],
        val=parts["val"],
        test=parts.get("test", np.empty(0, np.int64)),
        origin="random" if dataset.groups is None else "group",
        seed=seed,
        note=note + _gaps(dataset, parts, names) + ".",
    )


def _completed_split(
    dataset: Dataset,
    delivered: Mapping[SplitName, _Rows],
    val_fraction: float,
    seed: int,
) -> Split:
    """The delivered split, with a missing val part taken out of train."""
    origin: Literal["official", "user"] = dataset.split_origin or "user"
    parts = dict(delivered)
    note = f"{origin} split, used as delivered"
    drawn = not len(parts["val"])
    if drawn:
        shares: dict[SplitName, float] = {"train": 1 - val_fraction, "val": val_fraction}
        parts |= _draw(dataset, delivered["train"], shares, seed)
        unit = "images" if dataset.groups is None else "whole groups"
        note += (
            f", but without 'val': {len(parts['val'])} of its {len(delivered['train'])} "
            f"training images ({100 * val_fraction:.0f} % wanted) were drawn for it, stratified "
            f"by {unit}, seed {seed}" + _gaps(dataset, parts, ("val",))
        )
    elif not len(parts["test"]):
        note += "; it has no test set"
    return Split(
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        origin=origin,
        seed=seed if drawn else None,
        note=note + ".",
    )


def _draw(
    dataset: Dataset, rows: _Rows, wanted: Mapping[SplitName, float], seed: int
) -> dict[SplitName, _Rows]:
    """Share `rows` out to the splits in `wanted` (fractions that sum to 1)."""
    names = [name for name in _PRIORITY if name in wanted]
    # By name, so that another order of the same rows gives the same split.
    rows = rows[np.argsort(np.array([dataset.sample_ids[row] for row in rows]), kind="stable")]
    unit_of_row = _unit_of_row(dataset, rows)
    num_units = int(unit_of_row.max()) + 1
    if num_units < len(names):
        what = "images" if dataset.groups is None else "groups"
        raise SplitError(
            f"{dataset.name}: {num_units} {what} can't be divided into {', '.join(names)}; "
            f"at least {len(names)} are needed."
        )
    rng = np.random.default_rng(seed)
    units = _units(dataset, rows, unit_of_row)
    split_of_row = share_out(units, tuple(wanted[name] for name in names), rng)[unit_of_row]
    parts = {name: np.sort(rows[split_of_row == i]) for i, name in enumerate(names)}
    empty = [name for name in names if not len(parts[name])]
    if empty:
        raise SplitError(
            f"{dataset.name}: no division of the {num_units} groups was found that has every class "
            f"in train and leaves a group for {' and '.join(empty)}; more groups are needed."
        )
    return parts


def _unit_of_row(dataset: Dataset, rows: _Rows) -> _Rows:
    """Number of the unit (the group, or the image itself) that each row belongs to."""
    if dataset.groups is None:
        return np.arange(len(rows))
    groups = np.array([dataset.groups[row] for row in rows])
    nameless = np.flatnonzero(groups == "")
    if len(nameless):
        examples = [dataset.sample_ids[rows[i]] for i in nameless]
        raise SplitError(
            f"{dataset.name}: {len(nameless)} images have no group: {_first(examples)}. "
            "Name their group, or split without groups."
        )
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _units(dataset: Dataset, rows: _Rows, unit_of_row: _Rows) -> Units:
    """Count what each unit carries: its images of each class (or label), and its images."""
    targets = dataset.targets[rows]
    num_classes, multilabel = dataset.num_classes, dataset.task == "multilabel"
    # An image without any label is a kind of its own to share out, but no class to insist on.
    required = np.array([True] * num_classes + [False] * multilabel + [True])
    importance = np.ones(len(required))
    if dataset.groups is None and not multilabel:
        kinds = np.hstack(
            [np.eye(num_classes, dtype=np.int64), np.ones((num_classes, 1), np.int64)]
        )
        importance[-1] = 0.1  # sizes follow from the classes; they only decide about rounding
        return Units(kinds, targets, required, importance)
    labels = (
        np.hstack([targets, ~targets.any(axis=1, keepdims=True)])
        if multilabel
        else np.eye(num_classes, dtype=np.int64)[targets]
    )
    sizes = np.bincount(unit_of_row)
    counts = [np.bincount(unit_of_row, weights=column, minlength=len(sizes)) for column in labels.T]
    table = np.column_stack([*counts, sizes]).astype(np.int64)
    kinds, kind_of_unit = np.unique(table, axis=0, return_inverse=True)
    return Units(kinds, kind_of_unit.reshape(-1), required, importance)


def _refuse_rare_classes(dataset: Dataset, names: Sequence[SplitName]) -> None:
    """SplitError where a class can't be in all of these (or, by groups, in two of them)."""
    if dataset.task == "multilabel":  # rare labels are usual there; the checks speak about them
        return
    if dataset.groups is not None:
        _refuse_one_group_classes(dataset, dataset.groups)
        return
    counts = dataset.class_counts()
    for i in np.flatnonzero((counts > 0) & (counts < len(names))):
        raise SplitError(
            f"{dataset.name}: class '{dataset.class_names[i]}' has {counts[i]} image(s), but "
            f"{', '.join(names[:-1])} and {names[-1]} need one each. The largest fractions it "
            f"allows are {_largest(names, int(counts[i]))}; add images or leave the class out."
        )


def _largest(names: Sequence[SplitName], count: int) -> str:
    """What a class of `count` images allows: all but one of them in the last split."""
    rest = "".join(f" and {name} 0.00" for name in names[1:-1])
    return f"{names[-1]} {(count - 1) / count:.2f}{rest}"


def _refuse_one_group_classes(dataset: Dataset, groups: Sequence[str]) -> None:
    of_class: list[set[str]] = [set() for _ in dataset.class_names]
    for target, group in zip(dataset.targets.tolist(), groups, strict=True):
        of_class[target].add(group)
    single = [
        f"'{name}' only in group '{next(iter(found))}'"
        for name, found in zip(dataset.class_names, of_class, strict=True)
        if len(found) == 1
    ]
    if single:
        raise SplitError(
            f"{dataset.name}: {len(single)} class(es) lie in one group each, so they can't be both "
            f"learned and tested unless the group is cut: {_first(single)}. Add images of other "
            "groups, choose what a group is in another way (--group, --group-regex), or leave the "
            "class out."
        )


def _refuse_unlearnable_classes(dataset: Dataset, split: Split) -> None:
    """SplitError where a class has images, but none of them in train."""
    if dataset.task == "multilabel":
        return
    for i in absent_from_train(dataset, split):
        name = dataset.class_names[i]
        val, test = (dataset.class_counts(rows)[i] for rows in (split.val, split.test))
        raise SplitError(
            f"{dataset.name}: class '{name}' cannot be learned: train has none of its images "
            f"(val {val}, test {test}). Move some to train, or leave the class out."
        )


def absent_from_train(dataset: Dataset, split: Split) -> tuple[int, ...]:
    """Classes (or labels) that occur in val or test, but not in train."""
    everywhere, learned = dataset.class_counts(), dataset.class_counts(split.train)
    return tuple(int(i) for i in np.flatnonzero((learned == 0) & (everywhere > 0)))


def _gaps(dataset: Dataset, parts: Mapping[SplitName, _Rows], names: Sequence[SplitName]) -> str:
    """Which classes the drawn parts lack, for the note; '' where they lack none."""
    everywhere = dataset.class_counts()
    gaps = [
        f"no '{dataset.class_names[i]}' in {name}"
        for name in names
        for i in np.flatnonzero((dataset.class_counts(parts[name]) == 0) & (everywhere > 0))
    ]
    return f"; too few to share out: {_first(gaps)}" if gaps else ""


# --- Checking a split -----------------------------------------------------------------------------


def check_split(dataset: Dataset, split: Split) -> SplitFacts:
    """Count what is in each split, and make sure that the split is one.

    Returns:
        Images, classes and groups of each split. Groups that a delivered or reused split cuts are
        in `groups.shared`; a split that was drawn here has none.

    Raises:
        SplitError: If a row lies in two splits, in none or outside the data, or if a drawn split
            cuts a group.
    """
    rows = np.concatenate([split.rows(name) for name in SPLIT_NAMES])
    outside = rows[(rows < 0) | (rows >= len(dataset))]
    if len(outside):
        raise SplitError(
            f"the split names row {outside[0]}, but {dataset.name} has {len(dataset)}."
        )
    times = np.bincount(rows, minlength=len(dataset))
    for wrong, complaint in ((times > 1, "several splits"), (times == 0, "no split")):
        if wrong.any():
            examples = [dataset.sample_ids[row] for row in np.flatnonzero(wrong)]
            raise SplitError(f"{len(examples)} images lie in {complaint}: {_first(examples)}.")
    groups = group_summary(dataset, split)
    if groups is not None and groups.shared and split.origin in ("random", "group"):
        examples = [str(group) for group in groups.shared]
        raise SplitError(f"the split cuts {len(examples)} groups: {_first(examples)}.")
    return SplitFacts(
        images={name: len(split.rows(name)) for name in SPLIT_NAMES},
        class_counts={
            name: tuple(dataset.class_counts(split.rows(name)).tolist()) for name in SPLIT_NAMES
        },
        groups=groups,
    )


def group_summary(dataset: Dataset, split: Split) -> GroupSummary | None:
    """Count the groups of each split and those shared; None for data without groups.

    Images whose group is '' belong to no known group and are left out.
    """
    if dataset.groups is None:
        return None
    names, group_of_row = np.unique(np.array(dataset.groups), return_inverse=True)
    table = np.stack(
        [np.bincount(group_of_row[split.rows(name)], minlength=len(names)) for name in SPLIT_NAMES],
        axis=1,
    )
    named = names != ""
    names, table = names[named], table[named]
    shared = tuple(
        SharedGroup(str(names[i]), dict(zip(SPLIT_NAMES, table[i].tolist(), strict=True)))
        for i in np.flatnonzero((table > 0).sum(axis=1) > 1)
    )
    counts = dict(zip(SPLIT_NAMES, (table > 0).sum(axis=0).tolist(), strict=True))
    return GroupSummary(total=int((table > 0).any(axis=1).sum()), counts=counts, shared=shared)


def shared_groups(dataset: Dataset, split: Split) -> tuple[SharedGroup, ...]:
    """Groups that lie in more than one split, by name; empty where there are no groups."""
    summary = group_summary(dataset, split)
    return () if summary is None else summary.shared


# --- Writing and reading --------------------------------------------------------------------------


def splits_csv(dataset: Dataset, split: Split) -> str:
    """The text of splits.csv: path, sha256, split and group of each image, sorted by path.

    Images in no split are 'unused'. The SHA-256 of this text (UTF-8) names the split: it is the
    same for the same images in the same splits, whatever their order.
    """
    names: dict[int, str] = dict.fromkeys(range(len(dataset)), UNUSED)
    names |= {row: name for name in SPLIT_NAMES for row in split.rows(name).tolist()}
    groups = dataset.groups
    lines = sorted(
        (dataset.sample_ids[row], dataset.sha256[row], name, "" if groups is None else groups[row])
        for row, name in names.items()
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(lines)
    return text.getvalue()


def write_splits(path: Path, dataset: Dataset, split: Split) -> Split:
    """Write splits.csv atomically; return the split with the hash of the text filled in."""
    text = splits_csv(dataset, split)
    write_text(path, text)
    return replace(split, sha256=sha256_bytes(text.encode()))


def read_splits(path: Path, dataset: Dataset) -> Split:
    """Use the splits.csv of another run for the same images, in any order of rows.

    Raises:
        SplitError: If the file can't be read, does not have every image of the data set with the
            same SHA-256 and a known split (the first 20 differences are listed), or leaves train
            or val empty.
    """
    lines = _read_lines(path)
    row_of = {name: row for row, name in enumerate(dataset.sample_ids)}
    if len(row_of) < len(dataset):
        raise SplitError(
            f"{dataset.name}: sample names are not unique, so {path} can't be matched."
        )
    differences = _differences(lines, dataset, row_of)
    if differences:
        raise SplitError(
            f"{path} does not fit {dataset.name}, {len(differences)} differences: "
            f"{_first(differences)}. Use the images that the split was made from, or make a new "
            "split (leave --splits out)."
        )
    parts = {
        name: np.array(
            sorted(row_of[line.path] for line in lines if line.split == name), dtype=np.int64
        )
        for name in SPLIT_NAMES
    }
    empty = [name for name in ("train", "val") if not len(parts[name])]
    if empty:
        raise SplitError(f"{path} has no rows for {' and '.join(empty)}.")
    split = Split(
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        origin="file",
        note=f"reused from {path.name}.",
    )
    _refuse_unlearnable_classes(dataset, split)
    return replace(split, sha256=sha256_bytes(splits_csv(dataset, split).encode()))


def split_differences(path: Path, dataset: Dataset) -> list[str]:
    """Samples on which a splits.csv and a data set do not agree, with what differs; [] if all do.

    Raises:
        SplitError: If the file can't be read.
    """
    row_of = {name: row for row, name in enumerate(dataset.sample_ids)}
    return _differences(_read_lines(path), dataset, row_of)


def read_split_groups(path: Path, dataset: Dataset) -> tuple[str, ...] | None:
    """Groups that a splits.csv names for the images of a data set; None where it names none.

    Raises:
        SplitError: If the file can't be read or lacks an image.
    """
    group_of = {line.path: line.group for line in _read_lines(path)}
    if not any(group_of.values()):
        return None
    absent = [name for name in dataset.sample_ids if name not in group_of]
    if absent:
        raise SplitError(f"{path} lacks {len(absent)} images of {dataset.name}: {_first(absent)}.")
    return tuple(group_of[name] for name in dataset.sample_ids)


@dataclass(frozen=True)
class _Line:
    number: int
    path: str
    sha256: str
    split: str
    group: str


def _read_lines(path: Path) -> list[_Line]:
    """Parse a splits.csv; only its form is checked."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SplitError(f"can't read splits from {path}: {reason}.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    missing = [name for name in _HEADER[:3] if name not in (reader.fieldnames or ())]
    if missing:
        raise SplitError(
            f"{path} has no column {' and '.join(missing)}; a splits file begins with "
            f"'{','.join(_HEADER)}'."
        )
    lines = [
        _Line(
            reader.line_num,
            row["path"] or "",
            (row["sha256"] or "").lower(),
            row["split"] or "",
            row.get("group") or "",
        )
        for row in reader
    ]
    if not lines:
        raise SplitError(f"{path} has no rows.")
    return lines


def _differences(lines: list[_Line], dataset: Dataset, row_of: Mapping[str, int]) -> list[str]:
    """What a splits file and a data set do not agree on, sorted by path."""
    seen: set[str] = set()
    found: list[tuple[str, str]] = []
    for line in lines:
        row = row_of.get(line.path)
        if line.path in seen:
            found.append((line.path, f"twice in the file (line {line.number})"))
        elif row is None:
            found.append((line.path, "missing in the data"))
        elif line.sha256 != dataset.sha256[row]:
            was, now = line.sha256[:12], dataset.sha256[row][:12]
            found.append((line.path, f"changed (sha256 was {was}…, is {now}…)"))
        if line.split not in (*SPLIT_NAMES, UNUSED):
            found.append(
                (
                    line.path,
                    f"unknown split '{line.split}' (line {line.number}; "
                    "train, val, test or unused)",
                )
            )
        seen.add(line.path)
    found += [(name, "missing in the file") for name in dataset.sample_ids if name not in seen]
    return [f"{name}: {what}" for name, what in sorted(found)]


def _first(items: Sequence[str]) -> str:
    """The first 20 items, and how many more there are."""
    rest = len(items) - _MAX_LISTED
    return "; ".join(items[:_MAX_LISTED]) + (f"; and {rest} more" if rest > 0 else "")
