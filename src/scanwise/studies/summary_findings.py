"""Key findings of a summary: sentences made of measured numbers, each with where they stand.

They say what was, never why: runs that differ in several settings are called confounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scanwise.metrics.compare import Comparison as Compared
from scanwise.metrics.compare import correct_family, p_words
from scanwise.metrics.seeds import seed_spread, spread_ratio
from scanwise.report.verdict import trivial_value, trivial_words
from scanwise.studies.comparing import (
    compare_methods_by,
    leader_first,
    mean_score,
    ranking_metric,
)
from scanwise.studies.run_set import (
    DataSet,
    Method,
    RunEntry,
    TestSet,
    confounding_words,
    differing_settings,
)

METRIC_WORDS = {"accuracy": "test accuracy", "auroc_macro": "test macro AUROC"}


@dataclass(frozen=True)
class KeyFinding:
    """One sentence or two, and the files and keys that hold their numbers."""

    title: str
    text: str
    sources: tuple[str, ...]  # "RUN: keys in metrics.json, or files" for each run

    def to_json(self) -> dict[str, Any]:
        return {"title": self.title, "text": self.text, "sources": list(self.sources)}


@dataclass(frozen=True, eq=False)
class Comparison:
    """The leader beside another method on the same test images."""

    data: str
    leader: Method
    other: Method
    found: Compared  # leader minus other
    differs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "dataset": self.data,
            "first": [run.name for run in self.leader.runs],
            "second": [run.name for run in self.other.runs],
            **self.found.to_json(),
            "differs_in": list(self.differs),
            "confounded": len(self.differs) > 1,
        }


def part_title(data: DataSet, part: TestSet) -> str:
    """The data set, and which test images where there are several sets of them."""
    which = f" {part.key[:8]}" if len(data.test_sets) > 1 else ""
    return f"{data.title}, {part.n:,} test images{which}"


def compare_methods(data: DataSet, part: TestSet) -> tuple[Comparison, ...]:
    """The leader of one set of test images beside every other method with skill, best first.

    They are one family: each p is corrected for their number.
    """
    ordered = leader_first(part.methods)
    if not ordered:
        return ()
    leader, others = ordered[0], ordered[1:]
    metric = ranking_metric(leader)
    family = correct_family([compare_methods_by(metric, other, leader) for other in others])
    title = part_title(data, part)
    return tuple(
        Comparison(title, leader, other, found, differing_settings(leader, other))
        for other, found in zip(others, family, strict=True)
    )


def key_findings(
    data_sets: Sequence[DataSet], comparisons: Sequence[Comparison]
) -> tuple[KeyFinding, ...]:
    """All findings that the numbers carry, in the order of the seed's list."""
    parts = [(data, part) for data in data_sets for part in data.test_sets]
    found: list[KeyFinding] = []
    for data, part in parts:
        title = part_title(data, part)
        found.append(_best(title, part, [c for c in comparisons if c.data == title]))
    for data, part in parts:
        found += _consistent(part_title(data, part), part)
    found += [finding for data, part in parts for finding in _not_above(data, part)]
    found += [finding for data, part in parts for finding in _multilabel(data, part)]
    found += _stability(data_sets)
    found += [finding for data in data_sets for finding in _several_test_sets(data)]
    return tuple(found)


def _best(title: str, part: TestSet, comparisons: Sequence[Comparison]) -> KeyFinding:
    """The best method, only where it was surely better than the second."""
    heading = f"Best Performing Model on {title}"
    ordered = leader_first(part.methods)
    if not ordered:
        text = (
            "none: no method showed skill under every seed, and a model without skill is never "
            "called best."
        )
        return KeyFinding(heading, text, _sources(part.methods, "skill"))
    leader, metric = ordered[0], ranking_metric(ordered[0])
    score = f"{METRIC_WORDS[metric]} {_mean_words(leader, metric)}"
    if not comparisons:
        others = len(part.methods) - 1
        beside = f"{others} without skill beside it" if others else "none beside it"
        text = f"not compared: {leader.title} was the only method with skill ({beside}), {score}."
        return KeyFinding(heading, text, _sources([leader], metric))
    second = comparisons[0]
    beside = f"{second.other.title} {_mean_words(second.other, metric)}"
    p_value = second.found.corrected_p
    tested = "not tested" if p_value is None else p_words(p_value)
    of = "" if len(comparisons) == 1 else f", corrected for {len(comparisons)} comparisons"
    gap = (
        f"{second.found.difference.signed()} on the same {part.n:,} test images, paired "
        f"({tested}{of})"
    )
    labels = confounding_words(second.differs)
    if second.found.verdict == "better":
        text = f"{leader.title} was better than the runner-up: {score}; {beside}; {gap} ({labels})."
    else:
        text = (
            f"not distinguishable: {leader.title} had the highest {score}; {beside}; {gap} "
            f"({labels})."
        )
    return KeyFinding(heading, text, _sources([leader, second.other], metric, paired=True))


def _mean_words(method: Method, metric: str) -> str:
    mean = " (mean over seeds)" if len(method.runs) > 1 else ""
    return f"{mean_score(method, metric)}{mean}"


def _sources(methods: Sequence[Method], metric: str, *, paired: bool = False) -> tuple[str, ...]:
    runs = [run.name for method in methods for run in method.runs]
    paired = paired or any(len(method.runs) > 1 for method in methods)
    drawn = ", predictions.csv" if paired else ""
    return tuple(f"{name}: splits.test.{metric}{drawn}" for name in runs)


def _consistent(title: str, part: TestSet) -> Iterator[KeyFinding]:
    """Standard deviations over seeds, and which method surely moved least."""
    several = [method for method in part.methods if len(method.runs) > 1]
    if not several:
        return
    metric = ranking_metric(several[0])
    ordered = sorted(several, key=lambda m: seed_spread(m.values(metric)).value or 0.0)
    spreads = [
        f"{m.title}: SD {seed_spread(m.values(metric))} over {len(m.runs)} seeds" for m in ordered
    ]
    text = f"{METRIC_WORDS[metric]}, {'; '.join(spreads)}"
    if len(ordered) == 1:
        text = f"not compared, one method had several seeds; {text}."
    else:
        ratio = spread_ratio(ordered[0].values(metric), ordered[1].values(metric))
        surely = ratio.low is not None and ratio.low > 1
        head = (
            f"{ordered[0].name} moved least from seed to seed"
            if surely
            else "not distinguishable, the intervals of the spread allow either order"
        )
        text = f"{head}; {text}; ratio of the first two {ratio}."
    yield KeyFinding(f"Most Consistent on {title}", text, _sources(several, metric))


def _not_above(data: DataSet, part: TestSet) -> Iterator[KeyFinding]:
    """Runs that did no better than an answer that never looks."""
    title = part_title(data, part)
    for run in part.runs:
        result = run.test or {}
        if run.verdict == "ok" and result.get("accuracy_above_trivial") is not False:
            continue
        if run.verdict == "ok" and result.get("task") == "multilabel":
            continue  # told beside the all-negative answer
        level = {
            "collapsed": "COLLAPSED",
            "no_skill": "NO SKILL",
            "ok": "no better in plain accuracy than one constant answer",
        }[run.verdict]
        reason = str(result.get("skill_reason") or "")
        text = f"{run.model} (run {run.name}) was {level}: {reason}.{constant_words(run)}"
        keys = "splits.test.skill_reason, accuracy, confusion_matrix"
        heading = f"No Better Than the Majority on {title}"
        yield KeyFinding(heading, text, (f"{run.name}: {keys}",))


def constant_words(run: RunEntry) -> str:
    """Says where an accuracy is exactly what one constant answer scores; '' where it is not.

    A model that says one class to every image scores that class's share: 25.0 % of four balanced
    classes is no result.
    """
    matrix = np.array((run.test or {}).get("confusion_matrix") or [[0]])
    if matrix.ndim != 2 or matrix.sum() == 0:
        return ""
    accuracy, shares = np.trace(matrix) / matrix.sum(), matrix.sum(axis=1) / matrix.sum()
    said = np.flatnonzero(matrix.sum(axis=0))
    names = [entry["name"] for entry in (run.test or {})["per_class"]]
    if len(said) == 1:
        same = f"'{names[int(said[0])]}' was said to every image"
    elif np.isclose(accuracy, shares, rtol=0, atol=1e-12).any():
        same = f"saying '{names[int(np.abs(shares - accuracy).argmin())]}' to every image is that"
    else:
        return ""
    return f" Its accuracy of {accuracy:.1%} was exactly the one-class score: {same}."


def _multilabel(data: DataSet, part: TestSet) -> Iterator[KeyFinding]:
    """Exact match beside the all-negative answer."""
    for run in part.runs:
        result = run.test or {}
        if result.get("task") != "multilabel":
            continue
        negative = result["trivial"]["all_negative"]
        text = (
            f"{run.model} (run {run.name}) had all labels right for {run.score('accuracy')} of "
            f"the images; saying 'none' to every image {negative['accuracy']:.3f}. By label "
            f"{run.score('label_accuracy')}; saying 'none' {negative['label_accuracy']:.3f}."
        )
        keys = "splits.test.accuracy, label_accuracy, trivial.all_negative"
        heading = f"Multi-Label Exact Match on {part_title(data, part)}"
        yield KeyFinding(heading, text, (f"{run.name}: {keys}",))


def _stability(data_sets: Sequence[DataSet]) -> Iterator[KeyFinding]:
    """How many runs ended without a warning about their training curves."""
    runs = [run for data in data_sets for run in data.runs if run.is_finished]
    if not runs:
        return
    troubled = {
        run.name: codes
        for run in runs
        if (
            codes := [
                str(row["code"])
                for row in run.report.get("findings") or ()
                if row.get("severity") in ("warning", "error") and row.get("code") in CURVE_CODES
            ]
        )
    }
    listed = "".join(f"; {name}: {', '.join(codes)}" for name, codes in troubled.items())
    text = (
        f"{len(runs) - len(troubled)} of {len(runs)} finished runs had no warning about their "
        f"training curves{listed}."
    )
    yield KeyFinding(
        "Training Stability", text, tuple(f"{run.name}: report.json findings" for run in runs)
    )


# Overfitting, underfitting, divergence, jumping losses, a gap between train and validation.
CURVE_CODES = ("T001", "T002", "T004", "T005", "T011")


def _several_test_sets(data: DataSet) -> Iterator[KeyFinding]:
    if len(data.test_sets) < 2:
        return
    listed = "; ".join(
        f"{part.key[:8]} ({part.n:,} images): {', '.join(run.name for run in part.runs)}"
        for part in data.test_sets
    )
    text = f"runs were scored on different test images and were not compared: {listed}."
    sources = tuple(f"{run.name}: splits.csv" for part in data.test_sets for run in part.runs)
    yield KeyFinding(f"Other Test Images of {data.title}", text, sources)


def majority_words(run: RunEntry) -> str:
    """ "0.444, always saying 'segmented'" """
    if run.test is None:
        return "not measured"
    value = trivial_value(run.test, "accuracy")
    return (
        "not measured"
        if value is None
        else f"{value:.3f}, {trivial_words(run.files.task, run.test)}"
    )
