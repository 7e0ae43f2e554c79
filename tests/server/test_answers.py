"""What the service answers: the bundle's own numbers, from any number of clients at once."""

from __future__ import annotations

import asyncio
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image

import scanwise as sw
from scanwise.core.errors import ConfigError, IntegrityError, ModelError, RunError
from scanwise.server.models import load_model, load_models

from .conftest import huge_png, png, post, serving


@pytest.fixture(scope="module")
def expected(disc_run, disc_files, tmp_path_factory):
    """What the bundle says of the same files."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for place, data in enumerate(disc_files):
        paths.append(folder / f"{place}.png")
        paths[-1].write_bytes(data)
    return sw.Bundle.from_pretrained(disc_run.path).predict(paths)


def assert_same(said: dict, answer) -> None:
    assert said["predicted"] == answer.predicted
    assert said["probability"] == pytest.approx(answer.probability, abs=1e-6)
    assert said["probabilities"] == pytest.approx(dict(answer.probabilities), abs=1e-6)
    assert said["in_distribution"] == answer.in_distribution
    assert said["unknown_score"] == pytest.approx(answer.unknown_score, rel=1e-5)
    assert said["decision"] == answer.decision
    sets = None if answer.prediction_set is None else list(answer.prediction_set)
    assert said["prediction_set"] == sets


def test_an_answer_is_the_bundles(client, disc_files, expected, disc_model):
    said = post(client, disc_files[3]).json()
    assert_same(said, expected.answer(3))
    assert said["model"] == {"id": "discs", "sha256": disc_model.sha256}
    assert said["notice"] == "Research software, not a medical device."
    assert said["timing"]["batch_size"] == 1


def test_a_batch_keeps_its_order_and_a_bad_file_its_row(client, disc_files, expected):
    files = [*disc_files[:3], b"not an image", disc_files[3]]
    form = [("files", (f"{place}.png", data)) for place, data in enumerate(files)]
    said = client.post("/predict/batch", files=form).json()
    assert (said["num_ok"], said["num_errors"]) == (4, 1)
    rows = said["results"]
    assert [row["name"] for row in rows] == [f"{place}.png" for place in range(5)]
    assert rows[3]["code"] == 415
    assert rows[3]["prediction"] is None
    for row, place in zip([*rows[:3], rows[4]], range(4), strict=True):
        assert_same(row["prediction"], expected.answer(place))
    ids = {row["prediction"]["request_id"] for row in rows if row["status"] == "ok"}
    assert len(ids) == 4


def test_64_clients_lose_no_answer_and_mix_none(client, disc_files, expected):
    sizes = []

    async def one(http: httpx.AsyncClient, place: int) -> None:
        for turn in range(6):
            row = (place * 7 + turn * 13) % len(disc_files)
            answer = await http.post("/predict", files={"file": ("x.png", disc_files[row])})
            assert answer.status_code == 200
            assert_same(answer.json(), expected.answer(row))
            sizes.append(answer.json()["timing"]["batch_size"])

    async def all_of_them() -> None:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=60) as http:
            await asyncio.gather(*(one(http, place) for place in range(64)))

    asyncio.run(all_of_them())
    assert len(sizes) == 64 * 6
    assert max(sizes) > 4  # they were computed together


def test_topk(client, disc_files):
    said = post(client, disc_files[1], topk=1).json()
    assert list(said["probabilities"]) == [said["predicted"]]
    assert post(client, disc_files[1], topk=0).status_code == 422


def test_noise_is_abstained_from(client, rng):
    said = post(client, png(rng.integers(0, 256, (16, 16)).astype(np.uint8))).json()
    assert said["in_distribution"] is False
    assert said["decision"] == "abstain"


@pytest.mark.slow
def test_a_chest_image_is_unknown_to_a_model_of_skin(shared, tmp_path):
    """The reference server answered a chest X-ray with a name of a skin disease."""
    derma = np.load(shared / "data" / "medmnist" / "dermamnist.npz")
    small = {
        f"{split}_{kind}": derma[f"{split}_{kind}"][:n]
        for split, n in (("train", 600), ("val", 120), ("test", 60))
        for kind in ("images", "labels")
    }
    np.savez(tmp_path / "skin.npz", **small)
    run = sw.train(
        tmp_path / "skin.npz", model="small_resnet:8", epochs=2, seed=1, report=False,
        augment="none", output=str(tmp_path / "run"), accept_leak=True,
    )  # fmt: skip
    chest = np.load(shared / "data" / "partial" / "chestmnist_subset1000.npz")
    images = chest[next(key for key in chest.files if key.endswith("images"))][:20]
    # A grey X-ray as RGB, as a viewer's screenshot is: a form that the network can take.
    files = [png(np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)) for image in images]
    with serving([load_model("derma", run.path)]) as http:
        form = [("files", ("x.png", data)) for data in files]
        rows = http.post("/predict/batch", files=form).json()["results"]
        own = [("files", ("x.png", png(image))) for image in small["test_images"][:20]]
        skin = http.post("/predict/batch", files=own).json()["results"]
    abstained = [row["prediction"]["decision"] == "abstain" for row in rows]
    assert sum(abstained) >= 19
    assert all(row["prediction"]["in_distribution"] is False for row in rows) == all(abstained)
    assert sum(row["prediction"]["decision"] == "abstain" for row in skin) <= 6


def test_explanations_are_pictures_with_the_answer_beside(client, disc_files, expected):
    for answer in (
        post(client, disc_files[1], explain="gradcam"),
        client.post("/explain", files={"file": ("x.png", disc_files[1])}),
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.width > 300
        assert_same(json.loads(answer.headers["x-prediction"]), expected.answer(1))


def test_an_explanation_of_no_class_is_refused(client, disc_files):
    answer = client.post("/explain?class=nothing", files={"file": ("x.png", disc_files[1])})
    assert answer.status_code == 422
    assert answer.json()["error"] == "unknown_class"


def test_several_models(disc_model, disc_run, disc_files):
    other = load_model("other", disc_run.bundle)
    with serving([disc_model, other]) as http:
        assert http.get("/health").json()["num_models"] == 2
        names = [each["id"] for each in http.get("/models").json()["models"]]
        assert names == ["discs", "other"]
        unsaid = post(http, disc_files[0])
        assert (unsaid.status_code, unsaid.json()["error"]) == (400, "which_model")
        assert "discs, other" in unsaid.json()["fix"]
        assert post(http, disc_files[0], model="other").json()["model"]["id"] == "other"
        assert post(http, disc_files[0], model="third").status_code == 404


def test_without_a_model_nothing_is_answered(disc_model, disc_files):
    with serving([]) as http:
        for answer in (post(http, disc_files[0]), http.get("/health")):
            assert (answer.status_code, answer.json()["error"]) == (503, "no_model")
        http.app.state.service.add(disc_model)
        assert post(http, disc_files[0]).status_code == 200


def test_a_bundle_with_a_flipped_byte_is_not_served(copied_run):
    file = copied_run.bundle / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        load_models([str(copied_run.path)])


def test_one_bad_model_stops_all(disc_run, tmp_path):
    with pytest.raises(RunError, match="no bundle"):
        load_models([str(disc_run.path), str(tmp_path)])
    with pytest.raises(ConfigError, match="two models are named"):
        load_models([str(disc_run.path), str(disc_run.bundle)])


def test_a_model_without_numbers_is_not_served(copied_run):
    import torch

    bundle = sw.Bundle.from_pretrained(copied_run.path)
    with torch.no_grad():
        next(bundle.model.parameters()).fill_(float("nan"))
    bundle.save_pretrained(copied_run.bundle)
    with pytest.raises(ModelError, match="not finite"):
        load_models([str(copied_run.path)])


def test_the_docs_load_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert page.status_code == 200
    for word in (
        "/predict/batch",
        "in_distribution",
        "not a medical device",
        "multipart/form-data",
    ):
        assert word in page.text
    assert "<script" not in page.text
    assert "//" not in page.text.replace("http://127.0.0.1:8000", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_metrics_count(client, disc_files):
    post(client, disc_files[0])
    text = client.get("/metrics").text
    assert 'scanwise_images_total{model="discs",outcome="ok"}' in text
    assert 'scanwise_requests_total{method="POST",route="/predict",status="200"}' in text
    assert 'scanwise_images_in_progress{model="discs"} 0.0' in text


def test_a_huge_picture_costs_nothing(client):
    data = huge_png()
    assert len(data) < 200_000
    said = post(client, data)
    assert said.status_code == 422
    assert "10000x10000 px" in said.json()["detail"]
    assert post(client, data).elapsed.total_seconds() < 2
