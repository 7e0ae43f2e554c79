"""Validation measures against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.training.validation import predict_logits, validate


class Stream:
    """Logits posing as images, in batches of 7."""

    device = torch.device("cpu")

    def __init__(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        self.columns = logits, targets, weights

    def iterate(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        logits, targets, weights = self.columns
        for start in range(0, len(logits), 7):
            rows = slice(start, start + 7)
            yield logits[rows], targets[rows], None if weights is None else weights[rows]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(50, 4, generator=torch.Generator().manual_seed(2)).round(decimals=1)


def test_multiclass_is_scikit_learns(logits: Tensor) -> None:
    targets = torch.arange(50) % 4
    found = validate(nn.Identity(), Stream(logits, targets), cross_entropy, "multiclass")
    shares = logits.softmax(1).numpy()
    assert found.loss == pytest.approx(F.cross_entropy(logits, targets).item())
    assert found.accuracy == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert found.auc == pytest.approx(roc_auc_score(targets, shares, multi_class="ovr"))
    assert found.balanced_accuracy == pytest.approx(
        balanced_accuracy_score(targets, shares.argmax(1))
    )


def test_weights_weigh_the_loss_only(logits: Tensor) -> None:
    targets, weights = torch.arange(50) % 4, torch.linspace(0, 2, 50)
    plain = validate(nn.Identity(), Stream(logits, targets), cross_entropy, "multiclass")
    found = validate(nn.Identity(), Stream(logits, targets, weights), cross_entropy, "multiclass")
    assert found.loss == pytest.approx((cross_entropy(logits, targets) * weights).mean().item())
    assert (found.accuracy, found.auc) == (plain.accuracy, plain.auc)


def test_multilabel_is_scikit_learns(logits: Tensor) -> None:
    targets = (torch.rand(50, 4, generator=torch.Generator().manual_seed(5)) < 0.3).float()
    found = validate(nn.Identity(), Stream(logits, targets), binary, "multilabel")
    predicted = (logits >= 0).numpy()
    truth = targets.numpy() > 0.5
    assert found.accuracy == pytest.approx((predicted == truth).mean())
    assert found.auc == pytest.approx(roc_auc_score(truth, logits.numpy(), average="macro"))
    expected = [balanced_accuracy_score(truth[:, k], predicted[:, k]) for k in range(4)]
    assert found.balanced_accuracy == pytest.approx(np.mean(expected))


def test_a_class_that_is_not_there_is_left_out(logits: Tensor) -> None:
    targets = torch.arange(50) % 3  # none of class 3
    found = validate(nn.Identity(), Stream(logits, targets), cross_entropy, "multiclass")
    shares = logits.softmax(1).numpy()
    expected = [roc_auc_score(targets == k, shares[:, k]) for k in range(3)]
    assert found.auc == pytest.approx(np.mean(expected))


def test_one_class_alone_has_no_auc_and_diverged_logits_have_none(logits: Tensor) -> None:
    zeros = torch.zeros(50, dtype=torch.int64)
    one = validate(nn.Identity(), Stream(logits, zeros), cross_entropy, "multiclass")
    assert np.isnan(one.auc)
    assert np.isfinite(one.loss)
    lost = validate(nn.Identity(), Stream(logits * torch.nan, zeros), cross_entropy, "multiclass")
    assert np.isnan(lost.auc)
    assert np.isnan(lost.loss)


def test_logits_come_in_order_as_float32_and_modes_stay(
    logits: Tensor, tiny_net: Callable[..., nn.Module]
) -> None:
    stream = Stream(logits, torch.zeros(50))
    assert np.array_equal(predict_logits(nn.Identity(), stream), logits.numpy())
    net = tiny_net().train()
    net[1].eval()
    images = torch.randn(50, 1, 12, 12)
    first = predict_logits(net, Stream(images, torch.zeros(50)))
    assert first.dtype == np.float32
    assert np.array_equal(first, predict_logits(net, Stream(images, torch.zeros(50))))
    assert net.training
    assert not net[1].training
    with torch.no_grad():
        whole = net.eval()(images).numpy()
    np.testing.assert_allclose(first, whole, rtol=1e-5, atol=1e-6)
