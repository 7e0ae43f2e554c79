"""The ONNX file: for every network the bundle's answers, all in one file, and no damaged file."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import tifffile
import torch
from PIL import Image

from scanwise.core.errors import DataError, IntegrityError, ModelError, RunError
from scanwise.deploy.bundle import Bundle, BundleConfig, random_network
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.deploy.onnx_bundle import OnnxBundle
from scanwise.deploy.onnx_export import metadata_of, onnx_bytes, sealed
from scanwise.deploy.opening import open_model
from scanwise.deploy.serving_graph import ServingGraph
from scanwise.models.backbones import open_backbone, transfer_net, with_levels
from scanwise.models.build import MODELS
from scanwise.prepare.preprocessing import Intensity, Preprocessing

CASES = {
    "mlp": ("mlp:16", {}),
    "mlp, gelu": ("mlp:16", {"activation": "gelu", "channels": 3}),
    "simple_cnn": ("simple_cnn", {"channels": 3}),
    "advanced_cnn": ("advanced_cnn:residual,se", {"channels": 3, "task": "ordinal"}),
    "small_resnet": ("small_resnet:8", {"size": 37, "head": "mlp:8"}),
    "multi-label": ("small_resnet:8", {"task": "multilabel"}),
    "sigmoids": ("small_resnet:8", {"output_activation": "sigmoid"}),
    "resnet18": ("resnet18", {"size": 48}),
    "resnet50": ("resnet50", {"size": 16}),
    "densenet121": ("densenet121", {"size": 16}),
    "efficientnet_b0": ("efficientnet_b0", {"channels": 3, "size": 32}),
}


def settled(network: torch.nn.Module, images: np.ndarray) -> torch.nn.Module:
    """BatchNorm statistics as after training: an untrained network would agree with anything."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean
    with torch.no_grad():
        network.train()(torch.from_numpy(images).permute(0, 3, 1, 2) / 51 - 2)
    return network.eval()


def plain(size: int, channels: int, **changes) -> Preprocessing:
    values = {
        "size_px": (size, size), "channels": channels, "source_channels": channels,
        "mean": (0.4,) * channels, "std": (0.2,) * channels,
    }  # fmt: skip
    return Preprocessing(**(values | changes))


def bundle_of(spec: str, *, size=28, channels=1, preprocessing=None, **settings) -> Bundle:
    config = BundleConfig(
        spec, settings.pop("task", "multiclass"), ("a", "b", "c"), (size, size), channels,
        temperature=1.7, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    images = shades(8, (size, size, channels))
    network = settled(random_network(config), images)
    return Bundle(network, preprocessing or plain(size, channels), config)


def shades(n: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise of n brightnesses, uint8 (n, *shape)."""
    rng = np.random.default_rng(1)
    return (rng.integers(0, 256, (n, *shape)) * np.linspace(0.2, 1, n)[:, None, None, None]).astype(
        np.uint8
    )


def noise(bundle: Bundle, n: int = 5) -> np.ndarray:
    return shades(n, (*bundle.config.size_px, bundle.config.channels))


def reopened(bundle: Bundle, folder: Path) -> OnnxBundle:
    path = folder / "model.onnx"
    path.write_bytes(onnx_bytes(bundle))
    opened = open_model(path)
    assert isinstance(opened, OnnxBundle)
    return opened


def assert_same_answers(first, second, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(first.probabilities, second.probabilities, rtol=0, atol=atol)
    np.testing.assert_allclose(first.unknown_scores, second.unknown_scores, rtol=1e-3)
    for name in ("predicted", "reasons", "in_distribution", "above_threshold", "sets"):
        assert getattr(first, name) == getattr(second, name), name


def test_every_network_is_tried() -> None:
    assert {spec.partition(":")[0] for spec, _ in CASES.values()} == set(MODELS)


@pytest.mark.parametrize("case", CASES)
def test_every_network_answers_as_its_bundle(case: str, tmp_path: Path) -> None:
    spec, settings = CASES[case]
    bundle = bundle_of(spec, **settings)
    opened = reopened(bundle, tmp_path)
    images = noise(bundle)
    assert (
        bundle.predict(images).probabilities.std(axis=0).max() > 1e-3
    )  # there is something to miss
    for n in (1, 5):  # the batch is free
        assert_same_answers(opened.predict(images[:n]), bundle.predict(images[:n]))
    features = bundle.outputs_of(images).features
    _, exported = opened._run([images])
    np.testing.assert_allclose(exported, features, rtol=1e-4, atol=1e-4)
    assert opened.num_parameters() == bundle.num_parameters()
    assert opened.input_text() == bundle.input_text()


def test_certain_sigmoids_stay_numbers(tmp_path: Path) -> None:
    bundle = bundle_of("mlp:16", output_activation="sigmoid")
    with torch.no_grad():
        bundle.model.head.weight.mul_(30)
        bundle.model.head.bias.fill_(-400)
    images = noise(bundle, 20)
    assert bundle.logits_of(images).max(axis=1).min() < -110  # where log(sigmoid(x)) is -inf
    assert_same_answers(reopened(bundle, tmp_path).predict(images), bundle.predict(images), 1e-4)


def test_a_network_without_features_has_none(tmp_path: Path) -> None:
    class Summed(torch.nn.Module):
        def forward(self, images):
            return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], dim=1)

    config = BundleConfig("custom:Summed", "multiclass", ("a", "b"), (28, 28), 1)
    bundle = Bundle(Summed(), plain(28, 1), config)
    opened = reopened(bundle, tmp_path)  # a bundle could not be opened without the class
    assert ServingGraph(bundle).output_names == ("probabilities",)
    assert_same_answers(opened.predict(noise(bundle)), bundle.predict(noise(bundle)))


@pytest.mark.parametrize(("levels", "size"), [("last", 32), ("all", 28), ("all", 45)])
def test_pretrained_networks(tiny_hub: Path, levels, size: int, tmp_path: Path) -> None:
    backbone = with_levels(open_backbone(f"hf:{tiny_hub}"), levels)
    torch.manual_seed(2)
    network = transfer_net(backbone, num_outputs=3, dropout=None, head="mlp:8")
    config = BundleConfig(
        "hf:tiny", "multiclass", ("a", "b", "c"), (size, size), 3, backbone=backbone.spec.to_json()
    )
    spec = backbone.spec
    bundle = Bundle(network, plain(size, 3, mean=spec.mean, std=spec.std), config)
    images = noise(bundle)
    assert_same_answers(reopened(bundle, tmp_path).predict(images), bundle.predict(images))


def test_one_file_holds_all(disc_run, tmp_path: Path) -> None:
    bundle = Bundle.from_pretrained(disc_run.path)
    opened = reopened(bundle, tmp_path)
    assert opened.config == bundle.config
    assert opened.preprocessing == bundle.preprocessing
    assert (opened.metrics, opened.model_card) == (bundle.metrics, bundle.model_card)
    assert opened.reference is not None
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert {each.key for each in model.metadata_props} == {
        "scanwise.json", "config.json", "preprocess.json", "metrics.json", "MODEL_CARD.md",
        "reference.safetensors", "scanwise_sha256",
    }  # fmt: skip
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [each.name for each in model.graph.output] == ["probabilities", "features"]
    (given,) = model.graph.input
    sizes = [one.dim_param or one.dim_value for one in given.type.tensor_type.shape.dim]
    assert (given.name, sizes) == ("images", ["batch", 16, 16, 1])
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert list(tmp_path.iterdir()) == [tmp_path / "model.onnx"]
    assert onnx_bytes(bundle) == (tmp_path / "model.onnx").read_bytes()


def test_thresholds_and_sets_go_along(disc_run, discs: Path, tmp_path: Path) -> None:
    bundle = Bundle.from_pretrained(disc_run.path)
    names = bundle.class_names
    bundle.config.thresholds[names[1]] = 0.3
    object.__setattr__(bundle.config, "conformal", {"min_probability": dict.fromkeys(names, 0.25)})
    images = np.load(discs)["test_images"]
    answers = reopened(bundle, tmp_path).predict(images)
    assert_same_answers(answers, bundle.predict(images))
    assert answers.above_threshold is not None
    assert answers.sets is not None
    assert len(set(answers.in_distribution)) == 2  # some were flagged


def save(path: Path, pixels: np.ndarray) -> Path:
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def files_of_many_kinds(folder: Path) -> list[Path]:
    """Formats, sizes, channels and depths, and files that can't be used."""
    rng = np.random.default_rng(5)
    made = []
    for number, (height, width) in enumerate([(16, 16), (40, 23), (9, 70), (120, 90)]):
        grey = cv2.GaussianBlur(rng.integers(0, 256, (height, width), np.uint8), (0, 0), 2)
        colour = np.stack([grey, grey, grey], axis=-1)
        for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp"):
            made.append(save(folder / f"grey{number}{suffix}", grey))
            made.append(save(folder / f"same{number}{suffix}", colour))
        made.append(save(folder / f"deep{number}.png", grey.astype(np.uint16) * 200))
        made.append(save(folder / f"deep{number}.tif", grey.astype(np.uint16) * 200))
        made.append(save(folder / f"float{number}.tif", grey.astype(np.float32) / 300))
        Image.fromarray(grey).convert("P").save(folder / f"palette{number}.png")
        made.append(folder / f"palette{number}.png")
        made.append(save(folder / f"red{number}.png", colour * np.array([1, 0, 0], np.uint8)))
    for name, content in (("empty.png", b""), ("text.png", b"hello"), ("cut.jpg", b"\xff\xd8\xff")):
        (folder / name).write_bytes(content)
        made.append(folder / name)
    return made


def test_files_of_all_kinds_get_the_same_answer(disc_run, tmp_path: Path) -> None:
    trained = Bundle.from_pretrained(disc_run.path)
    deep = bundle_of(
        "small_resnet:8",
        size=20,
        channels=3,
        preprocessing=plain(
            20, 3, dtype="uint16", fit="pad", contrast={"kind": "clahe"},
            intensity=Intensity(kind="percentile", low=(1.0,) * 3, high=(99.0,) * 3, reason="test"),
        ),
    )  # fmt: skip
    files = files_of_many_kinds(tmp_path)
    for number, bundle in enumerate((trained, deep)):
        folder = tmp_path / str(number)
        folder.mkdir()
        opened = reopened(bundle, folder)
        answers = bundle.predict(files)
        assert 20 < answers.reasons.count("") < len(files)
        assert_same_answers(opened.predict(files), answers)
        of_bytes = [opened.try_prepare(file.read_bytes()) for file in files]
        assert_same_answers(
            opened.predict_prepared([str(file) for file in files], of_bytes), answers
        )


@pytest.fixture(scope="module")
def members(disc_run) -> list[Bundle]:
    first = Bundle.from_pretrained(disc_run.path)
    others = []
    for changes in ({"mean": (0.2,), "std": (0.3,)}, {"contrast": {"kind": "clahe"}}):
        config = BundleConfig("mlp:8", "multiclass", first.class_names, (16, 16), 1)
        torch.manual_seed(len(others))
        others.append(Bundle(random_network(config), plain(16, 1, **changes), config))
    return [first, *others]


@pytest.mark.parametrize(("count", "inputs"), [(2, ["images"]), (3, ["images_0", "images_1"])])
def test_ensembles(members, count: int, inputs: list[str], discs: Path, tmp_path: Path) -> None:
    chosen = [Member(each, 1 / count, f"run{i}") for i, each in enumerate(members[:count])]
    bundle = EnsembleBundle(chosen)
    opened = reopened(bundle, tmp_path)
    assert [each.name for each in opened.inputs] == inputs
    images = np.load(discs)["test_images"]
    assert_same_answers(opened.predict(images), bundle.predict(images))
    assert opened.predict(images).in_distribution == members[0].predict(images).in_distribution
    files = files_of_many_kinds(tmp_path)[:12]
    assert_same_answers(opened.predict(files), bundle.predict(files))


@pytest.fixture(scope="module")
def written(disc_run) -> bytes:
    return onnx_bytes(Bundle.from_pretrained(disc_run.path))


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.97, -100, -70, -1])
def test_a_flipped_byte_is_refused(written: bytes, place: float, tmp_path: Path) -> None:
    data = bytearray(written)
    data[int(place * len(data)) if 0 <= place < 1 else int(place)] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.onnx is not the file that was exported"):
        open_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("keep", [0.999, 0.99])
def test_a_file_cut_off_is_refused(written: bytes, keep: float, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(written[: int(keep * len(written))])
    with pytest.raises(IntegrityError, match="not the file"):
        open_model(tmp_path / "model.onnx")


def test_other_files_are_refused_by_name(disc_run, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:])), foreign
    )
    (tmp_path / "empty.onnx").touch()
    for name in ("foreign", "empty"):
        with pytest.raises(ModelError, match=f"{name}.onnx was not written by `scanwise export`"):
            open_model(tmp_path / f"{name}.onnx")
    with pytest.raises(RunError, match="No such file"):
        open_model(tmp_path / "absent.onnx")
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(RunError, match="may unpickle"):
        open_model(tmp_path / "model.pt2")
    with pytest.raises(RunError, match="no bundle"):
        open_model(tmp_path)


def test_a_newer_format_and_a_broken_description_are_refused(disc_run, tmp_path: Path) -> None:
    bundle = Bundle.from_pretrained(disc_run.path)
    graph = ServingGraph(bundle)
    told = metadata_of(bundle, graph)
    newer = told | {"scanwise.json": json.dumps({"format_version": 9, "num_parameters": 1})}
    lacking = {name: text for name, text in told.items() if name != "config.json"}
    broken = told | {"reference.safetensors": "AAAA"}
    for metadata, words in (
        (newer, "version 9"),
        (lacking, r"config\.json"),
        (broken, "reference"),
    ):
        path = tmp_path / "model.onnx"
        path.write_bytes(sealed(onnx_model_without_metadata(onnx_bytes(bundle)), metadata))
        with pytest.raises(IntegrityError, match=words):
            open_model(path)


def onnx_model_without_metadata(data: bytes) -> bytes:
    model = onnx.load_from_string(data)
    del model.metadata_props[:]
    return model.SerializeToString()


def test_arrays_are_taken_as_by_the_bundle(disc_run, discs: Path, tmp_path: Path) -> None:
    opened = reopened(Bundle.from_pretrained(disc_run.path), tmp_path)
    images = np.load(discs)["test_images"][:3]
    (pixels,) = opened.prepare(images[1])
    np.testing.assert_array_equal(pixels[..., 0], images[1])
    assert len(opened.predict(images[:0])) == 0
    for wrong in (np.zeros((2, 20, 20), np.uint8), np.zeros((16, 16), np.uint8), images / 255):
        with pytest.raises(DataError, match=r"images (are|must)"):
            opened.predict(wrong)


def test_what_a_graph_can_not_do_is_said(members, disc_run, tmp_path: Path) -> None:
    opened = reopened(Bundle.from_pretrained(disc_run.path), tmp_path)
    with pytest.raises(ModelError, match="no layers or gradients"):
        opened.model  # noqa: B018
    with pytest.raises(ModelError, match="no logits"):
        opened.logits_of(noise(opened))
    with pytest.raises(ModelError, match="can't become a bundle"):
        opened.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_weights_over_two_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scanwise.deploy.onnx_export.MAX_BYTES", 10_000)
    with pytest.raises(ModelError, match="at most 2 GB; use --format torch"):
        onnx_bytes(bundle_of("mlp:16"))


def test_a_network_that_can_not_be_exported_is_named(capfd) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images):
            return torch.linalg.svdvals(images[:, 0])[:, :2]

    config = BundleConfig("custom:Odd", "multiclass", ("a", "b"), (28, 28), 1)
    with pytest.raises(ModelError, match="can't be exported as ONNX"):
        onnx_bytes(Bundle(Odd(), plain(28, 1), config))
    assert capfd.readouterr().out == ""
