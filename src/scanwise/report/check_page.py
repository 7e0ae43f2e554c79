"""What the page of `scanwise check` says: findings first, then classes, pictures, duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.types import SPLIT_NAMES, Dataset, Finding, Split
from scanwise.report.blocks import (
    Banner,
    FactList,
    Findings,
    Page,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
    Tile,
    Tiles,
    without_nothing,
)
from scanwise.report.data_words import class_table, data_facts
from scanwise.report.figures import existing_picture
from scanwise.report.pages import NOT_A_DEVICE, count_text, png_uri
from scanwise.report.plots import to_display
from scanwise.report.run_files import finding_of, worst_first
from scanwise.report.shortcut_blocks import data_banners, shortcut_block

PRECISION = "How well test can tell a sensitivity of 0.9: half the width of its 95 % interval"
MAX_EXAMPLES = 12
MAX_LISTED = 20


@dataclass(frozen=True, eq=False)
class Examples:
    """Images to show: groups of row numbers that belong together, by caption."""

    dataset: Dataset
    split: Split | None
    groups: Mapping[str, Sequence[Sequence[int]]]


def all_findings(
    check_json: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> tuple[Finding, ...]:
    """Findings of the checks and notes of the reader, worst first."""
    rows = [*(check_json.get("findings") or ()), *(dataset_json.get("notes") or ())]
    return worst_first(finding_of(row) for row in rows)


def check_page(
    directory: Path,
    check_json: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    plots: Mapping[str, str],
    examples: Examples | None,
) -> Page:
    """The page as blocks; figures are read from `directory`."""
    findings = all_findings(check_json, dataset_json)
    level, headline = verdict_of(findings)
    pictures = {
        name: picture
        for name in plots
        if (picture := existing_picture(directory, name, folder="")) is not None
    }
    return Page(
        title="Data check",
        subtitle=str(dataset_json.get("name") or ""),
        level=level,
        headline=headline,
        sentence=_sentence(findings, dataset_json),
        banners=(*data_banners(findings), *_banners(dataset_json)),
        chips=_chips(dataset_json),
        sections=_sections(check_json, dataset_json, findings, pictures, examples),
    )


def verdict_of(findings: Sequence[Finding]) -> tuple[str, str]:
    """A level (bad, unsure, ok) and a headline."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if errors:
        return "bad", f"Not ready to train: {_plural(errors, 'error')} must be solved"
    if warnings:
        return "unsure", f"Ready to train; look at {_plural(warnings, 'warning')} first"
    return "ok", "Ready to train"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sentence(findings: Sequence[Finding], data: Mapping[str, Any]) -> str:
    counts = [
        _plural(sum(f.severity == severity for f in findings), word)
        for severity, word in (("error", "error"), ("warning", "warning"), ("info", "note"))
    ]
    k = len(data.get("class_names") or ())
    noun = "labels" if data.get("task") == "multilabel" else "classes"
    return f"{count_text(data.get('n'))} images in {k} {noun}: {', '.join(counts)}."


def _banners(data: Mapping[str, Any]) -> tuple[Banner, ...]:
    found = []
    if data.get("synthetic"):
        found.append(Banner("warn", "SYNTHETIC DATA", "These images are computer-made."))
    if data.get("verified") is False:
        text = "The file's hash is not the published one; its labels and pixels may differ."
        found.append(Banner("warn", "UNVERIFIED DATA", text))
    return (*found, Banner("note", "RESEARCH USE", NOT_A_DEVICE))


def _chips(data: Mapping[str, Any]) -> tuple[str, ...]:
    kind, licence = data.get("kind"), data.get("licence")
    return tuple(str(word) for word in (data.get("source"), kind, licence) if word)


def _sections(
    check_json: Mapping[str, Any],
    data: Mapping[str, Any],
    findings: tuple[Finding, ...],
    pictures: Mapping[str, Picture],
    examples: Examples | None,
) -> tuple[Section, ...]:
    sha256 = str((data.get("split") or {}).get("sha256") or "")
    facts = {**data, "checks": check_json}
    shown = _example_blocks(examples)
    rest = [pictures[name] for name in pictures if name != "class_distribution"]
    return (
        Section("Findings", (Findings(findings, empty="The checks found nothing to report."),)),
        Section(
            "Classes",
            without_nothing(
                [
                    class_table(data),
                    _some(pictures, "class_distribution"),
                    records_table(PRECISION, check_json.get("classes")),
                ]
            ),
        ),
        Section("Pictures", (Pictures(tuple(rest)) if rest else Paragraph("Not available."),)),
        Section(
            "Duplicates and leaks",
            (facts_of(check_json.get("duplicates"), "Duplicates"), *shown[0]),
        ),
        Section("Image quality", _quality(check_json.get("quality") or {}, shown[1])),
        Section("Shortcuts", (shortcut_block(check_json),)),
        Section("Data and split", (FactList(data_facts(facts, sha256)),)),
    )


def _quality(quality: Mapping[str, Any], shown: Sequence[Tiles]) -> tuple[Any, ...]:
    records = records_table("Furthest from the rest of their class", quality.get("top"))
    return without_nothing([facts_of(quality, "Quality"), *shown, records])


def _some(pictures: Mapping[str, Picture], name: str) -> Pictures | None:
    return Pictures((pictures[name],)) if name in pictures else None


def facts_of(given: Any, title: str) -> FactList | Paragraph:
    """An object of the checks as names and values; lists of objects are shown elsewhere."""
    if not given:
        return Paragraph(f"{title}: not checked.")
    rows = []
    for key, value in given.items():
        if _is_records(value):
            continue
        words = str(key).replace("_", " ").replace("-", " and ").capitalize()
        rows.append((words, value_text(value)))
    return FactList(tuple(rows))


def value_text(value: Any) -> str:
    """Any JSON value in words: '3: a, b, c'."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {value_text(part)}" for key, part in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        listed = [value_text(part) for part in value[:MAX_LISTED]]
        more = f" and {len(value) - MAX_LISTED:,} more" if len(value) > MAX_LISTED else ""
        return f"{len(value):,}: {', '.join(listed)}{more}" if value else "none"
    return count_text(value)


def records_table(caption: str, records: Any) -> Table | None:
    """A list of flat objects as a table; None where there is none."""
    if not _is_records(records):
        return None
    keys = list(dict.fromkeys(key for record in records for key in record))
    columns = tuple(str(key).replace("_", " ").capitalize() for key in keys)
    rows = tuple(
        tuple(value_text(record[key]) if key in record else "–" for key in keys)
        for record in records
    )
    return Table(caption, columns, rows, folded=len(rows) > 15)


def _is_records(value: Any) -> bool:
    """A list of objects, not empty."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and bool(value) and all(isinstance(part, Mapping) for part in value)


def _example_blocks(examples: Examples | None) -> tuple[list[Tiles], list[Tiles]]:
    """Thumbnails of duplicates (groups of several images) and of outliers (single images)."""
    several: list[Tiles] = []
    single: list[Tiles] = []
    for caption, groups in (examples.groups if examples is not None else {}).items():
        assert examples is not None
        block = _tiles(examples, caption, groups)
        if block is not None:
            (several if any(len(group) > 1 for group in groups) else single).append(block)
    return several, single


def _tiles(examples: Examples, caption: str, groups: Sequence[Sequence[int]]) -> Tiles | None:
    if not groups:
        return None
    more = f" (the first {MAX_EXAMPLES} of {len(groups):,})" if len(groups) > MAX_EXAMPLES else ""
    tiles = tuple(
        tuple(_tile(examples, int(row)) for row in group[:4]) for group in groups[:MAX_EXAMPLES]
    )
    return Tiles(f"{caption}{more}:", tiles)


def _tile(examples: Examples, row: int) -> Tile:
    dataset = examples.dataset
    name = dataset.sample_ids[row]
    what = ", ".join(
        part for part in (_class_words(dataset, row), _split_of(examples, row)) if part
    )
    image = to_display(np.asarray(dataset.images[row : row + 1]))[0]
    return Tile(png_uri(image), f"{name}: {what}", (what, name), small=max(image.shape[:2]) < 100)


def _class_words(dataset: Dataset, row: int) -> str:
    target = dataset.targets[row]
    if dataset.task == "multilabel":
        return " + ".join(dataset.class_names[i] for i in np.flatnonzero(target)) or "none"
    return dataset.class_names[int(target)]


def _split_of(examples: Examples, row: int) -> str:
    if examples.split is None:
        return ""
    return next((name for name in SPLIT_NAMES if row in examples.split.rows(name)), "")
