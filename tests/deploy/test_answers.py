"""Answers: files, bytes and prepared pixels give the same row; what can't be read keeps its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scanwise.deploy.answers import ABSTAIN, Answer
from scanwise.deploy.opening import open_model


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(path)
        made.append(path)
    made[2].write_bytes(b"no image")
    return made


def test_files_bytes_and_prepared_pixels_give_the_same_answer(disc_run, files) -> None:
    model = open_model(disc_run.path)
    of_files = model.predict(files)
    of_bytes = model.predict_prepared(
        [str(path) for path in files], [model.try_prepare(path.read_bytes()) for path in files]
    )
    np.testing.assert_array_equal(of_files.probabilities, of_bytes.probabilities)
    assert tuple(of_files) == tuple(of_bytes)
    assert [one.ok for one in of_files] == [True, True, False, True]
    bad = of_files.answer(2)
    assert bad.reason
    assert (bad.predicted, bad.decision, bad.probability) == ("", "", None)
    assert bad.probabilities == {}
    good = of_files.answer(0)
    assert good.probability == max(good.probabilities.values())
    assert good.predicted == max(good.probabilities, key=good.probabilities.__getitem__)


def answer(**changes: object) -> Answer:
    values = {
        "sample": "a.png", "reason": "", "predicted": "ill", "probability": 0.7,
        "probabilities": {"ill": 0.7, "well": 0.3}, "above_threshold": None,
        "prediction_set": None, "in_distribution": True, "unknown_score": 1.0,
    }  # fmt: skip
    return Answer(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "decision"),
    [
        ({}, "ill"),
        ({"in_distribution": None}, "ill"),
        ({"in_distribution": False}, ABSTAIN),
        ({"above_threshold": ()}, ""),
        ({"above_threshold": ("well",)}, "well"),
        ({"above_threshold": ("well",), "in_distribution": False}, ABSTAIN),
    ],
)
def test_the_decision(changes: dict[str, object], decision: str) -> None:
    assert answer(**changes).decision == decision
