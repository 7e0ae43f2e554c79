"""The report's section on parts of the images: slices, groups, and worse pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.core.types import Interval
from scanwise.report.blocks import (
    Banner,
    Command,
    Paragraph,
    Picture,
    Pictures,
    Table,
    without_nothing,
)
from scanwise.report.data_words import SPLIT_TITLES
from scanwise.report.run_files import RunFiles
from scanwise.report.slices_words import (
    GROUP_METRICS,
    METRIC_WORDS,
    drop_cell,
    mixed_sentence,
    p_text,
    score_cell,
    signed_cell,
    worst_entry,
    worst_sentence,
)


def worst_slice_banner(run: RunFiles) -> list[Banner]:
    """The worst slice, for the first screen; red where it is below the rest beyond chance."""
    part = worst_entry(run.slices) if run.slices else None
    if part is None:
        return []
    where = _split(run.slices)
    text = worst_sentence(run.slices).removeprefix("worst slice: ") + f"; {where}, 95 % interval."
    return [Banner("warn" if part["verdict"] == "worse" else "note", "WORST SLICE", text)]


def parts_blocks(run: RunFiles, pictures: Mapping[str, Picture]) -> tuple[Any, ...]:
    """Slices, groups and robustness; each is measured or says the command that measures it."""
    return without_nothing(
        [
            *_slices(run, pictures.get("slices")),
            *_groups(run),
            *_robustness(run, pictures.get("robustness")),
        ]
    )


def _slices(run: RunFiles, picture: Picture | None) -> list[Any]:
    if not run.slices:
        return _not_measured(
            "Slices (sex, site, scanner, age, …): not measured. With a table of such columns,",
            f"scanwise evaluate {run.argument} --slices all --meta FILE.csv",
        )
    return [_slices_table(run), Pictures((picture,)) if picture else None]


def _slices_table(run: RunFiles) -> Table:
    document = run.slices
    right = "label_accuracy" if document["task"] == "multilabel" else "accuracy"
    keys = (right, "balanced_accuracy", "auroc_macro")
    rows = tuple(
        (
            f"{part['column']}: {part['value']}",
            f"{part['n']:,}",
            *(score_cell(part[key]) for key in keys),
            signed_cell(part["difference"]),
            signed_cell(part["difference_within_class"]),
            p_text(part),
        )
        for part in document["slices"]
    )
    bins = [column["name"] for column in document["columns"] if column["binned"]]
    cut = f"{', '.join(bins)}: cut at the quartiles of these images. " if bins else ""
    skipped = " ".join(f"Not sliced: {entry['reason']}" for entry in document["skipped"])
    return Table(
        f"Slices of the {document['n']:,} {_split(document)} images, 95 % intervals",
        ("Slice", "n", "Share right", "Balanced accuracy", "AUC-ROC (macro)",
         "To the rest", "To the rest, within class", "p (Holm)"),
        rows,
        f"{cut}Within class: the difference inside each class, averaged (Mantel-Haenszel), so that "
        f"another mix of classes is no difference; p of it, corrected for "
        f"{document['comparisons']} comparisons. Grey: n < {document['min_images']}, not ranked. "
        f"Bootstrap by {document['bootstrap']['unit']}. {skipped}",
        stacked=True,
        faded=tuple(i for i, part in enumerate(document["slices"]) if not part["ranked"]),
    )  # fmt: skip


def _groups(run: RunFiles) -> list[Any]:
    if not run.groups:
        return _not_measured(
            "One verdict a group (patient, slide, lesion): not measured. Where groups of several "
            "images were named in training,",
            f"scanwise evaluate {run.argument} --aggregate mean",
        )
    document = run.groups
    images, groups = document["images"], document["groups"]
    rows = tuple(
        (words[0].upper() + words[1:], score_cell(images[key]), score_cell(groups[key]))
        for key, words in GROUP_METRICS.items()
        if key in groups
    )
    table = Table(
        f"One verdict a group: {document['aggregate']} over its images, {_split(document)}, "
        "95 % intervals over groups",
        ("", f"Each image, n={images['n']:,}", f"Each group, n={groups['n']:,}"),
        rows,
        f"{document['groups_of_several']:,} groups have several images; "
        f"{mixed_sentence(document)}.",
    )
    return [table]


def _robustness(run: RunFiles, picture: Picture | None) -> list[Any]:
    if not run.robustness:
        return _not_measured(
            "Worse pictures (blur, noise, JPEG, brightness, contrast, resize): not measured.",
            f"scanwise robustness {run.argument}",
        )
    document = run.robustness
    main = document["main_metric"]
    strengths = {each["name"]: each for each in document["corruptions"]}
    rows = []
    for curve in document["curves"]:
        if curve["metric"] == main:
            kind = strengths[curve["corruption"]]
            said = ", ".join(f"{value:g}" for value in kind["strengths"])
            cells = [score_cell(score["value"]) for score in curve["severities"]]
            rows.append(
                (f"{kind['name']} ({kind['unit']}: {said})", *cells,
                 drop_cell(Interval.from_json(curve["mean_relative_drop"])))
            )  # fmt: skip
    whole = drop_cell(Interval.from_json(document["overall_relative_drop"][main]))
    part = "" if document["n"] == document["n_split"] else f" of {document['n_split']:,}"
    table = Table(
        f"{METRIC_WORDS[main]} on worse pictures: {document['n']:,}{part} {_split(document)} "
        f"images, clean {score_cell(document['clean'][main])}",
        ("Corruption", *(f"Severity {i}" for i in range(1, 6)), "Mean relative drop"),
        tuple(rows),
        f"Over all: {whole} relative drop. Drops are paired with the clean images; bootstrap by "
        f"{document['bootstrap']['unit']}, 95 % intervals. Severities after Hendrycks and "
        f"Dietterich 2019, for images of {document['side_px']} px.",
        stacked=True,
    )
    return [table, Pictures((picture,)) if picture else None]


def _not_measured(words: str, command: str) -> list[Any]:
    return [Paragraph(words), Command(command)]


def _split(document: Mapping[str, Any]) -> str:
    """'test' or 'validation'"""
    return SPLIT_TITLES[document["split"]].lower()
