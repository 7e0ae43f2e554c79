"""The checks of a data set and its split: each a function with a code, listed in CHECKS.

| code | what |
|---|---|
| D001 | files that can't be decoded |
| D002 | a class with too few images to learn or to judge |
| D003 | imbalance between classes |
| D004 | copies that lie in more than one split: a leak |
| D005 | the same picture with two labels: a conflict |
| D006 | copies within a split |
| D007 | a group (patient, slide) in more than one split: a leak |
| D008 | images unlike the rest of their class |
| D009 | a label without positive images in train |
| D010 | "0 groups shared", the checked fact |
| K001 | what is known of this public data set (scanwise.data.advisories) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scanwise.core.errors import DataError, IntegrityError, ScanwiseError
from scanwise.core.types import Dataset, Finding, Split
from scanwise.data.advisories import advisories
from scanwise.data.duplicates import (
    Duplicates,
    crossing_images,
    find_duplicates,
    leaked_rows,
    split_of_row,
)
from scanwise.data.quality import Quality, measure_quality
from scanwise.data.splits import group_summary
from scanwise.metrics.intervals import wilson_interval

MIN_CLASS = 5  # images of a class below which nothing can be learned or judged
GUIDELINE = 30  # images of a class that the training guide asks for (30 to 50)
MAX_UNREADABLE = 0.05
FIRST = 20  # offenders named in a message


@dataclass(frozen=True, eq=False)
class Material:
    """What the checks look at."""

    dataset: Dataset
    split: Split
    duplicates: Duplicates
    quality: Quality
    skip_unreadable: bool
    accept_leak: bool


@dataclass(frozen=True, eq=False)
class CheckReport:
    """All that was found. `stop` is the error that forbids training, if there is one."""

    findings: tuple[Finding, ...]
    duplicates: Duplicates
    quality: Quality
    classes: tuple[dict[str, Any], ...]
    leaks: dict[str, int]
    test_share: float  # of test that has a copy in train or val
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
                "clusters": len(found.clusters),
                "alike_cut": found.alike_cut,
                "conflicts": len(found.conflicts),
                "leaks": self.leaks,
                "test_share": self.test_share,
            },
            "quality": self.quality.to_json(),
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
        DataError: If all images are of a single colour.
    """
    found = duplicates or find_duplicates(dataset.images, dataset.targets)
    material = Material(
        dataset, split, found, measure_quality(dataset), skip_unreadable, accept_leak
    )
    findings, stops = [*advisories(dataset)], []
    for check in CHECKS:
        finding, stop = check(material)
        findings += [finding] if finding else []
        stops += [stop] if stop else []
    leaks = crossing_images(found, split)
    leaked = leaked_rows(found, split)["test"]
    return CheckReport(
        findings=tuple(findings),
        duplicates=found,
        quality=material.quality,
        classes=class_rows(dataset, split),
        leaks=leaks,
        test_share=len(leaked) / len(split.test) if len(split.test) else 0.0,
        leaky=any(finding.code in ("D004", "D007") for finding in findings),
        # An integrity stop outranks a data stop: it says more about the scores.
        stop=min(stops, key=lambda error: -error.exit_code, default=None),
    )


def class_rows(dataset: Dataset, split: Split) -> tuple[dict[str, Any], ...]:
    """Counts and shares of each class, and how well its sensitivity can be known on test.

    `sensitivity_half_width` is half of the Wilson interval of a sensitivity of 0.9 on the class's
    test images.
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


Outcome = tuple[Finding | None, ScanwiseError | None]
NOTHING: Outcome = (None, None)


def check_unreadable(material: Material) -> Outcome:
    """D001: files that can't be decoded; stops unless they may be skipped and are few."""
    bad = material.dataset.unreadable
    if not bad:
        return NOTHING
    total = len(material.dataset) + len(bad)
    share = len(bad) / total
    listed = "; ".join(f"{each.path} ({each.reason})" for each in bad[:FIRST])
    more = f"; and {len(bad) - FIRST} more" if len(bad) > FIRST else ""
    evidence = f"{len(bad)} of {total} files can't be read: {listed}{more}."
    if share > MAX_UNREADABLE:
        message = f"{evidence} Over 5 % is too much to leave out; mend or remove them."
        return _stop("D001", evidence, "Mend or remove the files.", DataError(message))
    if not material.skip_unreadable:
        message = f"{evidence} Mend or remove them, or leave them out with --skip-unreadable."
        return _stop("D001", evidence, "Mend them, or leave them out.", DataError(message))
    return Finding("D001", "warning", evidence + " They are left out."), None


def check_class_sizes(material: Material) -> Outcome:
    """D002: a class with fewer than 5 images stops; one below the guideline of 30 is named."""
    dataset = material.dataset
    counts = dataset.class_counts()
    few = [i for i in range(len(counts)) if counts[i] < GUIDELINE]
    if not few:
        return NOTHING
    listed = ", ".join(f"'{dataset.class_names[i]}' {counts[i]}" for i in few[:FIRST])
    evidence = f"classes with under {GUIDELINE} images (30 to 50 are advised): {listed}."
    tiny = [i for i in few if counts[i] < MIN_CLASS]
    if tiny and dataset.task != "multilabel":
        named = ", ".join(f"'{dataset.class_names[i]}' has {counts[i]}" for i in tiny)
        message = (
            f"{dataset.name}: {named} images; a class needs at least {MIN_CLASS} to be learned and "
            "judged. Add images, merge it into another class or leave it out."
        )
        return _stop("D002", evidence, "Add images, or merge the class.", DataError(message))
    advice = "Read their intervals before their scores; add images of these classes."
    return Finding("D002", "warning", evidence, advice), None


def check_imbalance(material: Material) -> Outcome:
    """D003: the most frequent class has over three times the images of the rarest."""
    dataset = material.dataset
    counts = dataset.class_counts()
    present = np.flatnonzero(counts > 0)
    if len(present) < 2 or counts[present].max() <= 3 * counts[present].min():
        return NOTHING
    most, least = present[counts[present].argmax()], present[counts[present].argmin()]
    share = counts[most] / len(dataset)
    evidence = (
        f"'{dataset.class_names[most]}' has {counts[most]} images ({share:.0%}), "
        f"'{dataset.class_names[least]}' {counts[least]}: {counts[most] / counts[least]:.1f} to 1."
    )
    advice = "Read balanced accuracy beside accuracy; weights help rare classes at others' cost."
    return Finding("D003", "info", evidence, advice, "--class-weights balanced"), None


def check_leak(material: Material) -> Outcome:
    """D004: copies across splits. Stops for the user's own splits, never for an official one."""
    leaks = crossing_images(material.duplicates, material.split)
    if not any(leaks.values()):
        return NOTHING
    leaked = leaked_rows(material.duplicates, material.split)["test"]
    n_test = len(material.split.test)
    share = len(leaked) / n_test if n_test else 0.0
    parts = ", ".join(f"{count} {pair}" for pair, count in leaks.items() if count)
    evidence = (
        f"images with a copy (exact or near) in another split: {parts}; {len(leaked)} of {n_test} "
        f"test images ({share:.1%}) have one in train or val{_examples(material)}."
    )
    return _leak(material, "D004", evidence, "Remove the copies, or keep them in one split.")


def check_groups(material: Material) -> Outcome:
    """D007 and D010: groups that lie in more than one split, or the fact that none does."""
    found = group_summary(material.dataset, material.split)
    if found is None:
        return NOTHING
    if not found.shared:
        return Finding("D010", "info", f"{found}."), None
    names = ", ".join(f"'{group.group}'" for group in found.shared[:5])
    evidence = f"{len(found.shared)} groups lie in more than one split ({names}, …): {found}."
    return _leak(material, "D007", evidence, "Split by groups.")


def check_conflicts(material: Material) -> Outcome:
    """D005: exact copies that carry different labels."""
    conflicts = material.duplicates.conflicts
    if not conflicts:
        return NOTHING
    dataset = material.dataset
    first = ", ".join(dataset.sample_ids[row] for row in conflicts[0][:4])
    evidence = f"{len(conflicts)} pictures occur with two labels (for one: {first})."
    return Finding("D005", "warning", evidence, "Decide which label is right."), None


def check_copies_within(material: Material) -> Outcome:
    """D006: copies inside one split."""
    where = split_of_row(material.split, len(material.dataset))
    inside = [rows for rows in material.duplicates.clusters if len(np.unique(where[rows])) == 1]
    if not inside:
        return NOTHING
    images = sum(len(rows) for rows in inside)
    evidence = (
        f"{images} images form {len(inside)} clusters of copies (exact or near) in one split."
    )
    advice = "They count several times in every score; intervals are a little too narrow."
    return Finding("D006", "info", evidence, advice), None


def check_quality(material: Material) -> Outcome:
    """D008: images whose brightness, sharpness, … is far from their class's."""
    outliers = material.quality.outliers
    if not outliers:
        return NOTHING
    named = ", ".join(f"{each.sample} {each.reason}" for each in outliers[:3])
    evidence = f"{len(outliers)} images are unlike the rest of their class: {named}."
    severity = "warning" if len(outliers) > 0.02 * len(material.dataset) else "info"
    return Finding("D008", severity, evidence, "Look at them before you trust them."), None  # type: ignore[arg-type]


def check_labels(material: Material) -> Outcome:
    """D009: labels without positives in train. A manifest's author can mend it; a file's can't."""
    dataset, split = material.dataset, material.split
    if dataset.task != "multilabel":
        return NOTHING
    counts = dataset.class_counts(split.train)
    absent = [dataset.class_names[i] for i in np.flatnonzero(counts == 0)]
    if not absent:
        return NOTHING
    listed = ", ".join(f"'{name}'" for name in absent)
    evidence = f"labels without a positive image in train, which can't be learned: {listed}."
    advice = "Add positive images, or leave the labels out."
    if dataset.provenance.kind in ("manifest", "folder", "split-folder"):
        return _stop("D009", evidence, advice, DataError(f"{dataset.name}: {evidence} {advice}"))
    return Finding("D009", "warning", evidence, advice), None


CHECKS: tuple[Callable[[Material], Outcome], ...] = (
    check_unreadable,
    check_class_sizes,
    check_labels,
    check_leak,
    check_groups,
    check_conflicts,
    check_imbalance,
    check_copies_within,
    check_quality,
)


def _stop(code: str, evidence: str, advice: str, error: ScanwiseError) -> Outcome:
    return Finding(code, "error", evidence, advice), error


def _leak(material: Material, code: str, evidence: str, advice: str) -> Outcome:
    """A leak: an error that stops for splits that the user made, else a warning and a stamp."""
    if material.split.origin == "official":
        note = " The split is an official benchmark: it is used, and every result is stamped."
        return Finding(code, "warning", evidence + note, "Read the clean score beside it."), None
    if material.accept_leak:
        note = " Accepted with --accept-leak: every result is stamped 'leaky'."
        return Finding(code, "warning", evidence + note, advice), None
    message = (
        f"{material.dataset.name}: {evidence} Scores would be too good. {advice} "
        "--accept-leak goes on and stamps every result."
    )
    return _stop(code, evidence, advice, IntegrityError(message))


def _examples(material: Material) -> str:
    """One leaked pair by name."""
    where = split_of_row(material.split, len(material.dataset))
    for rows in material.duplicates.clusters:
        inside = where[rows]
        if (inside == 2).any() and np.isin(inside, (0, 1)).any():
            test = rows[inside == 2][0]
            other = rows[np.isin(inside, (0, 1))][0]
            ids = material.dataset.sample_ids
            return f" (for one: {ids[test]} is {ids[other]})"
    return ""
