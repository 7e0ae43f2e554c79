"""Specs, their errors, image sizes, and networks of the user's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from scanwise.core.errors import ModelError
from scanwise.models.build import (
    MODELS,
    as_model,
    build_model,
    check_model_spec,
    count_parameters,
    describe_model,
    model_notes,
)
from scanwise.models.specs import num_pooled_blocks, num_stem_halvings

WANTED = {"num_outputs": 3, "channels": 1, "size_px": (28, 28)}


@pytest.mark.parametrize(
    ("spec", "full"),
    [
        ("mlp", "mlp:512,256,128"),
        ("mlp: 64, 32", "mlp:64,32"),
        ("small_resnet", "small_resnet:32"),
        ("small_resnet:64", "small_resnet:64"),
        ("advanced_cnn", "advanced_cnn"),
        ("advanced_cnn:se,residual", "advanced_cnn:residual,se"),
        (" resnet18 ", "resnet18"),
    ],
)
def test_spec_is_spelled_in_full(spec, full):
    checked = check_model_spec(spec)
    assert checked.text == full
    assert check_model_spec(full) == checked


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("simplecn", "'simple_cnn'"),
        ("ResNet-50", "'resnet50'"),
        ("zzz", "choose one of"),
        ("", "choose one of"),
        ("mlp:512,,128", "'' is not a whole number"),
        ("mlp:512,-3", "'-3' is not a whole number"),
        ("mlp:0", "'0' is not a whole number"),
        ("mlp:1e3", "'1e3' is not"),
        ("mlp:²", "'²' is not"),
        ("mlp:99999999", "[1, 16384]"),
        ("mlp:" + ",".join(["8"] * 21), "21 hidden layers"),
        ("small_resnet:2", "[4, 512]"),
        ("small_resnet:wide", "'wide'"),
        ("advanced_cnn:attention", "unknown option 'attention'"),
        ("advanced_cnn:se,se", "twice"),
        ("resnet18:50", "no options"),
    ],
)
def test_bad_spec_is_refused_with_a_way_out(spec, said):
    with pytest.raises(ModelError) as caught:
        check_model_spec(spec)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_unknown_name_gets_up_to_five_neighbours_and_the_list():
    with pytest.raises(ModelError) as caught:
        check_model_spec("resnet")
    message = str(caught.value)
    assert 1 <= message.partition("?")[0].count("' or '") + 1 <= 5
    assert all(name in message for name in MODELS)


def test_bad_options_say_the_grammar():
    with pytest.raises(ModelError, match=r"Write mlp\[:512,256,128\]"):
        check_model_spec("mlp:a")


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("mlp", {"head": "mlp:64"}, "mlp:512,256,128,64"),
        ("resnet18", {"activation": "tanh"}, "only mlp"),
        ("mlp", {"activation": "swish"}, "choose one of relu"),
        ("resnet18", {"head": "conv"}, "linear or mlp:256"),
        ("resnet18", {"head": "mlp:none"}, "'none' is not"),
        ("resnet18", {"head": "linear:3"}, "linear or mlp:256"),
        ("resnet18", {"size_px": (15, 40)}, "at least 16×16 px; these have 15×40 px"),
        ("efficientnet_b0", {"size_px": (8, 8)}, "choose mlp or simple_cnn"),
        ("small_resnet", {"size_px": (7, 7)}, "at least 8×8"),
    ],
)
def test_bad_combination_is_refused_before_building(spec, options, said):
    with pytest.raises(ModelError) as caught:
        check_model_spec(spec, **options)
    assert said in str(caught.value)
    with pytest.raises(ModelError):
        build_model(spec, **{**WANTED, **options})


@pytest.mark.parametrize(
    "wrong", [{"dropout": 1.0}, {"dropout": -0.1}, {"num_outputs": 0}, {"channels": 0}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ModelError):
        build_model("mlp:8", **{**WANTED, **wrong})


def test_checking_loads_no_torch():
    code = (
        "import sys; from scanwise.models.build import check_model_spec, model_notes;"
        "check_model_spec('resnet18', head='mlp:64'); model_notes('resnet18', (28, 28));"
        "sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("side", "blocks"), [(5, 1), (8, 1), (9, 2), (16, 2), (17, 3), (28, 3), (224, 3)]
)
def test_depth_is_reduced_and_stated(side, blocks):
    assert num_pooled_blocks((side, side + 9), 3) == blocks
    for spec in ("simple_cnn", "advanced_cnn:residual"):
        model = build_model(spec, num_outputs=2, channels=1, size_px=(side, side))
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        per_block = 1 if spec == "simple_cnn" else 3
        assert len(convolutions) == blocks * per_block
        notes = describe_model(spec, model, (side, side)).notes
        assert bool(notes) == (blocks < 3)
        if notes:
            assert f"from 3 to {blocks}" in notes[0]
            assert f"{side}×{side} px" in notes[0]


@pytest.mark.parametrize(
    ("side", "halvings"), [(8, 0), (23, 0), (24, 1), (28, 1), (64, 1), (65, 2), (128, 2), (224, 3)]
)
def test_stem_of_small_resnet_follows_the_size(side, halvings):
    assert num_stem_halvings((side, side)) == halvings
    model = build_model("small_resnet:4", num_outputs=2, channels=1, size_px=(side, side))
    with torch.no_grad():
        first = model.body[0](torch.zeros(1, 1, side, side))
    assert first.shape[-1] == -(-side // 2**halvings)
    assert bool(model_notes("small_resnet:4", (side, side))) == (halvings != 1)


def test_description_is_exact():
    model = build_model("small_resnet", **WANTED)
    for parameter in model.body.parameters():
        parameter.requires_grad_(False)
    info = describe_model("small_resnet", model, (28, 28))
    assert (info.spec, info.name) == ("small_resnet:32", "small_resnet")
    assert info.parameters_total == sum(p.numel() for p in model.parameters())
    assert info.parameters_trainable == 128 * 3 + 3
    assert info.to_json()["notes"] == []
    assert "at most 40 px" in model_notes("resnet18", (28, 28))[0]
    assert "about 2×2 cells" in model_notes("resnet18", (64, 64))[0]
    assert "published strides" in model_notes("efficientnet_b0", (224, 224))[0]


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert count_parameters(model) == (9 + 3 + 3, 15)


# --- networks of the user's own ----------------------------------------------------------------


class Own(nn.Module):
    """BatchNorm, dropout and a buffer that every pass changes: all that a check could disturb."""

    def __init__(self, num_outputs: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.LazyLinear(num_outputs)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, images):
        self.passes += 1
        maps = self.dropout(self.norm(self.conv(images)))
        return self.out(maps.flatten(1))


def test_own_module_comes_back_as_it_was():
    model = Own()
    as_model(model, **WANTED)  # gives the lazy layer its shape
    model.train()
    model.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    assert as_model(model, **WANTED) is model
    assert torch.equal(torch.get_rng_state(), random_state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.training
    assert model.dropout.training
    assert not model.norm.training


def test_functions_and_classes_get_what_they_name():
    assert isinstance(as_model(Own, **WANTED), Own)
    seen = {}

    def make(size_px, **others):
        seen.update(others, size_px=size_px)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, others["num_outputs"]))

    as_model(make, **WANTED)
    assert seen == WANTED
    as_model(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), **WANTED)


def test_spec_goes_to_build_model():
    assert count_parameters(as_model("mlp:5", **WANTED, dropout=0.1))[0] == 785 * 5 + 6 * 3


class Pair(nn.Module):
    def forward(self, images):
        return images, images


class Whole(nn.Module):
    def forward(self, images):
        return torch.zeros(len(images), 3, dtype=torch.int64)


def flat(num_outputs, *after):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, num_outputs), *after)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (flat(5), "must return logits of shape (2, 3)"),
        (flat(5), "returned (2, 5)"),
        (nn.Conv2d(1, 3, 3), "returned (2, 3, 26, 26)"),
        (nn.Conv2d(3, 3, 3), "can't take images of shape (b, c, h, w) = (2, 1, 28, 28)"),
        (flat(3).double(), "can't take images"),
        (flat(3, nn.Softmax(1)), "leave its final softmax out"),
        (Pair(), "returned a tuple"),
        (Whole(), "float logits"),
        (lambda: 3, "must return a torch.nn.Module; it returned type int"),
        (lambda depth: flat(3), "needs depth"),
        (lambda num_outputs, /: flat(3), "needs num_outputs"),
        (42, "got type int"),
    ],
)
def test_own_model_that_does_not_fit_is_refused(model, said):
    with pytest.raises(ModelError) as caught:
        as_model(model, **WANTED)
    assert said in str(caught.value)


def test_buffers_and_modes_survive_a_module_that_fails():
    model = Own(channels=3).train()
    with pytest.raises(ModelError):
        as_model(model, **WANTED)
    assert model.passes == 0
    assert model.norm.training


def test_options_of_named_networks_are_refused_with_an_own_module():
    with pytest.raises(ModelError, match="inside your own"):
        as_model(Own(), **WANTED, dropout=0.2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("simplecnn", "simple_cnn"),
        ("rescnn", "advanced_cnn:residual"),
        ("secnn", "advanced_cnn:se"),
    ],
)
def test_the_seeds_names_of_the_small_networks(name: str, meant: str) -> None:
    assert check_model_spec(name).text == check_model_spec(meant).text
