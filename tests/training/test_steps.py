"""One step: weights on images, parts of a batch, and what happens when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scanwise.core.errors import ScanwiseError
from scanwise.training.device import model_cost
from scanwise.training.schedule import Rates
from scanwise.training.settings import LoopSettings
from scanwise.training.steps import Stepper, count_hits, make_optimizer, set_rates


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class FillsUp(nn.Module):
    """A network that runs out of memory above `limit` images, after BatchNorm and dropout ran."""

    def __init__(self, inner: nn.Module, limit: int) -> None:
        super().__init__()
        self.inner, self.limit, self.tried = inner, limit, []

    def forward(self, images: Tensor) -> Tensor:
        self.tried.append(len(images))
        logits: Tensor = self.inner(images)
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return logits


def stepper(
    model: nn.Module, micro_batch: int | None = None, said: list[str] | None = None
) -> Stepper:
    return Stepper(
        model,
        model,
        losses,
        torch.autograd.backward,
        "multiclass",
        model_cost(model, (1, 12, 12)),
        micro_batch,
        ([] if said is None else said).append,
    )


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, 1, 12, 12, generator=generator)
    return images, torch.randint(0, 3, (10,), generator=generator)


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def test_a_step_is_the_weighted_mean_over_images(
    tiny_net: Callable[..., nn.Module], batch: tuple[Tensor, Tensor]
) -> None:
    images, targets = batch
    weights = torch.linspace(0, 2, 10)
    model, plain = tiny_net(dropout=0.0), tiny_net(dropout=0.0)
    result = stepper(model).run(images, targets, weights)
    logits = plain(images)
    expected = (losses(logits, targets) * weights).sum()
    (expected / 10).backward()
    torch.testing.assert_close(result.loss, expected.detach())
    assert result.hits == (logits.argmax(1) == targets).sum()
    for mine, theirs in zip(gradients(model), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 9])
def test_parts_have_the_gradient_of_the_whole_batch(
    batch: tuple[Tensor, Tensor], micro_batch: int
) -> None:
    def model() -> nn.Module:  # without BatchNorm, which sees the parts
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 3))

    images, targets = batch
    weights = torch.linspace(0, 2, 10)
    whole, parts = model(), model()
    first = stepper(whole).run(images, targets, weights)
    second = stepper(parts, micro_batch).run(images, targets, weights)
    torch.testing.assert_close(first.loss, second.loss)
    assert first.hits == second.hits
    for mine, theirs in zip(gradients(parts), gradients(whole), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_out_of_memory_halves_the_part_and_retries_the_same_step(
    tiny_net: Callable[..., nn.Module],
    same_weights: Callable[..., bool],
    batch: tuple[Tensor, Tensor],
) -> None:
    said: list[str] = []
    model, calm = FillsUp(tiny_net(), limit=3), FillsUp(tiny_net(), limit=99)
    torch.manual_seed(7)
    trying = stepper(model, said=said)
    trying.run(*batch, None)
    assert trying.micro_batch == 2
    assert model.tried == [10, 5, 2, 2, 2, 2, 2]
    assert said == [
        "out of memory with 10 images of 12x12 px at a time; going on with 5 (gradients are "
        "accumulated, the batch stays 10)",
        "out of memory with 5 images of 12x12 px at a time; going on with 2 (gradients are "
        "accumulated, the batch stays 10)",
    ]
    # The failed tries left no trace: the same as parts of two from the start.
    torch.manual_seed(7)
    stepper(calm, micro_batch=2).run(*batch, None)
    assert same_weights(model, calm)  # BatchNorm's statistics
    for mine, theirs in zip(gradients(model), gradients(calm), strict=True):
        assert torch.equal(mine, theirs)
    # From now on parts of two.
    trying.run(*batch, None)
    assert model.tried[-5:] == [2] * 5


def test_one_image_that_does_not_fit_is_an_error_with_numbers(
    tiny_net: Callable[..., nn.Module], batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ScanwiseError, match=r"one image of 12x12 px .* MiB.*--size"):
        stepper(FillsUp(tiny_net(), limit=0)).run(*batch, None)


def test_other_errors_pass_through(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        stepper(nn.Sequential(nn.Flatten(), nn.Linear(7, 3))).run(*batch, None)


def test_hits_of_labels_that_hold_together() -> None:
    logits = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert count_hits(logits, targets, "multilabel") == 1.5


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_decay_spares_biases_and_norms(tiny_net: Callable[..., nn.Module], name: str) -> None:
    model = tiny_net()
    optimizer = make_optimizer(model, LoopSettings(optimizer=name, weight_decay=0.3, lr=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for parameter in model.parameters():
        assert decay[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0)
    assert optimizer.defaults["fused"]


def test_rates_reach_the_optimiser(tiny_net: Callable[..., nn.Module]) -> None:
    adam = make_optimizer(tiny_net(), LoopSettings(optimizer="adam"))
    sgd = make_optimizer(tiny_net(), LoopSettings(optimizer="sgd", momentum=0.7))
    for optimizer in (adam, sgd):
        set_rates(optimizer, Rates(0.5))
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)
    assert sgd.param_groups[0]["momentum"] == 0.7
    for optimizer in (adam, sgd):
        set_rates(optimizer, Rates(0.25, momentum=0.85))
    assert adam.param_groups[0]["betas"] == (0.85, 0.999)
    assert sgd.param_groups[0]["momentum"] == 0.85
    assert adam.param_groups[0]["lr"] == 0.25


def test_a_frozen_network_is_refused(tiny_net: Callable[..., nn.Module]) -> None:
    with pytest.raises(ScanwiseError, match="no trainable parameter"):
        make_optimizer(tiny_net().requires_grad_(False), LoopSettings())
