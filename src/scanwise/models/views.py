"""Test-time augmentation: views of an image, whose mean features a trained network answers by.

A network that halves its maps answers a little differently when the image moves by a pixel; the
mean over such views does so less (docs/recipes.md has what it brought).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

# Of the side; 1 px of 28.
SHIFT = 1 / 28


@dataclass(frozen=True)
class View:
    """One way to look at an image."""

    mirror: bool = False
    down: int = 0  # steps of SHIFT of the side that the window moves
    right: int = 0

    def of(self, images: Tensor) -> Tensor:
        """The view of images float (b, c, h, w): same shape, edges continued."""
        if self.mirror:
            images = images.flip(3)
        if not (self.down or self.right):
            return images
        height, width = (int(side) for side in images.shape[2:])  # constants of an exported graph
        step = max(1, round(SHIFT * min(height, width)))
        padded = F.pad(images, (step,) * 4, mode="replicate")
        top, left = step * (1 + self.down), step * (1 + self.right)
        return padded[:, :, top : top + height, left : left + width]


_PLAIN = (View(), View(mirror=True))
_DIAGONALS = tuple((down, right) for down in (-1, 1) for right in (-1, 1))

# Name to views; the image itself is always one of them.
VIEWS: dict[str, tuple[View, ...]] = {
    "none": (View(),),
    "flip": _PLAIN,
    "shift": (View(), *(View(False, *step) for step in _DIAGONALS)),
    "flip+shift": (
        *_PLAIN,
        *(View(mirror, *step) for step in _DIAGONALS for mirror in (False, True)),
    ),
}
