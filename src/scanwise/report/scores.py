"""The evaluation section: every score beside what trivial answers get, each class, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scanwise.report.advice import per_class_entries
from scanwise.report.blocks import Table
from scanwise.report.data_words import SPLIT_TITLES
from scanwise.report.pages import count_text, interval_text
from scanwise.report.plots import images_text
from scanwise.report.run_files import RunFiles
from scanwise.report.verdict import TOO_FEW, as_interval, caution_text, trivial_value, trivial_words

METRICS = {
    "accuracy": "Accuracy",
    "label_accuracy": "Accuracy by label",
    "balanced_accuracy": "Balanced accuracy",
    "precision_macro": "Precision (macro)",
    "recall_macro": "Recall, sensitivity (macro)",
    "f1_macro": "F1 (macro)",
    "auroc_macro": "AUC-ROC (macro)",
    "auprc_macro": "AUC-PR (macro)",
    "specificity_macro": "Specificity (macro)",
    "precision_micro": "Precision (micro)",
    "recall_micro": "Recall (micro)",
    "f1_micro": "F1 (micro)",
    "precision_weighted": "Precision (weighted)",
    "recall_weighted": "Recall (weighted)",
    "f1_weighted": "F1 (weighted)",
    "auroc_micro": "AUC-ROC (micro)",
    "auprc_micro": "AUC-PR (micro)",
    "mcc": "Matthews correlation",
    "kappa": "Cohen's kappa",
    "kappa_quadratic": "Kappa, quadratic weights",
    "mean_absolute_grade_error": "Mean error in grades ↓",
    "ece": "Calibration error, ECE ↓",
    "brier": "Brier score ↓",
    "cross_entropy_loss": "Cross-entropy ↓",
    "medmnist_auc": "AUC as MedMNIST computes it",
    "medmnist_acc": "ACC as MedMNIST computes it",
}
PER_CLASS = {
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "ppv": "Precision (PPV)",
    "npv": "NPV",
    "f1": "F1",
    "auroc": "AUC-ROC",
    "auprc": "AUC-PR",
}


def metrics_table(
    run: RunFiles, split: str, result: Mapping[str, Any], *, title: str = "", folded: bool = False
) -> Table:
    """Every overall metric of a split with its interval, and what trivial answers score."""
    trivial = {
        name: answer
        for name, answer in (result.get("trivial") or {}).items()
        if isinstance(answer, Mapping)
        # With no label that most images have, "majority" is "all_negative" once more.
        and not (run.task == "multilabel" and name == "majority" and not answer.get("labels"))
    }
    titles = {
        "majority": _majority_title(run.task, trivial.get("majority") or {}),
        "all_negative": "Always 'none'",
        "prior": "By class frequency",
    }
    rows = []
    for metric, words in METRICS.items():
        if metric in result:
            cells = [_trivial_cell(answer, metric) for answer in trivial.values()]
            rows.append((words, interval_text(as_interval(result[metric])), *cells))
    n = int(result.get("n") or 0)
    columns = (f"{SPLIT_TITLES[split]}, n={n:,}", *(titles.get(name, name) for name in trivial))
    caption = title or f"{SPLIT_TITLES[split]}: {images_text(n, split)}, 95 % intervals"
    return Table(caption, ("", *columns), tuple(rows), _metrics_note(run, result), folded=folded)


def baselines_table(run: RunFiles, split: str) -> Table | None:
    """Simple models on the same images, and what the network gains over each."""
    rows = []
    for entry in (run.metrics.get("baselines") or {}).values():
        scores = (entry.get("splits") or {}).get(split)
        if scores:
            gain = as_interval(scores["gain"])
            cells = [
                interval_text(as_interval(scores[key]))
                for key in ("accuracy", "balanced_accuracy", "auroc_macro")
            ]
            rows.append((str(entry["title"]), *cells, gain.signed(), str(scores["network_is"])))
    if not rows:
        return None
    what = "share of right labels" if run.task == "multilabel" else "accuracy"
    return Table(
        f"Simple models on the same {SPLIT_TITLES[split].lower()} images, fitted on train",
        (
            "", "Accuracy", "Balanced accuracy", "AUC-ROC (macro)", "The network gains",
            "The network is",
        ),
        tuple(rows),
        f"The gain is in {what}, paired by image, with a 95 % bootstrap interval. Each simple "
        "model's answers lie in baselines/; recompute with scanwise verify-report.",
    )  # fmt: skip


def _majority_title(task: str, answer: Mapping[str, Any]) -> str:
    label = ", ".join(answer.get("labels") or ()) if task == "multilabel" else answer.get("class")
    return f"Always '{label or 'none'}'"


def _trivial_cell(answer: Mapping[str, Any], metric: str) -> str:
    value = as_interval(answer.get(metric)).value
    return f"{value:.3f}" if value is not None else "–"


def _metrics_note(run: RunFiles, result: Mapping[str, Any]) -> str:
    bootstrap = result.get("bootstrap") or {}
    how, unit = "", bootstrap.get("unit")
    if bootstrap.get("resamples"):
        wilson = "" if unit == "group" else "Wilson intervals for proportions, else "
        how = f"{wilson}{bootstrap['resamples']:,} bootstrap resamples by {unit} (seed "
        how += f"{bootstrap.get('seed')}). "
    sha = f"split sha256 {run.split_sha256[:12]}" if run.split_sha256 else "split not saved"
    few = caution_text(result)
    warning = f"{few[0].upper()}{few[1:]}. " if few else ""
    return (
        f"{warning}{how}↓: lower is better. Run {run.name}, {sha}; "
        "recompute with scanwise verify-report."
    )


def clean_sentence(run: RunFiles) -> str:
    clean, official = run.clean_test or {}, run.splits.get("test") or {}
    parts = []
    for name, result in (("all", official), ("the clean part", clean)):
        n = int(result.get("n") or 0)
        trivial = trivial_value(result, "accuracy")
        beside = f", {trivial_words(run.task, result)} {trivial:.3f}" if trivial is not None else ""
        parts.append(
            f"on {name} (n={n:,}) {interval_text(as_interval(result.get('accuracy')))}{beside}"
        )
    return (
        "Some test images also lie in train, exactly, nearly or by group. Accuracy "
        f"{'; '.join(parts)}."
    )


def per_class_table(run: RunFiles, split: str, result: Mapping[str, Any]) -> Table | None:
    """Each class against the rest, with intervals and n."""
    entries = per_class_entries(result, run.class_names)
    if not entries:
        return None
    rows = tuple(
        (name, _n_cell(entry), *(short_interval(entry.get(key)) for key in PER_CLASS))
        for name, entry in entries
    )
    n = int(result.get("n") or 0)
    return Table(
        f"Each {'label by itself' if run.task == 'multilabel' else 'class against the rest'}: "
        f"{images_text(n, split)}",
        ("Class", "n", *PER_CLASS.values()),
        rows,
        "95 % intervals in brackets; n is the number of images of the class. "
        f"* under {TOO_FEW} independent images: too few to conclude.",
        folded=len(rows) > 15,
        stacked=True,
    )


def _n_cell(entry: Mapping[str, Any]) -> str:
    """The number of images; a star where too few decide the sensitivity."""
    found = as_interval(entry.get("sensitivity"))
    return count_text(entry.get("n")) + ("*" if found.value is not None and found.reason else "")


def short_interval(cell: Any) -> str:
    """'0.776 [0.749, 0.801]', or the reason alone where there is no value."""
    value = as_interval(cell)
    return str(value) if value.value is not None else f"– ({value.reason})"


def calibration_text(run: RunFiles, split: str) -> str:
    """Temperature, and calibration error before and after it."""
    given = run.metrics.get("calibration")
    if not given:
        return "Calibration: temperature scaling was not measured."
    if not given.get("applied"):
        reason = given.get("reason") or "no reason recorded"
        return f"Calibration: probabilities are as the network gave them ({reason})."
    effects = [f"Calibration: temperature {float(given['temperature']):.3f}, fitted on validation"]
    before, after = given.get("before") or {}, given.get("after") or {}
    if "ece" in before and "ece" in after:
        effects.append(f"ECE on validation {before['ece']:.3f} before, {after['ece']:.3f} after")
    shown = ((given.get("splits") or {}).get(split) or {}) if split != "val" else {}
    if shown.get("before") and shown.get("after"):
        effects.append(
            f"on {split} {shown['before']['ece']:.3f} before, {shown['after']['ece']:.3f} after"
        )
    return "; ".join(effects) + ". No decision changed by it."
