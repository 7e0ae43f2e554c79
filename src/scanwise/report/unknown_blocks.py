"""Unknown inputs as blocks: how many known images are flagged, how well foreign ones are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.core.types import Interval
from scanwise.metrics.intervals import MIN_UNITS
from scanwise.report.blocks import Command, Paragraph, Table
from scanwise.report.plots import images_text
from scanwise.report.run_files import RunFiles


def unknown_blocks(run: RunFiles) -> tuple[Any, ...]:
    """From unknown.json (written by each training) and ood.json (`scanwise ood`)."""
    found = run.unknown
    if not found or "reason" in found:
        reason = found.get("reason") or "the run was made before there was such a score"
        return (Paragraph(f"Unknown inputs: not measured ({reason})."),)
    blocks: list[Any] = [Paragraph(flagged_sentence(run))]
    if run.ood:
        blocks.append(_foreign_table(run))
    else:
        blocks.append(Paragraph("How well foreign images are recognised: not measured. Do so with"))
        blocks.append(Command(f"scanwise ood {run.argument} --against FOLDER-OR-NPZ"))
    return tuple(blocks)


def few_mark(each: Mapping[str, Any]) -> str:
    """'*' for a set of too few images to conclude from."""
    return "*" if each["n"] < MIN_UNITS else ""


def flagged_sentence(run: RunFiles) -> str:
    """How the threshold came about, and the share of each split that lies above it."""
    found = run.unknown
    parts = [
        f"{images_text(each['n'], name)}: {Interval.from_json(each['share_flagged'])}"
        for name, each in found["splits"].items()
    ]
    return (
        "Unknown inputs: an image counts as unlike the training images where the distance of its "
        f"{found['num_features']:,} features from the nearest class of {found['train_images']:,} "
        f"training images (Mahalanobis) exceeds {found['threshold']:.4g}, which 95 % of validation "
        "images do not: about 5 % of ordinary images are flagged. Share flagged, "
        f"{'; '.join(parts)}."
    )


def _foreign_table(run: RunFiles) -> Table:
    found = run.ood
    rows = tuple(
        (
            each["name"],
            f"{each['n']:,}",
            str(Interval.from_json(each["auroc"])),
            str(Interval.from_json(each["share_flagged"])) + few_mark(each),
            each["note"] or "–",
        )
        for each in found["sets"]
    )
    return Table(
        f"Foreign images against {images_text(found['known']['n'], found['known']['split'])}",
        ("Foreign set", "n", "AUROC", "Share flagged", "Note"),
        rows,
        "AUROC: chance that a foreign image scores higher than one of this run's; 0.5 is no "
        "difference. 95 % bootstrap intervals; * under 30 images: too few to conclude. Sets and "
        "their images are named in ood.json.",
    )
