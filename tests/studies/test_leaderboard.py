"""`scanwise benchmark`: marks where an interval carries them, on the official split only."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scanwise.cli import main
from scanwise.core.errors import ConfigError, DataError, RunError
from scanwise.core.files import hash_file
from scanwise.core.types import Interval
from scanwise.data import medmnist
from scanwise.data.medmnist_table import MEDMNIST
from scanwise.data.published import Published
from scanwise.studies.leaderboard import (
    Leaderboard,
    board_text,
    leaderboard,
    mark,
    sort_out,
    train_all,
)
from scanwise.studies.run_set import read_runs

from .conftest import edit_json, make_run, sure, with_errors

BREAST = np.r_[np.zeros(42, np.int64), np.ones(114, np.int64)]  # test labels of BreastMNIST
OFFICIAL = {"name": "breastmnist", "origin": "official", "benchmark": "breastmnist"}


def breast_run(folder: Path, errors: list[int], **more) -> Path:
    return make_run(folder, BREAST, with_errors(BREAST, 2, errors), **(OFFICIAL | more))


def board(*runs: Path) -> Leaderboard:
    return leaderboard(read_runs(runs))


def marks(found: Leaderboard, metric: str = "ACC") -> dict[str, str]:
    return {
        line.method: line.marks[metric] for line in found.boards[0].lines if metric in line.marks
    }


def published(value: float, note: str = "") -> Published:
    return Published("medmnist_v2", "x", "breastmnist", 28, "ACC", value, None, note)


@pytest.mark.parametrize(
    ("ours", "value", "expected"),
    [
        (Interval(0.9, 0.87, 0.93), 0.86, "✔"),
        (Interval(0.9, 0.87, 0.93), 0.87, "="),  # the bound itself is not above
        (Interval(0.9, 0.87, 0.93), 0.90, "="),
        (Interval(0.9, 0.87, 0.93), 0.94, "✘"),
        (Interval(0.9, reason="no interval"), 0.5, ""),
        (Interval(None, reason="not measured"), 0.5, ""),
    ],
)
def test_a_mark_needs_the_whole_interval(ours, value, expected):
    assert mark(ours, published(value)) == expected
    assert mark(ours, published(value, "implausible; not compared")) == ""


def test_marks_beside_the_published_table(tmp_path: Path):
    found = board(breast_run(tmp_path / "run", list(range(8))))  # 148 of 156 right: 0.949
    score = found.boards[0].scores["ACC"]
    assert score.value == pytest.approx(148 / 156)
    assert marks(found)["ResNet-18 (28)"] == "✔"
    assert marks(found)["MedViTV2-L"] == "="  # 0.910 lies in [0.902, 0.974]
    assert {line.data_px for line in found.boards[0].lines} == {28, None}
    text = board_text(found)
    assert "MedViTV2-L ‡" in text
    assert "upper bound" in text
    assert "unverified" in text
    assert "0.949 [0.902, 0.974]" in text


def test_official_numbers_are_medmnists_own(tmp_path: Path):
    """At a probability of exactly 0.5 the two accuracies part, and no interval is lent."""
    probabilities = with_errors(BREAST, 2, list(range(8)))
    probabilities[100] = 0.5
    run = make_run(tmp_path / "run", BREAST, probabilities, **OFFICIAL)
    found = board(run)
    metrics = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    assert found.boards[0].scores["ACC"].value == metrics["medmnist_acc"]
    if metrics["medmnist_acc"] != metrics["accuracy"]["value"]:
        assert found.boards[0].scores["ACC"].low is None
    assert found.boards[0].scores["AUC"].value == pytest.approx(metrics["medmnist_auc"])


def test_several_seeds_are_one_line_of_their_mean(tmp_path: Path):
    runs = [breast_run(tmp_path / f"run{s}", list(range(8 + 4 * s)), seed=s) for s in range(3)]
    (only,) = board(*runs).boards
    assert len(only.method.runs) == 3
    assert only.scores["ACC"].value == pytest.approx(1 - 12 / 156)
    assert only.scores["ACC"].high - only.scores["ACC"].low > 0.05
    assert "ACC over 3 seeds: SD" in board_text(board(*runs))


def test_no_skill_no_mark(tmp_path: Path):
    run = make_run(tmp_path / "run", BREAST, sure(np.ones(156, np.int64), 2), **OFFICIAL)
    found = board(run)
    assert set(marks(found).values()) == {""}
    assert "COLLAPSED: no mark" in board_text(found)


def test_other_splits_and_subsets_are_refused(tmp_path: Path):
    good = breast_run(tmp_path / "good", [1])
    anew = breast_run(tmp_path / "anew", [1], origin="random")
    subset = breast_run(tmp_path / "subset", [1], benchmark=None)
    short = breast_run(tmp_path / "short", [1])
    edit_json(short / "dataset.json", lambda facts: facts.update(benchmark="octmnist"))
    stopped = breast_run(tmp_path / "stopped", [1], finished=False)
    unopened = breast_run(tmp_path / "unopened", [1], test=False)
    found = board(good, anew, subset, short, stopped, unopened)
    assert len(found.boards) == 1
    assert dict(found.refused) == {
        "anew": "it was split anew (random); only the official split counts",
        "subset": "breastmnist is not one of the official MedMNIST sets (a subset is another test)",
        "short": "156 test images, the official split has 1,000",
        "stopped": "the run was interrupted; `scanwise train --resume RUN` finishes it",
        "unopened": "test was not opened; `scanwise evaluate RUN` scores it",
    }
    with pytest.raises(RunError, match=r"nothing can be compared.*only the official split"):
        board(anew)


def test_collapsed_labels_keep_the_mark_of_their_ranking(tmp_path: Path):
    """Nearly all chest models say 'none' at 0.5; the ACC of that answer earns no mark."""
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 14)) < 0.15).astype(np.int64)
    ranked = 0.2 + 0.2 * targets + 0.02 * rng.random((400, 14))
    run = make_run(
        tmp_path / "chest", targets, ranked, name="chestmnist", origin="official",
        benchmark="chestmnist",
    )  # fmt: skip
    entry = dataclasses.replace(MEDMNIST["chestmnist"], num_images=(1, 1, 400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MEDMNIST, "chestmnist", entry)
        found = board(run)
        text = board_text(found)
    assert read_runs([run])[0].verdict == "collapsed"
    assert marks(found, "AUC")["ResNet-18 (28)"] == "✔"
    assert set(marks(found, "ACC").values()) == {""}
    assert "saying 'none' to every image" in text
    assert "†" in text  # values that can hardly be true


def test_data_that_are_not_at_hand_are_told_before_any_training():
    with pytest.raises(DataError, match=r"OCTMNIST at 64 px is not in the cache.*zenodo"):
        sort_out(["medmnist:octmnist@64"], None)
    with pytest.raises(DataError, match="did you mean 'octmnist'"):
        sort_out(["medmnist:octmist"], None)
    with pytest.raises(DataError, match="no MedMNIST set at 28 px is in the cache"):
        sort_out(["medmnist:*"], None)
    with pytest.raises(DataError, match="'@30' is no size"):
        sort_out(["medmnist:octmnist@30"], None)
    with pytest.raises(ConfigError, match="asks for 64 px, but --size is 28"):
        sort_out(["medmnist:octmnist@64"], 28)
    with pytest.raises(ConfigError, match="size=30"):
        sort_out(["medmnist:octmnist"], 30)
    with pytest.raises(DataError, match=r"x\.npz does not exist"):
        sort_out(["x.npz"], None)


def test_star_is_what_the_cache_holds(shared: Path, tmp_path: Path, monkeypatch):
    """The shared file has another MD5 than the official one; here it is taken for official."""
    source = shared / "data/medmnist/breastmnist.npz"
    target = tmp_path / "medmnist/breastmnist.npz"
    target.parent.mkdir()
    shutil.copyfile(source, target)
    monkeypatch.setenv("SCANWISE_CACHE", str(tmp_path))
    digest = hash_file(target, "md5")
    entry = dataclasses.replace(MEDMNIST["breastmnist"], md5={28: digest})
    monkeypatch.setitem(medmnist.MEDMNIST, "breastmnist", entry)
    asked = sort_out(["medmnist:*"], None)
    assert asked.data == ("medmnist:breastmnist@28",)
    assert len(asked.missing) == 11
    assert "octmnist@28" in asked.missing


def test_real_official_split_is_trained_and_compared(
    shared: Path, tmp_path: Path, monkeypatch, capsys
):
    from scanwise.core.config import TrainConfig

    monkeypatch.chdir(tmp_path)
    source = str(shared / "data/medmnist/breastmnist.npz")
    assert sort_out([source], None).data == (source,)
    config = TrainConfig(model="mlp:8", epochs=1)
    (folder,) = train_all([source], config, seeds=1)
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", str(folder), "--json"])
    assert not caught.value.code
    found = json.loads(capsys.readouterr().out)["boards"][0]
    assert (found["dataset"], found["n"], found["verified"]) == ("breastmnist", 156, False)
    assert len(found["published"]) == 15


def test_command_ends_with_1_where_something_was_refused(tmp_path: Path, capsys):
    good = breast_run(tmp_path / "good", [1])
    anew = breast_run(tmp_path / "anew", [1], origin="random")
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", str(good), str(anew)])
    assert caught.value.code == 1
    assert "only the official split counts" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", str(good), "--seeds", "none"])
    assert caught.value.code == 2
