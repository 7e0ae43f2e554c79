"""Slices, groups and robustness of whole runs: files, report, verification, bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import scanwise as sw
from scanwise.cli.commands import app
from scanwise.core.errors import ScanwiseError
from scanwise.pipeline.parts import look_closer
from scanwise.pipeline.robustness import measure_robustness
from scanwise.pipeline.verify import verify_run


@pytest.fixture(scope="module")
def listed_run(tmp_path_factory) -> Path:
    """A run on a manifest: 96 images of 48 patients, with sex, age and a constant column."""
    folder = tmp_path_factory.mktemp("listed")
    rng = np.random.default_rng(2)
    lines = ["path,label,split,group,sex,age,scanner"]
    for i in range(96):
        patient, label = i // 2, ("ill", "well")[i // 2 % 2]
        pixels = rng.normal(90 + 60 * (label == "ill"), 25, (16, 16)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        split = "test" if patient >= 30 else "val" if patient >= 20 else "train"
        sex, age = "fm"[patient // 2 % 2], 20 + patient
        lines.append(f"{i}.png,{label},{split},p{patient},{sex},{age},A")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    run = sw.train(
        folder / "list.csv", model="mlp:8", epochs=3, accept_leak=True, output=str(folder / "run")
    )
    return run.path


@pytest.fixture
def listed(listed_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(listed_run, tmp_path / "run"))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_training_stores_metadata_and_measures(listed_run):
    with (listed_run / "metadata.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["split"] for row in rows} == {"val", "test"}
    assert (len(rows), rows[0]["scanner"]) == (56, "A")
    slices = read(listed_run / "slices.json")
    assert [column["name"] for column in slices["columns"]] == ["sex", "age"]
    assert "the one value 'A'" in slices["skipped"][0]["reason"]
    assert sum(part["n"] for part in slices["slices"] if part["column"] == "sex") == 36
    groups = read(listed_run / "groups.json")
    assert (groups["n_images"], groups["n_groups"], groups["aggregate"]) == (36, 18, "mean")
    report = (listed_run / "report.md").read_text()
    assert report.index("WORST SLICE") < report.index("## Overview")
    assert "One verdict a group: mean" in report
    assert "![Share right and difference to the rest" in report
    assert "scanwise robustness run" in report
    assert not verify_run(listed_run).mismatches


def test_slices_need_no_new_look_at_test(listed):
    before = (listed / "test_ledger.csv").read_bytes()
    said = look_closer(listed, ("sex",), None, "vote").text()
    assert "sex: f" in said
    assert "worst slice: sex" in said
    assert (listed / "test_ledger.csv").read_bytes() == before
    assert read(listed / "slices.json")["asked"] == ["sex"]
    assert read(listed / "groups.json")["aggregate"] == "vote"
    assert not verify_run(listed).mismatches


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slices", "sexx"], "did you mean 'sex'"),
        (["--slices", "scanner"], "the one value 'A'"),
        (["--slices", ","], "names no column"),
        (["--aggregate", "men"], "did you mean 'mean'"),
        (["--meta", "x.csv"], "goes with --slices"),
        (["--slices", "sex", "--meta", "absent.csv"], "can't read absent.csv"),
    ],
)
def test_mistakes_change_nothing(listed, arguments, said):
    before = {path: path.read_bytes() for path in listed.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["evaluate", str(listed), *arguments])
    assert isinstance(result.exception, ScanwiseError)
    assert result.exception.exit_code == 2
    assert said in str(result.exception)
    assert {path: path.read_bytes() for path in listed.rglob("*") if path.is_file()} == before


def test_edited_numbers_and_cells_are_named(listed):
    slices = read(listed / "slices.json")
    slices["slices"][0]["accuracy"]["value"] += 0.1
    (listed / "slices.json").write_text(json.dumps(slices))
    wrong = [bad.where for bad in verify_run(listed).mismatches]
    assert "slices.json.slices.0.accuracy.value" in wrong
    (listed / "metadata.csv").unlink()
    assert any("can't be recomputed" in str(bad) for bad in verify_run(listed).mismatches)


def test_a_run_without_columns_and_groups(copied_run, tmp_path):
    with pytest.raises(ScanwiseError, match="no metadata to slice by"):
        look_closer(copied_run.path, (), None, None)
    with pytest.raises(ScanwiseError, match="has no groups"):
        look_closer(copied_run.path, None, None, "mean")
    lines = ["split,index,side"]
    for split, n in (("train", 240), ("val", 80), ("test", 80)):
        lines += [f"{split},{row},{'lr'[row % 4 == 0]}" for row in range(n)]
    table = tmp_path / "sides.csv"
    table.write_text("\n".join(lines) + "\n")
    found = look_closer(copied_run.path, ("side",), table, None).documents["slices.json"]
    assert [(part["value"], part["n"]) for part in found["slices"]] == [("l", 60), ("r", 20)]
    with (copied_run.path / "metadata.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert (first["sample"], first["side"]) == ("discs#240", "r")
    assert not verify_run(copied_run.path).mismatches


def test_robustness_is_deterministic_and_on_validation(copied_run):
    before = (copied_run.path / "test_ledger.csv").read_bytes()
    first = measure_robustness(copied_run.path, num_resamples=100, max_images=40).document
    assert (first["split"], first["n"], first["n_split"]) == ("val", 40, 80)
    assert (copied_run.path / "test_ledger.csv").read_bytes() == before
    again = measure_robustness(copied_run.path, num_resamples=100, max_images=40).document
    assert again == first
    assert len(first["curves"]) == 6 * 2
    assert "noise (sigma, share of black to white" in (copied_run.path / "report.md").read_text()
    assert (copied_run.path / "plots" / "robustness.png").is_file()
    assert not verify_run(copied_run.path).mismatches


def test_robustness_of_the_whole_split_starts_from_the_runs_own_score(copied_run):
    found = measure_robustness(copied_run.path, split="test", num_resamples=50).document
    own = copied_run.metrics["splits"]["test"]["balanced_accuracy"]["value"]
    assert found["clean"]["balanced_accuracy"]["value"] == pytest.approx(own)
    assert len(copied_run.test_looks()) == 2


def test_robustness_refuses_other_splits(copied_run):
    result = CliRunner().invoke(app, ["robustness", str(copied_run.path), "--split", "tets"])
    assert "did you mean 'test'" in str(result.exception)
    with pytest.raises(ScanwiseError, match="max_images=1"):
        measure_robustness(copied_run.path, max_images=1)


def test_real_lesions(shared, tmp_path):
    """ham_287's own manifest: groups are lesions, and age, sex and site are slices."""
    run = sw.train(
        shared / "data" / "folders" / "ham_287" / "manifest.csv",
        model="mlp:8",
        size=16,
        epochs=1,
        output=str(tmp_path / "run"),
    )
    slices = read(run.path / "slices.json")
    assert [column["name"] for column in slices["columns"]] == ["age", "sex", "site"]
    assert slices["columns"][0]["binned"]
    assert slices["bootstrap"]["unit"] == "group"
    for name in ("age", "sex", "site"):
        assert sum(p["n"] for p in slices["slices"] if p["column"] == name) == slices["n"]
    assert all(part["ranked"] == (part["n"] >= 10) for part in slices["slices"])
    assert read(run.path / "groups.json")["n_groups"] < slices["n"]
    assert not verify_run(run.path).mismatches
