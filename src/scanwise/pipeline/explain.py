"""`scanwise explain RUN|BUNDLE [IMAGES…]`: maps of evidence, tested, as figures and a page."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scanwise.core.errors import ConfigError, PartialError, RunError
from scanwise.core.files import write_json, write_text
from scanwise.deploy.bundle import Bundle, find_bundle
from scanwise.deploy.explain import (
    METHOD_NAMES,
    Explanations,
    check_method,
    class_index,
    explain,
    find_way,
)
from scanwise.deploy.perturb import BLUR, RANDOM_MAPS, REDRAWS, STEPS, score_maps
from scanwise.metrics.faithfulness import NOT_FAITHFUL, SAME_MAP, MapScores, judge_maps
from scanwise.pipeline.explanation_items import Chosen, Item, choose_files, choose_gallery
from scanwise.pipeline.runs import Run, check_output_free, command_line, is_run_folder
from scanwise.pipeline.tables import aligned
from scanwise.report.build import build_report
from scanwise.report.explanations import (
    alt_words,
    counts_words,
    explanations_page,
    faithfulness_rows,
    heading_of,
    plot_explanation,
    short_names,
    subject_of,
    verdict_words,
)
from scanwise.report.plots import to_display
from scanwise.report.style import save_png

SCHEMA = 1
FOLDER, FILE, PAGE = "explanations", "explanations.json", "index.html"
TESTS = (
    f"Deletion: pixels went in the map's order, in {STEPS} steps, to the mean colour; the area is "
    "that of the explained class's probability over the share of pixels gone. Insertion: they came "
    f"back into the image blurred over 1/{round(1 / BLUR)} of its side (RISE, BMVC 2018). Each map "
    f"was compared on its own image with {RANDOM_MAPS} random maps of as many places. Weight "
    f"randomisation: all weights of the network were drawn anew at once, {REDRAWS} times, and the "
    "maps made again (Adebayo et al., NeurIPS 2018); Spearman's correlation of at least "
    f"{SAME_MAP} counts as hardly changed."
)


@dataclass(frozen=True)
class ExplainRequest:
    """What was asked for.

    Attributes:
        source: A run folder or a bundle.
        images: Files and folders; none: a gallery of the run's validation images.
        method: One of deploy.explain.METHODS.
        class_name: Whose evidence is shown [the predicted class's].
        output: Where to [RUN/explanations; for named images ./explanations].
        per_class: Right and wrong images of each class, at most.
        force: Whether an output folder of ours may be replaced.
        seed: Of random maps and weights.
        device: Where to compute.
    """

    source: Path
    images: tuple[Path, ...] = ()
    method: str = "auto"
    class_name: str | None = None
    output: Path | None = None
    per_class: int = 6
    force: bool = False
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class Explained:
    """What was written: explanations.json as a value, and its folder."""

    folder: Path
    document: dict[str, Any]

    def text(self) -> str:
        """A few lines for the terminal."""
        facts = self.document["faithfulness"]
        head = ("", "maps", "gain over random [95 %]")
        lines = [
            f"Explained by {self.document['how']}: {self.document['why']}.",
            *self.document["notes"],
            f"{counts_words(self.document)}:",
            aligned([head, *faithfulness_rows(facts)]),
            verdict_words(self.document),
            f"Gallery: {self.folder / PAGE}",
        ]
        return "\n".join(lines)

    def raise_if_partial(self) -> None:
        """Say that some files could not be read.

        Raises:
            PartialError: Naming the first.
        """
        bad = [each for each in self.document["images"] if each["status"] == "error"]
        if bad:
            total = len(self.document["images"])
            raise PartialError(
                f"{len(bad)} of {total} files can't be read and were not explained; the first is "
                f"{bad[0]['sample']}: {bad[0]['reason']}."
            )


def explain_to_folder(
    request: ExplainRequest, say: Callable[[str], None] | None = None
) -> Explained:
    """Explain images, test the maps, write explanations.json, figures and the page.

    A gallery goes into its run and into the run's report, and replaces the one before it.

    Raises:
        ScanwiseError: Bad request, before anything is computed; nothing is written then.
    """
    check_method(request.method)
    if request.per_class < 1:
        raise ConfigError(f"n={request.per_class} must be at least 1.")
    run = Run.open(request.source) if is_run_folder(request.source) else None
    if run is None:
        find_bundle(request.source)  # before anything else is asked of it
    if run is None and not request.images:
        raise RunError(
            f"{request.source} is no run folder, and a bundle has no images of its own; name the "
            f"images: scanwise explain {request.source} IMAGES…"
        )
    folder = _folder(request, run)
    bundle = Bundle.from_pretrained(request.source)
    if request.class_name is not None:
        class_index(bundle, request.class_name)
    chosen = (
        choose_files(bundle, request.images, request.class_name)
        if request.images or run is None
        else choose_gallery(run, bundle, request.per_class, request.class_name)
    )
    found, scores = _measure(request, chosen, say)
    document = _document(request, run, chosen, found, scores)
    _write(folder, document, found)
    if run is not None and folder == run.path / FOLDER and (run.path / "report.json").is_file():
        build_report(run.path)
    return Explained(folder, document)


def _folder(request: ExplainRequest, run: Run | None) -> Path:
    if request.output is None and not request.images and run is not None:
        return run.path / FOLDER
    folder = request.output or Path(FOLDER)
    check_output_free(folder, request.force, (FILE,), "folder of explanations")
    return folder


def _measure(
    request: ExplainRequest, chosen: Chosen, say: Callable[[str], None] | None
) -> tuple[Explanations, MapScores]:
    subject, device = chosen.subject, request.device
    way = find_way(subject, request.method)
    tell = say or (lambda _text: None)
    tell(f"Explaining {len(chosen.items)} images by {METHOD_NAMES[way.method]}: {way.why}.")
    given = [item.explained for item in chosen.items]
    explained = None if None in given else np.array(given, np.int64)
    found = explain(subject, way, explained, device=device)
    tell("Testing the maps: deletion and insertion beside random maps, then random weights.")
    return found, score_maps(subject, found, seed=request.seed, device=device)


def _document(
    request: ExplainRequest,
    run: Run | None,
    chosen: Chosen,
    found: Explanations,
    scores: MapScores,
) -> dict[str, Any]:
    """explanations.json."""
    bundle = chosen.subject.bundle
    gallery = run is not None and not request.images
    entries = [_entry(item, row, bundle, found, scores) for row, item in enumerate(chosen.items)]
    no_skill = why_no_skill(bundle.metrics)
    facts = judge_maps(scores, [item.unit for item in chosen.items], no_skill=no_skill)
    layer = found.way.layer
    return {
        "schema": SCHEMA,
        "command": command_line(),
        "run": run.path.resolve().name if run is not None else None,
        "bundle": bundle.config.architecture,
        "split": "val" if gallery else None,
        "split_sha256": run.metrics.get("split_sha256") if run is not None and gallery else None,
        "n": len(entries),
        "unit": chosen.unit,
        "method": found.way.method,
        "how": found.method_text(),
        "why": found.way.why,
        "layer": layer.name if layer else None,
        "map_px": list(found.map_px),
        "input_px": list(found.maps.shape[1:]),
        "notes": list(found.way.notes),
        "class": request.class_name,
        "seed": request.seed,
        "chosen": chosen.words,
        "tests": TESTS,
        "no_skill": no_skill,
        "faithfulness": facts.to_json(),
        "images": entries
        + [{"sample": file, "status": "error", "reason": why} for file, why in chosen.unreadable],
    }


def why_no_skill(metrics: dict[str, Any]) -> str | None:
    """Why a bundle's network knows nothing on validation, or None where it does or is not known."""
    val = (metrics.get("splits") or {}).get("val") or {}
    if val.get("skill") not in ("no_skill", "collapsed"):
        return None
    return str(val.get("skill_reason") or "not above the trivial baselines")


def _entry(
    item: Item, row: int, bundle: Bundle, found: Explanations, scores: MapScores
) -> dict[str, Any]:
    names, p = bundle.class_names, found.probabilities[row]
    explained = int(found.explained[row])
    evidence = found.maps[row]
    return {
        "sample": item.sample,
        "status": "ok",
        "unit": item.unit,
        "section": item.section,
        "true": item.true,
        "predicted": bundle.label(p),
        "right": item.right,
        "explained": names[explained],
        "probability": float(p[explained]),
        "probabilities": {name: float(value) for name, value in zip(names, p, strict=True)},
        "empty": not bool(evidence.any()),
        "strongest": _place(evidence),
        "figure": f"{row + 1:03d}.png",
        **scores.row(row),
    }


def _place(evidence: np.ndarray[Any, Any]) -> str:
    """Where the strongest place is, in words: 'upper left', 'centre'."""
    y, x = np.unravel_index(int(evidence.argmax()), evidence.shape)
    vertical = ("upper", "", "lower")[min(2, 3 * int(y) // evidence.shape[0])]
    horizontal = ("left", "", "right")[min(2, 3 * int(x) // evidence.shape[1])]
    return f"{vertical} {horizontal}".strip() or "centre"


def _write(folder: Path, document: dict[str, Any], found: Explanations) -> None:
    """All files, in a folder that appears whole."""
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".explanations.", suffix=".part") as name:
        made = Path(name) / FOLDER
        made.mkdir()
        write_json(made / FILE, document)
        _draw(made, document, found)
        in_run = document["split"] and (folder.parent / "config.yaml").is_file()
        report = "../report.html" if in_run else None
        write_text(made / PAGE, explanations_page(document, made, report=report))
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _draw(folder: Path, document: dict[str, Any], found: Explanations) -> None:
    pictures = to_display(found.pixels)
    mark = document["faithfulness"]["verdict"] == NOT_FAITHFUL
    shown = [each for each in document["images"] if each["status"] == "ok"]
    for row, entry in enumerate(shown):
        short = short_names(list(entry["probabilities"]))
        figure = plot_explanation(
            pictures[row],
            found.maps[row],
            heading=heading_of(entry, short),
            right=entry["right"],
            subject=subject_of(entry, short),
            how=document["how"],
            watermark=mark,
        )
        save_png(figure, folder / entry["figure"], alt_words(entry), dpi=110)
