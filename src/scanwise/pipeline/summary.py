"""What the terminal shows at the end of a run."""

from __future__ import annotations

import json
import shlex
from typing import Any

from scanwise.core.types import Interval
from scanwise.pipeline.runs import Run
from scanwise.report.build import judge
from scanwise.report.run_files import read_run
from scanwise.report.verdict import caution_text

HEADLINES = (
    ("accuracy", "accuracy"),
    ("balanced accuracy", "balanced_accuracy"),
    ("AUROC (macro)", "auroc_macro"),
    ("F1 (macro)", "f1_macro"),
    ("calibration error", "ece"),
)
LEAKY = "LEAKY: splits share images (see the report); scores on those are too good."
GRADE_HEADLINES = (
    ("kappa, quadratic", "kappa_quadratic"),
    ("error in grades", "mean_absolute_grade_error"),
)


def run_summary(run: Run) -> str:
    """The headline numbers with n and interval, the trivial baselines, the verdict, the report."""
    said, report = run.path / "report.json", f"report: {run.report}"
    if said.is_file():
        verdict = json.loads(said.read_text(encoding="utf-8"))["verdict"]
    else:  # --no-report
        verdict = judge(read_run(run.path), draw=False).verdict.to_json()
        report = f"report: {shlex.join(['scanwise', 'report', str(run.path)])} makes it"
    leaky = [LEAKY] if run.metrics.get("leaky") else []
    return "\n".join(["", *leaky, *_verdict(verdict), "", *score_lines(run), report])


def score_lines(run: Run) -> list[str]:
    """Headline numbers with n and interval, trivial baselines, and the looks at test."""
    metrics, lines = run.metrics, []
    for title, part in _parts(metrics):
        lines.append(f"{title} (n = {part['n']:,}), with 95 % intervals")
        for words, key in headlines(part):
            lines.append(f"  {words:<18} {_text(part[key])}")
        lines.append(f"  {'trivial':<18} {_trivial(part['trivial'])}")
        if caution := caution_text(part):
            lines.append(f"  caution: {caution}")
    if "test" not in metrics["splits"]:
        command = shlex.join(["scanwise", "evaluate", str(run.path)])
        lines.append(
            f"test: not opened ({command} opens it)"
            if run.dataset["split"]["n"]["test"]
            else "test: the data have no test set, so nothing is known about new images"
        )
    return [*lines, looks_text(len(run.test_looks()))]


def headlines(part: dict[str, Any]) -> list[tuple[str, str]]:
    """Words and key of each headline number; the accuracy of several labels is an exact match."""
    exact = {"accuracy": "exact match"} if part.get("task") == "multilabel" else {}
    grades = GRADE_HEADLINES if part.get("task") == "ordinal" else ()
    return [(exact.get(key, words), key) for words, key in (*HEADLINES, *grades)]


def looks_text(looks: int) -> str:
    return f"test looked at {looks} time{'' if looks == 1 else 's'}"


def run_summary_json(run: Run) -> dict[str, Any]:
    """The same for machines: where things are, and metrics.json whole."""
    return {
        "run": str(run.path),
        "report": str(run.report),
        "bundle": str(run.bundle),
        "metrics": run.metrics,
    }


def _verdict(verdict: dict[str, Any]) -> list[str]:
    """The report's verdict: a headline and one sentence with numbers."""
    return [str(verdict[key]) for key in ("headline", "sentence") if verdict.get(key)]


def _parts(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    parts = [(name, part) for name, part in metrics["splits"].items()]
    for name, part in metrics.get("clean_splits", {}).items():
        parts.append((f"{name} without leaked images", part))
    return parts


def _text(entry: dict[str, Any]) -> str:
    interval = Interval.from_json(entry)
    bare = interval.value is not None and interval.low is None
    return f"{interval} ({interval.reason or 'no interval'})" if bare else str(interval)


def _trivial(trivial: dict[str, Any]) -> str:
    """Every trivial baseline's accuracy in one line."""
    found = []
    for name, values in trivial.items():
        if not isinstance(values, dict) or not isinstance(values.get("accuracy"), int | float):
            continue
        if name == "majority" and values.get("labels") == []:
            continue  # no label that most images have: the same as all_negative
        said = values.get("class") or ", ".join(values.get("labels") or ())
        words = "all-negative" if name == "all_negative" else name
        found.append(f"{words}{f' ({said!r})' if said else ''} {values['accuracy']:.3f}")
    return "accuracy of " + ", ".join(found) if found else "not measured"
