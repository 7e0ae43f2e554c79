"""Maps must find a planted patch, be judged by what they do, and say what they are."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scanwise.core.errors import ConfigError, DataError, ModelError
from scanwise.deploy.bundle import Bundle, BundleConfig
from scanwise.deploy.cam_layer import find_layer
from scanwise.deploy.ensemble import EnsembleBundle, Member
from scanwise.deploy.explain import Way, explain, explain_images, find_way
from scanwise.deploy.perturb import score_maps, with_random_weights
from scanwise.deploy.subject import subject_of_files, subject_of_rows
from scanwise.metrics.faithfulness import FAITHFUL, NOT_FAITHFUL, judge_maps
from scanwise.models.build import build_model
from scanwise.prepare.preprocessing import Preprocessing

SIZE, PATCH = 24, 8


def planted(n: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (n, 24, 24, c); only stripes in the upper left 8×8 patch tell the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 180, (n, SIZE, SIZE, channels))
    targets = np.arange(n) % 2
    stripes = np.where(np.arange(PATCH) % 4 < 2, 70, -50)
    images[targets == 1, :PATCH, :PATCH] += stripes[:, None, None]
    images[targets == 0, :PATCH, :PATCH] += stripes[None, :, None]
    return images.clip(0, 255).astype(np.uint8), targets


def bundle_of(network: nn.Module, spec: str, channels: int, task: str = "multiclass") -> Bundle:
    preprocessing = Preprocessing(
        size_px=(SIZE, SIZE),
        channels=channels,
        source_channels=channels,
        mean=(0.47,) * channels,
        std=(0.15,) * channels,
    )
    config = BundleConfig(spec, task, ("down", "across"), (SIZE, SIZE), channels)
    return Bundle(network, preprocessing, config)


def trained(spec: str, channels: int = 1, task: str = "multiclass") -> Bundle:
    """A network that has learned the planted patch, by a loop of a few seconds."""
    torch.manual_seed(3)
    network = build_model(spec, num_outputs=2, channels=channels, size_px=(SIZE, SIZE), dropout=0)
    bundle = bundle_of(network, spec, channels, task)
    images, targets = planted(512, channels, 1)
    inputs = bundle.preprocessing.normalise(torch.from_numpy(images))
    wanted = torch.from_numpy(targets)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for step in range(120):
        rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(step))[:64]
        if task == "multilabel":
            labels = F.one_hot(wanted[rows], 2).float()
            loss = F.binary_cross_entropy_with_logits(network(inputs[rows]), labels)
        else:
            loss = F.cross_entropy(network(inputs[rows]), wanted[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    network.eval()
    return bundle


@pytest.fixture(scope="module")
def cnn() -> Bundle:
    return trained("small_resnet:8")


def share_in_patch(maps: np.ndarray) -> float:
    """Mass in the patch and the receptive field's rim around it, 11×11 of 24×24 (21 % of it)."""
    return float(maps[:, : PATCH + 3, : PATCH + 3].sum() / maps.sum())


@pytest.mark.parametrize("method", ["gradcam", "occlusion", "integrated-gradients"])
def test_maps_find_the_patch_and_depend_on_what_was_learned(cnn, method):
    images, targets = planted(14, 1, 2)
    subject = subject_of_rows(cnn, images)
    found = explain(subject, find_way(subject, method))
    assert (found.probabilities.argmax(axis=1) == targets).mean() > 0.9
    assert found.maps.shape == (14, SIZE, SIZE)
    assert found.maps.min() >= 0
    assert found.maps.max() == 1
    assert share_in_patch(found.maps) > 0.5
    facts = judge_maps(score_maps(subject, found), [str(i) for i in range(14)])
    assert facts.verdict == FAITHFUL, facts
    assert facts.deletion_gain.low > 0.05
    assert abs(facts.correlation.value) < 0.35


def test_maps_that_point_elsewhere_are_marked(cnn):
    subject = subject_of_rows(cnn, planted(14, 1, 2)[0])
    found = explain(subject, find_way(subject, "gradcam"))
    turned = replace(found, maps=found.maps[:, ::-1, ::-1].copy())
    facts = judge_maps(score_maps(subject, turned), [str(i) for i in range(14)])
    assert facts.verdict == NOT_FAITHFUL
    assert any(reason.startswith("deletion") for reason in facts.reasons)


class Constant(nn.Module):
    """The same answer to every image, through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        nn.init.zeros_(self.conv.weight)

    def forward(self, images):
        return self.conv(images).mean(dim=(2, 3))


def test_a_constant_network_is_marked_and_its_maps_are_empty():
    subject = subject_of_rows(bundle_of(Constant(), "custom:Constant", 1), planted(12, 1, 2)[0])
    found = explain(subject, find_way(subject, "auto"))
    # Its gradient is the same everywhere, so its map is flat or empty: it points nowhere.
    assert np.ptp(found.maps, axis=(1, 2)).max() < 1e-6
    facts = judge_maps(score_maps(subject, found), [str(i) for i in range(12)])
    assert facts.verdict == NOT_FAITHFUL
    assert facts.deletion_gain.value == pytest.approx(0, abs=1e-9)


class OneByOne(nn.Module):
    """A convolution over the whole image: its only map has 1×1 px."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, SIZE)

    def forward(self, images):
        return self.conv(images).flatten(1)


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (OneByOne(), "largest map of its layers has 1×1 px"),
        (nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 2)), "no convolutional layer"),
    ],
)
def test_without_a_map_occlusion_is_used_and_says_why(network, why):
    bundle = bundle_of(network, "custom:net", 1)
    images = planted(2, 1, 2)[0]
    found = explain_images(bundle, images)
    assert found.way.method == "occlusion"
    assert why in found.way.why
    assert found.map_px[0] > 1
    with pytest.raises(ModelError, match=f"{why}.*--method occlusion"):
        explain_images(bundle, images, method="gradcam")


def test_mlp_colour_and_several_labels():
    bundle = trained("mlp:32", channels=3, task="multilabel")
    images = planted(6, 3, 5)[0]
    found = explain_images(bundle, images, class_name="across")
    assert found.way.method == "occlusion"
    assert found.explained.tolist() == [1] * 6
    assert found.maps.shape == (6, SIZE, SIZE)
    assert share_in_patch(found.maps[1::2]) > 0.5


def test_an_ensemble_is_explained_by_the_occlusion_of_its_mean(cnn):
    ensemble = EnsembleBundle([Member(cnn, 0.5, "a"), Member(trained("mlp:32"), 0.5, "b")])
    images = planted(4, 1, 2)[0]
    found = explain_images(ensemble, images)
    np.testing.assert_allclose(found.probabilities, ensemble.probabilities_of(images))
    assert found.way.method == "occlusion"
    assert share_in_patch(found.maps) > 0.5
    with pytest.raises(ModelError, match="members/00"):
        explain_images(ensemble, images, method="gradcam")
    random = with_random_weights(ensemble, 0)
    assert isinstance(random, EnsembleBundle)
    assert not np.allclose(random.probabilities_of(images), found.probabilities)


def test_the_bundle_is_left_as_it_was(cnn):
    images = planted(2, 1, 2)[0]
    before = cnn.probabilities_of(images)
    state = {name: value.clone() for name, value in cnn.model.state_dict().items()}
    subject = subject_of_rows(cnn, images)
    score_maps(subject, explain(subject, find_way(subject, "gradcam")))
    np.testing.assert_array_equal(cnn.probabilities_of(images), before)
    assert all(torch.equal(value, state[name]) for name, value in cnn.model.state_dict().items())
    assert all(p.grad is None for p in cnn.model.parameters())
    assert not any(module._backward_hooks for module in cnn.model.modules())
    assert "torchvision" not in sys.modules


def test_gradcam_is_the_formula(cnn):
    """Against Selvaraju's formula written out: mean gradient a channel, weighted sum, ReLU."""
    images = planted(3, 1, 2)[0]
    subject = subject_of_rows(cnn, images)
    way = find_way(subject, "gradcam")
    found = explain(subject, way, np.array([0, 1, 1]))
    for row, k in enumerate([0, 1, 1]):
        entry = cnn.preprocessing.normalise(torch.from_numpy(images[row : row + 1]))
        kept = {}
        layer = cnn.model.get_submodule(way.layer.name)
        hook = layer.register_forward_hook(lambda m, i, o, kept=kept: kept.update(maps=o))
        logit = cnn.model(entry)[0, k]
        hook.remove()
        (gradient,) = torch.autograd.grad(logit, kept["maps"])
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        small = F.relu((weights * kept["maps"]).sum(dim=1, keepdim=True))
        large = F.interpolate(small, (SIZE, SIZE), mode="bilinear")[0, 0].detach().numpy()
        np.testing.assert_allclose(found.maps[row], large / large.max(), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "size", "name", "px"),
    [
        ("small_resnet:8", 28, "body.2", 7),
        ("simple_cnn", 28, "body.conv3", 7),
        ("advanced_cnn", 28, "body.2.conv2", 7),
        ("advanced_cnn:residual,se", 28, "body.1", 7),  # not a branch of the last block
        ("resnet18", 28, "body.layer3", 7),
        ("resnet50", 28, "body.layer3", 7),
        ("densenet121", 28, "body.transition3.conv", 7),
        ("efficientnet_b0", 28, "body.stage6_1.expand", 7),
        ("small_resnet:8", 16, "body", 4),  # a quarter of the side
        ("resnet18", 64, "body.layer2", 8),
    ],
)
def test_the_layer_that_is_chosen(spec, size, name, px):
    torch.manual_seed(0)
    network = build_model(spec, num_outputs=3, channels=1, size_px=(size, size))
    layer, why = find_layer(network.eval().requires_grad_(False), torch.rand(1, 1, size, size))
    assert layer is not None, why
    assert (layer.name, layer.map_px, layer.whole) == (name, (px, px), True)


def test_tokens_become_a_grid():
    from transformers import ViTConfig, ViTModel

    from scanwise.models.backbones import AllLevels, HubFeatures

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    vit = ViTModel(ViTConfig(num_hidden_layers=2, image_size=32, patch_size=4, **sizes))
    features = HubFeatures(vit).eval()
    network = nn.Sequential(features, nn.Linear(16, 2)).eval()
    layer, _ = find_layer(network.requires_grad_(False), torch.rand(1, 3, 32, 32))
    assert layer.map_px == (8, 8)
    assert layer.num_prefix == 1
    assert layer.whole
    bundle = bundle_of(network, "custom:vit", 3)
    bundle.preprocessing = bundle.preprocessing.model_copy(update={"size_px": (32, 32)})
    found = explain_images(
        bundle, np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    )
    assert found.way.method == "gradcam"
    assert found.map_px == (8, 8)
    several = nn.Sequential(AllLevels(features), nn.Linear(48, 2)).eval()
    assert several(torch.rand(1, 3, 32, 32)).shape == (1, 2)


class TwoLevels(nn.Module):
    """A head on the means of two layers' maps: neither carries the whole answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.beside = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, images):
        deep = self.second(F.relu(self.first(images)))
        levels = [deep.mean(dim=(2, 3)), self.beside(images).relu().mean(dim=(2, 3))]
        return self.head(torch.cat(levels, dim=1))


def test_a_head_that_reads_several_layers_is_occluded():
    torch.manual_seed(0)
    bundle = bundle_of(TwoLevels().eval(), "custom:two", 1)
    subject = subject_of_rows(bundle, planted(2, 1, 2)[0])
    way = find_way(subject, "auto")
    assert way.method == "occlusion"
    assert "several layers" in way.why
    asked = find_way(subject, "gradcam")
    assert not asked.layer.whole
    assert "also depends on other layers" in asked.notes[0]


def test_a_pretrained_network_with_a_head_is_differentiable(tiny_hub):
    from scanwise.models.backbones import open_backbone, transfer_net

    backbone = open_backbone(f"hf:{tiny_hub}")
    network = transfer_net(backbone, num_outputs=2, dropout=None, head="logistic")
    found = explain_images(bundle_of(network, "hf:tiny", 3), planted(2, 3, 2)[0])
    assert found.way.method == "gradcam"
    assert found.way.layer.whole
    assert min(found.map_px) >= 6  # a quarter of 24


def test_bad_requests_say_what_to_do(cnn, tmp_path):
    images = planted(1, 1, 2)[0]
    with pytest.raises(ConfigError, match="did you mean 'gradcam'"):
        explain_images(cnn, images, method="grad-cam")
    with pytest.raises(ConfigError, match="class='up' is unknown"):
        explain_images(cnn, images, class_name="up")
    with pytest.raises(DataError, match="n > 0"):
        explain_images(cnn, images[:0])
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    subject, rows, reasons = subject_of_files(cnn, [bad])
    assert subject is None
    assert not len(rows)
    assert reasons[0]


def test_without_captum_the_pip_line_is_told(cnn, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    subject = subject_of_rows(cnn, planted(1, 1, 2)[0])
    with pytest.raises(ModelError, match=r"pip install 'scanwise\[explain\]'"):
        find_way(subject, "integrated-gradients")
    assert find_way(subject, "occlusion") == Way("occlusion", "asked for")
