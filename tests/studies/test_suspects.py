"""`relabel suggest`: planted wrong labels come first, and nothing is changed."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from scanwise.cli import main
from scanwise.core.config import make_config
from scanwise.core.errors import DataError, RunError
from scanwise.data.arrays import from_arrays
from scanwise.data.load import load
from scanwise.pipeline import quick_folds
from scanwise.pipeline.quick_folds import edge_histogram, quick_features, quick_out_of_fold
from scanwise.studies.compare import Asked
from scanwise.studies.cross_validation import cross_validate
from scanwise.studies.suspects import suggest

DATA = "demo:cells?n=200&slides=40&size=24"


def test_edges_of_a_step_point_across_it() -> None:
    image = np.zeros((32, 32, 1), np.uint8)
    image[:, 16:] = 200  # a vertical line: its gradient lies at 0 degrees, orientation 0
    found = edge_histogram(image).reshape(4, 4, 8) ** 2
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert found[..., 0].sum() == pytest.approx(1, abs=1e-4)
    assert found[:, [0, 3]].sum() == pytest.approx(0, abs=1e-6)
    turned = edge_histogram(np.rot90(image).copy()).reshape(4, 4, 8) ** 2
    assert turned[..., 4].sum() == pytest.approx(1, abs=1e-4)


def test_a_flat_image_has_finite_features() -> None:
    images = np.full((2, 20, 30, 3), 7, np.uint8)
    assert np.isfinite(quick_features(images)).all()
    assert quick_features(images).shape == (2, 54 + 588 + 128)


def test_no_image_is_answered_by_itself_its_group_or_its_copy() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (60, 16, 16), np.uint8)
    pixels[50] = pixels[3]  # a copy in another group
    groups = tuple(f"g{i // 3}" for i in range(60))
    dataset = replace(from_arrays(pixels, np.arange(60) % 2), groups=groups)
    before = quick_out_of_fold(dataset).probabilities
    joined = [3, 4, 5, 48, 49, 50]  # two groups that share a copy
    targets = dataset.targets.copy()
    targets[joined] = 1 - targets[joined]
    after = quick_out_of_fold(replace(dataset, targets=targets)).probabilities
    # Their labels reach them through the temperature alone, which keeps the order.
    order = [np.argsort(each[joined, 1]) for each in (before, after)]
    np.testing.assert_array_equal(*order)
    logits = [np.log(each[:, 1] / each[:, 0]) for each in (before, after)]
    ratio = logits[1][joined] / logits[0][joined]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    others = np.setdiff1d(np.arange(60), joined)
    assert np.ptp(logits[1][others] / logits[0][others]) > 0.1


def test_many_images_answer_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(120) % 2
    pixels = (rng.integers(0, 60, (120, 16, 16)) + 90 * targets[:, None, None]).astype(np.uint8)
    monkeypatch.setattr(quick_folds, "MOST_ROWS", 40)
    answers = quick_out_of_fold(from_arrays(pixels, targets))
    assert (answers.predicted == targets).mean() == 1


def test_planted_wrong_labels_come_first(tmp_path: Path, shared: Path) -> None:
    source = str(shared / "data/folders/bccd_287")
    dataset = load(source)
    rng = np.random.default_rng(1)
    wrong = rng.choice(len(dataset), 28, replace=False)
    targets = dataset.targets.copy()
    targets[wrong] = (targets[wrong] + 1) % 3
    truth = np.isin(np.arange(len(dataset)), wrong)
    answers = quick_out_of_fold(replace(dataset, targets=targets))
    own = answers.probabilities[np.arange(len(dataset)), targets]
    assert roc_auc_score(truth, -own) > 0.97


def test_the_next_command_reads_the_data_with_the_same_groups(tmp_path: Path, shared: Path) -> None:
    regex = r"BloodImage_(\d+)"
    source = str(shared / "data/folders/bccd_287")
    config = make_config({"data": source, "group_regex": regex})
    command = suggest(config, output=tmp_path / "out").next_command()
    assert shlex.split(command)[-2:] == ["--group-regex", regex]
    assert source in shlex.split(command)


def test_the_files_say_what_was_found(tmp_path: Path) -> None:
    pixels = np.concatenate([
        np.random.default_rng(0).normal(level, 10, (60, 16, 16)) for level in (60, 140)
    ]).clip(0, 255).astype(np.uint8)  # fmt: skip
    labels = np.repeat([0, 1], 60)
    labels[:8] = 1
    file = tmp_path / "two.npz"
    np.savez(file, X=pixels, y=labels)
    found = suggest(make_config({"data": str(file)}), how_many=3, output=tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/suspects.csv").read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert {int(row["sample"].split("#")[1]) for row in rows} <= set(range(8))
    assert {(row["given"], row["suggested"]) for row in rows} == {("1", "0")}
    assert all(row["decision"] == "" for row in rows)
    assert float(rows[0]["score"]) == pytest.approx(float(rows[0]["prob_1"]))
    facts = json.loads((tmp_path / "out/suspects.json").read_text())
    assert facts["n"] == 120
    assert facts["suspects"] >= 3
    assert facts["share_wrong"]["ci95"][0] < 8 / 120 < facts["share_wrong"]["ci95"][1]
    page = (tmp_path / "out/suspects.html").read_text()
    assert page.count("data:image/png") == 3
    assert "No label was changed" in page
    assert "out of fold" in found.text()
    with pytest.raises(DataError, match="may hold decisions"):
        suggest(make_config({"data": str(file)}), output=tmp_path / "out")


def test_a_study_answers_with_its_own_out_of_fold_predictions(tmp_path: Path) -> None:
    study = tmp_path / "study"
    said = {"data": DATA, "model": "mlp:16", "epochs": 2, "output": str(study)}
    cross_validate(make_config(said), Asked((DATA,), cv=3, jobs="1"), None, print)
    found = suggest(make_config({"data": str(study)}), output=tmp_path / "out")
    assert "mlp:16" in found.how
    with (study / "out_of_fold/seed0/predictions.csv").open() as stream:
        first = next(csv.DictReader(stream))
    names = [f"prob_{name}" for name in found.dataset.class_names]
    row = found.predictions.sample.index(first["sample"])
    assert found.predictions.probabilities[row].tolist() == [float(first[name]) for name in names]
    member = next((study / "members").iterdir())
    with pytest.raises(RunError, match="is one training"):
        suggest(make_config({"data": str(member)}), output=tmp_path / "no")


def test_decided_images_are_not_asked_for_again_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main_ok("init", "--demo", "cells", "--data", "demo:cells?n=120&slides=20&size=24")
    folders = sorted(path.name for path in Path("cells").iterdir() if path.is_dir())
    for image in sorted(Path("cells", folders[0]).glob("*.png"))[:3]:
        image.rename(Path("cells", folders[1], image.name))  # three wrong labels
    before = sorted(Path("cells").rglob("*"))
    main_ok("relabel", "suggest", "cells", "--folds", "3", "-n", "5")
    file = Path("cells-labels/suspects.csv")
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert sorted(Path("cells").rglob("*")) == before
    assert rows
    rows[0]["decision"] = rows[0]["suggested"]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    main_ok("relabel", "apply", str(file), "--data", "cells", "--by", "Ann")
    assert Path("cells-labels/labels_v2.csv").is_file()
    main_ok("relabel", "suggest", "cells", "--folds", "3", "--force")
    again = [row["path"] for row in csv.DictReader(file.read_text().splitlines())]
    assert rows[0]["path"] not in again
    assert "1 decided before" in capsys.readouterr().out


def main_ok(*words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 0


def test_a_pretrained_network_helps_without_training(tmp_path: Path, tiny_hub: Path) -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(48) % 2
    pixels = (rng.integers(0, 90, (48, 16, 16)) + 60 * targets[:, None, None]).astype(np.uint8)
    file = tmp_path / "two.npz"
    np.savez(file, X=pixels, y=targets)
    plain = suggest(make_config({"data": str(file)}), output=tmp_path / "plain")
    config = make_config({"data": str(file), "model": f"hf:{tiny_hub}"})
    found = suggest(config, output=tmp_path / "out")
    assert found.how == f"{plain.how}, hf:{tiny_hub.name}"
    assert not (tmp_path / "out/study").exists()
    assert (found.predictions.predicted == targets).all()
    assert not np.allclose(found.predictions.probabilities, plain.predictions.probabilities)
    assert plain.predictions.probabilities.max() < 1 - 1e-6  # separable, and yet no certainty
