"""From decoded files to a Dataset: what every reader of image files does in the end."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import ConfigError, DataError
from scanwise.core.types import Dataset, Finding, Provenance, Severity, Task, Unreadable
from scanwise.data.cache import Decoded, FileFacts, ReadOptions, decode_files

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

# Topics of DecodedImage.notes with a code of their own; all others are R008 (or R014, DICOM).
_FILE_NOTES: dict[str, tuple[str, Severity]] = {
    "alpha composited on black": ("R005", "info"),
    "EXIF orientation applied": ("R006", "info"),
    "wrong extension": ("R007", "warning"),
    "looks like 8-bit saved as 16": ("R009", "warning"),
}


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files with what is known of each before any is decoded; all columns have n rows."""

    name: str
    paths: tuple[Path, ...]
    sample_ids: tuple[str, ...]
    targets: NDArray[np.int64]
    class_names: tuple[str, ...]
    task: Task = "multiclass"
    groups: tuple[str, ...] | None = None
    given_split: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    metadata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()

    def class_of(self, row: int) -> str:
        """The class of a row, for people; several labels are joined by '|'."""
        if self.task == "multilabel":
            return "|".join(self.class_names[k] for k in np.flatnonzero(self.targets[row]))
        return self.class_names[int(self.targets[row])]


def dataset_of(listing: Listing, options: ReadOptions, provenance: Provenance) -> Dataset:
    """Decode the files of a listing and keep every column aligned to those that can be read.

    Raises:
        DataError: If none can be read, or their channels do not go together.
    """
    decoded = decode_files(listing.paths, listing.sample_ids, options)
    kept = [fact.index for fact in decoded.facts]

    def cells(column: Sequence[str]) -> tuple[str, ...]:
        return tuple(column[i] for i in kept)

    groups, group_notes = _groups(listing, decoded)
    return Dataset(
        name=listing.name,
        images=decoded.images,
        targets=listing.targets[kept],
        class_names=listing.class_names,
        sample_ids=cells(listing.sample_ids),
        sha256=decoded.sha256,
        task=listing.task,
        groups=groups,
        given_split=None if listing.given_split is None else np.array(cells(listing.given_split)),
        split_origin=None if listing.given_split is None else "user",
        weights=None
        if listing.weights is None
        else np.array([listing.weights[i] for i in kept], np.float32),
        metadata={name: cells(column) for name, column in listing.metadata.items()},
        original_sizes=np.array([(fact.height, fact.width) for fact in decoded.facts], np.int64),
        paths=tuple(str(listing.paths[i].absolute()) for i in kept),
        unreadable=tuple(
            Unreadable(listing.sample_ids[i], listing.class_of(i), reason)
            for i, reason in decoded.failures
        ),
        notes=(*listing.notes, *_notes(listing, decoded, options), *group_notes),
        provenance=provenance,
    )


def groups_from_regex(sample_ids: Sequence[str], pattern: str) -> tuple[str, ...]:
    """The group of each sample: the first capture group of `pattern` in its name, else the match.

    Raises:
        ConfigError: If the pattern is no regular expression.
        DataError: If it does not match every name; with counts and examples.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group_regex '{pattern}' is no regular expression: {error}.") from error
    found = [compiled.search(name) for name in sample_ids]
    groups = [(m.group(1) if compiled.groups else m.group(0)) if m else None for m in found]
    missed = [name for name, group in zip(sample_ids, groups, strict=True) if not group]
    if missed:
        examples = ", ".join(f"'{name}'" for name in missed[:5])
        raise DataError(
            f"group_regex '{pattern}' gives a group for {len(groups) - len(missed)} of "
            f"{len(groups)} files; it must give one for each. Without: {examples}"
            f"{', …' if len(missed) > 5 else ''}."
        )
    return tuple(str(group) for group in groups)


def check_learnable(
    targets: NDArray[np.int64],
    given_split: Sequence[str] | None,
    class_names: Sequence[str],
    where: str,
) -> None:
    """Every class must have training images.

    Raises:
        DataError: If a given split has no train part, or a class occurs only outside of it.
    """
    if given_split is None:
        return
    split = np.asarray(given_split)
    if not (split == "train").any():
        raise DataError(f"{where} has no images in split 'train'; it has {sorted(set(split))}.")
    learnt = _present(targets[split == "train"], len(class_names))
    elsewhere = _present(targets[split != "train"], len(class_names))
    lost = [
        f"'{name}' ({', '.join(sorted(set(split[_has(targets, k)])))})"
        for k, name in enumerate(class_names)
        if elsewhere[k] and not learnt[k]
    ]
    if lost:
        noun = ("label", "labels") if targets.ndim == 2 else ("class", "classes")
        raise DataError(
            f"{where}: {_plural(len(lost), *noun)} without training images can't be "
            f"learned: {', '.join(lost)}. Move some of their images to train or leave them out."
        )


def _has(targets: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    return np.asarray(targets[:, k] == 1 if targets.ndim == 2 else targets == k)


def _present(targets: NDArray[np.int64], num_classes: int) -> list[bool]:
    return [bool(_has(targets, k).any()) for k in range(num_classes)]


def check_distinct(names: Sequence[str], what: str, where: str) -> None:
    """Names must still differ after Unicode, case and space folding.

    Raises:
        DataError: Naming all that collide.
    """
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(fold(name), []).append(name)
    clashes = [group for group in folded.values() if len(group) > 1]
    if clashes:
        said = "; ".join(" and ".join(f"'{name}'" for name in group) for group in clashes)
        raise DataError(
            f"{where}: {what} that differ only in case, spaces or accents' encoding: {said}. "
            "Rename or merge them."
        )


def fold(name: str) -> str:
    """A name without case and space differences, for comparing only."""
    return "".join(unicodedata.normalize("NFC", name).casefold().split())


def slug(text: str) -> str:
    """A short name for folder names."""
    return re.sub(r"[^0-9A-Za-z_.]+", "-", text).strip("-.") or "data"


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


# --- notes --------------------------------------------------------------------------------------


def _groups(
    listing: Listing, decoded: Decoded
) -> tuple[tuple[str, ...] | None, tuple[Finding, ...]]:
    """The listing's groups, or else the patients of DICOM files if every row has one."""
    if listing.groups is not None:
        return tuple(listing.groups[fact.index] for fact in decoded.facts), ()
    patients = [fact.group for fact in decoded.facts]
    known = [group for group in patients if group is not None]
    if not known:
        return None, ()
    if len(known) < len(patients):
        return None, (
            Finding(
                "R015",
                "warning",
                f"{len(known)} of {len(patients)} images carry a DICOM PatientID, so images can't "
                "be grouped by patient.",
                "Say the patient of each image by --group-regex or in a manifest.",
            ),
        )
    return tuple(known), (
        Finding(
            "R015",
            "info",
            f"grouped by DICOM PatientID (hashed): {len(set(known))} patients, "
            f"{len(known)} images.",
        ),
    )


def _notes(listing: Listing, decoded: Decoded, options: ReadOptions) -> list[Finding]:
    notes = [
        _geometry_note(decoded, options),
        *_topic_notes(listing, decoded.facts),
        _color_note(listing, decoded),
        _depth_note(listing, decoded),
        _format_note(listing, decoded.facts),
    ]
    if decoded.not_cached:
        notes.append(
            Finding(
                "R016",
                "warning",
                f"decoded images are kept in memory, not in the cache: {decoded.not_cached}.",
                "Make room, or set SCANWISE_CACHE to a folder with more.",
            )
        )
    return [note for note in notes if note is not None]


def _geometry_note(decoded: Decoded, options: ReadOptions) -> Finding | None:
    sizes = np.array([(fact.height, fact.width) for fact in decoded.facts])
    height, width = decoded.images.shape[1:3]
    changed = int((sizes != (height, width)).any(axis=1).sum())
    if not changed:
        return None
    low, high = sizes.min(axis=0), sizes.max(axis=0)
    fit = {
        "stretch": "stretched",
        "pad": "scaled and padded with black",
        "crop": "scaled and centre-cropped",
    }[options.fit]
    return Finding(
        "R004",
        "info",
        f"{changed} of {len(sizes)} images ({low[1]}x{low[0]} to {high[1]}x{high[0]} px) "
        f"{fit} to {width}x{height} px ({decoded.size_reason}).",
        "Choose the side with --size and the way with --fit.",
    )


def _topic_notes(listing: Listing, facts: Sequence[FileFacts]) -> list[Finding]:
    """One finding per topic: how many files, an example, the details that occurred."""
    rows: dict[str, list[int]] = {}
    details: dict[str, Counter[str]] = {}
    for fact in facts:
        for note in fact.notes:
            topic, _, detail = note.partition(": ")
            rows.setdefault(topic, []).append(fact.index)
            if detail:
                details.setdefault(topic, Counter())[detail] += 1
    found = []
    for topic, indices in sorted(rows.items()):
        usual = "R014" if topic.startswith("DICOM") else "R008"
        code, severity = _FILE_NOTES.get(topic, (usual, "info"))
        counts = details.get(topic, Counter())
        said = [f"{detail} ({count})" for detail, count in counts.most_common(3)]
        said += [f"and {len(counts) - 3} more"] if len(counts) > 3 else []
        found.append(
            Finding(
                code,
                severity,
                f"{topic}: {_plural(len(indices), 'image', 'images')}, first "
                f"'{listing.sample_ids[indices[0]]}'{': ' if said else ''}{'; '.join(said)}.",
            )
        )
    return found


def _counts_by_class(listing: Listing, rows: Sequence[int]) -> str:
    counts = Counter(listing.class_of(row) or "no label" for row in rows)
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _color_note(listing: Listing, decoded: Decoded) -> Finding | None:
    """R010: grey saved as RGB; R011: some grey, some in colour."""
    facts, channels = decoded.facts, decoded.images.shape[3]
    if channels == 1:
        saved = [fact.index for fact in facts if fact.channels == 3]
        if not saved:
            return None
        return Finding(
            "R010",
            "info",
            f"grey saved as RGB: {len(saved)} of {len(facts)} images have three equal channels; "
            "stored as one.",
        )
    grey = [fact.index for fact in facts if not fact.color]
    if channels != 3 or not grey or len(grey) == len(facts):
        return None
    color = [fact.index for fact in facts if fact.color]
    return Finding(
        "R011",
        "warning",
        f"mixed grey and colour: {len(grey)} grey images ({_counts_by_class(listing, grey)}), "
        f"{len(color)} in colour ({_counts_by_class(listing, color)}).",
        "If colour goes with the class, a model may learn it instead of the disease; convert all "
        "to grey or get images of one kind.",
    )


def _depth_note(listing: Listing, decoded: Decoded) -> Finding | None:
    depths: dict[str, list[int]] = {}
    for fact in decoded.facts:
        depths.setdefault(fact.depth, []).append(fact.index)
    if len(depths) == 1:
        return None
    said = "; ".join(
        f"{len(rows)} {depth} ({_counts_by_class(listing, rows)})"
        for depth, rows in sorted(depths.items())
    )
    final = decoded.images.dtype.name
    how = "values kept" if final == "float32" else "8-bit values times 257"
    return Finding(
        "R012",
        "warning",
        f"mixed bit depths: {said}; all promoted to {final} ({how}).",
        "Export all images the same way: different depths rarely have the same meaning.",
    )


def _format_note(listing: Listing, facts: Sequence[FileFacts]) -> Finding | None:
    """R013: the mix of formats; a warning where the mix differs from class to class."""
    if len({fact.format for fact in facts}) == 1:
        return None
    by_class: dict[str, Counter[str]] = {}
    for fact in facts:
        by_class.setdefault(listing.class_of(fact.index) or "no label", Counter())[fact.format] += 1
    said = "; ".join(
        f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(mix.items()))
        for name, mix in sorted(by_class.items())
    )
    telling = len({frozenset(mix) for mix in by_class.values()}) > 1
    return Finding(
        "R013",
        "warning" if telling else "info",
        f"mixed formats: {said}.",
        "The format goes with the class; a model may learn compression traces. Export all images "
        "the same way."
        if telling
        else "",
    )
