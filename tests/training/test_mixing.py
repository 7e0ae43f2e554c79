"""Mixup and CutMix: mixtures, their shares and their losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scanwise.core.config import Mix
from scanwise.training.mixing import mix_batch


def batch(n: int = 64, px: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of one value each, their own number, which is their target too."""
    numbers = torch.arange(n)
    return numbers.float().view(-1, 1, 1, 1).expand(n, 2, px, px).contiguous(), numbers


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_share_is_that_of_the_pixels(mix: Mix) -> None:
    torch.manual_seed(0)
    images, targets = batch()
    shares = []
    for _ in range(40):
        mixed, partners = mix_batch(mix, images, targets, None)
        if partners is None:
            assert torch.equal(mixed, images)
            continue
        expected = partners.share * targets + (1 - partners.share) * partners.targets
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected.float(), atol=1e-3)
        assert 0 <= partners.share <= 1
        shares.append(partners.share)
    assert len(set(shares)) > 10
    assert len(shares) == 40 if mix == "mixup" else 10 <= len(shares) <= 30


def test_cutmix_pastes_a_rectangle_and_changes_nothing_else() -> None:
    torch.manual_seed(1)
    images, targets = batch(8)
    before = images.clone()
    mixed, partners = None, None
    while partners is None or not 0.2 < partners.share < 0.8:
        mixed, partners = mix_batch("cutmix", images, targets, None)
    assert mixed is not None
    assert torch.equal(images, before)
    row = int((partners.targets != targets).nonzero()[0])
    pasted = (mixed[row, 0] == partners.targets[row]).numpy()
    rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
    assert pasted.sum() == len(rows) * len(columns)
    assert (np.diff(rows) == 1).all()
    assert (np.diff(columns) == 1).all()
    assert (mixed[row, 0].numpy()[~pasted] == float(targets[row])).all()


def test_mixup_shares_are_beta() -> None:
    torch.manual_seed(0)
    images, targets = batch(2, 2)
    shares = [mix_batch("mixup", images, targets, None)[1].share for _ in range(2000)]  # type: ignore[union-attr]
    # Variance of Beta(a, a) is 1 / (4 (2a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.05)


def test_the_loss_of_shares_is_that_of_soft_targets() -> None:
    torch.manual_seed(0)
    logits, targets, others = torch.randn(16, 5), torch.randint(5, (16,)), torch.randint(5, (16,))
    share = 0.3
    soft = share * F.one_hot(targets, 5) + (1 - share) * F.one_hot(others, 5)
    expected = F.cross_entropy(logits, soft, reduction="none", label_smoothing=0.1)
    one, other = (
        F.cross_entropy(logits, each, reduction="none", label_smoothing=0.1)
        for each in (targets, others)
    )
    assert torch.allclose(torch.lerp(other, one, share), expected, atol=1e-6)


def test_weights_and_parts_go_along() -> None:
    torch.manual_seed(0)
    images, targets = batch(10)
    weights = targets.float() / 10
    _, partners = mix_batch("mixup", images, targets, weights)
    assert partners is not None
    assert partners.weights is not None
    assert torch.equal(partners.weights, partners.targets.float() / 10)
    parts = partners.split(3)
    assert torch.equal(torch.cat([part.targets for part in parts]), partners.targets)
    assert [part.share for part in parts] == [partners.share] * 3


def test_one_image_and_none_are_left_alone() -> None:
    images, targets = batch(1)
    state = torch.get_rng_state()
    assert mix_batch("mixup", images, targets, None) == (images, None)
    images, targets = batch(8)
    assert mix_batch("none", images, targets, None) == (images, None)
    assert torch.equal(torch.get_rng_state(), state)  # other trainings draw what they drew before
