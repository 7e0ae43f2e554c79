"""The .pt2 file: the same answers, no pickle in it, and none is ever opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scanwise.core.errors import IntegrityError, ModelError
from scanwise.deploy.bundle import Bundle, BundleConfig
from scanwise.deploy.onnx_bundle import OnnxBundle
from scanwise.deploy.onnx_export import metadata_of
from scanwise.deploy.serving_graph import ServingGraph
from scanwise.deploy.torch_export import check_no_pickle, open_program, write_program


@pytest.fixture(scope="module")
def written(disc_run, tmp_path_factory) -> tuple[Bundle, Path]:
    bundle = Bundle.from_pretrained(disc_run.path)
    graph = ServingGraph(bundle)
    path = tmp_path_factory.mktemp("torch") / "model.pt2"
    write_program(graph, path, metadata_of(bundle, graph))
    return bundle, path


def test_the_program_answers_as_the_bundle_and_is_never_unpickled(
    written, discs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, path = written

    def forbidden(*given, **named):
        raise AssertionError("something was unpickled")

    monkeypatch.setattr("torch.load", forbidden)
    monkeypatch.setattr("pickle.loads", forbidden)
    graph = ServingGraph(bundle)
    opened = OnnxBundle.from_metadata(metadata_of(bundle, graph), open_program(path), path.name)
    images = np.load(discs)["test_images"]
    for n in (1, 30):
        first, second = opened.predict(images[:n]), bundle.predict(images[:n])
        np.testing.assert_allclose(first.probabilities, second.probabilities, rtol=0, atol=1e-5)
        assert first.predicted == second.predicted
        assert first.in_distribution == second.in_distribution


def test_the_description_is_in_the_archive(written) -> None:
    bundle, path = written
    texts = dict.fromkeys(("config.json", "preprocess.json", "MODEL_CARD.md"), "")
    torch.export.load(path, extra_files=texts)
    assert bundle.class_names[1] in texts["config.json"]
    assert texts["MODEL_CARD.md"] == bundle.model_card


def test_an_archive_with_a_pickle_is_not_opened(written, tmp_path: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return x * 2

    program = torch.export.export(Doubled(), (torch.ones(2),))
    torch.export.save(program, tmp_path / "foreign.pt2")  # its example inputs are pickled
    with pytest.raises(IntegrityError, match="would be unpickled"):
        open_program(tmp_path / "foreign.pt2")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    for name in ("weights", "text"):
        with pytest.raises(IntegrityError):
            check_no_pickle(tmp_path / f"{name}.pt2")
    check_no_pickle(written[1])


def test_a_network_that_torch_can_not_export_is_named(disc_run, tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images):
            return images[:, 0, :2, 0] * float(images.sum())  # a number read out of a tensor

    preprocessing = Bundle.from_pretrained(disc_run.path).preprocessing
    config = BundleConfig("custom:Odd", "multiclass", ("a", "b"), (16, 16), 1)
    graph = ServingGraph(Bundle(Odd(), preprocessing, config))
    with pytest.raises(ModelError, match="torch can't export this network"):
        write_program(graph, tmp_path / "model.pt2", {})
