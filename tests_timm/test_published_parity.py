"""Published weights must give the published outputs: our networks beside torchvision's and timm's.

No weights are downloaded: theirs get random weights and random BatchNorm statistics, ours load
them. Run by `make test-timm`, in an environment that has both libraries.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from scanwise.models.build import build_model
from scanwise.models.published_keys import PUBLISHED_NAMES
from scanwise.models.weights import load_published, read_state

NETWORKS = tuple(PUBLISHED_NAMES)


def theirs(library: str, architecture: str) -> nn.Module:
    """Their network with 1000 classes and random weights, which give sane maps in eval mode."""
    torch.manual_seed(0)
    if library == "timm":
        model = timm.create_model(architecture, pretrained=False)
    else:
        model = getattr(torchvision.models, architecture)(weights=None)
    model.eval()
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        nn.init.uniform_(layer.weight, 0.8, 1.2)
        nn.init.normal_(layer.bias, std=0.1)
        layer.momentum = 1.0
        layer.train()
    with torch.no_grad():
        model(torch.randn(4, 3, 224, 224))  # the statistics of these images
    for layer in norms:
        layer.running_var.mul_(torch.rand_like(layer.running_var) * 0.4 + 0.8)
        layer.running_mean.add_(torch.randn_like(layer.running_mean) * 0.01)
    return model.eval()


def ours(architecture: str, size_px: int = 224, *, published: bool = True) -> nn.Module:
    torch.manual_seed(1)
    return build_model(
        architecture,
        num_outputs=4,
        channels=3,
        size_px=(size_px, size_px),
        published=published,
    ).eval()


def headless(model: nn.Module) -> nn.Module:
    """Their network without its classifier: images to pooled features (b, d)."""
    setattr(model, "fc" if hasattr(model, "fc") else "classifier", nn.Identity())
    return model


def largest_difference(
    model: nn.Module, published: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32
) -> float:
    """Of the pooled features of both networks, in units of the features' standard deviation."""
    published = headless(published)
    with torch.no_grad():
        a = model.to(dtype).features(images.to(dtype))
        b = published.to(dtype)(images.to(dtype))
    assert a.shape == b.shape
    assert 0.05 < float(b.std()) < 100  # else a difference would say nothing
    return float((a - b).abs().max() / b.std())


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_features_are_theirs(library, architecture):
    model, published = ours(architecture), theirs(library, architecture)
    head = {name: t.clone() for name, t in model.head.state_dict().items()}
    load_published(model, published.state_dict(), architecture)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    difference = largest_difference(model, published, images)
    exact = largest_difference(model, published, images, torch.float64)
    print(f"{library} {architecture}: {difference:.1e}, {exact:.1e} in float64")  # by pytest -rP
    assert difference < 1e-4
    assert exact < 1e-12
    model.float()
    for name, tensor in model.head.state_dict().items():
        assert torch.equal(tensor, head[name])


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_efficientnet_with_its_own_eps_would_differ(library):
    """That the comparison can fail: BatchNorm's eps is 1e-3 unless published weights are loaded."""
    model, published = ours("efficientnet_b0", published=False), theirs(library, "efficientnet_b0")
    load_published(model, published.state_dict(), "efficientnet_b0")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    difference = largest_difference(model, published, images)
    print(f"{library} with eps 1e-3: {difference:.1e}")
    assert difference > 1e-2


@pytest.mark.parametrize("architecture", NETWORKS)
def test_small_images_go_through_the_published_strides(architecture):
    """A network built for 28 px with published=True takes 64 px as theirs does."""
    model, published = ours(architecture, 28), theirs("torchvision", architecture)
    load_published(model, published.state_dict(), architecture)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    assert largest_difference(model, published, images) < 1e-4


def test_densenet_file_of_2017_is_read(tmp_path: Path):
    """Its names have `norm.1`, its counts of batches are missing, its format is the old one."""
    published = theirs("torchvision", "densenet121")
    old = {}
    for name, tensor in published.state_dict().items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in name:
                name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor
    path = tmp_path / "old.pth"
    torch.save(old, path, _use_new_zipfile_serialization=False)
    model = ours("densenet121")
    load_published(model, read_state(path), "densenet121")
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(4))
    assert largest_difference(model, published, images) < 1e-4


@pytest.mark.parametrize("architecture", NETWORKS)
def test_addresses_are_torchvisions_own(architecture):
    from scanwise.models.weights import PUBLISHED

    entry = PUBLISHED[f"{architecture}.imagenet"]
    weights = torchvision.models.get_model_weights(architecture).IMAGENET1K_V1
    assert entry.url == weights.url
    assert entry.num_classes == len(weights.meta["categories"])
    transforms = weights.transforms()
    assert (entry.mean, entry.std) == (tuple(transforms.mean), tuple(transforms.std))
    assert transforms.crop_size == [entry.size_px]
    assert abs(entry.size_mb - weights.meta["_file_size"] * 2**20 / 1e6) < 0.2
