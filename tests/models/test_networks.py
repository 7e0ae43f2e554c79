"""Every network of MODELS through the same tests: shapes, exact sizes, gradients, modes, memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from scanwise.models.batchnorm import BatchNormWarmup
from scanwise.models.build import MODELS, build_model, count_parameters
from scanwise.models.losses import make_loss

SPECS = [
    "mlp",
    "mlp:64",
    "simple_cnn",
    "advanced_cnn",
    "advanced_cnn:residual",
    "advanced_cnn:se",
    "advanced_cnn:residual,se",
    "small_resnet",
    "small_resnet:8",
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
]
LIGHT = [s for s in SPECS if s not in {"resnet50", "densenet121"}]


def make(spec: str, *, num_outputs=4, channels=1, size=28, seed=0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(
        spec, num_outputs=num_outputs, channels=channels, size_px=(size, size), **options
    )


def make_images(n=3, channels=1, size=28, seed=1) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_every_network_is_tested():
    assert {spec.partition(":")[0] for spec in SPECS} == set(MODELS)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 28), (3, 64)])
def test_logits_have_one_row_an_image_and_one_column_an_output(spec, channels, size):
    model = make(spec, num_outputs=5, channels=channels, size=size).eval()
    images = make_images(2, channels, size)
    with torch.no_grad():
        logits = model(images)
        features = model.features(images)
        assert logits.shape == (2, 5)
        assert features.ndim == 2
        torch.testing.assert_close(model.classify(features), logits)
        if hasattr(model, "feature_maps"):
            maps = model.feature_maps(images)
            assert maps.ndim == 4
            assert min(maps.shape[2:]) >= 2  # a map of one pixel would see no position at all


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["resnet18", "efficientnet_b0", "densenet121", "small_resnet"])
def test_native_size(spec):
    model = make(spec, num_outputs=5, channels=3, size=224).eval()
    with torch.no_grad():
        assert model.feature_maps(make_images(1, 3, 224)).shape[2:] == (7, 7)


@pytest.mark.parametrize(
    ("spec", "channels", "num_outputs", "size", "published"),
    [
        # torchvision's documentation and the papers: ImageNet, 224 px.
        ("resnet18", 3, 1000, 224, 11_689_512),
        ("resnet50", 3, 1000, 224, 25_557_032),
        ("densenet121", 3, 1000, 224, 7_978_856),
        ("efficientnet_b0", 3, 1000, 224, 5_288_548),
        # The CIFAR ResNets that the MedMNIST reference uses at 28 px.
        ("resnet18", 3, 10, 28, 11_173_962),
        ("resnet18", 1, 2, 28, 11_168_706),
        ("resnet50", 3, 10, 28, 23_520_842),
        # Strides have no parameters: only the smaller stem of DenseNet differs from 224 px.
        ("efficientnet_b0", 3, 1000, 28, 5_288_548),
        ("densenet121", 3, 1000, 28, 7_978_856 - 3 * 64 * (49 - 9)),
        # Formulas: weights + biases of each layer.
        ("mlp", 3, 9, 28, 2353 * 512 + 513 * 256 + 257 * 128 + 129 * 9),
        ("mlp:7", 1, 2, 28, 785 * 7 + 8 * 2),
        ("simple_cnn", 3, 7, 28, 9 * (96 + 2048 + 8192) + 2 * 224 + 2049 * 512 + 513 * 7),
    ],
)
def test_parameter_counts_are_exact(spec, channels, num_outputs, size, published):
    model = make(spec, num_outputs=num_outputs, channels=channels, size=size)
    assert count_parameters(model) == (published, published)


def test_default_and_seed_networks_have_the_documented_size():
    def total(spec: str) -> int:
        return count_parameters(make(spec, num_outputs=7, channels=3))[0]

    assert round(total("simple_cnn"), -5) == 1_100_000
    assert round(total("small_resnet"), -3) == 308_000
    assert round(total("small_resnet:16"), -3) == 78_000
    assert round(total("advanced_cnn"), -3) == 288_000


@pytest.mark.parametrize("spec", SPECS)
def test_gradient_reaches_every_parameter(spec):
    model = make(spec, dropout=0.0).train()
    loss = make_loss(task="multiclass")
    loss(model(make_images(4)), torch.tensor([0, 1, 2, 3])).mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("spec", SPECS)
def test_same_seed_gives_the_same_network_and_eval_is_deterministic(spec):
    images = make_images()
    first, again = make(spec, seed=3).eval(), make(spec, seed=3).eval()
    with torch.no_grad():
        logits = first(images)
        assert torch.equal(logits, again(images))
        assert torch.equal(logits, first(images))


def gap_between_modes(spec: str, *, warm: bool) -> float:
    """Largest change of a logit from train to eval after three passes, in spreads of the logits."""
    model, images = make(spec, dropout=0.0).train(), make_images(24)
    warm_up = BatchNormWarmup(model)
    with torch.no_grad():
        for step in range(3):
            if warm:
                warm_up(step)
            in_training = model(images)
        in_evaluation = model.eval()(images)
    return float((in_training - in_evaluation).abs().max() / in_training.std())


@pytest.mark.parametrize("spec", [s for s in LIGHT if not s.startswith("mlp")])
def test_eval_agrees_with_train_from_the_first_steps(spec):
    assert gap_between_modes(spec, warm=True) < 0.5


def test_without_warm_up_eval_is_far_from_train():
    """Else the warm-up would be needless."""
    assert gap_between_modes("efficientnet_b0", warm=False) > 1


def test_batchnorm_warm_up_takes_the_plain_mean_of_the_first_batches():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, momentum=None)).train()
    warm_up = BatchNormWarmup(model)
    batches = [make_images(5, channels=2, seed=seed) + seed for seed in range(4)]
    for step, images in enumerate(batches):
        warm_up(step)
        model(images)
    means = torch.stack([images.mean((0, 2, 3)) for images in batches]).mean(0)
    torch.testing.assert_close(model[0].running_mean, means)
    warm_up(9)
    assert model[0].momentum == 0.1
    assert model[1].momentum is None  # averages all batches on its own wish


@pytest.mark.parametrize("spec", SPECS)
def test_rows_do_not_depend_on_their_neighbours(spec):
    model = make(spec).eval()
    images = make_images(4)
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.startswith("mlp")])
def test_channels_last_gives_the_same_logits_and_is_kept(spec):
    model, images = make(spec, channels=3).eval(), make_images(channels=3)
    with torch.no_grad():
        expected = model(images)
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-4)
        maps = model.feature_maps(images)
    assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("spec", SPECS)
def test_one_step_in_bf16(spec):
    model = make(spec).train()
    images, targets = make_images(4), torch.tensor([0, 1, 2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    losses = make_loss(task="multiclass")(logits, targets)
    losses.mean().backward()
    assert logits.dtype == torch.bfloat16
    assert losses.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("spec", LIGHT)
def test_least_size_works_and_oblong_images_too(spec):
    least = MODELS[spec.partition(":")[0]].min_px
    for height, width in [(least, least), (least, least + 13), (41, 28)]:
        model = build_model(spec, num_outputs=2, channels=1, size_px=(height, width)).train()
        assert model(torch.rand(2, 1, height, width)).shape == (2, 2)


@pytest.mark.parametrize("spec", ["simple_cnn", "small_resnet", "resnet18"])
def test_mlp_head_adds_a_hidden_layer_with_normalisation(spec):
    plain, headed = make(spec), make(spec, head="mlp:24", dropout=0.4)
    num_features = plain.head[-1].in_features
    kinds = [type(layer) for layer in headed.head]
    dense = nn.Linear
    assert kinds == [nn.Dropout, dense, nn.ReLU, nn.BatchNorm1d, nn.Dropout, dense]
    assert [layer.p for layer in headed.head if isinstance(layer, nn.Dropout)] == [0.4, 0.4]
    added = (num_features + 1) * 24 + 48 + 25 * 4 - (num_features + 1) * 4
    assert count_parameters(headed)[0] - count_parameters(plain)[0] == added
    assert headed.eval()(make_images()).shape == (3, 4)


@pytest.mark.parametrize("spec", [s for s in LIGHT if s != "mlp:64"])
def test_dropout_is_taken_in_training_only_and_zero_means_none(spec):
    images = make_images(8)
    noisy, plain = make(spec, dropout=0.5).train(), make(spec, dropout=0.0).train()
    with torch.no_grad():
        assert not torch.equal(noisy(images), noisy(images))
        assert torch.equal(plain(images), plain(images))
    assert all(m.p == 0 for m in plain.modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize(
    ("activation", "layer"), [("gelu", nn.GELU), ("tanh", nn.Tanh), ("sigmoid", nn.Sigmoid)]
)
def test_mlp_has_the_activation_that_was_asked_for(activation, layer):
    model = make("mlp:8,6", activation=activation)
    assert sum(isinstance(m, layer) for m in model.modules()) == 2
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())


def test_small_image_stem_up_to_40_px():
    small, large = make("resnet18", size=40), make("resnet18", size=41)
    assert (small.body.conv1.kernel_size, small.body.conv1.stride) == ((3, 3), (1, 1))
    assert not any(isinstance(m, nn.MaxPool2d) for m in small.modules())
    assert (large.body.conv1.kernel_size, large.body.conv1.stride) == ((7, 7), (2, 2))
    assert any(isinstance(m, nn.MaxPool2d) for m in large.modules())


def test_efficientnet_weights_start_with_he_variance_in_depthwise_layers_too():
    model = make("efficientnet_b0")
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(depthwise) == 16
    for layer in depthwise:
        expected = (2 / layer.kernel_size[0] ** 2) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.15)


def striped_images(n: int, seed: int, size: int = 28) -> tuple[Tensor, Tensor]:
    """Grey images of two classes: stripes across or down, shifted, with noise.

    Mean and spread of the pixels are the same in both, so that only seeing helps.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % 2
    phase = torch.rand(n, 1, 1, generator=generator) * 6.3
    wave = torch.sin(torch.arange(size) * 0.9 + phase).expand(n, size, size)
    images = torch.where(targets[:, None, None] == 0, wave, wave.transpose(1, 2))
    noise = torch.randn(n, size, size, generator=generator)
    return (images + noise)[:, None], targets


def accuracy_after_training(spec: str, steps: int, lr: float, size: int = 28) -> float:
    model = make(spec, num_outputs=2, size=size).to(memory_format=torch.channels_last)
    warm_up = BatchNormWarmup(model)
    images, targets = striped_images(192, seed=0, size=size)
    unseen, truth = striped_images(96, seed=1, size=size)
    loss = make_loss(task="multiclass")
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    torch.manual_seed(0)
    for step in range(steps):
        warm_up(step)
        rows = torch.arange(step * 16, step * 16 + 16) % len(images)
        optimizer.zero_grad()
        loss(model(images[rows]), targets[rows]).mean().backward()
        optimizer.step()
    with torch.no_grad():
        predicted = model.eval()(unseen).argmax(1)
    return (predicted == truth).float().mean().item()


@pytest.mark.parametrize("spec", ["simple_cnn", "advanced_cnn:residual,se", "small_resnet:16"])
def test_small_networks_learn(spec):
    assert accuracy_after_training(spec, steps=40, lr=3e-3) > 0.8


def test_efficientnet_learns_grey_images_of_28_px():
    """S1's stayed at chance (25.0 % of four classes) on grey 28-px images."""
    assert accuracy_after_training("efficientnet_b0", steps=20, lr=3e-3) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["resnet18", "densenet121"])
def test_large_networks_learn(spec):
    assert accuracy_after_training(spec, steps=30, lr=1e-3, size=16) > 0.8
