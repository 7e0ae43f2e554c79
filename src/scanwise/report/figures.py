"""Which figures a run gets, drawn from its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from scanwise.core.types import Interval
from scanwise.metrics.calibration import (
    expected_calibration_error,
    raw_probabilities,
    reliability_curve,
)
from scanwise.metrics.predictions import Predictions
from scanwise.report.advice import per_class_entries
from scanwise.report.blocks import Picture
from scanwise.report.decision_blocks import draw_decision_curve
from scanwise.report.plots import (
    MAX_CLASSES,
    Curve,
    Mark,
    ReliabilityBins,
    images_text,
    plot_confusion_matrix,
    plot_history,
    plot_label_outcomes,
    plot_per_class,
    plot_precision_recall,
    plot_reliability,
    plot_roc,
)
from scanwise.report.rules import Diagnosis
from scanwise.report.run_files import RunFiles
from scanwise.report.slices_plot import (
    CorruptionCurve,
    SliceRow,
    plot_robustness,
    plot_slices,
)
from scanwise.report.slices_words import METRIC_WORDS, drop_cell, worst_sentence
from scanwise.report.style import inline_svg, read_alt, save_figure
from scanwise.report.verdict import as_interval

# Figures that others write into plots/ and the report shows where they exist.
CAPTIONS = {
    "class_distribution": "Images of each class in each split.",
    "samples": "Training images of each class, evenly spaced through the data, not chosen.",
    "intensity": "Pixel values of the training images.",
    "intensity_per_class": "Pixel values of each class: far-apart curves may be a shortcut.",
    "mean_per_class": "Mean training image of each class.",
    "augmentation": "Original training images above the variants that augmentation makes of them.",
    "samples_predicted": "Predicted against actual class on evenly spaced images, not chosen. "
    "The percentage is the probability of the answer.",
    "mistakes": "The mistakes that the model was most confident of.",
}
WIDE = {
    "slices",
    "robustness",
    "samples",
    "samples_predicted",
    "mistakes",
    "augmentation",
    "mean_per_class",
}


def existing_picture(run_dir: Path, name: str, folder: str = "plots/") -> Picture | None:
    """A figure that is in the plots folder already, or None."""
    path = run_dir / folder / f"{name}.svg"
    if not path.is_file():
        return None
    svg = path.read_text(encoding="utf-8")
    return _picture(name, Markup(read_alt(svg)).unescape(), CAPTIONS.get(name, ""), svg, folder)


def draw_figures(run: RunFiles, diagnoses: Sequence[Diagnosis]) -> dict[str, Picture]:
    """Draw what the run's files allow into plots/; what they don't allow is not in the result."""
    drawn = [_history(run, diagnoses)]
    split = judged_split(run)
    if split is not None and run.predictions is not None:
        rows = run.predictions.of_split(split)
        result = run.splits[split]
        drawn += [
            _confusion(run, rows, result, split),
            _per_class(run, result, split),
            *_curves(run, rows, result, split),
            _reliability(run, rows, split),
            _decision_curve(run),
        ]
    drawn += [_slices(run), _robustness(run)]
    return {picture.name: picture for picture in drawn if picture is not None}


def _slices(run: RunFiles) -> Picture | None:
    document = run.slices
    if not document:
        return None
    right = "label_accuracy" if document["task"] == "multilabel" else "accuracy"
    rows = [
        SliceRow(
            f"{part['column']}: {part['value']}",
            int(part["n"]),
            as_interval(part[right]),
            as_interval(part["difference_within_class"]),
            bool(part["ranked"]),
            part["verdict"] == "worse",
        )
        for part in document["slices"]
    ]
    figure = plot_slices(rows, split=document["split"], n=document["n"])
    where = images_text(document["n"], document["split"])
    alt = f"Share right and difference to the rest of {len(rows)} slices of {where}. "
    alt += f"{worst_sentence(document)}."
    caption = "Each slice beside all other images; grey: too few images to be ranked; "
    caption += "orange: worse than the rest by the corrected p value."
    return _save(run, "slices", figure, alt, caption)


def _robustness(run: RunFiles) -> Picture | None:
    document = run.robustness
    if not document:
        return None
    main = document["main_metric"]
    curves = [
        CorruptionCurve(
            curve["corruption"],
            [as_interval(score["value"]) for score in curve["severities"]],
            drop_cell(as_interval(curve["mean_relative_drop"])),
        )
        for curve in document["curves"]
        if curve["metric"] == main
    ]
    clean = as_interval(document["clean"][main])
    where = images_text(document["n"], document["split"])
    figure = plot_robustness(
        curves, clean, quantity=METRIC_WORDS[main], split=document["split"], n=document["n"]
    )
    drops = "; ".join(f"{curve.name} {curve.drop}" for curve in curves)
    alt = f"{METRIC_WORDS[main]} on worse pictures, {where}; clean {clean}. Mean drops: {drops}."
    caption = f"{METRIC_WORDS[main]} by severity, with 95 % interval, on {where}; dashed: clean."
    return _save(run, "robustness", figure, alt, caption)


def judged_split(run: RunFiles) -> str | None:
    """Test where it was scored, else validation, else None."""
    return next((name for name in ("test", "val") if run.splits.get(name)), None)


def _save(run: RunFiles, name: str, figure: Any, alt: str, caption: str) -> Picture:
    svg = save_figure(figure, run.path / "plots" / name, alt)
    return _picture(name, alt, caption, svg, "plots/")


def _picture(name: str, alt: str, caption: str, svg: str, folder: str) -> Picture:
    inline = Markup(inline_svg(svg, f"fig-{name.replace('_', '-')}"))
    return Picture(name, folder + name, alt, caption, inline, wide=name in WIDE)


def _history(run: RunFiles, diagnoses: Sequence[Diagnosis]) -> Picture | None:
    history, best = run.history, run.training.get("best_epoch")
    if history is None:
        return None
    marks = [Mark(d.epoch, d.words) for d in diagnoses if d.epoch is not None and d.words]
    test = (run.splits.get("test") or {}).get("accuracy") if run.task != "multilabel" else None
    loss = run.training.get("test_loss")
    figure = plot_history(
        history,
        best_epoch=int(best) if best else None,
        test_accuracy=as_interval(test) if test else None,
        test_loss=float(loss) if loss is not None else None,
        marks=marks[:2],
    )
    last = len(history) - 1
    alt = (
        f"Loss and accuracy by epoch, {len(history)} epochs. Train loss goes from "
        f"{history.loss[0]:.3f} to {history.loss[last]:.3f}, validation loss from "
        f"{history.val_loss[0]:.3f} to {history.val_loss[last]:.3f}; train accuracy from "
        f"{history.accuracy[0]:.3f} to {history.accuracy[last]:.3f}, validation accuracy from "
        f"{history.val_accuracy[0]:.3f} to {history.val_accuracy[last]:.3f}."
    )
    kept = f" The dotted line is epoch {best}, whose weights were kept." if best else ""
    caption = f"Loss, accuracy and learning rate by epoch.{kept}"
    return _save(run, "history", figure, alt, caption)


def _confusion(run: RunFiles, rows: Predictions, result: Any, split: str) -> Picture | None:
    matrix = np.asarray(result.get("confusion_matrix") or [], dtype=np.int64)
    names = run.class_names
    n = int(result.get("n") or len(rows))
    if run.task == "multilabel":
        if matrix.shape != (len(names), 2, 2):
            return None
        counts = np.stack([matrix[:, 1, 1], matrix[:, 1, 0], matrix[:, 0, 1], matrix[:, 0, 0]], 1)
        figure = plot_label_outcomes(counts, names, split=split, n=n)
        alt = f"Found and missed positives, and false alarms, of each of {len(names)} labels."
        caption = f"The 2×2 table of each label on {images_text(n, split)}, at threshold 0.5."
        return _save(run, "confusion_matrix", figure, alt, caption)
    if matrix.shape != (len(names), len(names)):
        return None
    accuracy = as_interval(result.get("accuracy"))
    figure = plot_confusion_matrix(matrix, names, split=split, accuracy=accuracy)
    right = int(np.trace(matrix))
    alt = (
        f"Confusion matrix of {len(names)} classes on {images_text(n, split)}: {right:,} right, "
        f"{n - right:,} wrong. {_largest_confusion(matrix, names)}"
    )
    what = "The most frequent confusions" if len(names) > MAX_CLASSES else "Counts and row shares"
    caption = f"{what} on {images_text(n, split)}; accuracy {accuracy}."
    return _save(run, "confusion_matrix", figure, alt, caption)


def _largest_confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> str:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return "No image is confused."
    i, j = (int(place) for place in np.unravel_index(int(wrong.argmax()), wrong.shape))
    return f"Most often '{names[i]}' is taken for '{names[j]}': {int(wrong[i, j]):,} images."


def _per_class(run: RunFiles, result: Any, split: str) -> Picture | None:
    entries = per_class_entries(result, run.class_names)
    if not entries:
        return None
    names = [name for name, _ in entries]
    values = [as_interval(entry.get("sensitivity")) for _, entry in entries]
    counts = [int(entry.get("n") or 0) for _, entry in entries]
    figure = plot_per_class(values, names, counts, split=split, n=int(result.get("n") or 0))
    parts = [
        f"{name} {value} (n={n:,})" for name, value, n in zip(names, values, counts, strict=True)
    ]
    alt = f"Sensitivity of each class with 95 % interval: {'; '.join(parts[:MAX_CLASSES])}."
    caption = f"Share of each class that is found, with 95 % interval, on {split} images."
    return _save(run, "per_class", figure, alt, caption)


def _curves(run: RunFiles, rows: Predictions, result: Any, split: str) -> list[Picture | None]:
    entries = dict(per_class_entries(result, run.class_names))
    binary = run.task != "multilabel" and len(run.class_names) == 2
    indices = [1] if binary else range(len(run.class_names))
    roc, pr = [], []
    for index in indices:
        name = run.class_names[index]
        truth = rows.targets[:, index] if run.task == "multilabel" else rows.targets == index
        positive = np.asarray(truth, dtype=bool)
        entry = entries.get(name) or {}
        if positive.all() or not positive.any():
            continue
        roc.append(
            _roc(name, positive, rows.probabilities[:, index], as_interval(entry.get("auroc")))
        )
        pr.append(
            _pr(name, positive, rows.probabilities[:, index], as_interval(entry.get("auprc")))
        )
    if not roc:
        return []
    macro_roc = as_interval(result.get("auroc_macro")) if len(roc) > 1 else None
    macro_pr = as_interval(result.get("auprc_macro")) if len(pr) > 1 else None
    where = images_text(len(rows), split)
    return [
        _save(
            run,
            "roc",
            plot_roc(roc, split=split, macro=macro_roc),
            f"ROC curves on {where}. {_areas_text('AUROC', roc)}",
            f"ROC: share found against false alarms, one class against the rest, on {where}.",
        ),
        _save(
            run,
            "precision_recall",
            plot_precision_recall(pr, split=split, macro=macro_pr),
            f"Precision-recall curves on {where}. {_areas_text('AUPRC', pr)}",
            f"Precision against share found on {where}; dotted: the prevalence, which chance gets.",
        ),
    ]


def _roc(name: str, truth: NDArray[np.bool_], score: NDArray[np.float64], area: Interval) -> Curve:
    false_alarms, found, _ = roc_curve(truth, score)
    return Curve(name, false_alarms, found, area, int(truth.sum()), len(truth))


def _pr(name: str, truth: NDArray[np.bool_], score: NDArray[np.float64], area: Interval) -> Curve:
    precision, found, _ = precision_recall_curve(truth, score, drop_intermediate=True)
    return Curve(name, found, precision, area, int(truth.sum()), len(truth))


def _areas_text(word: str, curves: Sequence[Curve]) -> str:
    parts = [f"{curve.name} {curve.area} (n={curve.positives:,})" for curve in curves[:MAX_CLASSES]]
    return f"{word}: {'; '.join(parts)}."


def _reliability(run: RunFiles, rows: Predictions, split: str) -> Picture | None:
    calibration = run.metrics.get("calibration") or {}
    applied = bool(calibration.get("applied"))
    after = _bins(rows, rows.probabilities)
    before = None
    if applied:
        temperature = float(calibration["temperature"])
        before = _bins(rows, raw_probabilities(rows.probabilities, temperature, rows.task))
    where = images_text(len(rows), split)
    labels = rows.task == "multilabel"
    figure = plot_reliability(
        before or after, after if before else None, where=where, labels=labels
    )
    change = (
        f"ECE {before.ece:.3f} before, {after.ece:.3f} after" if before else f"ECE {after.ece:.3f}"
    )
    alt = f"Reliability diagram on {where}: {change}."
    caption = (
        f"{'Share positive against probability' if labels else 'Share right against confidence'} "
        f"on {where}. "
        + (f"Temperature {calibration['temperature']:.3f}, from validation. " if applied else "")
        + f"{change} (15 bins)."
    )
    return _save(run, "reliability", figure, alt, caption)


def _decision_curve(run: RunFiles) -> Picture | None:
    drawn = draw_decision_curve(run)
    return None if drawn is None else _save(run, "decision_curve", *drawn)


def _bins(rows: Predictions, probabilities: NDArray[np.float64]) -> ReliabilityBins:
    curve = reliability_curve(probabilities, rows.targets, rows.task)
    ece = expected_calibration_error(probabilities, rows.targets, task=rows.task)
    return ReliabilityBins(curve.confidence, curve.accuracy, curve.counts, ece)
