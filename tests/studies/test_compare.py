"""A comparison end to end: members are ordinary runs, numbers are theirs, and it goes on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scanwise.core.config import TrainConfig, make_config
from scanwise.core.errors import ConfigError, RunError, ScanwiseError
from scanwise.metrics.predictions import read_predictions
from scanwise.pipeline import train as main_path
from scanwise.pipeline.runs import Run
from scanwise.pipeline.verify import verify_run
from scanwise.report.build import build_report
from scanwise.studies import members as members_module
from scanwise.studies.compare import Asked, Findings, compare, study_notes
from scanwise.studies.compare_page import sentence, study_text, write_study
from scanwise.studies.workers import plan_workers

DATA = "demo:cells?n=240&slides=40&size=24"
ASKED = Asked((DATA,), vary=("lr=1e-5", "optimizer=sgd momentum=0.5", "head=linear"), jobs="1")


def config(output: Path | None = None, **settings: object) -> TrainConfig:
    said = {"data": DATA, "model": "mlp:16", "epochs": 3, "augment": "none"} | settings
    return make_config(said | ({} if output is None else {"output": str(output)}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    output = tmp_path_factory.mktemp("compare") / "study"
    found = compare(config(output), replace(ASKED, seeds=2), lambda line: None)
    write_study(found)
    return found


def test_the_rows_are_the_base_the_variants_and_simple_models(study: Findings) -> None:
    rows = study.tables[0].rows
    assert [row.name for row in rows[:4]] == [
        "base",
        "lr=1e-5",
        "optimizer=sgd momentum=0.5",
        "head=linear",
    ]
    assert rows[1].label == ""
    assert rows[2].label == "confounded: differs in optimizer, momentum"
    assert rows[3].label == "equals the base"
    assert not rows[3].runs  # it was not trained
    assert [row.label for row in rows[4:]] == ["simple model", "simple model"]
    assert rows[4].name.startswith("always '")


def test_every_number_is_that_of_the_members(study: Findings) -> None:
    table = study.tables[0]
    for row in table.rows[:3]:
        documents = [Run.open(study.folder / "members" / name).metrics for name in row.runs]
        parts = [document["splits"]["test"] for document in documents]
        for name in ("accuracy", "auroc_macro", "cross_entropy_loss"):
            values = [part[name]["value"] for part in parts]
            assert row.scores[name].by_seed == pytest.approx(values)
            assert row.scores[name].interval.value == pytest.approx(np.mean(values))
        assert {part["n"] for part in parts} == {table.n}


def test_differences_are_those_of_the_predictions(study: Findings) -> None:
    folder = study.folder / "members"
    base, other = study.tables[0].rows[:2]

    def right(name: str) -> np.ndarray:
        part = read_predictions(folder / name / "predictions.csv").of_split("test")
        return part.predicted == part.targets

    gaps = [right(b).mean() - right(a).mean() for a, b in zip(base.runs, other.runs, strict=True)]
    assert other.against_base is not None
    assert other.against_base.difference.value == pytest.approx(np.mean(gaps))
    assert other.against_base.num_comparisons == 2
    assert other.against_base.num_groups == study.tables[0].num_groups


def test_the_facts_are_the_resolved_settings(study: Findings) -> None:
    rows = {row.name: row for row in study.tables[0].rows}
    assert rows["lr=1e-5"].facts["lr"] == 1e-5
    assert rows["base"].facts["lr"] == 1e-3
    assert rows["optimizer=sgd momentum=0.5"].facts["optimizer"] == "sgd"
    assert rows["base"].facts["parameters"] == 24 * 24 * 3 * 16 + 16 + 16 * 4 + 4
    assert rows["base"].facts["epochs"] == [3, 3]


def test_members_are_runs_that_can_be_verified_on_one_split(study: Findings) -> None:
    runs = sorted((study.folder / "members").iterdir())
    assert len(runs) == 6
    assert not (runs[0] / "report.html").exists()
    build_report(runs[0])  # as `scanwise report MEMBER` does
    assert not verify_run(runs[0]).mismatches
    hashes = {Run.open(run).metrics["split_sha256"] for run in runs}
    assert len(hashes) == 1
    assert all(len(Run.open(run).test_looks()) == 1 for run in runs)


def test_the_files_say_what_the_terminal_says(study: Findings) -> None:
    text = study_text(study)
    table = study.tables[0]
    for name in ("comparison.html", "comparison.md", "comparison.png", "comparison.svg"):
        assert (study.folder / name).stat().st_size > 500
    page = (study.folder / "comparison.md").read_text(encoding="utf-8")
    document = json.loads((study.folder / "comparison.json").read_text(encoding="utf-8"))
    with (study.folder / "comparison.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    for row, said, line in zip(table.rows, document["tables"][0]["rows"], lines, strict=True):
        if "accuracy" not in row.scores:
            continue
        value = row.scores["accuracy"].interval.value
        assert value is not None
        assert said["scores"]["accuracy"]["value"] == value
        assert float(line["accuracy"]) == value
        assert f"{value:.3f}" in page
        assert f"{value:.3f}" in text
    assert "because" not in page + text
    assert "corrected for 2 comparisons" in text
    assert sentence(table) in text


def test_asking_again_keeps_what_is_finished(
    study: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(main_path, "train_on", never)
    said: list[str] = []
    again = compare(config(study.folder), replace(ASKED, seeds=2), said.append)
    assert sum("finished before, kept" in line for line in said) == 6
    assert again.to_json() == study.to_json()
    with pytest.raises(RunError, match=r"another study \(it differs in seeds"):
        compare(config(study.folder), replace(ASKED, seeds=3), said.append)


def test_a_failed_member_leaves_the_others_and_can_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_on = main_path.train_on

    def fail_for_sgd(checked: object, settings: TrainConfig, *more: object, **kw: object) -> Run:
        if settings.optimizer == "sgd":
            raise ScanwiseError("no luck today")
        return train_on(checked, settings, *more, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(main_path, "train_on", fail_for_sgd)
    asked = Asked((DATA,), vary=("optimizer=sgd", "lr=0.01"), jobs="1")
    output = tmp_path / "study"
    found = compare(config(output, epochs=1), asked, lambda line: None)
    assert [one.error for one in found.failed] == ["no luck today"]
    rows = {row.name: row for row in found.tables[0].rows}
    assert rows["optimizer=sgd"].label == "failed"
    assert rows["lr=0.01"].against_base is not None
    write_study(found)
    assert "FAILED optimizer=sgd, seed 0: no luck today" in study_text(found)
    monkeypatch.undo()
    said: list[str] = []
    mended = compare(config(output, epochs=1), asked, said.append)
    assert not mended.failed
    assert sum("kept" in line for line in said) == 2


def test_an_interrupted_member_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked((DATA,), vary=("lr=0.01",), jobs="1")
    whole = compare(config(tmp_path / "whole"), asked, lambda line: None)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main_path, "make_bundle", killed)  # after all epochs
    with pytest.raises(KeyboardInterrupt):
        compare(config(tmp_path / "killed"), asked, lambda line: None)
    monkeypatch.undo()
    said: list[str] = []
    found = compare(config(tmp_path / "killed"), asked, said.append)
    assert any("base, seed 0: resumed" in line for line in said)
    scores = [
        [row.scores["accuracy"].by_seed for row in one.tables[0].rows if row.scores]
        for one in (whole, found)
    ]
    assert scores[0] == scores[1]


def test_side_by_side_gives_the_same_answers(tmp_path: Path) -> None:
    files = {}
    for jobs in ("1", "2"):
        asked = Asked((DATA,), vary=("lr=0.01",), jobs=jobs)
        found = compare(config(tmp_path / jobs, threads=1), asked, lambda line: None)
        names = sorted((found.folder / "members").iterdir())
        files[jobs] = [(name / "predictions.csv").read_text(encoding="utf-8") for name in names]
    assert files["1"] == files["2"]


def test_several_data_sets_and_validation_only(tmp_path: Path) -> None:
    other = "demo:cells?n=200&slides=40&size=24&seed=3"
    asked = Asked((DATA, other), vary=("lr=0.01",), jobs="1")
    found = compare(config(tmp_path / "s", epochs=1, no_test=True), asked, lambda line: None)
    assert [table.split for table in found.tables] == ["val", "val"]
    assert len({run for table in found.tables for row in table.rows for run in row.runs}) == 4
    write_study(found)
    assert (found.folder / "comparison-2.png").is_file()
    for run in (found.folder / "members").iterdir():
        assert not (run / "test_ledger.csv").exists()


def test_folds_answer_each_image_once_and_pool(tmp_path: Path) -> None:
    asked = Asked((DATA,), vary=("lr=0.01",), cv=3, jobs="1")
    found = compare(config(tmp_path / "s", epochs=1), asked, lambda line: None)
    table = found.tables[0]
    assert (table.n, table.folds) == (240, 3)
    answers = found.answers[DATA, "base"][0].scored
    assert answers.sample == found.grounds[0].checked.dataset.sample_ids
    accuracy = (answers.predicted == answers.targets).mean()
    base = table.rows[0].scores
    assert base["accuracy"].interval.value == pytest.approx(accuracy)
    assert base["auroc_macro"].interval.value == pytest.approx(
        roc_auc_score(answers.targets, answers.probabilities, multi_class="ovr")
    )
    assert "a model that saw neither it nor its group" in " ".join(found.notes)


def test_an_official_split_that_leaks_is_stamped_as_in_a_single_run(
    shared: Path, tmp_path: Path
) -> None:
    data = str(shared / "data" / "medmnist" / "breastmnist.npz")
    settings = {"data": data, "model": "mlp:8", "epochs": 1, "output": str(tmp_path / "study")}
    found = compare(make_config(settings), Asked((data,), jobs="1"), lambda line: None)
    assert not found.failed
    (run,) = (found.folder / "members").iterdir()
    assert Run.open(run).metrics["leaky"]
    assert Run.open(run).dataset["split"]["origin"] == "official"


@pytest.mark.parametrize(
    ("asked", "settings", "message"),
    [
        (Asked((DATA,), seeds=0), {}, "seeds=0 must be at least 1"),
        (Asked((DATA, DATA)), {}, "named more than once"),
        (Asked((DATA,), metric="auc"), {}, "metric='auc' is unknown"),
        (Asked((DATA,), cv=1000), {}, "must lie between 2 and 100"),
        (Asked((DATA,), cv=41), {}, "too few for 41"),
        (Asked((DATA,), cv=3), {"no_test": True}, "leave --no-test out"),
        (Asked((DATA,), cv=3), {"splits": "x.csv"}, "can't read splits from x.csv|own folds"),
        (Asked((DATA,), vary=("class_weights=nobody=2",)), {}, "nobody"),
        (Asked((DATA,), jobs="many"), {}, "jobs='many' must be auto or a number"),
    ],
)
def test_bad_questions_end_before_anything_is_trained(
    asked: Asked, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ScanwiseError, match=message):
        compare(config(tmp_path / "study", **settings), asked, lambda line: None)
    assert not (tmp_path / "study" / "members").exists()


def test_jobs_never_exceed_cores_or_members(study: Findings) -> None:
    one = members_module.Member("a", "base", DATA, 0, None, {}, "random", "")
    assert plan_workers("8", [one]).jobs == 1
    many = plan_workers("64", [one] * 64)
    assert many.jobs * many.threads <= max(many.jobs, 64)
    assert "asked" in many.reason
    with pytest.raises(ConfigError, match="needs --backend ray"):
        plan_workers("1", [one], address="127.0.0.1:1")
    with pytest.raises(ConfigError, match="backend='slurm' is unknown"):
        plan_workers("1", [one], backend="slurm")


def test_notes_warn_of_one_seed_and_of_choosing_by_test(study: Findings) -> None:
    words = " ".join(study_notes(study.tables, Asked((DATA,)), ()))
    assert "One seed" in words
    assert "choose by validation" in words
    assert "One seed" not in " ".join(study.notes)
