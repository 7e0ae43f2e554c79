"""The checks of a data set and its split: each a function with a code, listed in CHECKS.

| code | what | stops |
|---|---|---|
| D001 | files that can't be decoded | unless skipped and at most 5 % |
| D002 | a class with too few images to be learned or judged | under 5 images |
| D003 | how many images the classes have, and what precision they support | |
| D004 | copies that lie in more than one split: a leak | unless official or accepted |
| D005 | the same picture with two labels: a conflict | |
| D006 | copies within a split | |
| D007 | a group (patient, slide) in more than one split: a leak | unless official or accepted |
| D008 | images unlike the rest of their class | |
| D009 | a label without positive images in train | manifests and folders |
| D010 | "0 groups shared", the checked fact | |
| D011 | no test set | |
| D012 | the label can be told from size, format, name or the border of the pictures | |
| D013 | file names look like groups (patients, slides) that nobody gave | |
| D014 | file names may mean groups, but in a way that can't be told | |
| K001 | what is known of this public data set (scanwise.data.advisories) | |
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.core.errors import DataError, IntegrityError, ScanwiseError
from scanwise.core.types import SPLIT_NAMES, Dataset, Finding, Split, SplitName
from scanwise.data.advisories import advisories
from scanwise.data.duplicates import (
    Duplicates,
    Pair,
    crossing_images,
    duplicate_groups,
    find_duplicates,
    leaked_rows,
    split_of_row,
)
from scanwise.data.group_names import GroupGuess, guess_groups
from scanwise.data.quality import Quality, measure_quality
from scanwise.data.shortcuts import Probe, Shortcuts, probe_shortcuts
from scanwise.data.splits import group_summary
from scanwise.metrics.intervals import wilson_interval

MIN_CLASS = 5  # images of a class below which nothing can be learned or judged
GUIDELINE = (30, 50)  # images of a class that the guide for beginners asks for
MAX_UNREADABLE = 0.05
MANY_OUTLIERS = 0.02
FIRST = 20  # offenders named in a message
EXAMPLES = 20  # pairs written to dataset.json
SHORTCUT_WORDS = {
    "metadata": "facts of the files (size, format, camera, name, grey or colour)",
    "border": "the outermost pixels",
}


@dataclass(frozen=True, eq=False)
class Material:
    """What the checks look at."""

    dataset: Dataset
    split: Split
    duplicates: Duplicates
    quality: Quality
    shortcuts: Shortcuts
    skip_unreadable: bool
    accept_leak: bool


@dataclass(frozen=True, eq=False)
class CheckReport:
    """All that was found. `stop` is the error that forbids training, if there is one.

    `leaks` counts images with a copy in an earlier split; `leaked` are the rows of val and test
    that an earlier split knows, by a copy or by their group; `leaky` says whether there are any, so
    that results must be stamped.
    """

    findings: tuple[Finding, ...]
    duplicates: Duplicates
    quality: Quality
    shortcuts: Shortcuts
    classes: tuple[dict[str, Any], ...]
    leaks: dict[str, int]
    leaked: dict[SplitName, NDArray[np.int64]]
    test_share: float  # of test that has a copy in train or val
    examples: tuple[dict[str, Any], ...]
    conflicts: tuple[dict[str, Any], ...]
    leaky: bool
    stop: ScanwiseError | None

    def raise_if_stopped(self) -> None:
        """Raise `stop`, if the checks forbid training."""
        if self.stop is not None:
            raise self.stop

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, for dataset.json and the pages."""
        found = self.duplicates
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "duplicates": {
                "exact_pairs": len(found.exact),
                "near_pairs": len(found.near),
                "near_copies": int(found.copies.sum()),
                "alike_cut": None if found.alike_cut is None else round(found.alike_cut, 3),
                "clusters": len(found.clusters),
                "leaks": self.leaks,
                "test_share": self.test_share,
                "conflicts": list(self.conflicts),
                "examples": list(self.examples),
            },
            "quality": self.quality.to_json(),
            "shortcuts": self.shortcuts.to_json(),
            "classes": list(self.classes),
        }


def check_dataset(
    dataset: Dataset,
    split: Split,
    *,
    skip_unreadable: bool = False,
    accept_leak: bool = False,
    duplicates: Duplicates | None = None,
) -> CheckReport:
    """Look for everything that would make a score untrue.

    Args:
        dataset: The data.
        split: Its rows by split.
        skip_unreadable: Up to 5 % unreadable files are left out instead of stopping.
        accept_leak: A leak between the user's own splits is stamped instead of stopping.
        duplicates: What `find_duplicates` found, if it was asked before.

    Raises:
        DataError: If there are no pixels, or all images are of a single colour.
    """
    quality = measure_quality(dataset)
    found = duplicates or find_duplicates(dataset.images, dataset.targets)
    units = duplicate_groups(found, len(dataset), dataset.groups)
    shortcuts = probe_shortcuts(dataset, split.train, units)
    material = Material(dataset, split, found, quality, shortcuts, skip_unreadable, accept_leak)
    outcomes = [check(material) for check in CHECKS]
    stops = [stop for _, stop in outcomes if stop is not None]
    copied = leaked_rows(found, split)["test"]
    leaked = leaked_rows(found, split, dataset.groups)
    return CheckReport(
        findings=(*advisories(dataset), *(finding for finding, _ in outcomes if finding)),
        duplicates=found,
        quality=quality,
        shortcuts=shortcuts,
        classes=class_rows(dataset, split),
        leaks=crossing_images(found, split),
        leaked=leaked,
        test_share=len(copied) / len(split.test) if len(split.test) else 0.0,
        examples=_examples(material),
        conflicts=tuple(_conflict(dataset, rows) for rows in found.conflicts[:EXAMPLES]),
        leaky=any(len(rows) for rows in leaked.values()),
        # An integrity stop outranks a data stop: it says more about the scores.
        stop=max(stops, key=lambda error: error.exit_code, default=None),
    )


def class_rows(dataset: Dataset, split: Split) -> tuple[dict[str, Any], ...]:
    """Counts and shares of each class, and how well its sensitivity can be known on test.

    `sensitivity_half_width` is half of the Wilson interval of a sensitivity of 0.9 on the class's
    test images; None where test has none.
    """
    counts, test = dataset.class_counts(), dataset.class_counts(split.test)
    rows = []
    for index, name in enumerate(dataset.class_names):
        width = sensitivity_half_width(int(test[index]))
        rows.append(
            {
                "class": name,
                "images": int(counts[index]),
                "share": round(float(counts[index] / max(len(dataset), 1)), 4),
                "test": int(test[index]),
                "sensitivity_half_width": None if width is None else round(width, 3),
            }
        )
    return tuple(rows)


def sensitivity_half_width(n: int, sensitivity: float = 0.9) -> float | None:
    """Half the width of the 95 % Wilson interval of a sensitivity on n images; None for n = 0."""
    interval = wilson_interval(round(sensitivity * n), n)
    if interval.low is None or interval.high is None:
        return None
    return (interval.high - interval.low) / 2


# --- the checks --------------------------------------------------------------------------------

Outcome = tuple[Finding | None, ScanwiseError | None]
NOTHING: Outcome = (None, None)


def check_unreadable(material: Material) -> Outcome:
    """D001: files that can't be decoded; stops unless they may be skipped and are few."""
    bad = material.dataset.unreadable
    if not bad:
        return NOTHING
    total = len(material.dataset) + len(bad)
    share = len(bad) / total
    listed = "; ".join(
        f"{each.path} ({each.class_name + ': ' if each.class_name else ''}{each.reason})"
        for each in bad[:FIRST]
    )
    more = f"; and {len(bad) - FIRST} more" if len(bad) > FIRST else ""
    evidence = f"{len(bad)} of {total} files ({share:.1%}) can't be read: {listed}{more}."
    if share > MAX_UNREADABLE:
        advice = f"Over {MAX_UNREADABLE:.0%} is too much to leave out: mend or remove the files."
    elif not material.skip_unreadable:
        advice = "Mend or remove the files, or leave them out with --skip-unreadable."
    else:
        return Finding("D001", "warning", evidence, "They are left out."), None
    return _stop(material, "D001", evidence, advice)


def check_class_sizes(material: Material) -> Outcome:
    """D002: a class with fewer than 5 images stops; one below the guideline of 30 is named."""
    dataset = material.dataset
    counts = dataset.class_counts()
    few = [i for i in np.argsort(counts, kind="stable").tolist() if counts[i] < GUIDELINE[0]]
    if not few:
        return NOTHING
    noun = "label" if dataset.task == "multilabel" else "class"
    named = ", ".join(f"'{dataset.class_names[i]}' {counts[i]}" for i in few[:FIRST])
    tiny = [i for i in few if counts[i] < MIN_CLASS]
    if tiny and dataset.task != "multilabel":
        worst = ", ".join(f"'{dataset.class_names[i]}' has {counts[i]}" for i in tiny[:FIRST])
        evidence = f"a class needs at least {MIN_CLASS} images to be learned and judged: {worst}."
        advice = "Add images, merge it into another class or leave it out."
        return _stop(material, "D002", evidence, advice)
    evidence = (
        f"images of each {noun} with under {GUIDELINE[0]} ({GUIDELINE[0]} to {GUIDELINE[1]} are "
        f"advised): {named}."
    )
    advice = "Add images of these; until then read their intervals before their scores."
    return Finding("D002", "warning", evidence, advice), None


def check_class_balance(material: Material) -> Outcome:
    """D003: the counts of the classes, their ratio, and the precision that the rarest supports."""
    dataset, test = material.dataset, material.dataset.class_counts(material.split.test)
    counts = dataset.class_counts()
    present = np.flatnonzero(counts > 0)
    if len(present) < 2:
        return NOTHING
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    ratio = counts[most] / counts[least]
    counted = (
        f"each class has {counts[most]} images"
        if counts[most] == counts[least]
        else f"'{dataset.class_names[most]}' has {counts[most]} images "
        f"({counts[most] / len(dataset):.0%}), '{dataset.class_names[least]}' {counts[least]} "
        f"({counts[least] / len(dataset):.1%})"
    )
    name = dataset.class_names[least]
    evidence = (
        f"{counted}: {ratio:.1f} to 1; {_precision(name, int(test[least]), bool(test.any()))}."
    )
    if ratio <= 3:
        return Finding("D003", "info", evidence), None
    advice = "Read balanced accuracy beside accuracy; weights help rare classes at others' cost."
    return Finding("D003", "info", evidence, advice, "train --class-weights balanced"), None


def _precision(name: str, n: int, any_test: bool) -> str:
    """How well the sensitivity of a class with n test images can be known."""
    width = sensitivity_half_width(n)
    if not any_test:
        return "without a test set no sensitivity can be evaluated"
    if width is None:
        return f"test has no '{name}', so its sensitivity can't be evaluated"
    support = "images support" if n > 1 else "image supports"
    return f"{n} test {support} a sensitivity of 0.9 for '{name}' to ±{width:.2f}"


def check_leak(material: Material) -> Outcome:
    """D004: copies across splits. Stops for the user's own splits, never for an official one."""
    leaks = crossing_images(material.duplicates, material.split)
    if not any(leaks.values()):
        return NOTHING
    copied = len(leaked_rows(material.duplicates, material.split)["test"])
    n_test = len(material.split.test)
    parts = ", ".join(f"{pair.replace('-', ' and ')} {n}" for pair, n in leaks.items() if n)
    exact = sum(1 for pair in _crossing_pairs(material) if pair.kind == "exact")
    evidence = (
        f"images that two splits share: {parts} ({exact} pairs are equal pixel for pixel); "
        f"{copied} of {n_test} test images ({copied / max(n_test, 1):.1%}) have a copy in "
        f"train or val{_for_one(material)}."
    )
    return _leak(material, "D004", evidence, "Remove the copies, or keep them together")


def check_groups(material: Material) -> Outcome:
    """D007 and D010: groups that lie in more than one split, or the fact that none does."""
    found = group_summary(material.dataset, material.split)
    if found is None:
        return NOTHING
    if not found.shared:
        return Finding("D010", "info", f"{found}."), None
    names = ", ".join(f"'{group.group}'" for group in found.shared[:5])
    more = ", …" if len(found.shared) > 5 else ""
    evidence = (
        f"groups in more than one split: {len(found.shared)} of {found.total} ({names}{more})."
    )
    return _leak(material, "D007", evidence, "Keep each group in one split")


def check_conflicts(material: Material) -> Outcome:
    """D005: copies, exact or near, that carry different labels."""
    conflicts = material.duplicates.conflicts
    if not conflicts:
        return NOTHING
    first = _conflict(material.dataset, conflicts[0])
    words = ", ".join(
        f"{name} is '{label}'"
        for name, label in zip(first["samples"], first["labels"], strict=True)
    )
    evidence = f"{len(conflicts)} pictures occur with more than one label (for one: {words})."
    return Finding("D005", "warning", evidence, "Decide which label is right."), None


def check_copies_within(material: Material) -> Outcome:
    """D006: copies inside one split."""
    where = split_of_row(material.split, len(material.dataset))
    inside = [rows for rows in material.duplicates.clusters if len(np.unique(where[rows])) == 1]
    if not inside:
        return NOTHING
    images = sum(len(rows) for rows in inside)
    evidence = f"{images} images form {len(inside)} clusters of copies, each within one split."
    advice = "They count several times in every score; intervals are a little too narrow."
    return Finding("D006", "info", evidence, advice), None


def check_quality(material: Material) -> Outcome:
    """D008: images whose brightness, sharpness, … is far from their class's."""
    outliers = material.quality.outliers
    if not outliers:
        return NOTHING
    named = ", ".join(f"{each.sample} {each.reason}" for each in outliers[:3])
    verb = "images are" if len(outliers) > 1 else "image is"
    evidence = f"{len(outliers)} {verb} unlike the rest of the class: {named}."
    many = len(outliers) > MANY_OUTLIERS * len(material.dataset)
    advice = "Look at them before you trust them."
    return Finding("D008", "warning" if many else "info", evidence, advice), None


def check_test_set(material: Material) -> Outcome:
    """D011: a delivered split without a test part; scores are then of validation."""
    if len(material.split.test):
        return NOTHING
    evidence = (
        f"no test set: the split has {len(material.split.train)} training and "
        f"{len(material.split.val)} validation images, so only validation is scored, on which the "
        "best epoch is chosen too."
    )
    advice = "Add a test part, or give the images without a split: scanwise then draws all three."
    return Finding("D011", "warning", evidence, advice), None


def check_labels(material: Material) -> Outcome:
    """D009: labels of a multi-label set without positive images in train.

    Who wrote a manifest or filled folders can mend them, and is stopped. A split that came within a
    file is taken as it is: the label is kept out of the averages and said to be not evaluable.
    """
    dataset = material.dataset
    if dataset.task != "multilabel":
        return NOTHING
    missing = np.flatnonzero(dataset.class_counts(material.split.train) == 0)
    if not len(missing):
        return NOTHING
    listed = ", ".join(f"'{dataset.class_names[i]}'" for i in missing)
    evidence = f"labels with 0 positive images in train, which can't be learned: {listed}."
    if dataset.provenance.kind in ("manifest", "folder", "split-folder"):
        advice = "Add positive images to train, or leave the labels out."
        return _stop(material, "D009", evidence, advice)
    advice = "Their metrics say 'not evaluable', and the averages leave them out."
    return Finding("D009", "warning", evidence, advice), None


def check_shortcuts(material: Material) -> Outcome:
    """D012: a tiny model tells the label from what should not matter; does not stop."""
    alarms = material.shortcuts.alarming()
    if not alarms:
        return NOTHING
    n = material.shortcuts.n
    said = "; ".join(
        f"{SHORTCUT_WORDS[family]} alone tell '{name}' from the rest with an AUROC of {area} "
        f"(train, cross-validated, n={n}){_carried_by(probe, name)}"
        for family, (probe, name, area) in alarms.items()
    )
    advice = (
        "A model may learn this instead of the disease, and its scores would not hold elsewhere. "
        "Find out where it comes from (site, scanner, export, marks, crops), then export all "
        "classes the same way, or cut the mark off."
    )
    return Finding("D012", "warning", f"shortcut: {said}.", advice), None


def _carried_by(probe: Probe, name: str) -> str:
    feature, area = probe.carriers[name]
    return f"; most telling is '{feature}', by itself {area:.3f}"


def check_group_names(material: Material) -> Outcome:
    """D013 and D014: what the file names say of groups, where none were given. Only proposed."""
    found = guess_groups(material.dataset)
    if found is None:
        return NOTHING
    first = found.guesses[0]
    cut, whole = _cut_groups(material, first)
    evidence = (
        f"no groups were given, but file names look like {first}{_copies_inside(material, first)}"
    )
    command = f"train --group-regex {shlex.quote(first.regex)}"
    if found.doubt:
        others = "; ".join(f"or {guess}" for guess in found.guesses[1:])
        more = f" ({others})" if others else ""
        return Finding(
            "D014",
            "warning",
            f"{evidence}{more}; it is not sure: {found.doubt}.",
            "Scores are too good if images of one patient or slide lie in several splits. Say what "
            "belongs together: --group-regex, or a manifest with a column group.",
            command,
        ), None
    fact = f"{cut} of {whole} such groups of two or more images lie in more than one split"
    return Finding(
        "D013",
        "warning" if cut else "info",
        f"{evidence}; {fact}.",
        "A guess is not used by itself. If these are patients, slides or lesions, keep each in "
        "one split.",
        command,
    ), None


def _cut_groups(material: Material, guess: GroupGuess) -> tuple[int, int]:
    """Guessed groups that lie in several splits, and those of two or more images."""
    summary = group_summary(material.dataset.with_groups(guess.groups), material.split)
    several = sum(1 for n in Counter(guess.groups).values() if n > 1)
    return (0 if summary is None else len(summary.shared)), several


def _copies_inside(material: Material, guess: GroupGuess) -> str:
    """How many of the near copies lie within a guessed group; '' where there are none."""
    pairs = np.concatenate([material.duplicates.exact, material.duplicates.near])
    if not len(pairs):
        return ""
    groups = np.array(guess.groups)
    inside = int((groups[pairs[:, 0]] == groups[pairs[:, 1]]).sum())
    return f" ({inside} of {len(pairs)} pairs of copies lie within one)"


CHECKS: tuple[Callable[[Material], Outcome], ...] = (
    check_unreadable,
    check_test_set,
    check_class_sizes,
    check_labels,
    check_leak,
    check_groups,
    check_conflicts,
    check_class_balance,
    check_copies_within,
    check_quality,
    check_shortcuts,
    check_group_names,
)


# --- their words -------------------------------------------------------------------------------


def _stop(material: Material, code: str, evidence: str, advice: str) -> Outcome:
    error = DataError(f"{material.dataset.name}: {evidence} {advice}")
    return Finding(code, "error", evidence, advice), error


def _leak(material: Material, code: str, evidence: str, remedy: str) -> Outcome:
    """A leak: an error that stops for splits that the user made, else a warning and a stamp."""
    dataset, origin = material.dataset, material.split.origin
    if origin == "official":
        advice = (
            "The split is an official benchmark, so it is used as it is and every result is "
            "stamped; read the score on the clean part of test beside it."
        )
        return Finding(code, "warning", evidence, advice), None
    if material.accept_leak:
        advice = f"Accepted with --accept-leak: every result is stamped 'leaky'. {remedy}."
        return Finding(code, "warning", evidence, advice), None
    way_out = (
        "(without --splits, scanwise makes a split that does)"
        if origin == "file"
        else "(without a split of its own, the data get one from scanwise that does)"
    )
    advice = f"{remedy} {way_out}, or go on with --accept-leak, which stamps every result."
    error = IntegrityError(f"{dataset.name}: {evidence} Scores would be too good. {advice}")
    return Finding(code, "error", evidence, advice, "check --output check"), error


def _crossing_pairs(material: Material) -> list[Pair]:
    """Pairs of copies in two splits, those that touch test first."""
    where = split_of_row(material.split, len(material.dataset))
    found = []
    for pair in material.duplicates.pairs():
        sides = where[pair.first], where[pair.second]
        if min(sides) >= 0 and sides[0] != sides[1]:
            found.append(pair)
    return sorted(found, key=lambda pair: -max(where[pair.first], where[pair.second]))


def _for_one(material: Material) -> str:
    """One leaked pair by name."""
    for pair in _crossing_pairs(material):
        names = material.dataset.sample_ids
        return f" (for one: {names[pair.first]} and {names[pair.second]})"
    return ""


def _examples(material: Material) -> tuple[dict[str, Any], ...]:
    """The first pairs, those across splits before the others."""
    dataset, where = material.dataset, split_of_row(material.split, len(material.dataset))
    crossing = _crossing_pairs(material)
    seen = {(pair.first, pair.second) for pair in crossing}
    others = (pair for pair in material.duplicates.pairs() if (pair.first, pair.second) not in seen)
    chosen = [*crossing, *others][:EXAMPLES]
    return tuple(
        {
            "first": dataset.sample_ids[pair.first],
            "second": dataset.sample_ids[pair.second],
            "rows": [pair.first, pair.second],
            "kind": pair.kind,
            "similarity": round(pair.similarity, 4),
            "splits": [_split_name(where[pair.first]), _split_name(where[pair.second])],
        }
        for pair in chosen
    )


def _split_name(number: int) -> str:
    return SPLIT_NAMES[number] if number >= 0 else ""


def _conflict(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, Any]:
    shown = rows[:4].tolist()
    other = [
        row for row in rows.tolist() if (dataset.targets[row] != dataset.targets[rows[0]]).any()
    ]
    if other[0] not in shown:
        shown[-1] = other[0]
    return {
        "samples": [dataset.sample_ids[row] for row in shown],
        "rows": shown,
        "labels": [_label(dataset, row) for row in shown],
    }


def _label(dataset: Dataset, row: int) -> str:
    target = dataset.targets[row]
    if dataset.task == "multilabel":
        return "|".join(dataset.class_names[i] for i in np.flatnonzero(target))
    return dataset.class_names[int(target)]
