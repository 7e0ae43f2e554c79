"""Mixup and CutMix: train on mixtures of two images of a batch, and of their losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scanwise.core.config import Mix

MIXUP_ALPHA = 0.2  # of the Beta distribution of the shares; Zhang et al. used 0.1 to 0.4
CUTMIX_SHARE = 0.5  # of the batches; the rest stays as it is


@dataclass(frozen=True, eq=False)
class Partners:
    """The second image of each mixture of a batch."""

    targets: Tensor  # (b,) or (b, k)
    weights: Tensor | None  # (b,) in the loss
    share: float  # of the first image, in [0, 1]

    def split(self, parts: int) -> list[Partners]:
        """As the batch is split into parts."""
        weights = [None] * parts if self.weights is None else self.weights.tensor_split(parts)
        return [
            Partners(targets, weight, self.share)
            for targets, weight in zip(self.targets.tensor_split(parts), weights, strict=True)
        ]


def mix_batch(
    mix: Mix, images: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Partners | None]:
    """Mix each image of a batch with another one of it, all by the same share.

    Args:
        mix: "mixup" adds the images, "cutmix" pastes a rectangle of the second into the first, at
            the same place, in half of the batches.
        images: float (b, c, h, w).
        targets: Of the images.
        weights: Of the images in the loss.

    Returns:
        The mixtures, and what is needed for their loss; the images as they are and None where
        nothing is mixed. Draws from torch's global generator.

    Source:
        Zhang et al., ICLR 2018, arXiv:1710.09412 (mixup); Yun et al., ICCV 2019, arXiv:1905.04899
        (CutMix, its algorithm 1 and equation 2).
    """
    if mix == "none" or len(images) < 2:
        return images, None
    if mix == "cutmix" and float(torch.rand(())) >= CUTMIX_SHARE:
        return images, None
    order = torch.randperm(len(images)).to(images.device)
    if mix == "mixup":
        share = _beta(MIXUP_ALPHA)
        mixed = torch.lerp(images.index_select(0, order), images, share)
    else:
        mixed, share = _pasted(images, order)
    partners = Partners(
        targets.index_select(0, order),
        None if weights is None else weights.index_select(0, order),
        share,
    )
    return mixed, partners


def _beta(alpha: float) -> float:
    """A draw of Beta(alpha, alpha)."""
    return float(torch.distributions.Beta(alpha, alpha).sample())


def _pasted(images: Tensor, order: Tensor) -> tuple[Tensor, float]:
    """A rectangle of the image's shape pasted, and the share of pixels that stayed."""
    height, width = images.shape[2:]
    side = math.sqrt(float(torch.rand(())))  # Beta(1, 1) is uniform; its area is 1 - share
    middle = torch.rand(2).tolist()
    top, bottom = _clipped(middle[0], side, height)
    left, right = _clipped(middle[1], side, width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _clipped(middle: float, side: float, length: int) -> tuple[int, int]:
    """First and last pixel of a window around `middle`, both as parts of the length."""
    start, stop = (round(length * (middle + sign * side / 2)) for sign in (-1, 1))
    return max(0, start), min(length, stop)
