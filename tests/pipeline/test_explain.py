"""`scanwise explain`: a gallery from validation, a page without requests, and honest refusals."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import scanwise as sw
from scanwise.cli.commands import app
from scanwise.core.errors import ConfigError, ModelError, PartialError, RunError
from scanwise.pipeline.explain import ExplainRequest, explain_to_folder
from scanwise.pipeline.runs import Run
from scanwise.pipeline.verify import verify_run
from scanwise.report.build import build_report


@pytest.fixture(scope="module")
def explained(disc_run, tmp_path_factory):
    """A copy of the run with its gallery: (run, result)."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    shutil.copytree(disc_run.path, folder)
    before = (folder / "test_ledger.csv").read_bytes()
    done = explain_to_folder(ExplainRequest(folder, per_class=6))
    assert (folder / "test_ledger.csv").read_bytes() == before  # no look at test
    return Run.open(folder), done


def test_the_gallery_is_of_validation_images(explained):
    run, done = explained
    document = json.loads((run.path / "explanations" / "explanations.json").read_text())
    assert document == done.document
    assert document["split"] == "val"
    assert document["split_sha256"] == run.metrics["split_sha256"]
    assert (document["method"], document["map_px"]) == ("gradcam", [4, 4])
    assert document["faithfulness"]["n"] == len(document["images"]) >= 12
    right = [each for each in document["images"] if each["right"]]
    assert {each["explained"] for each in right} == set(run.dataset["class_names"])
    assert all(each["true"] == each["predicted"] for each in right)
    for each in document["images"]:
        with Image.open(run.path / "explanations" / each["figure"]) as picture:
            assert each["sample"] in picture.info["Description"]


def test_the_page_needs_nothing_else_and_the_report_links_it(explained):
    run, done = explained
    page = (run.path / "explanations" / "index.html").read_text()
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "<script" not in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == done.document["n"]
    assert all('alt="' in image and 'src="data:image/png' in image for image in images)
    html = run.report.read_text()
    assert 'href="explanations/index.html"' in html
    gain = f"{done.document['faithfulness']['deletion_gain']['value']:+.3f}"
    assert gain in html
    assert gain in page
    assert gain in done.text()


def test_a_report_without_gallery_says_not_measured(copied_run):
    build_report(copied_run.path)
    words = (copied_run.path / "report.md").read_text()
    assert "Maps of what the network looked at: not measured" in words
    assert f"scanwise explain {copied_run.path.name}" in words


def test_edited_numbers_are_found(explained, tmp_path):
    run, _ = explained
    assert not verify_run(run.path).mismatches
    folder = tmp_path / "edited"
    shutil.copytree(run.path, folder)
    file = folder / "explanations" / "explanations.json"
    document = json.loads(file.read_text())
    document["images"][0]["deletion"] -= 0.2
    first = document["images"][1]["probabilities"]
    first[next(iter(first))] += 0.1
    file.write_text(json.dumps(document))
    found = [bad.where for bad in verify_run(folder).mismatches]
    assert any(where.startswith("explanations.faithfulness.deletion") for where in found)
    assert any(where.startswith("explanations.images.1.probabilities") for where in found)


def test_given_images_are_too_few_and_bad_files_are_told(disc_run, discs, tmp_path):
    pixels = np.load(discs)["test_images"][:2]
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "2.png").write_text("no image")
    request = ExplainRequest(disc_run.bundle, (tmp_path,), output=tmp_path / "out")
    done = explain_to_folder(request)
    with pytest.raises(PartialError, match="1 of 3 files"):
        done.raise_if_partial()
    assert done.document["faithfulness"]["verdict"] == "too few to judge"
    assert [each["status"] for each in done.document["images"]] == ["ok", "ok", "error"]
    expected = sw.Bundle.from_pretrained(disc_run.bundle).predict(pixels).probabilities
    said = [list(each["probabilities"].values()) for each in done.document["images"][:2]]
    np.testing.assert_allclose(said, expected, atol=1e-6)
    with pytest.raises(RunError, match="--force"):
        explain_to_folder(request)


def test_an_untrained_network_is_watermarked(discs, tmp_path):
    run = sw.train(
        discs, model="small_resnet:8", epochs=1, lr=1e-7, seed=1, output=str(tmp_path / "run")
    )
    done = explain_to_folder(ExplainRequest(run.path, per_class=5))
    facts = done.document["faithfulness"]
    assert facts["verdict"] == "not faithful"
    assert any("no skill" in reason for reason in facts["reasons"])
    page = (run.path / "explanations" / "index.html").read_text()
    assert "Not faithful" in page
    assert "Not faithful" in run.report.read_text()


def test_bad_requests_write_nothing(disc_run, tmp_path):
    out = tmp_path / "out"
    for request, error, words in (
        (ExplainRequest(disc_run.path, method="cam", output=out), ConfigError, "method='cam'"),
        (ExplainRequest(disc_run.path, class_name="x", output=out), ConfigError, "class='x'"),
        (ExplainRequest(disc_run.path, per_class=0, output=out), ConfigError, "at least 1"),
        (ExplainRequest(disc_run.bundle, output=out), RunError, "name the images"),
        (ExplainRequest(tmp_path, (tmp_path,), output=out), RunError, "no bundle"),
    ):
        with pytest.raises(error, match=words):
            explain_to_folder(request)
    assert not out.exists()
    assert not (disc_run.path / "explanations").exists()


def test_mlp_by_the_command(discs, tmp_path):
    run = sw.train(discs, model="mlp:16", epochs=2, seed=1, output=str(tmp_path / "run"))
    refused = CliRunner().invoke(app, ["explain", str(run.path), "--method", "gradcam"])
    assert isinstance(refused.exception, ModelError)
    assert "no convolutional layer" in str(refused.exception)
    done = CliRunner().invoke(app, ["explain", str(run.path), "-n", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["method"] == "occlusion"
