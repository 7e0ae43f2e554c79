"""Is the model better than an answer that never looks? The report's first sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scanwise.core.types import Interval
from scanwise.metrics.baselines import toughest_baseline
from scanwise.report.history import History

TOO_FEW = 30  # below this many images no score is conclusive
SPLIT_WORDS = {"test": "test", "val": "validation", "train": "training"}


@dataclass(frozen=True, eq=False)
class Facts:
    """What the rules look at. `splits` is that of metrics.json, `counts` that of dataset.json."""

    history: History | None = None
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    task: str = "multiclass"
    best_epoch: int | None = None
    stop_reason: str = ""
    weights_restored: bool = True
    probes: Mapping[str, Any] = field(default_factory=dict)  # of training.json


Level = Literal["ok", "val_only", "no_skill", "collapsed", "too_few", "unmeasured"]


@dataclass(frozen=True)
class Verdict:
    """One honest sentence about skill, and how to colour it."""

    level: Level
    headline: str
    sentence: str
    split: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "headline": self.headline,
            "sentence": self.sentence,
            "split": self.split,
        }


def verdict(facts: Facts) -> Verdict:
    """Say whether the model beats the trivial answers, with numbers, interval, n and split."""
    name, result = judged_split(facts)
    if result is None:
        sentence = "No split was evaluated, so nothing is known about this model."
        return Verdict("unmeasured", "Not measured", sentence)
    sentence = _score_sentence(facts, name, result)
    beside, is_beaten = _beside_baselines(facts, name)
    sentence += beside
    if name == "val":
        opened = (
            "The test split was not opened"
            if has_test_set(facts.counts)
            else "There is no test set"
        )
        sentence += (
            f" {opened}, and the kept epoch was chosen on these very images:"
            " expect less on new ones."
        )
    level, headline = _headline(result)
    if level == "ok" and not is_beaten:
        headline = f"{headline}, but no better than a simple model"
    if name == "val" and level == "ok":
        return Verdict("val_only", f"{headline}, on validation only", sentence, name)
    return Verdict(level, headline, sentence, name)


def has_test_set(counts: Mapping[str, Sequence[int]]) -> bool:
    """False where the counts by split say that test has no image."""
    return "test" not in counts or any(counts["test"])


def _headline(result: Mapping[str, Any]) -> tuple[Level, str]:
    skill = str(result.get("skill", "ok"))
    if skill == "collapsed" and result.get("task") == "multilabel":
        return "collapsed", "Collapsed: the same labels for nearly every image"
    if skill == "collapsed":
        return "collapsed", "Collapsed: one answer for nearly every image"
    if skill == "no_skill":
        return "no_skill", "No skill shown"
    if is_too_few(result):
        noun = "groups" if result.get("num_groups") else "images"
        return "too_few", f"Too few {noun} to conclude"
    if result.get("accuracy_above_trivial") is False:
        return "ok", "Better than chance, but not in plain accuracy"
    return "ok", "Better than every trivial answer"


def _beside_baselines(facts: Facts, name: str) -> tuple[str, bool]:
    """How the network stands to the toughest simple model, and whether it beats it."""
    toughest = toughest_baseline(facts.baselines, name)
    if toughest is None:
        return "", True
    entry = facts.baselines[toughest]
    scores = entry["splits"][name]
    gain = as_interval(scores["gain"])
    result = facts.splits[name]
    answers_alike = as_interval(scores["accuracy"]).value == trivial_value(result, "accuracy")
    if result.get("accuracy_above_trivial") is False and answers_alike:
        # No better than a constant answer, and this model is that: one sentence must do.
        return "", True
    verb = {
        "better": "It beats",
        "worse": "It is worse than",
        "not distinguishable": "It can't be told from",
    }[scores["network_is"]]
    sentence = f" {verb} {entry['title']} ({as_interval(scores['accuracy']).value or 0:.3f})"
    if gain.low is not None:
        sentence += f": accuracy {gain.signed()}, paired"
    return f"{sentence}.", scores["network_is"] == "better"


def _score_sentence(facts: Facts, name: str, result: Mapping[str, Any]) -> str:
    n, parts = int(result.get("n") or 0), []
    accuracy, baseline = as_interval(result.get("accuracy")), trivial_value(result, "accuracy")
    if accuracy.value is not None:
        answer = trivial_words(facts.task, result)
        beside = f" ({answer} scores {baseline:.3f})" if baseline is not None else ""
        kind = "exact-match accuracy" if facts.task == "multilabel" else "accuracy"
        parts.append(f"{kind} is {accuracy}{beside}")
    balanced = as_interval(result.get("balanced_accuracy"))
    chance = trivial_value(result, "balanced_accuracy")
    if balanced.value is not None and chance is not None and facts.task != "multilabel":
        parts.append(f"balanced accuracy {balanced} (chance {chance:.3f})")
    auroc = as_interval(result.get("auroc_macro"))
    if auroc.value is not None:
        parts.append(f"macro AUROC {auroc} (chance 0.500)")
    where = f"{n:,} {SPLIT_WORDS[name]} image{'' if n == 1 else 's'}"
    if not parts:
        return f"On {where} no score could be computed."
    return f"On {where}, {_joined(parts)}."


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def trivial_words(task: str, result: Mapping[str, Any]) -> str:
    """The trivial answer that scores best on accuracy, in words: "always saying 'nv'"."""
    trivial = result.get("trivial") or {}
    majority, negative = trivial.get("majority") or {}, trivial.get("all_negative") or {}
    if task == "multilabel":
        labels = majority.get("labels") or []
        if labels and float(majority.get("accuracy") or 0) >= float(negative.get("accuracy") or 0):
            return f"always saying '{', '.join(labels)}'"
        return "saying 'none' to every image"
    label = majority.get("class")
    return f"always saying '{label}'" if label is not None else "always saying the largest class"


def trivial_value(result: Mapping[str, Any], metric: str) -> float | None:
    """The best that any trivial answer of metrics.json scores on `metric`, or None."""
    values = [
        value
        for answer in (result.get("trivial") or {}).values()
        if isinstance(answer, Mapping)
        and (value := as_interval(answer.get(metric)).value) is not None
    ]
    best = min if is_lower_better(metric) else max
    return best(values) if values else None


def is_lower_better(metric: str) -> bool:
    """Errors, losses, ece and brier are better the lower they are; all else the higher."""
    return metric.endswith(("_error", "_loss")) or metric in ("ece", "brier")


def as_interval(cell: Any) -> Interval:
    """A number of metrics.json: {"value", "ci95"}, {"value": null, "reason"}, or bare."""
    if isinstance(cell, bool) or cell is None:
        return Interval(None, reason="not measured")
    if isinstance(cell, int | float):
        return Interval(float(cell))
    if not isinstance(cell, Mapping):
        return Interval(None, reason="not measured")
    if cell.get("value") is None:
        return Interval(None, reason=str(cell.get("reason") or "not measured"))
    return Interval.from_json(cell)


def caution_text(result: Mapping[str, Any]) -> str:
    """'too few to conclude (groups=6)' as the intervals of a split carry it, or ''."""
    return as_interval(result.get("accuracy")).reason or ("too few" if is_too_few(result) else "")


def is_too_few(result: Mapping[str, Any]) -> bool:
    given = result.get("too_few_to_conclude")
    return bool(given) if given is not None else int(result.get("n") or 0) < TOO_FEW


def judged_split(facts: Facts) -> tuple[str, Mapping[str, Any] | None]:
    """The split that a verdict may rest on: test where it was opened, else validation."""
    for name in ("test", "val"):
        result = facts.splits.get(name)
        if result:
            return name, result
    return "test", None
