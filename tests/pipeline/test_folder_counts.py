"""Counts of a folder: as predicted, and corrected by the test split's confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import disc_images

from scanwise import Bundle
from scanwise.cli import main
from scanwise.core.errors import DataError
from scanwise.metrics.predictions import read_predictions
from scanwise.metrics.prevalence import corrected_counts
from scanwise.pipeline.folder_counts import count_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images, targets = disc_images(80, np.random.default_rng(4))
    chosen = np.concatenate([np.flatnonzero(targets == 1)[:30], np.flatnonzero(targets == 0)[:10]])
    for number in chosen:
        Image.fromarray(images[number]).save(tmp_path / f"i{number}.png")
    return tmp_path


def test_counts_are_those_of_the_bundle_and_of_the_correction(disc_run, folder: Path) -> None:
    found = count_images(disc_run.path, [folder])
    said = Bundle.from_pretrained(disc_run.path).predict(sorted(folder.glob("*.png")))
    raw = np.bincount(said.probabilities.argmax(axis=1), minlength=2)
    assert found.predicted == tuple(raw)
    assert found.n == 40
    np.testing.assert_allclose(found.mean_probability, said.probabilities.mean(axis=0))
    part = read_predictions(disc_run.path / "predictions.csv").of_split("test")
    table = np.zeros((2, 2), int)
    np.add.at(table, (part.targets, part.predicted), 1)
    assert found.corrected == corrected_counts(table, raw)
    assert found.n_labelled == len(part)
    assert sum(one.value for one in found.corrected) == pytest.approx(40)  # type: ignore[misc]
    assert "80 test images" in found.text()
    unlike = [one for one in said.in_distribution if one is False]
    assert found.unknown.value == len(unlike) / 40
    assert "unlike the training images: " in found.text()


def test_unreadable_files_are_named_and_end_with_1(
    disc_run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_text("no image")
    with pytest.raises(SystemExit) as ended:
        main(["counts", str(disc_run.path), str(folder)])
    assert ended.value.code == 1
    assert "40 images counted" in capsys.readouterr().out
    with pytest.raises(DataError, match="absent does not exist"):
        count_images(disc_run.path, [folder / "absent"])
