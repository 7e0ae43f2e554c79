"""`scanwise export`: proven on the whole validation split, or marked FAILED and not usable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.conftest import run_main

from scanwise.core.errors import ConfigError, DataError, RunError, SplitError
from scanwise.core.files import sha256_file
from scanwise.deploy.onnx_export import graph_bytes
from scanwise.deploy.opening import open_model
from scanwise.deploy.serving_graph import ServingGraph
from scanwise.metrics.predictions import read_predictions
from scanwise.pipeline.export import export_model
from scanwise.pipeline.run_removal import check_removable


class Shifted(ServingGraph):
    """An exporter with a defect: brightness is off."""

    def __init__(self, bundle) -> None:
        super().__init__(bundle)
        for member in self.members:
            member.shift += 3.0


def document_of(folder: Path) -> dict:
    return json.loads((folder / "export.json").read_text())


def test_a_run_is_exported_and_proven(copied_run, discs: Path, capsys) -> None:
    main_code = run_main(["export", str(copied_run.path)])
    folder = copied_run.path / "export" / "onnx"
    said = capsys.readouterr().out
    assert main_code == 0
    assert "ok: on val (n = 80)" in said
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "export.json"}
    found = document_of(folder)
    assert (found["status"], found["split"], found["n"]) == ("ok", "val", 80)
    assert found["labels_differing"] == 0
    assert 0 <= found["max_probability_difference"] < 1e-5
    assert found["label_agreement"]["value"] == 1.0
    assert 0.9 < found["label_agreement"]["ci95"][0] < 1
    assert found["other_answers_differing"]["in_distribution"] == 0
    assert found["sha256"] == sha256_file(folder / "model.onnx")
    assert found["split_sha256"] == sha256_file(copied_run.path / "splits.csv")
    assert found["inputs"] == {"images": ["n", 16, 16, 1]}
    for took in found["latency"].values():
        assert set(took) == {"bundle", "onnx"}
        assert all(0 < one["range_ms"][0] <= one["median_ms"] for one in took.values())
    assert len(copied_run.test_looks()) == 1  # test was not opened again
    assert check_removable([copied_run.path])  # export/ is known as a part of the run


def test_the_file_gives_the_numbers_of_predictions_csv(copied_run, discs: Path) -> None:
    export_model(copied_run.path)
    model = open_model(copied_run.path / "export" / "onnx" / "model.onnx")
    stated = read_predictions(
        copied_run.path / "predictions.csv", copied_run.path / "splits.csv", "multiclass"
    ).of_split("test")
    found = model.predict(np.load(discs)["test_images"])
    np.testing.assert_allclose(found.probabilities, stated.probabilities, rtol=0, atol=1e-5)


def test_the_snippet_of_the_docs_runs(disc_run, tmp_path: Path, monkeypatch) -> None:
    export_model(disc_run.path, output=tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    values: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], values)
    black = np.zeros((1, 16, 16), np.uint8)
    assert values["answer"] == open_model(disc_run.path).predict(black).predicted[0]


def test_an_earlier_export_is_kept_unless_forced(copied_run, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    export_model(copied_run.path, output=folder)
    before = document_of(folder)
    with pytest.raises(RunError, match="--force"):
        export_model(copied_run.path, output=folder)
    assert document_of(folder) == before
    assert export_model(copied_run.path, output=folder, force=True).failure == ""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(RunError, match="not a scanwise export"):
        export_model(copied_run.path, output=tmp_path / "mine", force=True)


def test_a_wrong_graph_is_marked_failed(
    disc_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("scanwise.pipeline.export.ServingGraph", Shifted)
    folder = tmp_path / "out"
    assert run_main(["export", str(disc_run.path), "--output", str(folder)]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "do not use it" in said.err
    assert {file.name for file in folder.iterdir()} == {"model.onnx.FAILED", "export.json"}
    found = document_of(folder)
    assert found["status"] == "FAILED"
    assert "a probability differs by" in found["reason"]
    assert found["max_probability_difference"] > 1e-4
    with pytest.raises(RunError):
        open_model(folder / found["file"])


def test_torch_passes_the_same_gate(disc_run, tmp_path: Path) -> None:
    found = export_model(disc_run.path, format="torch", output=tmp_path / "out")
    assert found.failure == ""
    assert {file.name for file in found.folder.iterdir()} == {"model.pt2", "export.json"}
    assert found.document["max_probability_difference"] < 1e-5


def test_int8_is_judged_on_validation(
    disc_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = export_model(disc_run.path, int8=True, max_drop=0.2, output=tmp_path / "out")
    int8 = found.document["int8"]
    assert int8["status"] == "ok"
    assert int8["bytes"] < 0.7 * found.document["bytes"]
    assert int8["calibration"] == {"split": "train", "n": 240, "seed": 0}
    assert [(one["metric"], one["split"], one["n"]) for one in int8["differences"]] == [
        ("accuracy", "val", 80), ("auroc_macro", "val", 80)
    ]  # fmt: skip
    assert int8["label_agreement"]["value"] > 0.9
    assert int8["max_probability_difference"] > 1e-4  # rounded indeed
    assert ("not faster here" in found.text()) == bool(int8["slower_here"])
    lows = [one["difference"]["ci95"][0] for one in int8["differences"]]
    assert int8["larger_drop_ruled_out"] == (min(lows) >= -0.2)
    rounded = open_model(found.folder / "model.int8.onnx")
    assert rounded.class_names == open_model(disc_run.path).class_names


def test_int8_that_lost_too_much_is_marked_failed_and_the_float_file_stays(
    disc_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "scanwise.pipeline.export_int8.int8_bytes",
        lambda graph, batches: graph_bytes(Shifted(open_model(disc_run.path))),
    )
    found = export_model(disc_run.path, int8=True, output=tmp_path / "out")
    assert "model.int8.onnx.FAILED: accuracy dropped by" in found.failure
    assert found.document["status"] == "FAILED"
    assert found.document["reason"] == ""
    names = {file.name for file in found.folder.iterdir()}
    assert names == {"model.onnx", "model.int8.onnx.FAILED", "export.json"}


def test_a_bundle_alone_needs_images(disc_run, discs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(disc_run.bundle, bundle)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, image in enumerate(np.load(discs)["val_images"][:6]):
        cv2.imwrite(str(pictures / f"{number}.png"), image)
    (pictures / "bad.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="--output"):
        export_model(bundle)
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="--check-on"):
        export_model(bundle, output=out)
    with pytest.raises(ConfigError, match="--check-on"):
        export_model(bundle, output=out, int8=True, check_on=[pictures])
    with pytest.raises(DataError, match="none of 1 files"):
        export_model(bundle, output=out, check_on=[pictures / "bad.png"])
    assert not out.exists()
    found = export_model(bundle, output=out, check_on=[pictures])
    assert (found.document["split"], found.document["n"]) == ("given files", 6)
    assert found.document["num_unreadable"] == 1
    assert found.failure == ""
    assert "1 unreadable files left out" in found.text()


def test_changed_data_stop_the_export(discs: Path, copied_run, monkeypatch) -> None:
    changed = copied_run.path.parent / "changed.npz"
    arrays = dict(np.load(discs))
    arrays["val_images"] = arrays["val_images"][::-1].copy()
    np.savez(changed, **arrays)
    text = (copied_run.path / "config.yaml").read_text()
    (copied_run.path / "config.yaml").write_text(text.replace(str(discs), str(changed)))
    with pytest.raises(SplitError):
        export_model(copied_run.path)
    assert not (copied_run.path / "export").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "openvino"], "pip install openvino"),
        (["--format", "tflite"], "onnx2tf -i model.onnx"),
        (["--format", "tensorrt"], "trtexec --onnx=model.onnx"),
        (["--format", "onx"], "did you mean 'onnx'"),
        (["--format", "torch", "--int8"], "leave out one"),
        (["--max-drop", "2"], "must lie in"),
    ],
)
def test_what_can_not_be_done_ends_with_one_line(disc_run, arguments, words, capsys) -> None:
    assert run_main(["export", str(disc_run.path), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (disc_run.path / "export").exists()
