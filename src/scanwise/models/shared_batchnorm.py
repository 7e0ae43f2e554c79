"""BatchNorm over the images of all processes, so that several train as one would.

torch.nn.SyncBatchNorm does this on GPUs only, and counts every image that a process passes through;
here a process without an image in a step can pass one that does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass
class Presence:
    """Whether this process's images count in the step at hand; the loop sets it before each."""

    counts: bool = True


def share_batchnorm(model: nn.Module, presence: Presence) -> Callable[[], None]:
    """Make the BatchNorms of a network compute over all processes, in place.

    Weights and statistics stay the tensors that they are. Layers of a type of one's own, made from
    torch's, are left alone: each process uses the statistics of its own images in them.

    Args:
        model: Any network; every process has the same.
        presence: Read at each training step.

    Returns:
        What puts the layers back.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    made: dict[nn.Module, SharedBatchNorm] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) in _PLAIN:
                assert isinstance(child, _BatchNorm)
                replaced.append((parent, name, child))
                made.setdefault(child, SharedBatchNorm(child, presence))
    for parent, name, child in replaced:
        parent._modules[name] = made[child]

    def put_back() -> None:
        for parent, name, child in replaced:
            child.train(made[child].training)
            parent._modules[name] = child

    return put_back


class SharedBatchNorm(_BatchNorm):
    """A BatchNorm's stand-in, with its weights and its running statistics."""

    def __init__(self, source: _BatchNorm, presence: Presence) -> None:
        super().__init__(
            source.num_features,
            source.eps,
            source.momentum,
            affine=False,
            track_running_stats=False,
        )
        self.affine, self.track_running_stats = source.affine, source.track_running_stats
        self.weight, self.bias = source.weight, source.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(source, name))
        self.train(source.training)
        self._presence = presence

    def _check_input_dim(self, input: Tensor) -> None:
        """Any of (b, c), (b, c, l), (b, c, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        result, mean, variance, count = _normalise(
            input, self.weight, self.bias, self.eps, self._presence.counts
        )
        if self.running_mean is not None and self.running_var is not None:
            self._follow(mean, variance * (count / (count - 1).clamp_min(1)))
        return result

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / int(self.num_batches_tracked)
        self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        self.running_var.mul_(1 - momentum).add_(variance, alpha=momentum)


def _normalise(
    images: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, counts: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalised images, and mean, biased variance (c,) and number of values over all processes."""
    apply: Any = _Normalise.apply
    result: tuple[Tensor, Tensor, Tensor, Tensor] = apply(images, weight, bias, eps, counts)
    return result


class _Normalise(torch.autograd.Function):
    """Forward: one gathering of mean, variance and number. Backward: one sum of two (c,) vectors.

    The parts' moments are joined as by Chan, Golub and LeVeque 1979 (which loses no digits to a
    large mean); the gradient is that of Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        counts: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = images.shape[1]
        own_variance, own_mean = torch.var_mean(_wide(images), _but_channels(images), correction=0)
        number = images.numel() / channels * counts
        mine = torch.cat([own_mean, own_variance, torch.full_like(own_mean[:1], number)])
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        table = torch.stack(every)
        means, variances, numbers = table.tensor_split([channels, 2 * channels], dim=1)
        count = numbers.sum()
        mean = (numbers * means).sum(dim=0) / count
        variance = (numbers * (variances + (means - mean) ** 2)).sum(dim=0) / count
        result = nn.functional.batch_norm(images, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(images, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.counts, ctx.has_bias = counts, bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return result, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        shape = [1, -1] + [1] * (images.ndim - 2)
        slope = _wide(gradient)
        standard = (_wide(images) - mean.view(shape)) * scale.view(shape)
        over = _but_channels(images)
        own_sum, own_product = slope.sum(over), (slope * standard).sum(over)
        both = torch.stack([own_sum, own_product])
        dist.all_reduce(both)
        total, product = (both / count).view(2, *shape)
        if weight is not None:
            scale = scale * weight
        back = (slope - total - standard * product) * scale.view(shape)
        if not ctx.counts:  # the others' statistics do not depend on these images
            back = torch.zeros_like(back)
        # Of the weights, each process has its own part; their gradients are summed with all others.
        return (
            back.to(images.dtype),
            None if weight is None else own_product,
            own_sum if ctx.has_bias else None,
            None,
            None,
        )


def _but_channels(images: Tensor) -> list[int]:
    return [0, *range(2, images.ndim)]


def _wide(numbers: Tensor) -> Tensor:
    """At least float32."""
    return numbers.to(torch.promote_types(numbers.dtype, torch.float32))
