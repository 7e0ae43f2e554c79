"""Error analysis as blocks: which classes are mixed up, and which one to mend first."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from scanwise.core.commands import completed
from scanwise.core.types import Interval
from scanwise.report.blocks import Command, Paragraph, Table
from scanwise.report.plots import images_text
from scanwise.report.run_files import RunFiles

SHOWN = 10


def error_blocks(run: RunFiles) -> tuple[Any, ...]:
    """From confusions.json and, where the run has one, its learning curve."""
    if not run.confusions:
        return (
            Paragraph("Confusions: not measured. This writes them from predictions.csv:"),
            Command(shlex.join(["scanwise", "errors", run.argument])),
        )
    curve = f"learning-curve --output {shlex.quote(f'{run.argument}/learning_curve')}"
    command = completed(curve, run.config, run.plan)
    return confusion_blocks(run.confusions, run.learning_curve, command)


def confusion_blocks(
    found: Mapping[str, Any], curve: Mapping[str, Any], command: str = ""
) -> tuple[Any, ...]:
    """The class to fix first with its reason, then confusion pairs (multi-label: labels).

    Args:
        found: confusions.json.
        curve: learning_curve.json; {} where it was not measured, then `command` measures it.
    """
    if not found["mistakes"]["count"]:
        share = Interval.from_json(found["mistakes"]["share"])
        where = images_text(found["n"], found["split"])
        return (Paragraph(f"No mistake among {where}: share wrong {share}."),)
    blocks: list[Any] = [Paragraph(fix_first_sentence(found)), Paragraph(data_sentence(curve))]
    if not curve and command:
        blocks.append(Command(command))
    blocks.append(_labels_table(found) if found["pairs"] is None else _pairs_table(found))
    return tuple(blocks)


def fix_first_sentence(found: Mapping[str, Any]) -> str:
    """'Class to fix first: 'mel'. 120 of 223 test images of it missed, 0.538 [0.472, 0.602]; …'"""
    many = found["pairs"] is None
    first = found["fix_first"]
    if first is None:
        what = "no label was missed" if many else "no class lost an image"
        return f"Class to fix first: none, {what}."
    entry = next(each for each in found["classes"] if each["name"] == first["class"])
    split = images_text(entry["n"], found["split"])
    text = (
        f"{'Label' if many else 'Class'} to fix first: '{entry['name']}'. "
        f"{entry['missed']:,} of {split} of it missed: "
        f"{Interval.from_json(entry['miss_rate'])}"
    )
    taken = [pair for pair in found["pairs"] or () if pair["actual"] == entry["name"]]
    if taken:
        text += f", most often taken for '{taken[0]['said']}' ({taken[0]['count']:,})"
    few = entry["miss_rate"].get("note") or entry["miss_rate"].get("reason")
    return f"{text}. It has the {first['criterion']}{f'; {few}' if few else ''}."


def data_sentence(curve: Mapping[str, Any]) -> str:
    """Which class twice the training images was expected to help most, by the learning curve."""
    if not curve:
        return "Whether more training images would help which class: not measured."
    gains = {
        name: Interval.from_json(each["doubling"]["gain"])
        for name, each in (curve.get("per_class") or {}).items()
        if each.get("doubling") and each["doubling"]["verdict"] == "falls"
    }
    n = f"n={curve.get('val_images', 0):,}"
    if not gains:
        return (
            f"Learning curve (validation, {n}): for no class was a gain from twice the training "
            "images distinguishable from none."
        )
    name = max(gains, key=lambda key: gains[key].value or 0)
    return (
        f"Learning curve (validation, {n}): twice the training images was expected to lower the "
        f"error of '{name}' most, by {gains[name]}."
    )


def _pairs_table(found: Mapping[str, Any]) -> Table:
    wrong = found["mistakes"]["count"]
    rows = tuple(
        (
            f"{pair['actual']} → {pair['said']}",
            f"{pair['count']:,}",
            str(Interval.from_json(pair["recall_lost"])),
            f"{pair['n_actual']:,}",
            f"{pair['rank_by_recall_lost']}",
            f"{100 * pair['count'] / wrong:.0f} %",
        )
        for pair in found["pairs"][:SHOWN]
    )
    more = len(found["pairs"]) - len(rows)
    share = Interval.from_json(found["mistakes"]["share"])
    return Table(
        f"Confusion pairs, most frequent first: {images_text(found['n'], found['split'])}",
        ("True → answer", "Images", "Recall it costs", "n of the true class",
         "Rank by recall", "Of all mistakes"),
        rows,
        f"{wrong:,} mistakes, share {share}. Recall: share of the true class's images that go this "
        "way, 95 % intervals; a rare class can lose much by few images."
        + (f" {more} rarer pairs are in confusions.json." if more > 0 else ""),
    )  # fmt: skip


def _labels_table(found: Mapping[str, Any]) -> Table:
    ranked = sorted(found["classes"], key=lambda entry: -entry["missed"])
    rows = tuple(
        (
            entry["name"],
            f"{entry['missed']:,} of {entry['n']:,}",
            str(Interval.from_json(entry["miss_rate"])),
            f"{entry['false_alarms']:,} of {entry['n_others']:,}",
            str(Interval.from_json(entry["false_alarm_rate"])),
        )
        for entry in ranked
    )
    return Table(
        f"Each label's misses and false alarms: {images_text(found['n'], found['split'])}",
        ("Label", "Missed", "Share missed", "False alarms", "Share of the others"),
        rows,
        "95 % intervals. Most missed first.",
        folded=len(rows) > 20,
    )
