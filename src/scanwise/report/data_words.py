"""dataset.json in words and tables; the report and the check page say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.core.types import SPLIT_NAMES
from scanwise.report.blocks import Table
from scanwise.report.pages import count_text

SPLIT_TITLES = {"train": "Train", "val": "Validation", "test": "Test"}


def data_facts(data: Mapping[str, Any], split_sha256: str) -> tuple[tuple[str, str], ...]:
    """What dataset.json says of the data and its split, as names and words."""
    items = [
        ("Data", f"{data.get('name')} ({data.get('source') or 'source not recorded'})"),
        ("Task", f"{data.get('task')}, {_classes_fact(data)}"),
        ("Images", _images_fact(data)),
        ("Split", _split_fact(data.get("split") or {}, split_sha256)),
        ("Groups", _groups_fact(data)),
        ("Leaks between splits", _leaks_fact(data.get("checks") or {})),
        ("Licence of the data", str(data.get("licence") or "not stated")),
    ]
    if data.get("citation"):
        items.append(("Cite", str(data["citation"])))
    return tuple(items)


def _classes_fact(data: Mapping[str, Any]) -> str:
    noun = "labels" if data.get("task") == "multilabel" else "classes"
    return f"{len(data.get('class_names') or ())} {noun}"


def _images_fact(data: Mapping[str, Any]) -> str:
    image = data.get("image") or {}
    channels = image.get("channels")
    size = (
        f", {image['height']}×{image['width']} px, {channels} channel"
        f"{'' if channels == 1 else 's'}, {image.get('dtype')}"
        if image.get("height")
        else ""
    )
    synthetic = "; synthetic, made by a computer" if data.get("synthetic") else ""
    return f"{count_text(data.get('n'))}{size}{synthetic}"


def _split_fact(split: Mapping[str, Any], sha256: str) -> str:
    sizes = split.get("n") or {}
    parts = [f"{name} {sizes[name]:,}" for name in SPLIT_NAMES if name in sizes]
    seed = f", seed {split['seed']}" if split.get("seed") is not None else ""
    note = f". {str(split['note']).rstrip('.')}." if split.get("note") else ""
    origin = split.get("origin") or "origin not recorded"
    sha = f"sha256 {sha256[:12]}" if sha256 else "not saved"
    return f"{', '.join(parts) or 'sizes not recorded'} ({origin}{seed}; {sha}){note}"


def _groups_fact(data: Mapping[str, Any]) -> str:
    groups = data.get("groups")
    if not groups:
        return "none given: images of one patient or slide may lie in several splits"
    shared = groups.get("shared")
    number = shared if isinstance(shared, int) else len(shared or ())
    return f"{number} groups shared between splits (checked; {count_text(groups.get('n'))} groups)"


def _leaks_fact(checks: Mapping[str, Any]) -> str:
    leaks = (checks.get("duplicates") or {}).get("leaks")
    if leaks is None:
        return "not checked"
    parts = [f"{pair} {leak_count(leak):,}" for pair, leak in leaks.items() if leak_count(leak)]
    return ", ".join(parts) + " images" if parts else "0 images shared between splits (checked)"


def leak_count(leak: Any) -> int:
    """The number of images in one entry of `leaks`: a number, a list, or an object with a count."""
    if isinstance(leak, bool) or leak is None:
        return 0
    if isinstance(leak, int | float):
        return int(leak)
    if isinstance(leak, Mapping):
        keys = ("images", "test_images", "n", "count")
        return next((leak_count(leak[key]) for key in keys if key in leak), 0)
    return len(leak)


def class_table(data: Mapping[str, Any]) -> Table | None:
    """Images of each class by split; None where dataset.json has no counts."""
    counts = data.get("counts") or {}
    if not counts.get("all"):
        return None
    splits = [name for name in SPLIT_NAMES if counts.get(name)]
    total = int(data.get("n") or 0) or sum(counts["all"])
    rows = []
    for index, name in enumerate(data.get("class_names") or ()):
        cells = [f"{counts[split][index]:,}" for split in splits]
        share = f"{100 * counts['all'][index] / total:.1f} %" if total else "–"
        rows.append((str(name), *cells, f"{counts['all'][index]:,}", share))
    ratio = data.get("imbalance_ratio")
    note = f"Largest class over smallest: {ratio:.1f}." if isinstance(ratio, int | float) else ""
    columns = ("Class", *(SPLIT_TITLES[split] for split in splits), "All", "Share of images")
    return Table("Images of each class", columns, tuple(rows), note, folded=len(rows) > 15)
