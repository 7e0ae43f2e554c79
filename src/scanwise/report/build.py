"""The report of a run, made from the files of its folder and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scanwise.core.files import sha256_bytes, sha256_file, write_json, write_text
from scanwise.report.advice import Situation, options, recommend
from scanwise.report.blocks import Picture
from scanwise.report.content import Judgement, metrics_page, report_page
from scanwise.report.data_words import leak_count
from scanwise.report.diagnosis import diagnose
from scanwise.report.figures import CAPTIONS, draw_figures, existing_picture
from scanwise.report.pages import render
from scanwise.report.run_files import RunFiles, read_run, worst_first
from scanwise.report.verdict import verdict

SCHEMA = 1
PAGES = ("report.html", "report.md", "metrics.md")


@dataclass(frozen=True)
class ReportFiles:
    """Where the report lies."""

    html: Path
    markdown: Path
    json: Path


def build_report(run_dir: Path) -> ReportFiles:
    """Write report.html, .md and .json, metrics.md and plots/ of a run, from its files.

    What was not measured is said to be so. Each file is whole or absent; running it again gives the
    same files.

    Args:
        run_dir: A run folder; only config.yaml must exist.

    Raises:
        RunError: If it is no run folder, or a file in it can't be read.
    """
    run = read_run(Path(run_dir))
    judged = judge(run)
    page = report_page(run, judged)
    files = ReportFiles(run.path / "report.html", run.path / "report.md", run.path / "report.json")
    if run.splits:
        write_text(run.path / "metrics.md", render("metrics.md.j2", {"page": metrics_page(run)}))
    write_text(files.markdown, render("page.md.j2", {"page": page}))
    write_text(files.html, render("page.html.j2", {"page": page}))
    said = report_json(run, judged)
    hashes = {name: sha256_file(run.path / name) for name in PAGES if (run.path / name).is_file()}
    write_json(files.json, said | {"sha256": hashes | {"report.json": said_sha256(said)}})
    return files


def said_sha256(said: Mapping[str, Any]) -> str:
    """Hash of report.json's content, its own hashes left out."""
    content = {key: value for key, value in said.items() if key != "sha256"}
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())


def restate(run_dir: Path) -> dict[str, Any]:
    """What report.json must say by the other files of the run.

    Without the figures and hashes, and the run's name: its folder may have been moved.
    """
    run = read_run(run_dir)
    said = json.loads(json.dumps(report_json(run, judge(run, draw=False))))
    return {key: value for key, value in said.items() if key not in ("run", "files")}


def judge(run: RunFiles, *, draw: bool = True) -> Judgement:
    """Diagnose, advise and draw."""
    facts = run.facts()
    diagnoses = diagnose(facts)
    parameters = run.training.get("parameters") or {}
    situation = Situation(
        facts=facts,
        findings=(*(d.finding for d in diagnoses), *run.data_findings()),
        config=run.config,
        plan=run.plan,
        parameters=parameters.get("total") if isinstance(parameters, Mapping) else None,
        n_train=((run.dataset.get("split") or {}).get("n") or {}).get("train"),
        benchmark=(run.dataset.get("split") or {}).get("origin") == "official",
        own_split=(run.dataset.get("split") or {}).get("origin") == "user",
        leaked_test_images=_leaked(run),
    )
    return Judgement(
        verdict=verdict(facts),
        diagnoses=diagnoses,
        recommendations=recommend(situation),
        options=options(situation),
        pictures=_pictures(run, diagnoses) if draw else {},
    )


def _leaked(run: RunFiles) -> int:
    leaks = (run.checks.get("duplicates") or {}).get("leaks") or {}
    return leak_count(leaks.get("train-test"))


def _pictures(run: RunFiles, diagnoses: Any) -> dict[str, Picture]:
    found = {name: existing_picture(run.path, name) for name in CAPTIONS}
    drawn = draw_figures(run, diagnoses)
    return {name: picture for name, picture in found.items() if picture is not None} | drawn


def report_json(run: RunFiles, judged: Judgement) -> dict[str, Any]:
    """The report for programs: facts, numbers, findings, recommendations."""
    findings = worst_first(
        [
            *(d.finding for d in judged.diagnoses),
            *run.setting_findings(),
            *run.data_findings(),
        ]
    )
    return {
        "schema": SCHEMA,
        "run": run.name,
        "command": run.looks[-1].get("command") if run.looks else None,
        "split_sha256": run.split_sha256 or None,
        "task": run.task,
        "class_names": list(run.class_names),
        "synthetic": bool(run.dataset.get("synthetic")),
        "leaky": bool(run.metrics.get("leaky")),
        "medical_device": False,
        "test_looks": len(run.looks),
        "verdict": judged.verdict.to_json(),
        "training": dict(run.training) or None,
        "metrics": dict(run.metrics) or None,
        "decisions": dict(run.decisions) or None,
        "findings": [finding.to_json() for finding in findings],
        "recommendations": [step.to_json() for step in judged.recommendations],
        "tries": [dict(one) for one in run.tries],
        "options": [option.to_json() for option in judged.options],
        "files": _files(judged),
    }


def _files(judged: Judgement) -> dict[str, Any]:
    figures = {
        name: {"png": f"{p.path}.png", "svg": f"{p.path}.svg", "alt": p.alt}
        for name, p in judged.pictures.items()
    }
    pages = asdict(ReportFiles(Path("report.html"), Path("report.md"), Path("report.json")))
    return {**{name: str(path) for name, path in pages.items()}, "figures": figures}
