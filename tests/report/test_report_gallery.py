"""The gallery shows the most confident mistakes first, and says so when there are none."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from scanwise.core.types import Dataset
from scanwise.metrics.neighbours import Neighbours
from scanwise.metrics.predictions import Predictions, make_predictions
from scanwise.report.gallery import answers, write_gallery
from scanwise.report.gallery_facts import Beside


def made(
    targets: list[int], probabilities: list[list[float]], names: tuple[str, ...] = ("a", "b<i>")
) -> Predictions:
    n = len(targets)
    samples = tuple(f"s{i}" for i in range(n))
    return make_predictions(samples, ("test",) * n, targets, probabilities, names)


def grey(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.full((len(rows), 6, 6, 1), 128, dtype=np.uint8)


def test_most_confident_mistake_first(tmp_path: Path) -> None:
    predictions = made([0, 0, 1, 1], [[0.3, 0.7], [0.9, 0.1], [0.95, 0.05], [0.2, 0.8]])
    files = write_gallery(tmp_path, grey, predictions, paths=["/d/x y.png", "p1", "p2", "p3"])
    assert (files.n, files.mistakes, files.split) == (4, 2, "test")
    with files.csv.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["sample"] for row in rows] == ["s2", "s0"]
    assert {key: value for key, value in rows[0].items() if not key.startswith("nearest")} == {
        "rank": "1",
        "sample": "s2",
        "split": "test",
        "target": "b<i>",
        "predicted": "a",
        "probability": "0.950000",
        "probability_of_target": "0.050000",
        "unknown_score": "",  # not measured here
        "in_distribution": "",
        "suspected": "",
        "path": "p2",
    }
    html = files.html.read_text(encoding="utf-8")
    assert "2 of 4 wrong" in html
    assert html.index("s2: true class b&lt;i&gt;") < html.index("s0: true class a")
    assert "<i>" not in html
    assert "x%20y.png" in html
    assert (tmp_path / "plots" / "samples_predicted.png").is_file()
    assert (tmp_path / "plots" / "mistakes.svg").is_file()


def test_gallery_is_self_contained(good_run: Path) -> None:
    html = (good_run / "errors" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)
    images = re.findall(r"<img[^>]*>", html)
    assert images
    assert all('alt="' in image and 'src="data:image/png' in image for image in images)


def test_no_mistakes_says_so_and_shows_the_least_confident(tmp_path: Path) -> None:
    write_gallery(tmp_path, grey, made([0, 1], [[0.3, 0.7], [0.2, 0.8]]))
    assert (tmp_path / "plots" / "mistakes.png").is_file()
    files = write_gallery(tmp_path, grey, made([0, 1, 0], [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]))
    html = files.html.read_text(encoding="utf-8")
    assert files.mistakes == 0
    assert "No mistakes" in html
    assert "least confident" in html
    unsure = html.index("Right, but least confident")
    assert html.index("s1: true class", unsure) < html.index("s2: true class", unsure)
    assert files.csv.read_text(encoding="utf-8").count("\n") == 1
    assert not (tmp_path / "plots" / "mistakes.png").exists()  # of the run before


def test_only_shown_images_are_asked_for(tmp_path: Path, sim: SimpleNamespace) -> None:
    predictions, _ = sim.predictions(sim.Simulated(n_test=2000, skill=1.0))
    asked: list[int] = []

    def watch(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        asked.extend(int(row) for row in rows)
        return grey(rows)

    write_gallery(tmp_path, watch, predictions)
    assert len(asked) < 200
    split = np.asarray(predictions.split)
    assert set(split[asked]) == {"test"}


def test_multi_label_mistakes_are_images_with_any_label_wrong(tmp_path: Path) -> None:
    targets = np.array([[1, 0], [1, 1], [0, 0]])
    probabilities = np.array([[0.9, 0.2], [0.9, 0.1], [0.3, 0.2]])
    predictions = make_predictions(
        ("x", "y", "z"), ("val",) * 3, targets, probabilities, ("mass", "nodule"), "multilabel"
    )
    found = answers(predictions)
    assert found.correct.tolist() == [True, False, True]
    assert found.actual == ("mass", "mass + nodule", "none")
    assert found.said == ("mass", "mass", "none")
    np.testing.assert_allclose(found.confidence, [0.8, 0.9, 0.7])
    files = write_gallery(tmp_path, grey, predictions)
    assert files.split == "val"
    assert files.mistakes == 1


def test_deep_images_are_shown_stretched(tmp_path: Path) -> None:
    def deep(rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        return np.arange(len(rows) * 36, dtype=np.uint16).reshape(len(rows), 6, 6, 1) * 500

    assert write_gallery(tmp_path, deep, made([0], [[0.2, 0.8]])).mistakes == 1


def beside(labels: list[int], nearest: list[list[int]]) -> Beside:
    """Four images, of which the last two are the tested ones; image 3 is a copy of image 0."""
    images = np.arange(4 * 36, dtype=np.uint8).reshape(4, 6, 6, 1)
    images[3] = images[0]
    names = tuple("wxyz")
    dataset = Dataset("d", images, np.array(labels), ("a", "b<i>"), names, names)
    near = Neighbours(np.array(nearest), np.full((2, 3), 0.25))
    scores = np.array([5.0, 1.0])
    return Beside(dataset, np.array([2, 3]), "calibrated on validation", scores, 2.0, near)


def test_neighbours_and_suspicions_stand_beside_a_mistake(tmp_path: Path) -> None:
    predictions = made([0, 1], [[0.3, 0.7], [0.52, 0.48]])
    around = beside([1, 1, 0, 1], [[0, 1, 0], [0, 1, 1]])
    files = write_gallery(tmp_path, grey, predictions, beside=around)
    html = files.html.read_text(encoding="utf-8")
    assert "calibrated on validation" in html
    assert html.count('alt="training image w, labelled b&lt;i&gt;"') == 3
    with files.csv.open(encoding="utf-8", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert (first["nearest_1"], first["nearest_1_label"]) == ("w", "b<i>")
    assert float(first["nearest_1_distance"]) == 0.25
    assert "all 3 nearest training images are 'b<i>'" in first["suspected"]
    assert "unknown-input score 5, threshold 2" in first["suspected"]
    assert (first["in_distribution"], second["in_distribution"]) == ("no", "yes")
    assert "the same picture also as 'b<i>': w" in second["suspected"]
    assert "nearly undecided: 0.520 against 0.480" in second["suspected"]


def test_a_copy_with_another_label_is_named(tmp_path: Path) -> None:
    predictions = made([1, 0], [[0.3, 0.7], [0.1, 0.9]])
    files = write_gallery(
        tmp_path, grey, predictions, beside=beside([1, 1, 1, 0], [[1, 1, 1], [0, 1, 1]])
    )
    said = files.csv.read_text(encoding="utf-8")
    assert "train holds the same picture with another label, as 'b<i>': w" in said


def test_mistakes_can_be_narrowed_to_a_pair_by_style_alone(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    predictions = made([0, 0, 1], [[0.1, 0.9, 0], [0.1, 0.8, 0.1], [0.1, 0.2, 0.7]], names)
    html = write_gallery(tmp_path, grey, predictions).html.read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count('type="radio"') == 3  # all, a → b, b → c
    assert "a → b (2)" in html
    assert html.count('class="tile wrong k0"') == 2
    assert "#show-k1:checked ~ .tiles .tile:not(.k1) { display: none; }" in html
