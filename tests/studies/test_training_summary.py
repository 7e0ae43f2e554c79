"""`scanwise summary`: what the page says follows from predictions, and from nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score

from scanwise.cli import main
from scanwise.core.errors import IntegrityError, RunError
from scanwise.metrics.predictions import read_predictions
from scanwise.studies.run_set import read_runs, runs_among
from scanwise.studies.summary_page import make_summary
from scanwise.studies.training_summary import verify_summary, write_summary

from .conftest import edit_json, make_run, sure, with_errors

SECTIONS = [
    "Overview", "Dataset Information", "Model Performance", "Training Configuration",
    "Key Findings", "Next Steps", "File Structure",
]  # fmt: skip
TARGETS = np.arange(200) % 4  # balanced: one class scores exactly 25.0 %


def findings(*paths: Path) -> dict[str, str]:
    """Texts of the findings by the first word of their title."""
    found = make_summary(read_runs(paths)).findings
    return {each.title.split()[0]: each.text for each in found}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return make_run(tmp_path / "good", TARGETS, with_errors(TARGETS, 4, list(range(20))))


def test_two_real_runs_become_the_seeds_tree(cell_runs, tmp_path: Path):
    out = tmp_path / "training_results"
    summary = write_summary(cell_runs, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "TRAINING_SUMMARY.md", "cells", "model_comparison.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "cells").iterdir()) == ["metrics", "models", "plots"]
    assert (out / "cells/plots/first/confusion_matrix.png").is_file()
    assert (out / "cells/models/second/model.safetensors").is_file()
    text = (out / "TRAINING_SUMMARY.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    for run in cell_runs:
        test = read_predictions(run / "predictions.csv").of_split("test")
        assert f"{accuracy_score(test.targets, test.predicted):.3f} [" in text
    assert len(summary.data_sets[0].test_sets[0].methods) == 1  # they differ in the seed only
    assert "SD " in findings(*cell_runs)["Most"]
    assert not re.search(r"\bbecause\b", text)
    with Image.open(out / "model_comparison.png") as picture:
        assert "accuracy" in picture.info["Description"]
        assert min(picture.size) > 200
    assert not verify_summary(out).mismatches
    assert [path.name for path in tmp_path.iterdir()] == ["training_results"]  # nothing beside it


def test_an_edited_number_is_noticed(good: Path, tmp_path: Path):
    out = tmp_path / "results"
    write_summary([good], out)
    assert not verify_summary(out).mismatches
    page = out / "TRAINING_SUMMARY.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("0.900 [", "0.970 ["), encoding="utf-8")
    found = verify_summary(out).mismatches
    assert found
    assert "0.970" in str(found[0].stated)
    assert "0.900" in str(found[0].recomputed)

    page.write_text(text, encoding="utf-8")
    copy = out / "octmnist_like/metrics/good"
    table = copy / "metrics.csv"
    table.write_text(table.read_text().replace("test,,accuracy,0.9", "test,,accuracy,0.97"))
    assert "metrics.csv" in verify_summary(out).mismatches[0].where
    edit_json(copy / "metrics.json", lambda m: m["splits"]["test"]["accuracy"].update(value=0.97))
    assert "accuracy.value" in verify_summary(out).mismatches[0].recomputed
    with pytest.raises(SystemExit) as caught:
        main(["verify-report", str(out)])
    assert caught.value.code == 3


def test_a_run_whose_numbers_were_edited_is_refused(good: Path, tmp_path: Path):
    edit_json(good / "metrics.json", lambda m: m["splits"]["test"]["accuracy"].update(value=0.97))
    with pytest.raises(IntegrityError, match=r"accuracy\.value: stated 0\.97, recomputed 0\.9"):
        write_summary([good], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_changed_is_refused_and_nothing_is_left(good: Path, tmp_path: Path):
    (good / "bundle/model.safetensors").write_text("other")
    with pytest.raises(IntegrityError, match=r"model\.safetensors is not the file"):
        write_summary([good], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_edited_advice_is_refused(good: Path, tmp_path: Path):
    edit_json(good / "report.json", lambda said: said.update(verdict={}))
    with pytest.raises(IntegrityError, match=r"report\.json was edited"):
        write_summary([good], tmp_path / "out")


def test_25_percent_is_told_as_the_one_class_score_and_never_best(tmp_path: Path):
    """S1's OCTMNIST row: a model that says one class to every image."""
    constant = make_run(tmp_path / "constant", TARGETS, sure(np.full(200, 3), 4), model="effnet")
    worse = make_run(tmp_path / "worse", TARGETS, with_errors(TARGETS, 4, list(range(160))))
    said = findings(constant)
    assert "Its accuracy of 25.0% was exactly the one-class score: 'class 3' was" in said["No"]
    assert "COLLAPSED" in said["No"]
    assert said["Best"].startswith("none:")
    assert findings(constant, worse)["Best"].startswith("none:")
    row = make_summary(read_runs([constant])).to_json()["runs"][0]
    assert (row["verdict"], row["accuracy"]["value"]) == ("collapsed", 0.25)


def test_best_only_where_the_paired_interval_excludes_0(good: Path, tmp_path: Path):
    near = make_run(
        tmp_path / "near", TARGETS, with_errors(TARGETS, 4, list(range(5, 27))), model="mlp:16"
    )
    far = make_run(
        tmp_path / "far", TARGETS, with_errors(TARGETS, 4, list(range(80))), model="b", lr=0.1
    )
    assert findings(good, near)["Best"].startswith("not distinguishable: mlp:8 (run good)")
    best = findings(good, far)["Best"]
    assert best.startswith("mlp:8 (run good) was better than the runner-up")
    assert "+0.300 [" in best
    assert "confounded: differs in model, lr" in best
    assert "(differs in model)" in findings(good, near)["Best"]


def test_a_lead_over_one_of_many_is_corrected_for_all_of_them(good: Path, tmp_path: Path):
    """24 images against 8 by the exact test, p=0.007: shown beside one method, not beside ten."""
    errors = [*range(12), *range(100, 124)]  # `good` errs on the first 20
    close = make_run(tmp_path / "close", TARGETS, with_errors(TARGETS, 4, errors), model="m0")
    alone = make_summary(read_runs([good, close])).to_json()["comparisons"]
    assert [(one["verdict"], one["num_comparisons"]) for one in alone] == [("better", 1)]
    others = [
        make_run(tmp_path / f"o{i}", TARGETS, with_errors(TARGETS, 4, errors), model=f"m{i}")
        for i in range(1, 10)
    ]
    summary = make_summary(read_runs([good, close, *others]))
    many = summary.to_json()["comparisons"]
    assert len(many) == 10
    for one in many:
        assert one["p_value"] == alone[0]["p_value"] < 0.05
        assert one["corrected_p"] == pytest.approx(10 * one["p_value"])
        assert one["verdict"] == "not distinguishable"
    assert "corrected for 10 comparisons" in summary.findings[0].text


def test_seeds_of_one_method_are_one_method(good: Path, tmp_path: Path):
    second = make_run(
        tmp_path / "second", TARGETS, with_errors(TARGETS, 4, list(range(40))), seed=1
    )
    collapsed = make_run(tmp_path / "third", TARGETS, sure(np.full(200, 1), 4), seed=2)
    said = findings(good, second)
    assert "test accuracy 0.850 [" in said["Best"]  # the mean of 0.9 and 0.8
    assert "(mean over seeds)" in said["Best"]
    assert "SD 0.071 [" in said["Most"]
    assert findings(good, second, collapsed)["Best"].startswith("none:")  # one seed without skill


def test_which_method_moves_less_needs_proof(tmp_path: Path):
    def seeds(model: str, errors: list[int]) -> list[Path]:
        return [
            make_run(
                tmp_path / f"{model}{seed}", TARGETS, with_errors(TARGETS, 4, list(range(wrong))),
                model=model, seed=seed,
            )
            for seed, wrong in enumerate(errors)
        ]  # fmt: skip

    steady, shaky = seeds("steady", [20, 24, 20, 24]), seeds("shaky", [4, 90, 20, 60])
    assert findings(*steady, *shaky)["Most"].startswith("steady moved least")
    assert findings(*steady[:2], *shaky[2:])["Most"].startswith("not distinguishable")


def test_other_test_images_are_shown_apart_and_never_compared(good: Path, tmp_path: Path):
    other = make_run(
        tmp_path / "other", TARGETS, with_errors(TARGETS, 4, list(range(90))), prefix="other "
    )
    summary = make_summary(read_runs([good, other]))
    assert len(summary.data_sets) == 1
    assert len(summary.data_sets[0].test_sets) == 2
    assert not summary.comparisons
    assert "were not compared" in findings(good, other)["Other"]
    write_summary([good, other], tmp_path / "out")
    text = (tmp_path / "out/TRAINING_SUMMARY.md").read_text(encoding="utf-8")
    assert len(re.findall(r"\(test images [0-9a-f]{8}\)", text)) == 2


def test_unfinished_runs_have_no_number_and_say_how_to_finish(good: Path, tmp_path: Path):
    stopped = make_run(tmp_path / "stopped", TARGETS, sure(TARGETS, 4), finished=False)
    unopened = make_run(tmp_path / "unopened", TARGETS, sure(TARGETS, 4), test=False)
    out = tmp_path / "out"
    summary = write_summary([good, stopped, unopened], out)
    rows = {row["run"]: row for row in summary.to_json()["runs"]}
    assert rows["stopped"]["status"] == "interrupted"
    assert rows["unopened"]["status"] == "completed"
    assert rows["stopped"]["accuracy"]["value"] is rows["unopened"]["accuracy"]["value"] is None
    text = (out / "TRAINING_SUMMARY.md").read_text(encoding="utf-8")
    assert f"scanwise train --resume {stopped}" in text
    assert f"scanwise evaluate {unopened}" in text
    assert not (out / "octmnist_like/models/stopped").exists()
    assert not verify_summary(out).mismatches


def test_only_unfinished_runs_are_a_summary_too(tmp_path: Path):
    stopped = make_run(tmp_path / "stopped", TARGETS, sure(TARGETS, 4), finished=False)
    write_summary([stopped], tmp_path / "out")
    assert not verify_summary(tmp_path / "out").mismatches


def test_exact_match_stands_beside_all_negative(tmp_path: Path):
    rng = np.random.default_rng(0)
    targets = (rng.random((120, 3)) < [0.05, 0.1, 0.4]).astype(np.int64)
    probabilities = np.clip(0.3 * targets + rng.random((120, 3)) * 0.5, 0, 1)
    run = make_run(tmp_path / "labels", targets, probabilities)
    said = findings(run)["Multi-Label"]
    exact = (targets == (probabilities > 0.5)).all(axis=1).mean()
    assert f"{exact:.3f} [" in said
    assert f"saying 'none' to every image {(targets == 0).all(axis=1).mean():.3f}" in said


def test_next_steps_are_the_reports_own(good: Path, tmp_path: Path):
    constant = make_run(tmp_path / "constant", TARGETS, sure(np.full(200, 3), 4), model="mlp:9")
    runs = [good, constant]
    own = {
        row["command"]
        for run in runs
        for key in ("recommendations", "findings")
        for row in json.loads((run / "report.json").read_text(encoding="utf-8"))[key]
    }
    steps = make_summary(read_runs(runs)).steps
    assert steps
    assert {step.command for step in steps} <= own


def test_a_run_without_pages_is_a_finished_run(tmp_path: Path):
    """Members of studies are trained with --no-report."""
    wrong = with_errors(TARGETS, 4, list(range(20)))
    member = make_run(tmp_path / "member", TARGETS, wrong, report=False)
    (member / "report.json").unlink()
    row = write_summary([member], tmp_path / "out").to_json()["runs"][0]
    assert (row["status"], row["accuracy"]["value"]) == ("completed", 0.9)
    assert not verify_summary(tmp_path / "out").mismatches


def test_equal_names_stay_apart(good: Path, tmp_path: Path):
    twin = tmp_path / "elsewhere/good"
    shutil.copytree(good, twin)
    namesake = make_run(tmp_path / "namesake", TARGETS, sure(TARGETS, 4), name="octmnist_like")
    edit_json(namesake / "dataset.json", lambda facts: facts.update(content_sha256="other"))
    out = tmp_path / "out"
    write_summary([tmp_path / "elsewhere", good, namesake], out)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "octmnist_like", "octmnist_like-2",
    }  # fmt: skip
    runs = sorted(path.name for path in out.glob("*/metrics/*"))
    assert runs == ["good", "good-2", "namesake"]
    assert not verify_summary(out).mismatches


def test_runs_are_found_below_folders_once(good: Path, tmp_path: Path):
    study = tmp_path / "study/members"
    shutil.copytree(good, study / "one")
    shutil.copytree(good, study / "one/plots/inner")
    write_summary([good], study / "results")  # copies of files, no runs
    found = runs_among([tmp_path / "study", study / "one", good])
    assert found == (study / "one", good)


def test_bad_input_is_one_message_and_nothing_is_written(good: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is no run folder and holds none"):
        write_summary([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(RunError, match="does not exist"):
        write_summary([tmp_path / "nothing"], tmp_path / "out")
    with pytest.raises(RunError, match="not a scanwise summary"):
        write_summary([good], good, force=True)
    out = tmp_path / "out"
    write_summary([good], out)
    (out / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="--force to replace"):
        write_summary([good], out)
    with pytest.raises(RunError, match="is a summary of runs"):
        write_summary([out], tmp_path / "again")
    inside = out / "run"
    shutil.copytree(good, inside)
    with pytest.raises(RunError, match="lie in each other"):
        write_summary([inside], out, force=True)
    write_summary([good], out, force=True)
    assert not (out / "mine.txt").exists()


def test_command_prints_the_table_and_json(good: Path, tmp_path: Path, capsys):
    def command(*words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["summary", *words])
        assert not caught.value.code
        return capsys.readouterr().out

    out = tmp_path / "out"
    said = command(str(good), "-o", str(out))
    assert "0.900 [0.851, 0.934]" in said
    assert str(out / "TRAINING_SUMMARY.md") in said
    found = json.loads(command(str(good), "-o", str(out), "--force", "--json"))
    assert found["runs"][0]["accuracy"]["value"] == pytest.approx(0.9)
    assert found["runs"][0]["n"] == 200
