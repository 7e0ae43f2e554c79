"""recommend: what is printed; a try is paired on validation, recorded, and can be repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scanwise import Run
from scanwise.cli.commands import app
from scanwise.core.errors import RunError
from scanwise.core.files import sha256_file, write_json
from scanwise.pipeline.tries import FILE, advise, judged_together, try_config, try_out
from scanwise.pipeline.verify import verify_run
from scanwise.report.build import build_report


@pytest.fixture
def slow_run(copied_run: Run) -> Run:
    """A run whose probes say that the rate was too low."""
    training = copied_run.read_json("training.json", "")
    training["probes"] |= {"weights_moved": 0.01, "steps": 64}
    training["probes"]["answers"] |= {"train_right": 150}
    training["best_epoch"] = 8
    write_json(copied_run.path / "training.json", training)
    build_report(copied_run.path)
    return copied_run


def state(run: Run) -> dict[str, str]:
    """Hashes of all that a try must not touch."""
    changing = {FILE, "report.html", "report.md", "report.json", "metrics.md"}
    return {
        str(path.relative_to(run.path)): sha256_file(path)
        for path in sorted(run.path.rglob("*"))
        if path.is_file() and path.name not in changing and "plots" not in path.parts
    }


def test_nothing_to_recommend_is_said(copied_run: Run) -> None:
    training = copied_run.read_json("training.json", "")
    training["probes"] = {}
    write_json(copied_run.path / "training.json", training)
    if advise(copied_run.path).recommendations:
        pytest.skip("this training has findings of its own")
    assert "no recommendation" in advise(copied_run.path).text()
    with pytest.raises(RunError, match="no recommendation that can be tried"):
        try_out(copied_run.path, 1)


def test_the_recommendations_are_ranked_with_evidence_and_command(slow_run: Run) -> None:
    result = CliRunner().invoke(app, ["recommend", str(slow_run.path), "--json"])
    found = json.loads(result.stdout)
    first = found["recommendations"][0]
    assert (first["code"], first["can_be_tried"]) == ("A013", True)
    assert "0.01 of their length in 64 steps" in first["evidence"]
    assert first["command"].startswith("scanwise train ")
    assert "--lr 0.04" in first["command"]
    assert len(found["recommendations"]) <= 5
    text = CliRunner().invoke(app, ["recommend", str(slow_run.path)]).stdout
    assert first["command"] in text
    assert "--try 1" in text


def test_a_try_is_the_recommended_command_on_the_same_split_without_test(slow_run: Run) -> None:
    item = advise(slow_run.path).recommendations[0]
    config = try_config(slow_run, item)
    assert config.lr == 0.04
    assert (config.model, config.epochs, config.batch_size, config.seed) == (
        "small_resnet:8", 8, 32, 1,
    )  # fmt: skip
    assert config.splits == str(slow_run.path / "splits.csv")
    assert config.no_test
    assert Path(str(config.output)).parent != slow_run.path


def test_a_try_is_recorded_kept_and_checked(slow_run: Run) -> None:
    before = state(slow_run)
    killed = Path(str(try_config(slow_run, advise(slow_run.path).recommendations[0]).output))
    killed.mkdir(parents=True)
    (killed / "config.yaml").write_text("data: x\n")
    (killed / "plan.yaml").write_text("[]\n")
    found = try_out(slow_run.path, 1)
    assert state(slow_run) == before
    (one,) = found.tries
    assert one["code"] == "A013"
    assert one["outcome"] in ("hit", "miss", "not distinguishable")
    assert (one["split"], one["n"], one["metric"]) == ("val", 80, "accuracy")
    low, high = one["difference"]["ci95"]
    assert low <= one["try_value"] - one["base_value"] <= high
    tried = Run(killed)
    assert "test" not in tried.metrics["splits"]
    assert not tried.test_looks()
    assert tried.metrics["split_sha256"] == slow_run.metrics["split_sha256"]
    for page in ("report.md", "report.json"):
        assert one["outcome"] in (slow_run.path / page).read_text(encoding="utf-8")
    made = (tried.path / "history.csv").stat().st_mtime_ns
    assert try_out(slow_run.path, 1).tries == found.tries
    assert (tried.path / "history.csv").stat().st_mtime_ns == made  # not trained again
    assert not verify_run(slow_run.path).mismatches
    edited = json.loads((slow_run.path / FILE).read_text())
    edited["tries"][0]["try_value"] = 0.999
    write_json(slow_run.path / FILE, edited)
    wrong = [bad.where for bad in verify_run(slow_run.path).mismatches]
    assert "recommendations.json.tries.0.try_value" in wrong


def test_several_tries_are_judged_with_holm() -> None:
    def one(p: float | None, gap: float) -> dict[str, object]:
        return {"p_value": p, "difference": {"value": gap}, "higher_is_better": True}

    judged = judged_together([one(0.03, 0.1), one(0.04, -0.1), one(0.001, -0.2), one(None, 0.1)])
    assert [each["corrected_p"] for each in judged] == [0.06, 0.06, 0.003, None]
    assert [each["outcome"] for each in judged] == [
        "not distinguishable", "not distinguishable", "miss", "not distinguishable",
    ]  # fmt: skip
    assert judged_together([one(0.03, 0.1)])[0]["outcome"] == "hit"


def test_an_unfinished_run_is_refused(copied_run: Run) -> None:
    (copied_run.path / "metrics.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        advise(copied_run.path)
