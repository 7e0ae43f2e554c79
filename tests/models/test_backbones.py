"""Pretrained backbones: loaded as stored, never half random, rebuilt without their source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scanwise.core.errors import ModelError
from scanwise.models.backbones import (
    Backbone,
    BackboneSpec,
    TransferNet,
    backbone_slug,
    is_pretrained,
    open_backbone,
    rebuild_backbone,
    resize,
    tensors_sha256,
    transfer_net,
    unfreezable_blocks,
    with_levels,
)

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def copied(tiny_hub: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_hub, tmp_path / "copy"))


def test_a_hub_folder_gives_the_features_that_transformers_gives(tiny_hub):
    from transformers import AutoModel

    backbone = open_backbone(f"hf:{tiny_hub}")
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(tiny_hub).eval()(IMAGES).pooler_output.flatten(1)
        torch.testing.assert_close(backbone.module(IMAGES), expected, rtol=0, atol=0)


def test_mean_std_and_size_come_from_the_source(tiny_hub):
    spec = open_backbone(f"hf:{tiny_hub}").spec
    assert (spec.input_px, spec.mean, spec.std) == ((32, 32), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    assert (spec.name, spec.num_features, spec.channels) == ("hf:tiny-resnet", 16, 3)


def test_a_vision_transformer_gives_its_class_token(tmp_path):
    from tests.conftest import save_hub_folder
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8,
    )  # fmt: skip
    folder = save_hub_folder(tmp_path / "vit", ViTModel, config)
    with_pooler = open_backbone(f"hf:{folder}")
    assert with_pooler.spec.num_features == 8

    # Many published ViTs have no pooling layer: it must not come in with random weights.
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.startswith("pooler.")}
    save_file(kept, path, {"format": "pt"})
    backbone = open_backbone(f"hf:{folder}")
    with torch.inference_mode():
        token = backbone.module.model(IMAGES).last_hidden_state[:, 0]
        torch.testing.assert_close(backbone.module(IMAGES), token, rtol=0, atol=0)
    assert not rebuild_backbone(backbone.spec).pooled


@pytest.mark.parametrize("levels", ["last", "all"])
def test_the_same_network_is_rebuilt_from_its_description(tiny_hub, levels):
    backbone = with_levels(open_backbone(f"hf:{tiny_hub}"), levels)
    stored = json.loads(json.dumps(backbone.spec.to_json()))
    twin = rebuild_backbone(BackboneSpec.from_json(stored))
    twin.load_state_dict(backbone.module.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(twin(IMAGES), backbone.module(IMAGES), rtol=0, atol=0)


def test_missing_weights_are_never_random(copied):
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    state = load_file(path)
    lost = next(name for name in state if "stages.1" in name)
    save_file({k: v for k, v in state.items() if k != lost}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"another architecture.*" + lost.replace(".", r"\.")):
        open_backbone(f"hf:{copied}")


def test_weights_of_other_shapes_are_named(copied):
    config = json.loads((copied / "config.json").read_text())
    config["hidden_sizes"] = [8, 24]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"encoder\.stages\.1|mismatch|shape"):
        open_backbone(f"hf:{copied}")


def test_a_truncated_file_is_refused(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="can't load hf:copy"):
        open_backbone(f"hf:{copied}")


def test_pickled_weights_are_refused(copied):
    state = {"a": torch.zeros(1)}
    (copied / "model.safetensors").unlink()
    torch.save(state, copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickled \.bin files are refused"):
        open_backbone(f"hf:{copied}")


def test_without_its_preprocessing_nothing_is_guessed(copied):
    (copied / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="mean, std and input size are unknown"):
        open_backbone(f"hf:{copied}")


def test_offline_the_message_says_what_to_download_and_where():
    with pytest.raises(ModelError, match=r"huggingface\.co/microsoft/rad-dino.*hf:FOLDER"):
        open_backbone("hf:microsoft/rad-dino")


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ("hf:./nowhere", None, "no such folder"),
        ("hf:", None, "names no network"),
        ("mlp", "imagenet", "does not go with mlp"),
        ("hf:a/b", "imagenet", "brings its own"),
    ],
)
def test_names_that_fit_nothing(model, weights, words):
    with pytest.raises(ModelError, match=words):
        open_backbone(model, weights)


def test_a_network_without_a_feature_vector_is_refused(tmp_path):
    from tests.conftest import save_hub_folder
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    folder = save_hub_folder(tmp_path / "text", BertModel, config)
    with pytest.raises(ModelError, match="no image backbone"):
        open_backbone(f"hf:{folder}")


def test_names_that_come_with_weights():
    assert all(is_pretrained(name) for name in ("hf:x", "run:x", "timm:x"))
    assert is_pretrained("efficientnet_b0", "imagenet")
    assert not any(is_pretrained(name) for name in ("resnet18", None))
    assert backbone_slug("hf:../a/b") == "hf:b"
    assert backbone_slug("small_resnet:32") == "small_resnet:32"


def test_training_mode_never_reaches_the_backbone(tiny_hub):
    backbone = open_backbone(f"hf:{tiny_hub}")
    network = transfer_net(backbone, num_outputs=2, dropout=0.5, head="mlp:4").train()
    assert network.head.training
    assert not any(module.training for module in network.backbone.modules())
    before = tensors_sha256(network.backbone)
    network(IMAGES).sum().backward()
    assert tensors_sha256(network.backbone) == before
    assert all(p.grad is None for p in network.backbone.parameters())


def test_images_of_any_size_are_resized_to_the_backbones(tiny_hub):
    network = transfer_net(open_backbone(f"hf:{tiny_hub}"), num_outputs=2, dropout=0, head=None)
    network.eval()
    small = torch.rand(2, 3, 14, 9)
    with torch.inference_mode():
        expected = nn.functional.interpolate(small, (32, 32), mode="bilinear")
        torch.testing.assert_close(network(small), network(expected))


def test_shrinking_averages_instead_of_skipping():
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1.0
    assert torch.allclose(resize(stripes, (8, 4))[..., 1:-1], torch.tensor(0.5), atol=0.13)


def test_blocks_are_ordered_and_whole(tiny_hub):
    module = open_backbone(f"hf:{tiny_hub}").module
    blocks = unfreezable_blocks(module)
    placed = [id(p) for block in blocks for p in block]
    assert placed == [id(p) for p in module.parameters()]
    assert len(blocks) > 1


def test_a_network_in_one_piece_is_one_block():
    layer = nn.Linear(2, 2)
    assert [len(block) for block in unfreezable_blocks(layer)] == [2]


def test_the_hash_sees_every_bit_and_name(tiny_hub):
    module = open_backbone(f"hf:{tiny_hub}").module
    before = tensors_sha256(module)
    buffer = next(b for name, b in module.named_buffers() if name.endswith("running_mean"))
    buffer.view(-1)[0] = float(np.nextafter(np.float32(buffer.view(-1)[0]), np.float32(9)))
    assert tensors_sha256(module) != before


def test_a_transfer_net_is_its_backbone_and_head():
    backbone = Backbone(BackboneSpec("scanwise", "x", (4, 4), (0.0,), (1.0,), 16, ""), nn.Flatten())
    network = TransferNet(backbone, nn.Linear(16, 2))
    images = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(network(images), network.classify(network.features(images)))


def test_published_weights_of_our_own_networks(tmp_path):
    """A file under torchvision's names, as published, gives the features of that network."""
    from safetensors.torch import save_file

    from scanwise.models.build import build_model

    torch.manual_seed(3)
    ours = build_model("resnet18", num_outputs=1000, channels=3, size_px=(224, 224), published=True)
    state = {name.removeprefix("body."): value for name, value in ours.state_dict().items()}
    state = {k.replace("head.output", "fc"): v.contiguous() for k, v in state.items()}
    save_file(state, tmp_path / "r.safetensors")
    backbone = open_backbone("resnet18", str(tmp_path / "r.safetensors"))
    assert backbone.spec.input_px == (224, 224)
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(images), ours.eval().features(images))
        twin = rebuild_backbone(backbone.spec)
        twin.load_state_dict(backbone.module.state_dict())
        torch.testing.assert_close(twin(images), ours.features(images))


def test_all_levels_are_mean_and_spread_of_each_block_before_the_last_vector(tiny_hub):
    from transformers import AutoModel

    last = open_backbone(f"hf:{tiny_hub}")
    every = with_levels(last, "all")
    model = AutoModel.from_pretrained(tiny_hub).eval()
    stages = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
    assert len(stages) > 1
    maps = []
    for stage in stages:
        stage.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.inference_mode():
        vector = model(IMAGES).pooler_output.flatten(1)
        found = every.module(IMAGES)
    parts = [p for m in maps for p in (m.mean((2, 3)), m.std((2, 3), unbiased=False))]
    torch.testing.assert_close(found, torch.cat([*parts, vector], 1), rtol=1e-4, atol=2e-4)
    assert every.spec.num_features == found.shape[1] > last.spec.num_features
    assert every.spec.weights_sha256 != last.spec.weights_sha256  # other cached features
    assert with_levels(every, "all") is every
    again = with_levels(every, "last")
    assert again.spec == last.spec


def test_tokens_of_a_transformer_are_averaged_at_each_level(tmp_path):
    from tests.conftest import save_hub_folder
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8,
    )  # fmt: skip
    every = with_levels(
        open_backbone(f"hf:{save_hub_folder(tmp_path / 'v', ViTModel, config)}"), "all"
    )
    assert every.spec.num_features == 4 * 8
    with torch.inference_mode():
        states = every.module.inner.model(IMAGES, output_hidden_states=True).hidden_states
        expected = torch.cat([state.mean(1) for state in states[1:]], 1)
        torch.testing.assert_close(every.module(IMAGES)[:, :24], expected)
