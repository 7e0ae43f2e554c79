"""Test-time views in a run: what they bring is measured, recomputable, and the same everywhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import scanwise as sw
from scanwise.core.config import TrainConfig, make_config
from scanwise.core.errors import ConfigError
from scanwise.deploy.bundle import Bundle
from scanwise.deploy.explain import explain_images
from scanwise.deploy.onnx_export import onnx_bytes
from scanwise.deploy.opening import open_model
from scanwise.metrics.predictions import read_predictions
from scanwise.models.parts import set_views
from scanwise.pipeline.plan import DataFacts, make_plan
from scanwise.pipeline.run_removal import check_removable
from scanwise.pipeline.runs import Run
from scanwise.pipeline.train import train
from scanwise.pipeline.verify import verify_run

DATA = "demo:cells?n=240&slides=40&size=24"
FACTS = DataFacts(n_images=240, n_train=168, smallest_class=20, from_files=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("views") / "run"
    said = {"data": DATA, "preset": "quick", "epochs": 2, "tta": "flip+shift"}
    said["output"] = str(output)
    return train(make_config(said))


def test_the_gain_is_that_over_one_view_and_follows_from_the_files(run: Run) -> None:
    stated = run.metrics["tta"]
    assert (stated["views"], stated["n_views"]) == ("flip+shift", 10)
    both = [
        read_predictions(run.path / name).of_split("test")
        for name in ("predictions.csv", "one_view.csv")
    ]
    right = [(part.predicted == part.targets).mean() for part in both]
    assert stated["gain"]["test"]["accuracy"]["value"] == pytest.approx(right[0] - right[1])
    assert not np.allclose(both[0].probabilities, both[1].probabilities)
    report = (run.path / "report.html").read_text(encoding="utf-8")
    assert "mean over 10 views of the image (flip+shift)" in report
    assert not verify_run(run.path).mismatches
    assert len(run.test_looks()) == 1
    assert check_removable([run.path])  # one_view.csv is known as a part of the run


def test_a_changed_answer_to_one_view_is_found(run: Run) -> None:
    file = run.path / "one_view.csv"
    before = file.read_text(encoding="utf-8")
    rows = list(csv.reader(before.splitlines()))
    column = next(i for i, name in enumerate(rows[0]) if name.startswith("prob_"))
    for row in rows[1:]:  # whatever was said, now it is the first class
        row[column:] = ["1.0", *["0.0"] * (len(row) - column - 1)]
    try:
        file.write_text("\n".join(",".join(row) for row in rows) + "\n", encoding="utf-8")
        found = {bad.where for bad in verify_run(run.path).mismatches}
        assert any(where.startswith("tta.gain.test") for where in found)
    finally:
        file.write_text(before, encoding="utf-8")


def test_the_bundle_answers_by_all_views_wherever_it_is_opened(run: Run, tmp_path: Path) -> None:
    dataset = sw.load(DATA)
    bundle = Bundle.from_pretrained(run.path)
    rows = np.arange(12)
    given = bundle.predict(dataset.images[rows])
    part = read_predictions(run.path / "predictions.csv")
    at = {name: row for row, name in enumerate(part.sample)}
    shared = [row for row in range(len(dataset)) if dataset.sample_ids[row] in at][:20]
    again = bundle.predict(dataset.images[shared]).probabilities
    stated = part.probabilities[[at[dataset.sample_ids[row]] for row in shared]]
    assert again == pytest.approx(stated, abs=1e-6)
    file = tmp_path / "network.onnx"
    file.write_bytes(onnx_bytes(bundle))
    in_onnx = open_model(file).predict(dataset.images[rows])
    assert in_onnx.probabilities == pytest.approx(given.probabilities, abs=1e-5)
    assert in_onnx.predicted == given.predicted
    assert in_onnx.in_distribution == given.in_distribution
    set_views(bundle.model, "none")
    alone = bundle.predict(dataset.images[rows]).probabilities
    assert not np.allclose(alone, given.probabilities, atol=1e-4)


def test_a_map_says_that_it_is_of_the_image_alone(run: Run) -> None:
    bundle = Bundle.from_pretrained(run.path)
    images = sw.load(DATA).images[:2]
    found = explain_images(bundle, images, method="gradcam")
    assert "mean over several views" in " ".join(found.way.notes)
    assert found.probabilities == pytest.approx(bundle.predict(images).probabilities, abs=1e-6)


def test_the_plan_chooses_views_that_go_with_network_and_mirroring() -> None:
    def views(facts: DataFacts = FACTS, **said: object) -> str | None:
        said = {"preset": "best"} | said
        return make_plan(TrainConfig(**said), facts)[0].tta  # type: ignore[arg-type]

    assert views(preset=None) == views(preset="quick") == "none"
    assert views() == "flip+shift"
    assert views(flip=False) == "shift"
    assert views(augment="none") == "flip+shift"  # a comparison of it changes nothing else
    assert views(DataFacts(240, 168, 20, False, mirrors=False)) == "shift"
    assert views(DataFacts(240, 168, 20, False, mirrors=False), flip=True) == "flip+shift"
    assert views(model="mlp") == "none"
    assert views(DataFacts(240, 168, 20, False, own_model=True)) == "none"
    assert views(DataFacts(240, 168, 20, False, pretrained=True)) == "none"
    assert views(preset="reference") == "none"
    assert views(tta="flip") == views(preset=None, tta="flip") == "flip"


@pytest.mark.parametrize(
    ("said", "facts", "words"),
    [
        ({"model": "mlp:8"}, FACTS, "mlp:8"),
        ({"model": "hf:x"}, DataFacts(240, 168, 20, True, pretrained=True), "a pretrained network"),
        ({}, DataFacts(240, 168, 20, True, own_model=True), "a network of your own"),
    ],
)
def test_views_that_a_network_can_not_average_are_refused(
    said: dict[str, str], facts: DataFacts, words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"tta=flip .*{words}; leave --tta out"):
        make_plan(TrainConfig(tta="flip", **said), facts)  # type: ignore[arg-type]


def test_quick_is_smaller_and_shorter_than_default() -> None:
    facts = DataFacts(10_000, 7_000, 100, False)
    quick, default, best = (
        make_plan(TrainConfig(preset=name), facts)[0]  # type: ignore[arg-type]
        for name in ("quick", "default", "best")
    )
    assert (quick.model, quick.epochs) == ("small_resnet:16", 6)
    assert (default.model, default.epochs) == ("small_resnet:32", 22)
    assert best.model_copy(update={"preset": "default", "tta": "none"}) == default
