"""The bundle: whole or absent, checked at loading, and the same answer as the run's own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import scanwise as sw
from scanwise.core.errors import DataError, IntegrityError, RunError


def stated_probabilities(run, split: str) -> np.ndarray:
    with (run.path / "predictions.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    return np.array([[float(row[key]) for key in row if key.startswith("prob_")] for row in rows])


def test_a_loaded_bundle_gives_the_probabilities_of_the_run(disc_run, discs):
    bundle = sw.Bundle.from_pretrained(disc_run.bundle)
    answer = bundle.predict(np.load(discs)["test_images"])
    np.testing.assert_allclose(
        answer.probabilities, stated_probabilities(disc_run, "test"), atol=1e-6
    )


def test_files_and_arrays_get_the_same_answer(disc_run, discs, tmp_path):
    images = np.load(discs)["test_images"][:5]
    paths = []
    for index, image in enumerate(images):
        path = tmp_path / f"{index}.png"
        Image.fromarray(image).save(path)
        paths.append(path)
    bundle = sw.Bundle.from_pretrained(disc_run.path)
    from_files, from_array = bundle.predict(paths), bundle.predict(images)
    np.testing.assert_array_equal(from_files.probabilities, from_array.probabilities)
    assert from_files.predicted == from_array.predicted


def test_an_unreadable_file_keeps_its_row(disc_run, discs, tmp_path):
    image = np.load(discs)["test_images"][0]
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.fromarray(image).save(good)
    bad.write_text("not an image")
    answer = sw.Bundle.from_pretrained(disc_run.path).predict([bad, good])
    assert np.isnan(answer.probabilities[0]).all()
    assert answer.predicted[0] == ""
    assert answer.reasons[0]
    assert answer.reasons[1] == ""
    assert answer.predicted[1] in answer.class_names


def test_a_changed_byte_is_refused(copied_run):
    weights = copied_run.bundle / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        sw.Bundle.from_pretrained(copied_run.bundle)


def test_a_newer_format_is_refused_with_both_versions(copied_run):
    file = copied_run.bundle / "config.json"
    config = json.loads(file.read_text()) | {"format_version": 99}
    file.write_text(json.dumps(config))
    sums = copied_run.bundle / "SHA256SUMS"
    from scanwise.core.files import sha256_file

    lines = [
        f"{sha256_file(copied_run.bundle / line.split('  ')[1])}  {line.split('  ')[1]}"
        for line in sums.read_text().splitlines()
    ]
    sums.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match=r"99.*up to 1"):
        sw.Bundle.from_pretrained(copied_run.bundle)


def test_no_bundle_no_answer(tmp_path):
    with pytest.raises(RunError, match="no bundle"):
        sw.Bundle.from_pretrained(tmp_path)


def test_images_of_another_size_are_refused(disc_run):
    bundle = sw.Bundle.from_pretrained(disc_run.bundle)
    with pytest.raises(DataError, match="16x16"):
        bundle.predict(np.zeros((2, 20, 20), np.uint8))


def test_saving_over_something_else_is_refused(disc_run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError):
        sw.Bundle.from_pretrained(disc_run.bundle).save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_saved_bundle_is_equal(disc_run, tmp_path):
    bundle = sw.Bundle.from_pretrained(disc_run.bundle)
    bundle.save_pretrained(tmp_path / "copy")
    for file in Path(disc_run.bundle).iterdir():
        assert file.read_bytes() == (tmp_path / "copy" / file.name).read_bytes(), file.name
