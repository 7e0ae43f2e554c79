"""Thresholds, prediction sets and clinical tables as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scanwise.core.types import Interval
from scanwise.metrics.decisions import CLEAN
from scanwise.pipeline.tables import aligned

TITLES = {"val": "validation", "test": "test", CLEAN: CLEAN}
ROWS = (
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
    ("PPV", "ppv"),
    ("NPV", "npv"),
)


def threshold_text(entry: Mapping[str, Any]) -> str:
    """One threshold: the rule, and what it achieves where it was chosen and elsewhere."""
    name = entry["class"]
    lines = [
        f"'{name}' against the rest: called from a probability of {entry['threshold']:.4g} on",
        f"  asked for: {entry['rule_words']}",
        f"  chosen: {entry['how']}",
    ]
    rows = [("  on", f"'{name}'", "others", "sensitivity [95 %]", "specificity [95 %]")]
    for split, part in entry["splits"].items():
        chosen = ", where it was chosen" if split == "val" else ""
        rows.append(
            (
                f"  {TITLES[split]}{chosen}",
                f"n={part['positives']:,}",
                f"n={part['negatives']:,}",
                cell(part["sensitivity"]),
                cell(part["specificity"]),
            )
        )
    lines += [aligned(rows), *_notes(entry)]
    lines.append("stored in the bundle; it stands beside the most probable class, which stays")
    return "\n".join(lines)


def sets_text(sets: Mapping[str, Any]) -> str:
    """Prediction sets: the bars, and what they achieve on test."""
    promised = 100 * (1 - sets["alpha"])
    whom = "images of each class" if sets["class_conditional"] else "images"
    lines = [
        f"sets that hold the true class of {promised:g} % of {whom}, calibrated on "
        f"n={sets['n']:,} validation images",
        f"  a class is in the set from this probability on: {_bars(sets)}",
    ]
    if not sets["splits"]:
        lines.append("  coverage: not measured (test was not opened)")
    for split, part in sets["splits"].items():
        rows = [
            (f"  on {TITLES[split]}", "n", "share or mean [95 %]"),
            ("  coverage", f"{part['n']:,}", cell(part["coverage"])),
            *(
                (f"    of '{each['name']}'", f"{each['n']:,}", cell(each["coverage"]))
                for each in part["per_class"]
            ),
            ("  classes in a set", f"{part['n']:,}", cell(part["mean_size"])),
            ("  sets of one class", f"{part['n']:,}", cell(part["single"])),
            ("  empty sets", f"{part['n']:,}", cell(part["empty"])),
        ]
        lines.append(aligned(rows))
    return "\n".join([*lines, *(f"note: {note}" for note in sets["notes"])])


def prevalence_text(entry: Mapping[str, Any]) -> str:
    """The clinical table of one class at a prevalence, and what it means for 1,000 images."""
    name, prevalence = entry["class"], entry["prevalence"]
    by = "the decision of predictions.csv (no threshold is stored)"
    if entry["threshold"] is not None:
        by = f"the stored threshold {entry['threshold']:.4g}"
    lines = [
        f"'{name}' against the rest, by {by}",
        f"  {TITLES[entry['split']]}: n={entry['n']:,}, {entry['positives']:,} '{name}' "
        f"({entry['prevalence_in_split']:.1%}), {entry['negatives']:,} others",
    ]
    rows = [("  ", "value [95 %]", "of")]
    of = {
        "sensitivity": f"{entry['positives']:,} '{name}'",
        "specificity": f"{entry['negatives']:,} others",
    }
    rows += [
        (f"  {title}", cell(entry[key]), of.get(key, f"a prevalence of {prevalence:g}"))
        for title, key in ROWS
    ]
    lines += [aligned(rows), f"  {thousand_sentence(entry)}", *_notes(entry)]
    lines.append("decision curve: plots/decision_curve.png")
    return "\n".join(lines)


def thousand_sentence(entry: Mapping[str, Any]) -> str:
    """Natural frequencies: of 1,000 images, how many are found and how many alarms are false."""
    sick = 1000 * entry["prevalence"]
    found = _scaled(entry["sensitivity"], sick)
    alarms = _scaled(entry["specificity"], 1000 - sick, misses=True)
    return (
        f"of 1,000 images at that prevalence {sick:.3g} are '{entry['class']}': {found} of them "
        f"found; {alarms} false alarms among the others"
    )


def cell(entry: Mapping[str, Any]) -> str:
    """'0.952 [0.773, 0.992]', a star where there are too few to conclude."""
    interval = Interval.from_json(entry)
    if interval.value is None or interval.low is None:
        return str(interval) if interval.value is None else f"{interval} ({interval.reason})"
    return f"{interval}{'*' if interval.reason else ''}"


def _scaled(entry: Mapping[str, Any], size: float, *, misses: bool = False) -> str:
    rate = Interval.from_json(entry)
    if rate.value is None or rate.low is None or rate.high is None:
        return str(rate)
    low, value, high = rate.low, rate.value, rate.high
    if misses:
        low, value, high = 1 - high, 1 - value, 1 - low
    digits = 1 if size < 100 else 0
    shown = (f"{max(size * each, 0.0):.{digits}f}" for each in (value, low, high))
    return "{} [{}, {}]".format(*shown)


def _bars(sets: Mapping[str, Any]) -> str:
    bars = sets["min_probability"]
    if len(set(bars.values())) == 1:
        return f"{next(iter(bars.values())):.4g}"
    return ", ".join(f"'{name}' {bar:.4g}" for name, bar in bars.items())


def _notes(entry: Mapping[str, Any]) -> Sequence[str]:
    """Cautions, and what the stars mean where there are any."""
    parts = entry.get("splits", {"": entry})
    few = any(
        "too few" in str(part[key].get("note"))
        for part in parts.values()
        for key in ("sensitivity", "specificity", "ppv", "npv")
        if key in part
    )
    stars = ["  * under 30 images or groups: too few to conclude"] if few else []
    return [*stars, *(f"  caution: {words}" for words in entry.get("cautions", ()))]
