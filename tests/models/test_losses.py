"""Losses against torch and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scanwise.core.errors import ConfigError
from scanwise.models.losses import loss_findings, make_loss, probabilities

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0])
COUNTS = [40, 20, 10, 5]


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 4, generator=generator) * 3
    return logits.requires_grad_(), torch.arange(12) % 4


@pytest.fixture
def labels() -> Tensor:
    return (torch.rand(12, 4, generator=torch.Generator().manual_seed(1)) < 0.3).long()


def test_default_is_torch_cross_entropy_per_image(batch):
    logits, targets = batch
    losses = make_loss(task="multiclass")(logits, targets)
    assert losses.shape == (12,)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none"))
    torch.testing.assert_close(make_loss(task="ordinal")(logits, targets), losses)


def test_label_smoothing_is_torch_s(batch):
    logits, targets = batch
    expected = F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    for options in ({"loss": "ce"}, {"loss": "focal", "focal_gamma": 0.0}):
        losses = make_loss(task="multiclass", label_smoothing=0.1, **options)(logits, targets)
        torch.testing.assert_close(losses, expected)


def test_class_weights_multiply_and_the_mean_divides_by_the_batch(batch):
    logits, targets = batch
    losses = make_loss(task="multiclass", class_weights=WEIGHTS)(logits, targets)
    plain = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, plain * WEIGHTS[targets])
    # torch's weighted mean divides by the sum of the weights instead.
    torches = F.cross_entropy(logits, targets, weight=WEIGHTS)
    torch.testing.assert_close(losses.sum() / WEIGHTS[targets].sum(), torches)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_its_formula(batch, gamma):
    logits, targets = batch
    losses = make_loss(task="multiclass", loss="focal", focal_gamma=gamma)(logits, targets)
    p = torch.softmax(logits.double(), 1)[torch.arange(12), targets]
    expected = -((1 - p) ** gamma) * p.log()
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_focal_has_finite_gradients_where_the_answer_is_sure(task, gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    targets = torch.tensor([0, 0]) if task == "multiclass" else torch.tensor([[1, 0], [1, 0]])
    loss = make_loss(task=task, loss="focal", focal_gamma=gamma, label_smoothing=0.1)
    loss(logits, targets).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_logit_adjust_is_menon_equation_10(batch):
    logits, targets = batch
    loss = make_loss(task="multiclass", loss="logit_adjust", class_counts=COUNTS)
    prior = np.array(COUNTS) / sum(COUNTS)
    z, y = logits.detach().double().numpy(), targets.numpy()
    exponents = np.exp(z) * prior
    expected = -np.log(exponents[np.arange(12), y] / exponents.sum(1))
    np.testing.assert_allclose(loss(logits, targets).detach(), expected, rtol=1e-5)


def test_logit_adjust_with_equal_classes_changes_nothing(batch):
    logits, targets = batch
    loss = make_loss(task="multiclass", loss="logit_adjust", class_counts=torch.tensor([9] * 4))
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(loss(logits, targets), expected)


def test_logit_adjust_makes_argmax_balanced():
    """Without features, plain cross-entropy learns the priors and adjusted logits stay equal."""
    targets = torch.tensor([0] * 90 + [1] * 10)
    for name, difference in [("ce", math.log(9)), ("logit_adjust", 0.0)]:
        bias = torch.zeros(2, requires_grad=True)
        loss = make_loss(task="multiclass", loss=name, class_counts=[90, 10])
        optimizer = torch.optim.LBFGS([bias], max_iter=50)

        def step(loss=loss, bias=bias, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(bias.expand(100, 2), targets).mean()
            value.backward()
            return value

        optimizer.step(step)
        assert (bias[0] - bias[1]).item() == pytest.approx(difference, abs=1e-3)


def test_multilabel_is_torch_binary_cross_entropy(batch, labels):
    logits, _ = batch
    for weights in (None, WEIGHTS):
        losses = make_loss(task="multilabel", class_weights=weights)(logits, labels)
        expected = F.binary_cross_entropy_with_logits(
            logits, labels.float(), pos_weight=weights, reduction="none"
        )
        torch.testing.assert_close(losses, expected.mean(1))


def test_multilabel_smoothing_moves_targets_towards_one_half(batch, labels):
    logits, _ = batch
    losses = make_loss(task="multilabel", label_smoothing=0.2)(logits, labels)
    expected = F.binary_cross_entropy_with_logits(
        logits, labels * 0.8 + 0.1, reduction="none"
    ).mean(1)
    torch.testing.assert_close(losses, expected)


def test_multilabel_focal_is_its_formula(batch, labels):
    logits, _ = batch
    losses = make_loss(task="multilabel", loss="focal", focal_gamma=2)(logits, labels)
    p = torch.sigmoid(logits.double())
    p_true = torch.where(labels == 1, p, 1 - p)
    expected = (-((1 - p_true) ** 2) * p_true.log()).mean(1)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)


def test_sigmoid_outputs_train_one_vs_rest(batch):
    logits, targets = batch
    loss = make_loss(task="multiclass", output_activation="sigmoid", class_weights=WEIGHTS)
    one_hot = F.one_hot(targets, 4).float()
    plain = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").mean(1)
    torch.testing.assert_close(loss(logits, targets), plain * WEIGHTS[targets])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_bf16_logits_give_float32_losses(batch, labels, task, loss):
    logits, targets = batch
    truth = labels if task == "multilabel" else targets
    made = make_loss(task=task, loss=loss)
    coarse = logits.bfloat16()
    losses = made(coarse, truth)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, made(coarse.float(), truth))


def test_softmax_probabilities(batch):
    logits, _ = batch
    torch.testing.assert_close(probabilities(logits, "multiclass"), torch.softmax(logits, 1))
    torch.testing.assert_close(probabilities(logits, "multilabel"), torch.sigmoid(logits))


def test_sigmoid_probabilities_of_one_class_are_divided_by_their_sum(batch):
    logits, _ = batch
    found = probabilities(logits, "multiclass", "sigmoid")
    sigmoids = torch.sigmoid(logits)
    torch.testing.assert_close(found, sigmoids / sigmoids.sum(1, keepdim=True))
    certain = probabilities(torch.full((1, 3), -500.0), "multiclass", "sigmoid")
    torch.testing.assert_close(certain, torch.full((1, 3), 1 / 3))
    assert torch.equal(found.argmax(1), logits.argmax(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "multilabel", "output_activation": "softmax"}, "use sigmoid"),
        ({"task": "multilabel", "loss": "logit_adjust", "class_counts": COUNTS}, "ce or focal"),
        (
            {
                "task": "multiclass",
                "loss": "logit_adjust",
                "class_counts": COUNTS,
                "output_activation": "sigmoid",
            },
            "ce or focal",
        ),
        ({"task": "multiclass", "loss": "logit_adjust"}, "needs class_counts"),
        (
            {"task": "multiclass", "loss": "logit_adjust", "class_counts": [3, 0]},
            "class 1 has none",
        ),
        ({"task": "multiclass", "loss": "focal", "focal_gamma": -1}, "focal_gamma=-1"),
        ({"task": "multiclass", "loss": "focal", "focal_gamma": math.nan}, "focal_gamma"),
        ({"task": "multiclass", "label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"task": "multiclass", "loss": "hinge"}, "unknown loss 'hinge'"),
        ({"task": "multiclass", "output_activation": "tanh"}, "unknown output_activation"),
        ({"task": "multiclass", "class_weights": torch.tensor([1.0, -1.0])}, "class_weights"),
        ({"task": "multiclass", "class_weights": torch.tensor([1.0, math.inf])}, "class_weights"),
    ],
)
def test_bad_choice_is_refused(options, said):
    with pytest.raises(ConfigError) as caught:
        make_loss(**options)
    assert said in str(caught.value)


def test_seldom_meant_choices_are_explained():
    (sigmoid,) = loss_findings(task="multiclass", output_activation="sigmoid")
    assert sigmoid.severity == "warning"
    assert "58.02" in sigmoid.advice
    (double,) = loss_findings(task="multiclass", loss="logit_adjust", class_weights=True)
    assert "both correct" in double.evidence
    assert loss_findings(task="multilabel", output_activation="sigmoid") == ()
    assert loss_findings(task="multiclass", loss="focal", class_weights=True) == ()


def test_weights_travel_with_the_module_but_not_into_checkpoints():
    loss = make_loss(task="multiclass", class_weights=WEIGHTS)
    assert loss.state_dict() == {}
    assert loss.to("meta").class_weights.device.type == "meta"
