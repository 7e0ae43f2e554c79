"""What the report says of shortcuts and of groups that nobody gave: banners and one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scanwise.core.types import Finding
from scanwise.report.blocks import Banner, Paragraph, Table
from scanwise.report.pages import count_text
from scanwise.report.verdict import as_interval

SHORTCUT, GUESSED, UNSURE = "D012", "D013", "D014"
FAMILIES = {
    "metadata": "Size, format, camera, name, grey or colour",
    "border": "Outermost pixels and corners",
    "inner frame": "The same frame a quarter further inside",
    "thumbnail": "Brightness, contrast, mean colour",
}
NOTE = (
    "Logistic regression on training images, scored out of fold (mean over classes, one against "
    "the rest). The border alarms where it tells a class clearly better than the frame inside. "
    "Thumbnails may hold the real signal: shown, never alarming."
)


def data_banners(findings: Iterable[Finding]) -> tuple[Banner, ...]:
    """Red where a shortcut was found; a caution where names look like groups that were not used."""
    found = []
    for finding in findings:
        said = finding.evidence.removeprefix("shortcut: ")
        text = said[:1].upper() + said[1:]
        if finding.code == SHORTCUT:
            found.append(Banner("stop", "SHORTCUT", text))
        if finding.code == UNSURE or (finding.code == GUESSED and finding.severity != "info"):
            risk = "Scores may be too good: images of one patient or slide may lie in two splits."
            found.append(Banner("warn", "GROUPS UNKNOWN", f"{risk} {text}"))
    return tuple(found)


def shortcut_block(
    checks: Mapping[str, Any], model: Mapping[str, Any] | None = None
) -> Table | Paragraph:
    """AUROC by family, beside that of the trained model where `model` is a split of metrics.json.

    `checks` is that part of dataset.json; without probes the sentence says why.
    """
    probed = checks.get("shortcuts")
    if not probed:
        return Paragraph(
            "Shortcuts: not measured (the run is older than this check); `scanwise check DATA` "
            "measures them."
        )
    if not probed.get("probes"):
        reason = probed.get("reason") or "no reason recorded"
        return Paragraph(f"Shortcuts: not measured ({reason}).")
    n = count_text(probed.get("n"))
    rows = [_row(probe, n) for probe in probed["probes"]]
    if model:
        area = as_interval(model.get("auroc_macro"))
        rows.append(("The trained model", str(area), count_text(model.get("n")), "–"))
    columns = ("Told from", "AUROC (macro)", "n", "Most telling by itself")
    caption = "Can the label be told without the subject? (0.5 is chance)"
    return Table(caption, columns, tuple(rows), NOTE, words=True)


def _row(probe: Mapping[str, Any], n: str) -> tuple[str, ...]:
    area = as_interval(probe.get("auroc_macro"))
    family = str(probe.get("family"))
    carriers = probe.get("carriers") or {}
    if not carriers:
        return FAMILIES.get(family, family), str(area), n, "–"
    name = max(carriers, key=lambda each: carriers[each]["auroc"])
    carrier = f"{carriers[name]['feature']}: {carriers[name]['auroc']:.3f} for '{name}'"
    return FAMILIES.get(family, family), str(area), n, carrier
