"""`scanwise reproduce`: the same numbers to the last bit, or the reason why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import scanwise as sw
from scanwise.cli import main
from scanwise.core.errors import DataError, IntegrityError, RunError
from scanwise.core.files import sha256_file
from scanwise.core.runtime import environment_changes
from scanwise.data.demo import write_demo_folder
from scanwise.pipeline.reproduce import _free_name, reproduce_run
from scanwise.pipeline.same_numbers import compare_numbers, max_difference, threads_of

QUICK = {"model": "mlp:16", "epochs": 2, "batch_size": 32}


def tree(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A class folder of demo cells whose slides are groups."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    write_demo_folder(folder, "demo:cells?n=200&slides=40&size=24")
    return folder


@pytest.fixture(scope="module")
def cells_run(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cells"
    return sw.train(cells, **QUICK, size=24, group_regex=r"(slide\d+)", seed=5, output=str(folder))


@pytest.mark.slow
def test_the_demo_comes_out_bit_for_bit(tmp_path):
    run = sw.train(
        "demo:cells?n=200&size=24", model="small_resnet:4", epochs=2, output=str(tmp_path / "run")
    )
    before = tree(run.path)
    found = reproduce_run(run.path)
    assert found.matches
    assert {check.difference for check in found.checks} == {0.0}
    assert tree(run.path) == before  # the first run is only read
    assert found.second.path == tmp_path / "run-reproduced"
    first, second = (tree(each.path) for each in (found.first, found.second))
    for name in ("splits.csv", "predictions.csv", "plan.yaml", "bundle/model.safetensors"):
        assert first[name] == second[name]
    assert len(found.second.test_looks()) == 1
    assert json.loads((found.second.path / "reproduction.json").read_text())["match"] is True
    assert _free_name(run.path).name == "run-reproduced-2"  # nothing is ever written over
    assert "reproduced: all" in found.text()


def test_groups_and_a_moved_folder_come_out_bit_for_bit(cells, cells_run, tmp_path):
    moved = tmp_path / "moved" / "elsewhere"
    shutil.copytree(cells, moved)
    found = reproduce_run(cells_run.path, tmp_path / "again", data=str(moved))
    assert found.matches, found.text()
    stated = [each.dataset["split"] for each in (found.first, found.second)]
    assert stated[0]["origin"] == "group"
    assert stated[0] == stated[1]
    assert found.second.dataset["groups"] == found.first.dataset["groups"]


@pytest.mark.slow
def test_a_logistic_head_comes_out_bit_for_bit(shared: Path, tmp_path):
    pytest.importorskip("transformers")
    weights = shared / "weights" / "mobilenet_v2_imagenet"
    run = sw.train(
        "demo:cells?n=80&size=24", model=f"hf:{weights}", views=1, output=str(tmp_path / "run")
    )
    found = reproduce_run(run.path, tmp_path / "again")
    assert found.matches, found.text()
    assert any("fitted head" in check.name for check in found.checks)
    assert any("came from the cache" in note for note in found.notes)


def test_another_result_is_a_mismatch_and_exit_1(cells_run, tmp_path, capsys):
    changed = tmp_path / "changed"
    shutil.copytree(cells_run.path, changed)
    config = changed / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 5", "\nseed: 6"))
    env = json.loads((changed / "env.json").read_text())
    env["packages"]["torch"] = "1.0"
    (changed / "env.json").write_text(json.dumps(env))
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", str(changed), "--output", str(tmp_path / "again"), "--json"])
    assert caught.value.code == 1
    said = json.loads(capsys.readouterr().out)
    assert said["match"] is False
    assert any(words.startswith("torch 1.0 → ") for words in said["environment_changes"])
    wrong = {check["name"] for check in said["checks"] if not check["match"]}
    assert {"every epoch's loss", "test probabilities", "weights (SHA-256)"} <= wrong


def test_tolerance_counts_numbers_but_not_changed_classes(cells_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(cells_run.path, other)
    file = other / "predictions.csv"
    lines = file.read_text().splitlines()
    *cells_of_row, last = lines[1].split(",")
    lines[1] = ",".join([*cells_of_row, repr(float(last) + 1e-9)])
    file.write_text("\n".join(lines) + "\n")

    def wrong(tolerance: float) -> set[str]:
        checks = compare_numbers(cells_run, sw.Run.open(other), tolerance)
        return {check.name for check in checks if not check.matches}

    split = lines[1].split(",")[1]
    assert wrong(0.0) == {f"{split} probabilities"}
    assert wrong(1e-6) == set()
    cells_of_row[3] = next(c for c in ("folded", "round") if c != cells_of_row[3])
    lines[1] = ",".join([*cells_of_row, last])
    file.write_text("\n".join(lines) + "\n")
    assert wrong(0.5) == {f"{split} predicted classes changed"}


def test_changed_data_stop_before_training_with_the_list(cells, cells_run, tmp_path, capsys):
    moved = tmp_path / "cells"
    shutil.copytree(cells, moved)
    pictures = sorted(moved.rglob("*.png"))
    pictures[0].unlink()
    shutil.copyfile(pictures[2], pictures[1])
    names = [picture.relative_to(moved).as_posix() for picture in pictures[:2]]
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", str(cells_run.path), "--data", str(moved),
              "--output", str(tmp_path / "again")])  # fmt: skip
    assert caught.value.code == 3
    error = capsys.readouterr().err
    assert "2 samples changed" in error
    assert f"{names[0]}: missing" in error
    assert f"{names[1]}: changed" in error
    assert not (tmp_path / "again").exists()


def test_more_than_twenty_changes_are_counted(cells, cells_run, tmp_path):
    moved = tmp_path / "cells"
    shutil.copytree(cells, moved)
    for picture in sorted(moved.rglob("*.png"))[:60:2]:
        picture.unlink()
    with pytest.raises(IntegrityError, match=r"30 samples changed: .*; and 10 more"):
        reproduce_run(cells_run.path, tmp_path / "again", data=str(moved))


def test_a_changed_label_or_group_stops(cells_run, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(cells_run.path, changed)
    file = changed / "predictions.csv"
    header, first, *rest = file.read_text().splitlines()
    sample, split, target, *cells_of_row = first.split(",")
    other = next(name for name in ("folded", "round") if name != target)
    edited = ",".join([sample, split, other, *cells_of_row])
    file.write_text("\n".join([header, edited, *rest]) + "\n")
    splits = changed / "splits.csv"
    lines = splits.read_text().splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ",slide999"
    splits.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match="2 samples changed") as caught:
        reproduce_run(changed, tmp_path / "again")
    assert f"{sample}: another label" in str(caught.value)
    assert "group was 'slide999'" in str(caught.value)


def test_data_that_are_not_there_name_the_way_out(cells_run, tmp_path):
    with pytest.raises(DataError, match="--data") as caught:
        reproduce_run(cells_run.path, tmp_path / "again", data=str(tmp_path / "nowhere"))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        # As `train(data, model=nn.Module)` and `train(from_arrays(...))` write them.
        ("bundle/config.json", {"architecture": "custom:MyNet"}, "network of your own"),
        ("dataset.json", {"kind": "arrays"}, r"numpy\.savez"),
    ],
)
def test_own_networks_and_arrays_can_not_be_reproduced(copied_run, name, change, words):
    file = copied_run.path / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RunError, match=words):
        reproduce_run(copied_run.path)
    assert not copied_run.path.with_name("run-reproduced").exists()


def test_unfinished_runs_and_taken_folders_are_refused(copied_run, tmp_path):
    with pytest.raises(RunError, match="exists"):
        reproduce_run(copied_run.path, copied_run.path)
    (copied_run.path / "training.json").unlink()
    with pytest.raises(RunError, match="--resume"):
        reproduce_run(copied_run.path)
    with pytest.raises(RunError, match="not a run folder"):
        threads_of(tmp_path / "nowhere")


def test_what_may_have_moved_a_number_is_named():
    then = {"packages": {"torch": "2.6"}, "cpu": "A", "tuning": {"threads": {"value": 4}}}
    now = {"packages": {"torch": "2.7"}, "cpu": "A", "tuning": {"threads": {"value": 1}}}
    assert environment_changes(then, now) == ["torch 2.6 → 2.7", "threads 4 → 1"]
    assert environment_changes(now, now) == []


def test_the_largest_difference_of_two_documents():
    assert max_difference({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.25}]}) == 0.25
    assert max_difference({"a": None}, {"a": None}) == 0
    assert max_difference({"skill": "ok"}, {"skill": "collapsed"}) == float("inf")
    assert max_difference({"a": 1}, {"b": 1}) == float("inf")
    assert max_difference({"reason": "0.11"}, {"reason": "0.12"}) == 0
