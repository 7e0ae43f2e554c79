"""`scanwise runs`: every run a row, nothing chosen by test, nothing removed that is not a run."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import scanwise as sw
from scanwise.cli import main
from scanwise.core.errors import ConfigError, RunError
from scanwise.metrics.predictions import read_predictions
from scanwise.pipeline.run_removal import check_removable
from scanwise.pipeline.runs import CONTENTS
from scanwise.studies.run_comparison import compare_runs
from scanwise.studies.run_details import show_run
from scanwise.studies.run_table import list_runs


def edit_json(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def set_score(run: Path, split: str, value: float) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["splits"][split]["accuracy"]["value"] = value
    metrics["splits"][split]["ece"]["value"] = value
    edit_json(run / "metrics.json", **metrics)


def edit_config(run: Path, **changes) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | changes))


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return int(caught.value.code or 0)


@pytest.fixture
def runs(disc_run, tmp_path: Path) -> Path:
    """Three copies of a finished run, one of them a member of a study."""
    folder = tmp_path / "runs"
    for name in ("a", "b", "study/members/c"):
        shutil.copytree(disc_run.path, folder / name)
    return folder


@pytest.fixture(scope="module")
def slower_run(discs, tmp_path_factory):
    """A run on the same split that differs in learning rate alone."""
    folder = tmp_path_factory.mktemp("slower") / "slower"
    return sw.train(
        discs, model="small_resnet:8", epochs=8, batch_size=32, seed=1, lr=1e-5, output=str(folder)
    )


def test_runs_are_sorted_by_validation_whatever_test_says(runs):
    for name, val, test in (("a", 0.7, 0.99), ("b", 0.9, 0.1), ("study/members/c", 0.8, 0.5)):
        set_score(runs / name, "val", val)
        set_score(runs / name, "test", test)
    assert [row.name for row in list_runs(runs).rows] == ["b", "study/members/c", "a"]
    # Of a calibration error the lowest is best.
    assert list_runs(runs, sort="ece").rows[0].name == "a"
    row = list_runs(runs).to_json()[0]
    assert row["n_val"] == 80
    assert row["val"]["ci95"]
    assert row["test_looks"] == 1
    assert row["seed"] == 1
    assert row["split_sha256"]


def test_the_test_split_never_sorts(runs):
    with pytest.raises(ConfigError, match="choose by the test split"):
        list_runs(runs, sort="test_accuracy")
    with pytest.raises(ConfigError, match="balanced_accuracy"):
        list_runs(runs, sort="balanced_acuracy")


def test_dates_sort_newest_first(runs):
    for name, day in (("a", "01"), ("b", "03"), ("study/members/c", "02")):
        edit_json(runs / name / "env.json", when=f"2026-01-{day}T00:00:00+00:00")
    rows = list_runs(runs, sort="date").rows
    assert [row.name for row in rows] == ["b", "study/members/c", "a"]


def test_only_runs_on_one_data_set(runs, discs):
    edit_json(
        runs / "a" / "dataset.json",
        **json.loads((runs / "a/dataset.json").read_text()) | {"name": "cells"},
    )
    assert [row.name for row in list_runs(runs, data="cells").rows] == ["a"]
    assert len(list_runs(runs, data=str(discs)).rows) == 3  # as it was given
    with pytest.raises(RunError, match="cells"):
        list_runs(runs, data="cels")


@pytest.mark.parametrize(
    ("break_it", "state", "reason"),
    [
        (lambda run: (run / "metrics.json").unlink(), "interrupted", "8 of 8 epochs"),
        (lambda run: (run / "report.json").unlink(), "interrupted", "scanwise report"),
        (lambda run: shutil.rmtree(run / "bundle"), "interrupted", "--resume"),
        (lambda run: (run / "config.yaml").unlink(), "broken", "config.yaml"),
        (lambda run: (run / "config.yaml").write_text("a: [1"), "broken", "config.yaml"),
        (lambda run: (run / "config.yaml").write_text("- 1"), "broken", "key: value"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "broken", ""),
        (lambda run: (run / "metrics.json").write_text('{"splits": 3}'), "broken", ""),
        (lambda run: (run / "metrics.json").write_text("{"), "broken", "metrics.json"),
        (lambda run: (run / "metrics.json").write_text('{"a": 1}'), "broken", "splits"),
        (lambda run: (run / "training.json").write_text("[]"), "broken", "training.json"),
        (lambda run: (run / "dataset.json").write_text("null"), "broken", "dataset.json"),
    ],
)
def test_what_is_not_finished_is_a_row_with_the_reason(runs, break_it, state, reason):
    break_it(runs / "b")
    table = list_runs(runs)
    row = table.rows[-1]  # after the finished ones
    assert (row.name, row.state) == ("b", state)
    assert reason in row.reason
    assert f"b: {state}, " in table.text()
    assert json.dumps(table.to_json(), allow_nan=False)


def test_folders_that_are_no_runs_are_not_listed(runs, tmp_path):
    study = runs / "curve"
    study.mkdir()
    (study / "config.yaml").write_text("data: x\n")  # of a learning curve
    (runs / "link").symlink_to(runs / "a", target_is_directory=True)
    assert {row.name for row in list_runs(runs).rows} == {"a", "b", "study/members/c"}
    assert "no runs below" in list_runs(study).text()
    with pytest.raises(RunError, match="nowhere"):
        list_runs(tmp_path / "nowhere")


def test_a_hundred_runs_are_listed_without_torch(runs):
    for number in range(100):
        few = runs / f"n{number}"
        few.mkdir()
        for name in ("config.yaml", "plan.yaml", "metrics.json", "training.json", "dataset.json"):
            shutil.copyfile(runs / "a" / name, few / name)
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from scanwise.studies.run_table import list_runs\n"
        "from scanwise.studies.run_comparison import compare_runs\n"
        "from scanwise.studies.run_details import show_run\nbegan = time.process_time()\n"
        f"rows = list_runs(Path({str(runs)!r})).rows\n"
        "print(len(rows), 'torch' in sys.modules, time.process_time() - began < 2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["103", "False", "True"]


def test_show_tells_what_was_said_and_what_was_chosen(disc_run):
    details = show_run(disc_run.path)
    assert details.said["epochs"] == 8
    assert "lr" not in details.said
    assert {"lr", "augment"} <= {row["setting"] for row in details.plan}
    text = details.text()
    for words in ("you said:", "split: train 240, val 80, test 80", "test looked at 1 time",
                  "val (n = 80)", "trivial", "metrics.json"):  # fmt: skip
        assert words in text
    assert json.dumps(details.to_json(), allow_nan=False)


def test_show_an_interrupted_run(copied_run):
    (copied_run.path / "metrics.json").unlink()
    (copied_run.path / "training.json").unlink()
    assert "interrupted: 8 of 8 epochs" in show_run(copied_run.path).text()
    with pytest.raises(RunError, match="not a run folder"):
        show_run(copied_run.path.parent)


def test_one_difference_is_a_factor_and_the_gain_is_paired(disc_run, slower_run):
    found = compare_runs([disc_run.path, slower_run.path])
    (difference,) = found.differences
    assert difference.factors == ("lr",)
    assert difference.label == "differs in lr"
    assert list(found.settings) == ["lr"]  # and neither output nor what both share
    for split in ("val", "test"):
        first, second = (
            read_predictions(run.path / "predictions.csv").of_split(split)
            for run in (disc_run, slower_run)
        )
        right = [(part.predicted == part.targets).mean() for part in (first, second)]
        assert difference.comparisons[split].difference.value == pytest.approx(right[1] - right[0])
    assert difference.comparisons["test"].difference.high < 0
    assert "worse" in found.text()
    assert json.dumps(found.to_json(), allow_nan=False)


def test_several_differences_are_confounded(disc_run, runs):
    edit_config(runs / "b", lr=0.5, optimizer="sgd", output="elsewhere", threads=7, device="cpu")
    found = compare_runs([runs / "a", runs / "b"])
    assert found.differences[0].label == "confounded: differs in lr, optimizer"
    assert found.differences[0].comparisons["test"].difference.value == 0
    assert "not distinguishable" in found.text()


def test_the_same_split_under_another_name_is_no_difference(runs):
    edit_config(runs / "b", splits="a/splits.csv", val_fraction=0.2)
    assert compare_runs([runs / "a", runs / "b"]).differences[0].label == "no setting differs"


def test_images_of_no_split_and_runs_without_pages_are_fine(runs):
    splits = runs / "b" / "splits.csv"
    splits.write_text(splits.read_text().replace(",train,", ",unused,", 5))
    edit_json(runs / "b" / "metrics.json", split_sha256="other")
    edit_config(runs / "b", report=False)
    (runs / "b" / "report.json").unlink()
    found = compare_runs([runs / "a", runs / "b"])
    assert found.differences[0].label == "differs in split"
    assert set(found.differences[0].comparisons) == {"val", "test"}
    assert {row.state for row in list_runs(runs).rows} == {"finished"}


def test_groups_are_resampled_whole(runs):
    """Twenty groups of four images that were right or wrong together: a wider interval."""
    for name in ("a", "b"):
        _regroup(runs / name, spoil=name == "b")
    by_image = compare_runs([runs / "a", runs / "b"]).differences[0].comparisons["test"].difference
    for name in ("a", "b"):
        splits = runs / name / "splits.csv"
        lines = splits.read_text().splitlines()
        named = [f"{line}g{line.split(',')[0].split('#')[1].zfill(4)[:-1]}" for line in lines[1:]]
        splits.write_text("\n".join([lines[0], *named]) + "\n")
    by_group = compare_runs([runs / "a", runs / "b"]).differences[0].comparisons["test"].difference
    assert by_group.value == by_image.value
    assert by_group.high - by_group.low > 1.3 * (by_image.high - by_image.low)


def _regroup(run: Path, *, spoil: bool) -> None:
    """All answers right; with `spoil` those of whole tens of rows wrong."""
    file = run / "predictions.csv"
    lines = file.read_text().splitlines()
    found = [lines[0]]
    for line in lines[1:]:
        sample, split, target, *_ = line.split(",")
        ten = int(sample.split("#")[1]) // 10
        said = target if not (spoil and ten % 2) else str(1 - int(target))
        found.append(
            ",".join([sample, split, target, said, *(str(float(said == c)) for c in "01")])
        )
    file.write_text("\n".join(found) + "\n")


def test_different_test_images_are_refused(runs):
    splits = runs / "b" / "splits.csv"
    splits.write_text(splits.read_text().replace(",test,", ",val,", 3))
    with pytest.raises(RunError, match=r"test images differ\. 77 are in both; 3 of 80 only in"):
        compare_runs([runs / "a", runs / "b"])
    assert exit_code("runs", "compare", str(runs / "a"), str(runs / "b")) == 2


def test_other_labels_and_the_same_run_twice_are_refused(runs):
    file = runs / "b" / "predictions.csv"
    lines = file.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[2] = str(1 - int(cells[2]))
    file.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    with pytest.raises(RunError, match="other labels"):
        compare_runs([runs / "a", runs / "b"])
    with pytest.raises(RunError, match="different runs"):
        compare_runs([runs / "a", runs / "a"])


def test_a_run_that_did_not_open_test_is_compared_on_validation(runs):
    file = runs / "b" / "predictions.csv"
    file.write_text("".join(x for x in file.read_text().splitlines(True) if ",test," not in x))
    metrics = json.loads((runs / "b" / "metrics.json").read_text())
    del metrics["splits"]["test"]
    edit_json(runs / "b" / "metrics.json", **metrics)
    found = compare_runs([runs / "a", runs / "b"])
    assert set(found.differences[0].comparisons) == {"val"}
    assert "not opened" in found.text()


def test_what_training_writes_is_known_to_rm(disc_run):
    assert {entry.name for entry in disc_run.path.iterdir()} <= set(CONTENTS)


def test_rm_removes_runs_and_says_what_was_freed(runs, capsys):
    assert exit_code("runs", "rm", str(runs / "a"), str(runs / "study/members/c"), "--yes") == 0
    assert {row.name for row in list_runs(runs).rows} == {"b"}
    assert "2 runs removed" in capsys.readouterr().out


def test_rm_without_a_terminal_needs_yes(runs, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert exit_code("runs", "rm", str(runs / "a")) == 2
    assert "--yes" in capsys.readouterr().err
    assert (runs / "a" / "metrics.json").is_file()


def test_rm_refuses_what_is_no_run_and_removes_nothing(runs, tmp_path):
    (runs / "b" / "thesis.docx").write_text("three years")
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(runs / "a", target_is_directory=True)
    other = tmp_path / "hydra"
    other.mkdir()
    (other / "config.yaml").write_text("lr: 1\n")
    for path, words in (
        (runs / "b", "thesis.docx"),
        (runs, "not a run folder"),
        (runs / "study", "not a run folder"),
        (tmp_path / "photos", "not a run folder"),
        (other, "not a run folder"),
        (tmp_path / "link", "link"),
        (runs / "a" / "config.yaml", "is a file"),
        (tmp_path / "nowhere", "does not exist"),
    ):
        with pytest.raises(RunError, match=words):
            check_removable([runs / "a", path])
    assert exit_code("runs", "rm", str(runs / "a"), str(tmp_path / "photos"), "--yes") == 2
    assert (runs / "a").is_dir()
    assert (tmp_path / "photos").is_dir()


def test_rm_follows_no_links_inside(runs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data.npy").write_bytes(np.zeros(3).tobytes())
    (runs / "a" / "plots" / "more").symlink_to(outside, target_is_directory=True)
    assert exit_code("runs", "rm", str(runs / "a"), "--yes") == 0
    assert (outside / "data.npy").is_file()
    assert not (runs / "a").exists()
