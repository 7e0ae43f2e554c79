"""What the report says: the run's files turned into sections, in the order of the seed's report.

Every number comes from metrics.json, history.csv, training.json or dataset.json; what is missing
there is said to be missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scanwise.report.advice import Option, Recommendation
from scanwise.report.blocks import (
    Banner,
    Card,
    Command,
    FactList,
    Findings,
    Link,
    Page,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Steps,
    Table,
    without_nothing,
)
from scanwise.report.data_words import SPLIT_TITLES, class_table, data_facts
from scanwise.report.decision_blocks import decision_blocks
from scanwise.report.ensemble import ensemble_blocks, views_sentence
from scanwise.report.error_blocks import error_blocks
from scanwise.report.explanations import explanation_blocks
from scanwise.report.history import History
from scanwise.report.pages import NOT_A_DEVICE, count_text, seconds_text
from scanwise.report.plots import images_text
from scanwise.report.rules import Diagnosis
from scanwise.report.run_files import RunFiles, worst_first
from scanwise.report.scores import (
    baselines_table,
    calibration_text,
    clean_sentence,
    metrics_table,
    per_class_table,
)
from scanwise.report.shortcut_blocks import data_banners, shortcut_block
from scanwise.report.slices_blocks import parts_blocks, worst_slice_banner
from scanwise.report.tries_blocks import tries_blocks
from scanwise.report.unknown_blocks import unknown_blocks
from scanwise.report.verdict import (
    Verdict,
    as_interval,
    has_test_set,
    trivial_value,
    trivial_words,
)

TITLE = "Medical Image Classification Training Report"
NOT_MEASURED = "not measured"
LOSS_AND_ACCURACY = {
    "loss": "Training loss",
    "val_loss": "Validation loss",
    "accuracy": "Training accuracy",
    "val_accuracy": "Validation accuracy",
}
EVALUATION_FIGURES = ("confusion_matrix", "per_class", "roc", "precision_recall", "reliability")


@dataclass(frozen=True, eq=False)
class Judgement:
    """What diagnosis and advice made of the run, and the figures that exist."""

    verdict: Verdict
    diagnoses: tuple[Diagnosis, ...]
    recommendations: tuple[Recommendation, ...]
    options: tuple[Option, ...]
    pictures: Mapping[str, Picture]


def report_page(run: RunFiles, judged: Judgement) -> Page:
    """The whole report as blocks."""
    level = {"ok": "ok", "no_skill": "bad", "collapsed": "bad"}.get(judged.verdict.level, "unsure")
    return Page(
        title=TITLE,
        subtitle=run.name,
        level=level,
        headline=judged.verdict.headline,
        sentence=judged.verdict.sentence,
        banners=banners(run, judged.verdict),
        cards=cards(run),
        chips=chips(run),
        sections=(
            Section("Overview", overview(run, judged)),
            Section("Training Performance", training(run, judged)),
            Section("Evaluation", evaluation(run, judged)),
            Section("Optimisation Recommendations", (*advice(judged), *tried(run, judged))),
            Section("Sample Outputs", samples(run, judged)),
            Section("Conclusion", conclusion(run, judged)),
            Section("Settings and provenance", provenance(run)),
        ),
    )


def metrics_page(run: RunFiles) -> Page:
    """metrics.json as tables: every split overall and by class, the trivial answers beside."""
    sections = []
    for name, result in run.splits.items():
        blocks = [metrics_table(run, name, result), per_class_table(run, name, result)]
        sections.append(Section(SPLIT_TITLES[name], without_nothing(blocks)))
    if run.clean_test:
        title = "Test without the images that also lie in train"
        table = metrics_table(run, "test", run.clean_test, title=title)
        sections.append(Section(title, (table,)))
    return Page(f"Metrics of {run.name}", run.name, "unsure", "", "", sections=tuple(sections))


# The first screen.


def banners(run: RunFiles, verdict: Verdict) -> tuple[Banner, ...]:
    """What must be seen before any number."""
    found = []
    if verdict.level == "collapsed":
        what = "its yes and no" if run.task == "multilabel" else "this model"
        found.append(Banner("stop", "COLLAPSED", f"{_skill_reason(run)} Do not use {what}."))
    if verdict.level == "no_skill":
        found.append(Banner("stop", "NO SKILL", _skill_reason(run) + " Do not use this model."))
    if run.metrics.get("leaky"):
        found.append(Banner("warn", "LEAKY", _leak_text(run)))
    found += data_banners(run.data_findings())
    if run.dataset.get("synthetic"):
        text = "These images are computer-made. Nothing here says anything about real ones."
        found.append(Banner("warn", "SYNTHETIC DATA", text))
    if run.dataset.get("verified") is False:
        text = "The file's hash is not the published one; its labels and pixels may differ."
        found.append(Banner("warn", "UNVERIFIED DATA", text))
    found += worst_slice_banner(run)
    found.append(Banner("note", "RESEARCH USE", NOT_A_DEVICE))
    return tuple(found)


def _skill_reason(run: RunFiles) -> str:
    result = run.splits.get("test") or run.splits.get("val") or {}
    reason = str(result.get("skill_reason") or "not above the trivial baselines")
    return reason[0].upper() + reason[1:] + "."


def _leak_text(run: RunFiles) -> str:
    duplicates = run.checks.get("duplicates") or {}
    share = duplicates.get("test_share")
    what = f" ({100 * share:.1f} % of test)" if isinstance(share, int | float) else ""
    text = f"Splits share images{what}: scores on test are too good to be true for new images."
    if run.clean_test:
        text += " The score on the clean part of test stands beside each."
    return text


def cards(run: RunFiles) -> tuple[Card, ...]:
    """Up to four headline numbers of the judged split."""
    split = "test" if run.splits.get("test") else "val"
    result = run.splits.get(split)
    if not result:
        return ()
    answer = trivial_words(run.task, result)
    names = {
        "accuracy": ("Exact-match accuracy" if run.task == "multilabel" else "Accuracy", answer),
        "balanced_accuracy": ("Balanced accuracy", "chance"),
        "auroc_macro": ("AUC-ROC (macro)", "chance"),
        "auprc_macro": ("AUC-PR (macro)", "prevalence"),
        "f1_macro": ("F1 (macro)", answer),
        "kappa_quadratic": ("Kappa, quadratic weights", "chance"),
    }
    if run.task == "multilabel":
        chosen = ("auroc_macro", "auprc_macro", "f1_macro", "accuracy")
    elif run.task == "ordinal":
        chosen = ("accuracy", "kappa_quadratic", "auroc_macro", "balanced_accuracy")
    else:
        chosen = ("accuracy", "balanced_accuracy", "auroc_macro", "f1_macro")
    clean = run.clean_test if split == "test" else None
    return tuple(
        Card(
            title=names[metric][0],
            value=as_interval(result.get(metric)),
            trivial=trivial_value(result, metric),
            trivial_words=names[metric][1],
            n=int(result.get("n") or 0),
            split=SPLIT_TITLES[split].lower(),
            clean=as_interval(clean.get(metric)) if clean else None,
        )
        for metric in chosen
    )


def chips(run: RunFiles) -> tuple[str, ...]:
    """A few words each: what was trained on what, and how often test was looked at."""
    words = [str(run.dataset.get("name") or "unknown data"), model_text(run)]
    epochs = run.training.get("epochs_run")
    words += [f"{epochs} epochs"] if epochs else []
    seconds = run.training.get("seconds")
    words += [f"trained in {seconds_text(float(seconds))}"] if seconds is not None else []
    return (*words, looks_text(run))


def looks_text(run: RunFiles) -> str:
    """'test looked at 2 times', from the ledger."""
    times = len(run.looks)
    if not times and not has_test_set(run.counts):
        return "no test set"
    if not times:
        return "looks at test not recorded" if run.splits.get("test") else "test not opened"
    return f"test looked at {times} time{'' if times == 1 else 's'}"


def model_text(run: RunFiles) -> str:
    """'small_resnet:32, 307,634 parameters'"""
    model = str(run.training.get("model") or run.config.get("model") or "unknown model")
    parameters = run.training.get("parameters") or {}
    total = parameters.get("total") if isinstance(parameters, Mapping) else parameters
    return f"{model}, {total:,} parameters" if total is not None else model


# 1. Overview.


def overview(run: RunFiles, judged: Judgement) -> tuple[Any, ...]:
    """What was trained on what, and what the checks found in the data."""
    if not run.dataset:
        return (Paragraph("Data: not available (the run has no dataset.json)."),)
    pictures = _pictures(judged, "class_distribution", "intensity_per_class", "samples")
    return without_nothing(
        [
            FactList(_data_facts(run)),
            class_table(run.dataset),
            pictures,
            Paragraph("What the checks of the data found:"),
            Findings(
                worst_first(run.data_findings()),
                empty="The checks of the data found nothing to report.",
            ),
            shortcut_block(run.checks, run.splits.get("test") or run.splits.get("val")),
        ]
    )


def _data_facts(run: RunFiles) -> tuple[tuple[str, str], ...]:
    looks = looks_text(run).removeprefix("test looked at ").removeprefix("test ")
    looks = looks.removeprefix("looks at test ")
    return (
        *data_facts(run.dataset, run.split_sha256),
        ("Test looked at", looks),
        ("Model", model_text(run)),
    )


# 2. Training.


def training(run: RunFiles, judged: Judgement) -> tuple[Any, ...]:
    """How training went: the seed's list of measures, the curves, the diagnosis."""
    if "ensemble" in run.metrics:
        return ensemble_blocks(run)
    if run.history is not None:
        facts, table = _training_facts(run, run.history), _history_table(run, run.history)
    elif run.training.get("fitted"):
        facts, table = _fitted_facts(run), _fitted_table(run.training["fitted"])
    else:
        return (Paragraph("Training performance: not available (the run has no history.csv)."),)
    findings = (*(d.finding for d in judged.diagnoses), *run.setting_findings())
    return without_nothing(
        [
            FactList(facts),
            table,
            _pictures(judged, "history"),
            Paragraph("Diagnosis:"),
            Findings(findings, empty="No rule fired."),
            _weights_lines(run),
            _pictures(judged, "augmentation"),
        ]
    )


def _fitted_facts(run: RunFiles) -> tuple[tuple[str, str], ...]:
    """Of a head that was fitted in one go: no epochs, no rate, no optimiser."""
    facts = run.training
    return (
        ("Fitted", str(facts.get("stop_reason") or "not recorded")),
        ("Augmentation", str(facts.get("augmentation") or "none")),
        ("Time", f"{seconds_text(float(facts['seconds']))} on {facts.get('device')}"),
        *_notes(facts),
    )


def _training_facts(run: RunFiles, history: History) -> tuple[tuple[str, str], ...]:
    config, facts = run.config, run.training
    lr = config.get("lr")
    return (
        ("Epochs", _epochs_fact(run, history)),
        ("Batch size", count_text(config.get("batch_size"))),
        (
            "Learning rate",
            f"{float(lr):g}, schedule {config.get('scheduler') or 'none'}" if lr else NOT_MEASURED,
        ),
        (
            "Optimiser",
            f"{config.get('optimizer') or 'not recorded'}, "
            f"weight decay {_value_text(config.get('weight_decay'))}",
        ),
        ("Augmentation", str(facts.get("augmentation") or config.get("augment") or "none")),
        ("Stopped", str(facts.get("stop_reason") or "not recorded")),
        ("Time", _time_fact(run, history)),
        *_notes(facts),
    )


def _notes(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What training.json says of reproducibility, and its notes."""
    known = facts.get("reproducibility")
    first = [("Reproducibility", str(known))] if known else []
    return first + [("Note", str(note)) for note in facts.get("notes") or ()]


def _epochs_fact(run: RunFiles, history: History) -> str:
    ran = run.training.get("epochs_run") or int(history.epoch[-1])
    best, monitor = run.training.get("best_epoch"), run.training.get("monitor")
    value = run.training.get("best_value")
    kept = f"; kept epoch {best}" if best else ""
    chosen = (
        f" (best {monitor}" + (f" {float(value):.4f})" if value is not None else ")")
        if best and monitor
        else ""
    )
    return f"{ran} of {count_text(run.config.get('epochs'))}{kept}{chosen}"


def _time_fact(run: RunFiles, history: History) -> str:
    seconds = run.training.get("seconds")
    total = float(seconds) if seconds is not None else float(history.seconds.sum())
    if not math.isfinite(total):
        return NOT_MEASURED
    speed = history.images_per_s[1:] if len(history) > 1 else history.images_per_s
    finite = speed[~(speed != speed)]
    rate = (
        f", {sorted(finite)[len(finite) // 2]:,.0f} images/s (median epoch)" if len(finite) else ""
    )
    device = f" on {run.training['device']}" if run.training.get("device") else ""
    return f"{seconds_text(total)}{device}{rate}"


def _history_table(run: RunFiles, history: History) -> Table:
    best = run.training.get("best_epoch")
    at = [0]
    at += [row for row in range(len(history)) if best and history.epoch[row] == int(best)]
    at.append(len(history) - 1)
    at = sorted(set(at))
    titles = [
        f"Epoch {history.epoch[row]}"
        + (" (kept)" if best and history.epoch[row] == int(best) else "")
        + (" (final)" if row == len(history) - 1 else "")
        for row in at
    ]
    records = [{key: getattr(history, key)[row] for key in LOSS_AND_ACCURACY} for row in at]
    note = "From history.csv. Training values are means over an epoch of augmented images."
    return _loss_table(titles, records, note)


def _fitted_table(fitted: Mapping[str, Any]) -> Table:
    note = "From training.json. Training values are of the images as they are."
    return _loss_table(["The head that was kept"], [fitted], note)


def _loss_table(titles: Sequence[str], records: Sequence[Mapping[str, Any]], note: str) -> Table:
    """Loss and accuracy of each record, a column each; a value may be None or NaN."""
    rows = tuple(
        (name, *(_measured(record.get(key)) for record in records))
        for key, name in LOSS_AND_ACCURACY.items()
    )
    return Table("Loss and accuracy", ("", *titles), rows, note)


def _measured(value: float | None) -> str:
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.4f}"


def _weights_lines(run: RunFiles) -> Paragraph | None:
    weights, train = run.training.get("class_weights"), run.counts.get("train")
    if not weights or not train:
        return None
    rows = list(zip(run.class_names, weights, train, strict=False))
    shown = rows if len(rows) <= 12 else [max(rows, key=_second), min(rows, key=_second)]
    parts = ", ".join(f"{name} {weight:.2f} (n={n:,})" for name, weight, n in shown)
    which = "" if len(shown) == len(rows) else f"; largest and smallest of {len(rows)}"
    return Paragraph(f"Class weights in the loss, from training counts{which}: {parts}.")


def _second(row: tuple[str, float, int]) -> float:
    return row[1]


# 3. Evaluation.


def evaluation(run: RunFiles, judged: Judgement) -> tuple[Any, ...]:
    """The scores beside the trivial baselines, the figures, each class, calibration."""
    if not run.splits:
        return (Paragraph(f"Evaluation: not measured ({_why_unmeasured(run)})."),)
    split = "test" if run.splits.get("test") else "val"
    blocks: list[Any] = []
    if split == "val":
        why = (
            "The test split was not opened."
            if has_test_set(run.counts)
            else "The data have no test set, so nothing is known about new images."
        )
        blocks.append(Paragraph(f"Test: not measured. {why}"))
    blocks.append(metrics_table(run, split, run.splits[split]))
    blocks.append(baselines_table(run, split))
    if "tta" in run.metrics:
        blocks.append(Paragraph(views_sentence(run.metrics["tta"], split, run.task)))
    if run.clean_test:
        title = "Test without images that also lie in train"
        blocks.append(Paragraph(clean_sentence(run)))
        blocks.append(metrics_table(run, "test", run.clean_test, title=title, folded=True))
    if split == "test" and run.splits.get("val"):
        blocks.append(metrics_table(run, "val", run.splits["val"], folded=True))
    blocks.append(
        _pictures(judged, "confusion_matrix", "per_class", "roc", "precision_recall", "reliability")
    )
    blocks.append(per_class_table(run, split, run.splits[split]))
    blocks.append(Paragraph(calibration_text(run, split)))
    blocks += decision_blocks(run, judged.pictures.get("decision_curve"))
    blocks += parts_blocks(run, judged.pictures)
    blocks += unknown_blocks(run)
    return without_nothing(blocks)


def _why_unmeasured(run: RunFiles) -> str:
    if "ensemble" in run.metrics:
        return "its members were trained or chosen on every image"
    return "the run has no metrics.json"


# 4. Recommendations.


def advice(judged: Judgement) -> tuple[Any, ...]:
    """What to try next, and what is on already."""
    options = Table(
        "The usual remedies, and which are on in this run",
        ("Remedy", "On", "How"),
        tuple((option.name, "yes" if option.on else "no", option.how) for option in judged.options),
        "What is on is not recommended.",
        words=True,
    )
    if not judged.recommendations:
        return (Paragraph("No recommendation: no finding asks for a change."), options)
    return (Steps(judged.recommendations), options)


def tried(run: RunFiles, judged: Judgement) -> tuple[Any, ...]:
    """What came of trying; nothing where there is nothing to try."""
    possible = any(step.can_be_tried for step in judged.recommendations)
    return tries_blocks(run.tries, run.argument) if run.tries or possible else ()


# 5. Samples.


def samples(run: RunFiles, judged: Judgement) -> tuple[Any, ...]:
    """Predicted against actual on images, and the gallery of mistakes."""
    blocks: list[Any] = [_pictures(judged, "samples_predicted", "mistakes")]
    if blocks[0] is None:
        blocks[0] = Paragraph("Sample images: not available.")
    if (run.path / "errors" / "index.html").is_file():
        blocks.append(Link("Gallery of mistakes, most confident first", "errors/index.html"))
    if run.predictions is not None and run.splits:
        blocks.append(Paragraph(_mistakes_sentence(run)))
        blocks += error_blocks(run)
    blocks += explanation_blocks(run)
    return without_nothing(blocks)


def _mistakes_sentence(run: RunFiles) -> str:
    assert run.predictions is not None
    split = "test" if run.splits.get("test") else "val"
    rows = run.predictions.of_split(split)
    wrong = rows.predicted != rows.targets
    if run.task == "multilabel":
        wrong = wrong.any(axis=1)
    count = int(wrong.sum())
    if not count:
        return f"No mistake among {images_text(len(rows), split)}."
    what = "with a label wrong" if run.task == "multilabel" else "classified wrongly"
    return f"{count:,} of {images_text(len(rows), split)} {what} ({100 * count / len(rows):.1f} %)."


# 6. Conclusion.


def conclusion(run: RunFiles, judged: Judgement) -> tuple[Any, ...]:
    """The verdict, what limits it, and the next step; each from the data above."""
    verdict = judged.verdict
    parts = [f"{verdict.headline}. {verdict.sentence}"]
    troubles = [d.finding for d in judged.diagnoses if d.finding.severity != "info"]
    troubles += [f for f in run.data_findings() if f.severity != "info"]
    if troubles:
        codes = ", ".join(dict.fromkeys(f.code for f in troubles))
        parts.append(
            f"What this shows is limited by {len(troubles)} "
            f"finding{'s' if len(troubles) > 1 else ''} ({codes})."
        )
    if run.splits.get("test"):
        parts.append(
            f"Looks at the test split: {len(run.looks) or 'not recorded'}; its score stays honest "
            "only while choices are made on validation."
        )
    blocks: list[Any] = [Paragraph(" ".join(parts))]
    if judged.recommendations:
        blocks.append(Paragraph(f"Next step: {judged.recommendations[0].title}."))
        blocks.append(Command(judged.recommendations[0].command))
    blocks.append(Paragraph(NOT_A_DEVICE))
    return tuple(blocks)


# Appendix.


def provenance(run: RunFiles) -> tuple[Any, ...]:
    """Every setting with its reason, the machine, the versions, the looks at test."""
    plan = tuple(
        (
            str(row.get("setting")),
            _value_text(row.get("value")),
            str(row.get("source")),
            str(row.get("reason")),
        )
        for row in run.plan
    )
    blocks: list[Any] = []
    if plan:
        blocks.append(
            Table(
                "Settings and why",
                ("Setting", "Value", "Chosen by", "Reason"),
                plan,
                words=True,
                folded=True,
            )
        )
    else:
        blocks.append(Paragraph("Plan: not available (the run has no plan.yaml)."))
    steps = run.training.get("preprocessing")
    if steps:
        rows = tuple(_flat(steps))
        blocks.append(
            Table(
                "Preprocessing, fitted on train", ("Step", "Value"), rows, words=True, folded=True
            )
        )
    environment = tuple(_flat(run.env))
    if environment:
        blocks.append(Table("Environment", ("What", "Value"), environment, words=True, folded=True))
    looks = tuple(
        (look.get("when", ""), look.get("command", ""), look.get("config_sha256", "")[:12])
        for look in run.looks
    )
    if looks:
        blocks.append(
            Table(
                "Looks at the test split",
                ("When", "Command", "Config sha256"),
                looks,
                words=True,
                folded=True,
            )
        )
    return tuple(blocks)


def _value_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_value_text(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_value_text(part) for part in value) or "none"
    return "none" if value is None else str(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as (dotted name, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        rows += (
            _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, _value_text(value))]
        )
    return rows


def _pictures(judged: Judgement, *names: str) -> Pictures | None:
    items = tuple(judged.pictures[name] for name in names if name in judged.pictures)
    return Pictures(items) if items else None
