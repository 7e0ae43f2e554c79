"""Known faults are named first: on recorded trainings, and on four that are trained here.

`recorded.json` holds what the rules read of the benchmark's trainings of seed 1, which no
threshold was tuned on (`python benchmarks/faults.py fixtures`); nothing in it is simulated.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import load_script

from scanwise.report.diagnosis import diagnose
from scanwise.report.history import History
from scanwise.report.verdict import Facts

RECORDED = Path(__file__).with_name("recorded.json")


faults = load_script("benchmarks/faults.py")
CASES: list[dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))


def name_of(case: dict[str, Any]) -> str:
    return f"{case['fault']}-{case['data']}-{case['seed']}"


def said_of(case: dict[str, Any]) -> list[tuple[str, str]]:
    facts = Facts(
        history=History.from_rows(case["history"]),
        splits=case["splits"],
        counts=case["counts"],
        class_names=tuple(case["class_names"]),
        best_epoch=case["best_epoch"],
        probes=case["probes"],
    )
    return [(item.finding.code, item.finding.severity) for item in diagnose(facts)]


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_recorded_trainings_are_judged_rightly(case: dict[str, Any]) -> None:
    found = said_of(case)
    assert faults.is_right(faults.Case(case["fault"], case["data"], case["seed"]), found), found


def test_most_recorded_faults_are_named_first() -> None:
    judged = {
        kind: [
            faults.is_right(faults.Case(case["fault"], case["data"], case["seed"]), said_of(case))
            for case in CASES
            if (case["fault"] == "healthy") == (kind == "healthy")
        ]
        for kind in ("faulty", "healthy")
    }
    assert len(judged["faulty"]) >= 20
    assert sum(judged["faulty"]) >= 0.9 * len(judged["faulty"])
    assert len(judged["healthy"]) >= 6


@pytest.mark.parametrize(
    "fault", ["healthy", "unshuffled", "stale BatchNorm", "corner mark", "leaked test images"]
)
def test_a_fault_is_named_first(
    shared: Path, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained here, through the main path, on 173 blood-smear crops."""
    monkeypatch.setattr(faults, "RUNS", tmp_path)
    monkeypatch.setattr(faults, "SHARED", shared)
    case = faults.Case(fault, "bccd", 0)
    with contextlib.redirect_stdout(io.StringIO()):
        faults.train(case)
    found = faults.codes(case)
    assert faults.is_right(case, found), found
