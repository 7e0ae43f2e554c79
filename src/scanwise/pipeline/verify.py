"""`scanwise verify-report RUN`: recompute every number from predictions.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanwise.core.errors import DataError, IntegrityError, RunError
from scanwise.core.files import sha256_file
from scanwise.metrics.predictions import read_predictions
from scanwise.metrics.verify import TOLERANCE, Mismatch, differences, verify_metrics
from scanwise.pipeline.baselines import read_baselines
from scanwise.pipeline.decisions import FILE as DECISIONS
from scanwise.pipeline.decisions import verify_decisions
from scanwise.pipeline.errors import verify_confusions
from scanwise.pipeline.explanations_verify import verify_explanations
from scanwise.pipeline.members import members_document
from scanwise.pipeline.parts import stated_parts, verify_parts
from scanwise.pipeline.runs import Run
from scanwise.pipeline.surroundings import verify_unknown
from scanwise.pipeline.tries import read_tries, recomputed_tries
from scanwise.pipeline.views import FILE as ONE_VIEW
from scanwise.pipeline.views import views_document
from scanwise.report.build import PAGES, restate, said_sha256

# Made of answers on other images (foreign, spoilt, covered in part), which no file keeps.
NOT_RECOMPUTED = ("ood.json", "robustness.json", "explanations/explanations.json")


@dataclass(frozen=True)
class Verification:
    """Every number that does not follow from predictions.csv."""

    run: Path
    mismatches: tuple[Mismatch, ...]
    checked: int
    left: tuple[str, ...] = ()  # files with numbers that rest on answers which are not kept

    def text(self) -> str:
        if not self.mismatches and not self.checked:
            return f"{self.run}: nothing was measured, so there is no number to recompute."
        if not self.mismatches:
            left = f" Not recomputed: {', '.join(self.left)}." if self.left else ""
            return f"{self.run}: all {self.checked} numbers follow from predictions.csv.{left}"
        lines = [f"{self.run}: {len(self.mismatches)} of {self.checked} numbers and words differ:"]
        lines += [
            f"  {bad.where}: stated {bad.stated}, recomputed {bad.recomputed}"
            for bad in self.mismatches
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "checked": self.checked,
            "mismatches": [
                {"where": bad.where, "stated": bad.stated, "recomputed": bad.recomputed}
                for bad in self.mismatches
            ],
        }


def verify_run(path: Path) -> Verification:
    """Recompute metrics.json and decisions.json from predictions.csv and splits.csv.

    Then compare report.json with them.

    Raises:
        RunError: If the run was never evaluated, or a file of it can't be read.
        IntegrityError: If predictions.csv is no longer a table of probabilities.
    """
    run = Run.open(path)
    metrics = run.metrics
    splits_csv = run.path / "splits.csv"
    if not splits_csv.is_file():
        raise RunError(f"{run.path} has no splits.csv; copy the whole run folder.")
    report = run.read_json("report.json", "`scanwise report RUN` writes it")
    if metrics.get("splits") == {} and not (run.path / "predictions.csv").exists():
        return Verification(run.path, tuple(_edited_words(run, report)), 0)
    try:
        predictions = read_predictions(run.path / "predictions.csv", splits_csv)
    except DataError as error:
        raise IntegrityError(f"predictions are not as they were written: {error}") from error
    found = list(
        verify_metrics(
            predictions,
            metrics,
            split_sha256=sha256_file(splits_csv),
            baselines=read_baselines(run, predictions),
        )
    )
    if "ensemble" in metrics:
        truth = members_document(run, predictions).get("ensemble")
        found += differences("ensemble", metrics["ensemble"], truth, TOLERANCE)
    if "tta" in metrics:
        alone = read_predictions(run.path / ONE_VIEW, splits_csv)
        truth = views_document(predictions, alone, metrics["tta"]["views"])["tta"]
        found += differences("tta", metrics["tta"], truth, TOLERANCE)
    found += verify_decisions(run, predictions, metrics)
    found += _edited("recommendations.json.tries", read_tries(run), recomputed_tries(run))
    found += verify_explanations(run, predictions)
    found += verify_parts(run, predictions)
    found += [*verify_confusions(run, predictions), *verify_unknown(run, predictions)]
    known = {f"report.json.metrics.{bad.where}" for bad in found}
    differing = _edited("report.json.metrics", report.get("metrics"), metrics)
    found += [bad for bad in differing if bad.where not in known]
    if not found:  # else the words of the report differ too, and that is no news
        found += _edited_words(run, report)
    decided = run.read_json(DECISIONS, "") if (run.path / DECISIONS).is_file() else {}
    stated = [metrics, decided, *stated_parts(run)]
    left = tuple(name for name in NOT_RECOMPUTED if (run.path / name).is_file())
    return Verification(run.path, tuple(found), _count_numbers(stated), left)


def _edited_words(run: Run, report: dict[str, Any]) -> list[Mismatch]:
    """What was edited by hand in report.json, and which page is not the one that was written.

    The report's own hash comes first: words may change from one version of scanwise to the next.
    """
    hashes = report.get("sha256") or {}
    found = []
    if hashes.get("report.json") != said_sha256(report):
        truth = restate(run.path)
        found = _edited("report.json", {key: report.get(key) for key in truth}, truth)
        found = found or [Mismatch("report.json", "edited", "`scanwise report RUN` writes it")]
    for name in PAGES:
        file = run.path / name
        if name in hashes and (not file.is_file() or sha256_file(file) != hashes[name]):
            found.append(Mismatch(name, "edited", "`scanwise report RUN` writes it anew"))
    return found


def _edited(where: str, stated: Any, truth: Any) -> list[Mismatch]:
    """Leaves of two JSON values that differ."""
    if isinstance(stated, dict) and isinstance(truth, dict):
        keys = [*truth, *(key for key in stated if key not in truth)]
        return [
            bad
            for key in keys
            for bad in _edited(f"{where}.{key}", stated.get(key), truth.get(key))
        ]
    if isinstance(stated, list) and isinstance(truth, list) and len(stated) == len(truth):
        return [
            bad
            for index, pair in enumerate(zip(stated, truth, strict=True))
            for bad in _edited(f"{where}.{index}", *pair)
        ]
    return [] if stated == truth else [Mismatch(where, stated, truth)]


def _count_numbers(value: Any) -> int:
    """Numbers in a JSON value."""
    if isinstance(value, dict):
        return sum(_count_numbers(part) for part in value.values())
    if isinstance(value, list):
        return sum(_count_numbers(part) for part in value)
    return int(isinstance(value, int | float) and not isinstance(value, bool))
