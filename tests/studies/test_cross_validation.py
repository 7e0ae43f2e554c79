"""One recipe over folds and seeds: whose score is told, and which model is left to use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import scanwise as sw
from scanwise.cli import main
from scanwise.core.config import make_config
from scanwise.core.errors import ConfigError
from scanwise.deploy.bundle import Bundle
from scanwise.metrics.predictions import read_predictions
from scanwise.pipeline.runs import Run
from scanwise.studies.compare import Asked
from scanwise.studies.compare_page import repeated_text, write_repeated
from scanwise.studies.cross_validation import BEST_MEMBERS, Repeated, cross_validate

DATA = "demo:cells?n=240&slides=40&size=24"


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Repeated:
    output = tmp_path_factory.mktemp("cv") / "study"
    said = {"data": DATA, "model": "mlp:16", "epochs": 2, "output": str(output)}
    found = cross_validate(make_config(said), Asked((DATA,), cv=3, jobs="1"), "refit", print)
    write_repeated(found)
    return found


def test_each_fold_has_its_line_and_the_spread_is_theirs(folds: Repeated) -> None:
    assert [part.fold for part in folds.parts] == [0, 1, 2]
    assert sum(part.n for part in folds.parts) == 240
    values = [part.scores["accuracy"].value for part in folds.parts]
    for part in folds.parts:
        run = Run.open(folds.findings.folder / "members" / part.run)
        assert run.metrics["splits"]["test"]["accuracy"]["value"] == part.scores["accuracy"].value
    spread = folds.spread_of("accuracy")
    assert spread is not None
    assert spread.mean == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    assert spread.sd == pytest.approx(np.std(values, ddof=1))  # type: ignore[arg-type]
    text = repeated_text(folds)
    assert f"{spread.mean:.3f} ± {spread.sd:.3f}" in text
    assert "240 images, 3 folds" in text


def test_out_of_fold_answers_are_files_of_a_run(folds: Repeated) -> None:
    folder = folds.findings.folder / "out_of_fold" / "seed0"
    part = read_predictions(folder / "predictions.csv", folder / "splits.csv")
    document = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert document["splits"]["test"]["n"] == len(part) == 240
    accuracy = (part.predicted == part.targets).mean()
    assert document["splits"]["test"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert part.groups is not None
    assert document["splits"]["test"]["num_groups"] == len(set(part.groups))


def test_a_refit_says_that_no_score_is_its_own(folds: Repeated) -> None:
    run = Run.open(folds.deployed)
    assert run.dataset["split"]["n"]["test"] == 0
    assert run.dataset["split"]["n"]["train"] + run.dataset["split"]["n"]["val"] == 240
    assert "not a measurement of this model" in " ".join(folds.notes)
    assert len(Bundle.from_pretrained(run.path).config.class_names) == 4


def test_a_fold_ensemble_is_one_bundle_and_unmeasured(folds: Repeated) -> None:
    config = make_config(
        {"data": DATA, "model": "mlp:16", "epochs": 2, "output": str(folds.findings.folder)}
    )
    found = cross_validate(config, Asked((DATA,), cv=3, jobs="1"), "ensemble", lambda line: None)
    assert "ensemble itself was not measured" in " ".join(found.notes)
    bundle = Bundle.from_pretrained(Path(found.deployed))
    image = folds.findings.grounds[0].checked.dataset.images[:2]
    own = [
        Bundle.from_pretrained(found.findings.folder / "members" / part.run).predict(image)
        for part in found.parts
    ]
    mean = np.mean([one.probabilities for one in own], axis=0)
    assert bundle.predict(image).probabilities == pytest.approx(mean, abs=1e-6)


def test_seeds_share_one_split_and_the_command_prints_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "seeds"
    words = f"train {DATA} --model mlp:16 --epochs 1 --seeds 2 --jobs 1 --output".split()
    with pytest.raises(SystemExit) as ended:
        main([*words, str(output)])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "seed 0" in text
    assert "seed 1" in text
    assert "mean ± SD" in text
    assert "All seeds together" in text
    runs = [Run.open(path) for path in sorted((output / "members").iterdir())]
    assert len({run.metrics["split_sha256"] for run in runs}) == 1
    assert {run.config.seed for run in runs} == {0, 1}


def test_best_is_the_measured_vote_of_several_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "best"
    words = f"train {DATA} --preset best --model mlp:16 --epochs 1 --seeds 2 --jobs 1 --output"
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), str(output)])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"model to use: {output}/ensemble" in text
    assert "mean vote of 2 networks" in text
    run = Run.open(output / "ensemble")
    stated = run.metrics["splits"]["test"]["accuracy"]["value"]
    assert f"accuracy           {stated:.3f}" in text
    assert len(run.test_looks()) == 1
    members = [Run.open(path) for path in sorted((output / "members").iterdir())]
    assert [len(member.test_looks()) for member in members] == [1, 1]
    parts = [read_predictions(member.path / "predictions.csv") for member in members]
    mean = np.mean([part.of_split("test").probabilities for part in parts], axis=0)
    whole = read_predictions(run.path / "predictions.csv").of_split("test")
    assert whole.probabilities == pytest.approx(mean, abs=1e-6)


def test_best_from_python_is_the_run_of_the_vote(tmp_path: Path) -> None:
    said = {"preset": "best", "model": "mlp:16", "epochs": 1, "output": str(tmp_path / "best")}
    run = sw.train(DATA, **said)
    assert run.path == tmp_path / "best" / "ensemble"
    assert len(run.metrics["ensemble"]["members"]) == BEST_MEMBERS
    with pytest.raises(ConfigError, match="processes of their own"):
        sw.train(sw.load(DATA), preset="best")
    data, classifier = sw.load(DATA), sw.ImageClassifier(preset="best")
    with pytest.raises(ConfigError, match=r"use scanwise\.train"):
        classifier.fit(data.images, data.targets)


def test_deploy_needs_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="needs --cv K"):
        cross_validate(make_config({"data": DATA}), Asked((DATA,), seeds=2), "refit")
    with pytest.raises(ConfigError, match="needs --cv K or --seeds N"):
        cross_validate(make_config({"data": DATA}), Asked((DATA,)), "ensemble")
    with pytest.raises(SystemExit) as ended:
        main(["train", DATA, "--cv", "three"])
    assert ended.value.code == 2
    assert "cv='three' must be a whole number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", DATA, "--cv", "3", "--deploy", "both", "--output", str(tmp_path / "x")])
    assert "choose ensemble or refit" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
