"""Thresholds, sets and clinical tables of a real run: stored, verified, shown, and refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import scanwise as sw
from scanwise.cli import main
from scanwise.core.errors import DataError, RunError
from scanwise.metrics.conformal import SetRule
from scanwise.metrics.thresholds import Rule
from scanwise.pipeline.decisions import (
    clear_threshold,
    fit_sets,
    judge_at_prevalence,
    set_threshold,
)
from scanwise.pipeline.verify import verify_run


@pytest.fixture
def quick_run(copied_run, monkeypatch):
    """A copy that may be changed, whose report is not drawn anew each time."""
    monkeypatch.setattr("scanwise.pipeline.decisions.build_report", lambda folder: None)
    return copied_run


def files_of(run) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.path)): path.read_bytes()
        for path in run.path.rglob("*")
        if path.is_file()
    }


def decisions(run) -> dict:
    return json.loads((run.path / "decisions.json").read_text())


def says(capsys, words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = 0
    try:
        main(words.split())
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_every_training_leaves_sets_that_the_bundle_answers_with(disc_run, discs):
    stated = decisions(disc_run)["sets"]
    assert (stated["fitted"], stated["alpha"], stated["n"]) == (True, 0.1, 80)
    images = np.load(discs)["test_images"]
    answer = sw.Bundle.from_pretrained(disc_run.path).predict(images)
    truth = np.load(discs)["test_labels"][:, 0]
    names = answer.class_names
    held = [names[label] in each for label, each in zip(truth, answer.sets, strict=True)]
    coverage = stated["splits"]["test"]["coverage"]["value"]
    assert np.mean(held) == pytest.approx(coverage, abs=1 / 80)
    assert answer.above_threshold is None
    assert answer.thresholds == {}


def test_a_threshold_is_stored_by_name_and_changes_no_other_answer(quick_run, discs):
    images = np.load(discs)["test_images"]
    before = sw.Bundle.from_pretrained(quick_run.path).predict(images)
    name = before.class_names[0]
    entry = set_threshold(quick_run.path, name, Rule("sensitivity", 0.9))
    bundle = sw.Bundle.from_pretrained(quick_run.path)  # its hashes are right
    assert bundle.config.thresholds == {name: entry["threshold"]}
    answer = bundle.predict(images)
    np.testing.assert_array_equal(answer.probabilities, before.probabilities)
    assert answer.predicted == before.predicted
    assert answer.sets == before.sets
    said = answer.probabilities[:, 0] >= entry["threshold"]
    assert answer.above_threshold == tuple((name,) if yes else () for yes in said)
    part = entry["splits"]["test"]
    truth = np.load(discs)["test_labels"][:, 0] == 0
    assert (part["true_positives"], part["positives"]) == ((said & truth).sum(), truth.sum())


def test_an_unreadable_file_has_neither_alarm_nor_set(quick_run, tmp_path):
    name = set_threshold(quick_run.path, None, Rule("youden"))["class"]
    (tmp_path / "bad.png").write_text("not an image")
    answer = sw.Bundle.from_pretrained(quick_run.path).predict([tmp_path / "bad.png"])
    assert name in answer.thresholds
    assert (answer.above_threshold, answer.sets, answer.predicted) == (((),), ((),), ("",))


def test_clear_forgets_it_and_nothing_else(quick_run):
    start = {k: v for k, v in decisions(quick_run).items() if k != "command"}
    config = (quick_run.bundle / "config.json").read_bytes()
    name = set_threshold(quick_run.path, None, Rule("youden"))["class"]
    assert clear_threshold(quick_run.path, None) == name
    assert {k: v for k, v in decisions(quick_run).items() if k != "command"} == start
    assert (quick_run.bundle / "config.json").read_bytes() == config
    with pytest.raises(RunError, match=f"no threshold of '{name}'; it has one of no class"):
        clear_threshold(quick_run.path, name)


def test_all_of_it_is_verified_and_a_changed_number_is_named(quick_run):
    set_threshold(quick_run.path, None, Rule("cost", miss=5, false_alarm=1))
    fit_sets(quick_run.path, SetRule(0.2, class_conditional=True))
    name = judge_at_prevalence(quick_run.path, None, 0.05)["class"]
    assert verify_run(quick_run.path).mismatches == ()
    stated = decisions(quick_run)
    stated["prevalence"][name]["ppv"]["value"] += 0.01
    (quick_run.path / "decisions.json").write_text(json.dumps(stated))
    wrong = verify_run(quick_run.path).mismatches
    assert [bad.where for bad in wrong] == [f"decisions.json.prevalence.{name}.ppv.value"]


def test_a_bundle_with_another_threshold_than_the_run_is_named(quick_run):
    from scanwise.deploy.bundle import update_config

    name = set_threshold(quick_run.path, None, Rule("youden"))["class"]
    update_config(quick_run.bundle, {"thresholds": {name: 0.123}})
    wrong = verify_run(quick_run.path).mismatches
    assert [bad.where for bad in wrong] == [f"bundle.config.thresholds.{name}"]


def test_predictive_values_open_nothing_and_need_no_images(copied_run, monkeypatch):
    looks = len(copied_run.test_looks())
    predictions = (copied_run.path / "predictions.csv").read_bytes()
    monkeypatch.setattr("scanwise.deploy.bundle.Bundle.from_pretrained", None)
    entry = judge_at_prevalence(copied_run.path, None, 0.02)
    assert len(copied_run.test_looks()) == looks
    assert (copied_run.path / "predictions.csv").read_bytes() == predictions
    assert entry["split"] == "test"
    assert (copied_run.path / "plots" / "decision_curve.png").is_file()
    assert (copied_run.path / "plots" / "decision_curve.svg").is_file()


def test_an_evaluation_anew_keeps_what_was_asked(quick_run, monkeypatch):
    from scanwise.pipeline.train import reevaluate

    monkeypatch.setattr("scanwise.pipeline.train.build_report", lambda folder: None)
    monkeypatch.setattr("scanwise.pipeline.evaluate.write_errors", lambda *_, **__: None)

    set_threshold(quick_run.path, None, Rule("sensitivity", 0.9))
    fit_sets(quick_run.path, SetRule(0.2))
    judge_at_prevalence(quick_run.path, None, 0.1)
    asked = decisions(quick_run)["asked"]
    reevaluate(quick_run.path)
    assert decisions(quick_run)["asked"] == asked
    config = json.loads((quick_run.bundle / "config.json").read_text())
    assert config["conformal"]["alpha"] == 0.2
    assert len(config["thresholds"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("thresholds RUN", "one thing only: --sensitivity"),
        ("thresholds RUN --youden --sensitivity 0.9", "one thing only"),
        ("thresholds RUN --class nobody --youden", "no class 'nobody'; there are"),
        ("thresholds RUN --sensitivity 1.5", "above 0 and below 1"),
        ("thresholds RUN --specificity 0.99999", "best reachable below 1 is 0.975"),
        ("thresholds RUN --cost 3", "MISS:FALSE_ALARM"),
        ("thresholds RUN --cost 3:0", "false alarm must be a number above 0"),
        ("thresholds RUN --clear", "has no threshold"),
        ("conformal RUN --alpha 1", "between 0 and 1"),
        ("conformal RUN --alpha 0.001", "at least 1000 validation images, there are 80"),
        ("conformal RUN --alpha 0.02 --class-conditional", "validation images of each"),
        ("evaluate RUN --prevalence 0", "between 0 and 1"),
        ("evaluate RUN --prevalence 1.0", "between 0 and 1"),
        ("evaluate RUN --prevalence nan", "between 0 and 1"),
        ("evaluate RUN --class x", "--class goes with --prevalence"),
        ("evaluate RUN --class x --prevalence 0.1", "no class 'x'"),
    ],
)
def test_mistakes_end_with_code_2_and_change_nothing(quick_run, capsys, words, message):
    before = files_of(quick_run)
    code, _, error = says(capsys, words.replace("RUN", str(quick_run.path)))
    assert code == 2
    assert message in error.replace("\n", " ")
    assert files_of(quick_run) == before


def test_the_terminal_shows_n_split_and_interval(quick_run, capsys):
    code, out, _ = says(capsys, f"thresholds {quick_run.path} --sensitivity 0.9")
    assert code == 0
    assert "validation, where it was chosen" in out
    assert "n=40" in out
    code, out, _ = says(capsys, f"conformal {quick_run.path} --alpha 0.2")
    assert code == 0
    assert "80 % of images, calibrated on n=80 validation images" in out
    code, out, _ = says(capsys, f"evaluate {quick_run.path} --prevalence 0.02")
    assert code == 0
    assert "by the stored threshold" in out
    assert "of 1,000 images at that prevalence 20 are" in out
    code, out, _ = says(capsys, f"thresholds {quick_run.path} --youden --json")
    assert json.loads(out)["chosen_on"] == "val"


def test_the_report_shows_it_all_or_says_how_to_get_it(copied_run):
    report = copied_run.path / "report.md"
    text = report.read_text()
    assert "Operating thresholds: none was chosen" in text
    assert "decision curve: not measured" in text
    assert "Prediction sets that are to hold the true class of 90 %" in text
    name = set_threshold(copied_run.path, None, Rule("sensitivity", 0.9))["class"]
    judge_at_prevalence(copied_run.path, name, 0.02)
    text = report.read_text()
    assert "Operating thresholds**" in text
    assert "sensitivity of at least 0.9" in text
    assert "plots/decision_curve.png" in text
    stated = json.loads((copied_run.path / "report.json").read_text())
    assert stated["decisions"] == decisions(copied_run)


def test_a_run_without_decisions_gets_them(quick_run):
    """A run of an earlier version."""
    (quick_run.path / "decisions.json").unlink()
    assert verify_run(quick_run.path).mismatches == ()
    fit_sets(quick_run.path, SetRule())
    assert decisions(quick_run)["sets"]["fitted"]


def test_damage_is_said(quick_run):
    (quick_run.path / "decisions.json").write_text('{"asked": {"thresholds": 3}}')
    with pytest.raises(RunError, match="damaged"):
        set_threshold(quick_run.path, None, Rule("youden"))
    (quick_run.path / "predictions.csv").unlink()
    with pytest.raises(RunError, match=r"no predictions\.csv"):
        fit_sets(quick_run.path, SetRule())


@pytest.fixture(scope="module")
def label_run(tmp_path_factory):
    """A run of two labels an image, with few validation images and no look at test."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    targets = (rng.random((120, 2)) < 0.4).astype(int)
    images = rng.integers(0, 60, (120, 12, 12))
    images[:, :6] += 150 * targets[:, 0, None, None]
    images[:, 6:] += 150 * targets[:, 1, None, None]
    arrays = {}
    for name, rows in (("train", slice(0, 60)), ("val", slice(60, 90)), ("test", slice(90, 120))):
        arrays[f"{name}_images"] = images[rows].astype(np.uint8)
        arrays[f"{name}_labels"] = targets[rows]
    np.savez(folder / "labels.npz", **arrays)
    return sw.train(
        folder / "labels.npz", model="mlp:8", epochs=6, batch_size=20, no_test=True,
        accept_leak=True, report=False, output=str(folder / "run"),
    )  # fmt: skip


def test_labels_have_thresholds_but_no_sets(label_run):
    assert "several labels" in decisions(label_run)["sets"]["reason"]
    assert "skipped: 30 validation images" in decisions(label_run)["calibration"]["reason"]
    with pytest.raises(DataError, match="several labels"):
        fit_sets(label_run.path, SetRule())
    with pytest.raises(DataError, match="say which class"):
        set_threshold(label_run.path, None, Rule("youden"))
    name = decisions_names(label_run)[1]
    entry = set_threshold(label_run.path, name, Rule("youden"))
    assert list(entry["splits"]) == ["val"]
    table = judge_at_prevalence(label_run.path, name, 0.1)
    assert table["split"] == "val"
    assert table["threshold"] == entry["threshold"]
    assert label_run.test_looks() == []


def decisions_names(run) -> tuple[str, ...]:
    with (run.path / "predictions.csv").open() as stream:
        header = next(csv.reader(stream))
    return tuple(cell.removeprefix("prob_") for cell in header if cell.startswith("prob_"))
