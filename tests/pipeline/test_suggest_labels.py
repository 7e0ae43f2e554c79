"""Which images to label next, on a trained run and a folder of odd files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import disc_images

from scanwise.cli import main
from scanwise.core.errors import DataError
from scanwise.pipeline.find_inputs import find_images
from scanwise.pipeline.suggest_labels import suggest_labels, without_copies


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """20 discs and noises, a copy of one of them, a file that is no image, and junk."""
    folder = tmp_path / "new"
    folder.mkdir()
    images, _ = disc_images(20, np.random.default_rng(9))
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"i{number:02}.png")
    Image.fromarray(images[3]).save(folder / "z_copy.png")
    (folder / "bad.png").write_text("no image")
    (folder / ".hidden.png").write_text("junk")
    return folder


def test_the_list_is_deterministic_and_holds_each_picture_once(
    disc_run, unlabelled: Path, tmp_path: Path
) -> None:
    first = suggest_labels(disc_run.path, unlabelled, how_many=30, output=tmp_path / "a")
    suggest_labels(disc_run.path, unlabelled, how_many=30, output=tmp_path / "b")
    assert (tmp_path / "a/to_label.csv").read_bytes() == (tmp_path / "b/to_label.csv").read_bytes()
    rows = list(csv.DictReader((tmp_path / "a/to_label.csv").read_text().splitlines()))
    names = [Path(row["path"]).name for row in rows]
    assert len(names) == len(set(names)) == 20
    assert len({"i03.png", "z_copy.png"} & set(names)) == 1
    assert all((tmp_path / "a" / row["path"]).resolve().is_file() for row in rows)
    assert first.copies == 1
    assert first.unreadable == (("bad.png", "is a text file, not an image"),)
    assert float(rows[0]["uncertainty"]) == pytest.approx(first.unsure.max(), abs=1e-6)
    page = (tmp_path / "a/to_label.html").read_text()
    assert page.count("data:image/png") == 20


def test_uncertainty_is_of_the_bundles_own_probabilities(
    disc_run, unlabelled: Path, tmp_path: Path
) -> None:
    from scanwise import Bundle

    found = suggest_labels(disc_run.path, unlabelled, how_many=3, output=tmp_path / "a")
    p = Bundle.from_pretrained(disc_run.path).predict([found.candidates.paths[5]]).probabilities[0]
    assert found.unsure[5] == pytest.approx(-(p * np.log(p)).sum() / np.log(2))


def test_unreadable_files_end_with_1_after_the_list_is_written(
    disc_run, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["suggest-labels", str(disc_run.path), str(unlabelled), "-n", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--output", str(tmp_path / "out")])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "unreadable: bad.png: is a text file" in said.out
    assert "1 of 22 files can't be read" in said.err
    with pytest.raises(SystemExit) as ended:
        main([*words, "--output", str(tmp_path / "out")])
    assert ended.value.code == 2  # an earlier list may hold labels


def test_files_of_the_run_are_not_asked_for_again(
    disc_run, unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scanwise.core.files import sha256_file
    from scanwise.pipeline import suggest_labels as module

    known = {sha256_file(unlabelled / "i00.png")}
    monkeypatch.setattr(module, "labelled_hashes", lambda run: known)
    found = suggest_labels(disc_run.path, unlabelled, how_many=30, output=tmp_path / "a")
    assert found.labelled == 1
    assert "i00.png" not in {path.name for path in found.candidates.paths}


def test_of_copies_the_most_uncertain_stays() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 1), np.uint8)
    image[2] = image[0]
    np.testing.assert_array_equal(without_copies(image, np.array([0.1, 0.5, 0.9])), [1, 2])


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        find_images(tmp_path / "absent")
