"""From a trained run to its unknown-input score, nearest training images and error analysis."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import scanwise as sw
from scanwise.cli.commands import app
from scanwise.core.errors import DataError, IntegrityError, ModelError, RunError
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.outputs import network_outputs
from scanwise.models.build import build_model
from scanwise.pipeline.error_pages import rewrite_errors
from scanwise.pipeline.foreign import measure_foreign
from scanwise.pipeline.train import reload_data
from scanwise.pipeline.verify import verify_run


def table(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", ["mlp:16,8", "small_resnet:8", "simplecnn", "rescnn", "secnn"])
def test_the_hook_sees_what_features_gives(name, disc_run):
    bundle = Bundle.from_pretrained(disc_run.path)
    network = build_model(name, num_outputs=3, channels=1, size_px=(16, 16)).eval()
    pixels = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)
    found = network_outputs(network, pixels, bundle.preprocessing, torch.device("cpu"))
    batch = bundle.preprocessing.normalise(torch.from_numpy(pixels))
    with torch.inference_mode():
        np.testing.assert_array_equal(found.features, network.features(batch).numpy())
        np.testing.assert_array_equal(found.logits, network(batch).numpy())
    assert not any(layer._forward_pre_hooks for layer in network.modules())


def test_a_network_without_a_linear_layer_has_no_features(disc_run):
    bundle = Bundle.from_pretrained(disc_run.path)
    bundle.model = nn.Sequential(nn.Conv2d(1, 2, 16), nn.Flatten())
    dataset, split = reload_data(disc_run, disc_run.config)
    with pytest.raises(ModelError, match=r"no last nn\.Linear"):
        bundle.features_of_rows(dataset, split.val)
    answer = bundle.predict(dataset.images[split.val[:3]])
    assert answer.in_distribution == (None,) * 3


def test_a_loaded_bundle_flags_as_the_run_did(disc_run, discs, tmp_path):
    bundle = Bundle.from_pretrained(disc_run.path)
    stated = [row for row in table(disc_run.path / "unknown_scores.csv") if row["split"] == "test"]
    answer = bundle.predict(np.load(discs)["test_images"])
    np.testing.assert_allclose(
        answer.unknown_scores, [float(row["score"]) for row in stated], rtol=1e-4
    )
    assert ["yes" if known else "no" for known in answer.in_distribution] == [
        row["in_distribution"] for row in stated
    ]
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    assert bundle.predict(noise).in_distribution.count(False) >= 18
    (tmp_path / "bad.png").write_text("no image")
    assert bundle.predict(tmp_path / "bad.png").in_distribution == (None,)


def test_an_older_bundle_without_reference_still_loads(copied_run):
    (copied_run.bundle / "reference.safetensors").unlink()
    sums = copied_run.bundle / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if "reference" not in line]
    sums.write_text("\n".join(lines) + "\n")
    bundle = Bundle.from_pretrained(copied_run.path)
    assert bundle.predict(np.zeros((2, 16, 16), np.uint8)).in_distribution == (None, None)
    with pytest.raises(RunError, match="no unknown-input score"):
        measure_foreign(copied_run.path, [])


def test_a_changed_reference_is_refused(copied_run):
    file = copied_run.bundle / "reference.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(IntegrityError, match=r"reference\.safetensors"):
        Bundle.from_pretrained(copied_run.path)


def test_the_nearest_training_images_are_of_train(disc_run):
    rows = table(disc_run.path / "errors" / "nearest.csv")
    splits = {row["path"]: row["split"] for row in table(disc_run.path / "splits.csv")}
    assert len(rows) == 3 * 160
    assert {splits[row["train_sample"]] for row in rows} == {"train"}
    distances = np.array([float(row["distance"]) for row in rows]).reshape(-1, 3)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_a_copy_in_train_is_at_distance_zero(tmp_path):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (90, 12, 12, 1), dtype=np.uint8)
    images[45:, 3:9, 3:9] //= 4
    labels = np.repeat([0, 1], 45)
    parts = {"train": np.r_[0:25, 45:70], "val": np.r_[25:36, 70:81], "test": np.r_[36:45, 81:90]}
    images[40] = images[3]
    arrays = {}
    for name, rows in parts.items():
        arrays |= {f"{name}_images": images[rows], f"{name}_labels": labels[rows]}
    np.savez(tmp_path / "twins.npz", **arrays)
    run = sw.train(
        str(tmp_path / "twins.npz"), model="mlp:8", epochs=2, accept_leak=True, report=True,
        output=str(tmp_path / "run"),
    )  # fmt: skip
    rows = table(run.path / "errors" / "nearest.csv")
    twin = next(row for row in rows if row["sample"] == "twins#76")  # test row 4
    assert twin["train_sample"] == "twins#3"
    assert float(twin["distance"]) == pytest.approx(0, abs=1e-6)


def test_foreign_images_noise_and_blank(copied_run, tmp_path):
    rng = np.random.default_rng(2)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        colours = rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"{i}.png")
    (folder / "broken.png").write_text("no image")
    np.savez(tmp_path / "others.npz", images=np.full((6, 8, 8), 250, np.uint8))
    looks = (copied_run.path / "test_ledger.csv").read_bytes()
    found = measure_foreign(copied_run.path, [folder, tmp_path / "others.npz"])
    assert [each["name"] for each in found["sets"]] == ["pictures", "others", "noise", "blank"]
    pictures, others, noise, _ = found["sets"]
    assert pictures["n"] == 4
    assert "4 colour images" in pictures["note"]
    assert "1 left out" in pictures["note"]
    assert others["n"] == 6
    assert noise["auroc"]["value"] > 0.95
    assert found["known"]["split"] == "test"
    assert (copied_run.path / "test_ledger.csv").read_bytes() == looks  # test is not opened again
    assert "Foreign images against 80 test images" in (copied_run.path / "report.md").read_text()


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("nothing.npz", None, "does not exist"),
        ("labels.npz", {"labels": np.zeros(3)}, "has no key 'images'; it has labels"),
        ("flat.npz", {"images": np.zeros((3, 4))}, "got \\(3, 4\\)"),
        ("objects.npz", {"images": np.array([{}, {}], object)}, "can't read"),
    ],
)
def test_foreign_sets_that_are_none(copied_run, tmp_path, name, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / name, **arrays)
    with pytest.raises(DataError, match=message):
        measure_foreign(copied_run.path, [tmp_path / name])
    assert not (copied_run.path / "ood.json").exists()


def test_edited_numbers_are_found(copied_run):
    assert not verify_run(copied_run.path).mismatches
    for name, change in (
        ("unknown.json", lambda d: d["splits"]["test"].update(flagged=0, n=81)),
        ("confusions.json", lambda d: d["mistakes"].update(count=79)),
    ):
        file = copied_run.path / name
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))
    found = {bad.where for bad in verify_run(copied_run.path).mismatches}
    assert {"unknown.splits.test.n", "confusions.mistakes.count"} <= found


def test_errors_are_rewritten_without_a_look_at_test(copied_run):
    page = copied_run.path / "errors" / "index.html"
    table_before = (copied_run.path / "errors" / "errors.csv").read_bytes()
    looks = (copied_run.path / "test_ledger.csv").read_bytes()
    page.unlink()
    (copied_run.path / "learning_curve").mkdir()
    gain = {"value": 0.05, "ci95": [0.02, 0.08]}
    curve = {
        "val_images": 80,
        "per_class": {"1": {"doubling": {"gain": gain, "verdict": "falls"}}},
    }
    (copied_run.path / "learning_curve" / "learning_curve.json").write_text(json.dumps(curve))
    files = rewrite_errors(copied_run.path)
    assert (copied_run.path / "errors" / "errors.csv").read_bytes() == table_before
    assert (copied_run.path / "test_ledger.csv").read_bytes() == looks
    html = page.read_text(encoding="utf-8")
    assert files.n == 80
    if files.mistakes:
        assert "Nearest training images" in html
        assert "error of &#39;1&#39; most, by 0.050 [0.020, 0.080]" in html


def test_ood_and_errors_speak_to_people(copied_run):
    said = CliRunner().invoke(app, ["ood", str(copied_run.path)])
    assert said.exit_code == 0
    assert "against 80 test images" in said.stdout
    assert "noise" in said.stdout
    assert CliRunner().invoke(app, ["errors", str(copied_run.path)]).exit_code == 0
