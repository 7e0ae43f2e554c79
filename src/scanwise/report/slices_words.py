"""What slices.json and groups.json say, in words; the terminal and the report use the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.core.types import Interval
from scanwise.metrics.differences import ALPHA

METRIC_WORDS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc_macro": "AUC-ROC (macro)",
    "label_accuracy": "Accuracy by label",
    "kappa_quadratic": "Kappa, quadratic weights",
}
GROUP_METRICS = {
    "accuracy": "accuracy",
    "label_accuracy": "accuracy by label",
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "AUROC (macro)",
    "kappa_quadratic": "kappa, quadratic",
    "mean_absolute_grade_error": "error in grades",
}


def worst_sentence(document: Mapping[str, Any]) -> str:
    """The worst slice with what it rests on, or that there is none."""
    part = worst_entry(document)
    if part is None:
        return "worst slice: none could be ranked"
    gap = Interval.from_json(part["difference_within_class"])
    word = {"worse": "worse than the rest"}.get(part["verdict"], f"{part['verdict']} from the rest")
    return (
        f"worst slice: {part['column']} '{part['value']}' (n = {part['n']:,}), {gap.signed()} to "
        f"the rest within classes: {word} (Holm p = {p_text(part)}, alpha {ALPHA:.2f})"
    )


def worst_entry(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    worst = document.get("worst") or {}
    same = (p for p in document["slices"] if {k: p[k] for k in ("column", "value")} == worst)
    return next(same, None)


def p_text(part: Mapping[str, Any]) -> str:
    p_value = part["corrected_p"]
    return "–" if p_value is None else "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def mixed_sentence(document: Mapping[str, Any]) -> str:
    """How many groups were left out since their images differ in their labels, and which."""
    mixed = document["mixed"]
    if not mixed["groups"]:
        return "no group has images of different labels"
    more = ", …" if mixed["groups"] > 3 else ""
    return (
        f"left out: {mixed['groups']:,} groups ({mixed['images']:,} images) whose images have "
        f"different labels, so that the group has none: {', '.join(mixed['first'][:3])}{more}"
    )


def score_cell(entry: Mapping[str, Any]) -> str:
    value = Interval.from_json(entry)
    return str(value) if value.value is not None else f"– ({value.reason})"


def signed_cell(entry: Mapping[str, Any]) -> str:
    """'+0.021 [-0.004, +0.047]', or '–'."""
    gap = Interval.from_json(entry)
    return gap.signed() if gap.value is not None else "–"


def drop_cell(drop: Interval) -> str:
    """A relative drop: '12.3 % [8.0, 17.1]'."""
    if drop.value is None:
        return f"– ({drop.reason})"
    bare = f"{100 * drop.value:.1f}\N{NO-BREAK SPACE}%"
    if drop.low is None or drop.high is None:
        return bare
    return f"{bare} [{100 * drop.low:.1f}, {100 * drop.high:.1f}]"
