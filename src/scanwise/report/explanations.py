"""Maps of evidence as figures, as a page of their own, and as a block of the report."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scanwise.core.types import Interval
from scanwise.metrics.faithfulness import FAITHFUL, NOT_FAITHFUL
from scanwise.report.blocks import Command, Link, Paragraph, Table
from scanwise.report.pages import render
from scanwise.report.plots import as_picture
from scanwise.report.run_files import RunFiles
from scanwise.report.style import MUTED, RIGHT, WRONG, figure_names, new_figure, one_line, styled
from scanwise.report.verdict import SPLIT_WORDS

MAP_COLOURS = "inferno"  # equal steps look equal, also to colour-blind readers and in grey
LEAST_ALPHA, MOST_ALPHA = 0.25, 0.8
WATERMARK = "NOT FAITHFUL"
VERDICT_WORDS = {
    FAITHFUL: "The maps of this gallery passed the tests",
    NOT_FAITHFUL: "Not faithful: these maps do not show what the network used",
    "too few to judge": "Too few images to judge the maps",
}


@styled
def plot_explanation(
    image: NDArray[np.uint8],
    evidence: NDArray[np.float32],
    *,
    heading: str,
    right: bool | None,
    subject: str,
    how: str,
    watermark: bool,
) -> Figure:
    """Draw an image beside its map.

    Args:
        image: uint8 (h, w, c), as the network sees it.
        evidence: (h, w) in [0, 1].
        heading: What is true and what was predicted.
        right: Colours the heading; None where the truth is not known.
        subject: Whose evidence the map shows.
        how: Method, layer and size of the map.
        watermark: Write NOT FAITHFUL across the map.
    """
    figure = new_figure(4.7, 2.8)
    left, over = figure.subplots(1, 2)
    size = {"interpolation": "nearest" if max(image.shape[:2]) < 100 else "antialiased"}
    left.imshow(as_picture(image), cmap="gray", vmin=0, vmax=255, **size)
    left.set_title("what the network sees", fontsize=8.5, fontweight="normal", pad=4)
    grey = as_picture(image).astype(np.float32)
    over.imshow(
        grey if grey.ndim == 2 else grey.mean(axis=2), cmap="gray", vmin=0, vmax=255, **size
    )
    alpha = LEAST_ALPHA + (MOST_ALPHA - LEAST_ALPHA) * evidence
    over.imshow(evidence, cmap=MAP_COLOURS, vmin=0, vmax=1, alpha=alpha, **size)
    over.set_title(one_line(subject), fontsize=8, fontweight="normal", pad=4)
    _colour_bar(figure, over)
    for axes in (left, over):
        axes.set_axis_off()
    if not evidence.any():
        _across(over, "no evidence\nfor this class", size=9, angle=0)
    if watermark:
        _across(over, WATERMARK, size=15, angle=32)
    colour = {True: RIGHT, False: WRONG, None: MUTED}[right]
    figure.suptitle(one_line(heading), x=0.01, ha="left", size=10, weight="bold", color=colour)
    figure.supxlabel(one_line(how), x=0.01, ha="left", fontsize=8, color=MUTED)
    return figure


def _colour_bar(figure: Figure, over: Axes) -> None:
    """Opaque, so that its colours are those that the map has at its strongest."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), MAP_COLOURS), ax=over, fraction=0.046, pad=0.03
    )
    bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    bar.set_label("evidence, strongest place = 1", fontsize=7)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)


def _across(axes: Axes, text: str, *, size: float, angle: float) -> None:
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        rotation=angle,
        fontsize=size,
        weight="bold",
        color="#ffffff",
        bbox={"facecolor": "#a3201a", "alpha": 0.78, "edgecolor": "none", "pad": 3},
    )


# --- Words and tables, the same on the page, in the report and in the terminal -------------------


def heading_of(entry: Mapping[str, Any], short: Mapping[str, str] | None = None) -> str:
    """'true: ill · predicted: well 0.93', with names shortened for figures by `short`."""
    names = short or {}

    def said(label: str) -> str:
        return names.get(label, label)

    predicted = entry["predicted"] or "no label"
    p = entry["probabilities"].get(entry["predicted"])
    text = f"predicted: {said(predicted)}" + ("" if p is None else f" {p:.3f}")
    if entry["true"] is None:
        return text
    return f"true: {said(entry['true'] or 'no label')} · {text}"


def subject_of(entry: Mapping[str, Any], short: Mapping[str, str] | None = None) -> str:
    """'evidence for ill (0.93)'"""
    name = (short or {}).get(entry["explained"], entry["explained"])
    return f"evidence for {name} ({entry['probability']:.3f})"


def faithfulness_rows(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The tests as rows of cells: test, of the maps (of random ones), gain over random ones."""
    areas = [
        (
            f"{title} AUC ({better} is better)",
            f"{facts[name]:.3f} (random {facts[f'{name}_random']:.3f})",
            Interval.from_json(facts[f"{name}_gain"]).signed(),
        )
        for title, name, better in (
            ("Deletion", "deletion", "lower"),
            ("Insertion", "insertion", "higher"),
        )
    ]
    correlation = str(Interval.from_json(facts["correlation"]))
    return [*areas, ("Rank correlation with random weights (near 0 is better)", correlation, "–")]


def faithfulness_table(document: Mapping[str, Any]) -> Table:
    """The tests with their intervals, n and split."""
    facts = document["faithfulness"]
    caution = facts["deletion_gain"].get("note")
    return Table(
        "Do the maps show what the network used?",
        ("Test", "Maps", "Gain over random"),
        tuple(faithfulness_rows(facts)),
        f"{counts_words(document)}; means over images with 95 % intervals, paired. Gain: above 0 "
        f"where the maps are better.{f' Caution: {caution}.' if caution else ''}",
    )


def counts_words(document: Mapping[str, Any]) -> str:
    """'n=20 maps of 20 validation images'"""
    facts, split = document["faithfulness"], document["split"]
    kind = f"{SPLIT_WORDS[split]} " if split else "given "
    images = f"{facts['images']} {kind}{document['unit']}{'s' if facts['images'] != 1 else ''}"
    return f"n={facts['n']} maps of {images}"


def verdict_words(document: Mapping[str, Any]) -> str:
    """The verdict as a sentence, with its reasons."""
    facts = document["faithfulness"]
    reasons = "; ".join(facts["reasons"])
    return f"{VERDICT_WORDS[facts['verdict']]}{f' ({reasons})' if reasons else ''}."


def explanation_blocks(run: RunFiles) -> tuple[Any, ...]:
    """What the report says of the run's gallery of maps; the command that makes it, if none."""
    document = run.explanations
    if not document:
        return (
            Paragraph("Maps of what the network looked at: not measured. They are made by:"),
            Command(shlex.join(["scanwise", "explain", run.argument])),
        )
    return (
        Paragraph(
            f"Maps of what the network looked at, by {document['how']}. {verdict_words(document)}"
        ),
        faithfulness_table(document),
        Link("Gallery of maps, by class, right and wrong", "explanations/index.html"),
    )


# --- The page ------------------------------------------------------------------------------------


def explanations_page(
    document: Mapping[str, Any], folder: Path, *, report: str | None = None
) -> str:
    """index.html, which needs no other file.

    Args:
        document: explanations.json.
        folder: Where its pictures are.
        report: Address of the run's report, if there is one.
    """
    facts = document["faithfulness"]
    level = {FAITHFUL: "ok", NOT_FAITHFUL: "bad"}.get(facts["verdict"] if facts else "", "unsure")
    return render(
        "explanations.html.j2",
        {
            "document": document,
            "level": level,
            "verdict": VERDICT_WORDS[facts["verdict"]],
            "reasons": facts["reasons"],
            "table": faithfulness_table(document),
            "sections": list(_sections(document, folder)),
            "report": report,
            "split": SPLIT_WORDS[document["split"]] if document["split"] else "given",
            "unreadable": [each for each in document["images"] if each["status"] == "error"],
        },
    )


def _sections(document: Mapping[str, Any], folder: Path) -> Iterable[dict[str, Any]]:
    shown = [each for each in document["images"] if each["status"] == "ok"]
    for name in dict.fromkeys(each["section"] for each in shown):
        entries = [each for each in shown if each["section"] == name]
        parts = [
            (title, [_tile(each, folder) for each in entries if each["right"] is right])
            for title, right in (("Right", True), ("Wrong", False), ("", None))
        ]
        # A gallery says where it has none; given images are neither right nor wrong.
        keep = [part for part in parts if part[1] or (part[0] and document["split"])]
        yield {"title": name, "parts": keep}


def _tile(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    png = (folder / entry["figure"]).read_bytes()
    return {
        "uri": Markup("data:image/png;base64," + base64.b64encode(png).decode("ascii")),
        "alt": alt_words(entry),
        "sample": entry["sample"],
        "scores": f"deletion {entry['deletion']:.3f} (random {entry['deletion_random']:.3f}), "
        f"insertion {entry['insertion']:.3f} (random {entry['insertion_random']:.3f}), "
        f"rank correlation with random weights {entry['correlation']:+.2f}",
        "probabilities": probabilities_words(entry["probabilities"]),
    }


def probabilities_words(probabilities: Mapping[str, float], most: int = 4) -> str:
    """'ill 0.930, well 0.070', the largest first."""
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    more = f", {len(ranked) - most} more" if len(ranked) > most else ""
    return ", ".join(f"{name} {value:.3f}" for name, value in ranked[:most]) + more


def alt_words(entry: Mapping[str, Any]) -> str:
    """What a figure says, for readers who can't see it."""
    empty = "; the map is empty" if entry["empty"] else ""
    where = f"; the strongest place is {entry['strongest']}" if not entry["empty"] else ""
    return f"{entry['sample']}: {heading_of(entry)}; map of {subject_of(entry)}{empty}{where}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Class names as figures can show them."""
    return dict(zip(names, figure_names(names, 16), strict=True))
