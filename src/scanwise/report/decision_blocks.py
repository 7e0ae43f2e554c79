"""The report's part on decisions: calibration, thresholds, prediction sets, the clinical table.

All of it is decisions.json, turned into tables; what is not there is said to be not measured, with
the command that measures it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from scanwise.core.types import Interval
from scanwise.metrics.decisions import CLEAN
from scanwise.report.blocks import Command, Paragraph, Picture, Pictures, Table
from scanwise.report.decision_plot import Benefit, plot_decision_curves
from scanwise.report.plots import images_text
from scanwise.report.run_files import RunFiles

FEW = "* under 30 independent images: too few to conclude."
SPLITS = {"val": "validation", "test": "test", CLEAN: CLEAN}
QUALITIES = {"ece": "ECE ↓", "brier": "Brier score ↓", "cross_entropy_loss": "Log-loss ↓"}


def decision_blocks(run: RunFiles, curve: Picture | None) -> list[Any]:
    """Calibration, thresholds, sets and the clinical table; `curve` is the decision curve."""
    found = run.decisions
    return [
        *_calibration(found.get("calibration") or {}),
        *_thresholds(run, found.get("thresholds") or {}),
        *_sets(run, found.get("sets") or {}),
        *_prevalence(run, found.get("prevalence") or {}),
        Pictures((curve,)) if curve is not None else None,
    ]


def draw_decision_curve(run: RunFiles) -> tuple[Any, str, str] | None:
    """Figure, alt text and caption of the decision curves that were asked for, or None."""
    tables = run.decisions.get("prevalence") or {}
    if not tables:
        return None
    benefits = [_benefit(name, entry) for name, entry in tables.items()]
    split = next(iter(tables.values()))["split"]
    n = next(iter(tables.values()))["n"]
    where = images_text(n, split)
    parts = [f"'{each.name}' {_where_best(each)}" for each in benefits]
    beside = "with calling all and calling none beside"
    alt = f"Decision curves on {where}, {beside}: {'; '.join(parts)}."
    caption = (
        f"Net benefit on {where} at their own prevalence, with 95 % bands over resamples: true "
        "alarms less false ones, at the rate of exchange that each threshold implies."
    )
    return plot_decision_curves(benefits, where=where), alt, caption


def _benefit(name: str, entry: Mapping[str, Any]) -> Benefit:
    curve = {
        key: np.asarray(values) for key, values in entry["curve"].items() if key != "bootstrap"
    }
    return Benefit(
        name, **curve, prevalence=entry["prevalence_in_split"], chosen=entry["threshold"]
    )


def _where_best(benefit: Benefit) -> str:
    """'is above both from 0.05 to 0.60'"""
    above = benefit.net_benefit > np.maximum(benefit.treat_all, 0.0) + 1e-12
    if not above.any():
        return "is nowhere above both"
    steps = benefit.threshold[above]
    return (
        f"is above both at {len(steps)} of {len(above)} thresholds, from {steps[0]:.2f} to "
        f"{steps[-1]:.2f}"
    )


def _calibration(found: Mapping[str, Any]) -> list[Any]:
    if not found.get("applied"):
        return []
    rows = tuple(
        (
            SPLITS[split],
            f"{part['n']:,}",
            side,
            f"{part['accuracy'][side]:.3f}",
            *(_cell(part[key][side]) for key in QUALITIES),
        )
        for split, part in found["splits"].items()
        for side in ("before", "after")
    )
    changed = sum(part["decisions_changed"] for part in found["splits"].values())
    return [
        Table(
            f"Probabilities before and after temperature {found['temperature']:.3f}",
            ("Split", "n", "Temperature", "Accuracy", *QUALITIES.values()),
            rows,
            f"95 % bootstrap intervals. The temperature was fitted on validation; it changed "
            f"{changed} decisions. Before is computed back from predictions.csv.",
            stacked=True,
        )
    ]


def _thresholds(run: RunFiles, found: Mapping[str, Any]) -> list[Any]:
    if not found:
        name = run.class_names[-1] if run.class_names else "NAME"
        return [
            Paragraph("Operating thresholds: none was chosen. To choose one on validation:"),
            _command(run, "thresholds", "--class", name, "--sensitivity", "0.95"),
        ]
    rows = tuple(
        (
            name,
            entry["rule_words"],
            f"{entry['threshold']:.4g}",
            SPLITS[split],
            f"{part['positives']:,} / {part['negatives']:,}",
            _cell(part["sensitivity"]),
            _cell(part["specificity"]),
        )
        for name, entry in found.items()
        for split, part in entry["splits"].items()
    )
    cautions = [words for entry in found.values() for words in entry["cautions"]]
    note = (
        "Each class against the rest; chosen on validation, whose own rates are therefore "
        f"flattering. 95 % intervals. {FEW}"
    )
    return [
        Table(
            "Operating thresholds",
            ("Class", "Asked for", "Probability from", "On", "n (class / others)",
             "Sensitivity", "Specificity"),
            rows,
            note,
            stacked=True,
        ),
        *(Paragraph(f"Caution: {words}.") for words in cautions),
    ]  # fmt: skip


def _sets(run: RunFiles, found: Mapping[str, Any]) -> list[Any]:
    if not found:
        return [
            Paragraph("Prediction sets: not measured. To calibrate them on validation:"),
            _command(run, "conformal", "--alpha", "0.1"),
        ]
    if not found["fitted"]:
        return [Paragraph(f"Prediction sets: none. {_sentence(found['reason'])}")]
    whom = "each class" if found["class_conditional"] else "all images"
    promised = 100 * (1 - found["alpha"])
    if not found["splits"]:
        words = "coverage not measured (test was not opened)"
        return [Paragraph(f"Prediction sets for {promised:g} % of {whom}: {words}.")]
    rows = []
    for split, part in found["splits"].items():
        rows.append(("all", SPLITS[split], f"{part['n']:,}", _cell(part["coverage"]),
                     _cell(part["mean_size"]), _cell(part["single"]),
                     _cell(part["empty"])))  # fmt: skip
        rows += [
            (each["name"], SPLITS[split], f"{each['n']:,}", _cell(each["coverage"]), "", "", "")
            for each in part["per_class"]
        ]
    notes = " ".join(_sentence(words) for words in found["notes"])
    return [
        Table(
            f"Prediction sets that are to hold the true class of {promised:g} % of {whom}",
            ("Class", "On", "n", "Coverage", "Classes in a set", "Sets of one", "Empty sets"),
            tuple(rows),
            f"Calibrated on {found['n']:,} validation images; 95 % intervals. {FEW} {notes}",
            stacked=True,
            folded=len(rows) > 15,
        )
    ]


def _prevalence(run: RunFiles, found: Mapping[str, Any]) -> list[Any]:
    if not found:
        names = run.class_names
        which = [] if len(names) == 2 and run.task != "multilabel" else ["--class", *names[-1:]]
        return [
            Paragraph(
                "Predictive values at the prevalence of a clinic, and decision curve: not measured."
            ),
            _command(run, "evaluate", "--prevalence", "0.02", *which),
        ]
    rows = tuple(
        (
            name,
            f"{entry['prevalence']:g}",
            "most probable" if entry["threshold"] is None else f"from {entry['threshold']:.4g}",
            f"{entry['positives']:,} / {entry['negatives']:,}",
            *(_cell(entry[key]) for key in ("sensitivity", "specificity", "ppv", "npv")),
        )
        for name, entry in found.items()
    )
    split = SPLITS[next(iter(found.values()))["split"]]
    return [
        Table(
            f"Predictive values at a stated prevalence, from {split} images",
            ("Class", "Prevalence", "Called", "n (class / others)", "Sensitivity", "Specificity",
             "PPV", "NPV"),
            rows,
            "Each class against the rest. 95 % intervals: score intervals for PPV and NPV, the "
            f"prevalence taken as known. {FEW}",
            stacked=True,
        )
    ]  # fmt: skip


def _command(run: RunFiles, verb: str, *words: str) -> Command:
    # Of the folder's name alone: a page says the same wherever the run lies.
    return Command(shlex.join(["scanwise", verb, run.argument, *words]))


def _cell(entry: Mapping[str, Any]) -> str:
    found = Interval.from_json(entry)
    if found.value is None:
        return f"– ({found.reason})"
    return f"{found}{'*' if found.reason and found.low is not None else ''}"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
