"""Can one small place at the rim of the image tell the class? Then a network need see no more.

A mark that a scanner, a ruler or a label burns into the corner is such a place. The whole rim is no
fair judge: background differs between classes for good reasons. One corner that by itself ranks the
images of a class almost perfectly seldom does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanwise.metrics.ranks import auroc

PATCH = 1 / 9  # side of a place, as a share of the image's shorter side: 3 of 28 px
MOST_IMAGES = 1000
MIN_IMAGES = 10  # of a class and of the others, in each half
PLACES = (
    "top left corner", "middle of the top edge", "top right corner", "middle of the left edge",
    "middle of the right edge", "bottom left corner", "middle of the bottom edge",
    "bottom right corner",
)  # fmt: skip


@dataclass(frozen=True)
class BorderProbe:
    """The place at the rim that best tells one class from the others.

    Place, class and direction were chosen on one half of the images; `auroc` in [0, 1] is that of
    the place's mean intensity on the other half, of `n` images, `n_class` of them of the class.
    """

    place: str
    class_name: str
    brighter: bool  # the class is brighter there than the others
    side_px: int
    auroc: float
    n: int
    n_class: int

    def to_json(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "class": self.class_name,
            "brighter": self.brighter,
            "side_px": self.side_px,
            "auroc": self.auroc,
            "n": self.n,
            "n_class": self.n_class,
        }


def border_probe(
    images: NDArray[Any],
    targets: NDArray[np.int64],
    class_names: tuple[str, ...],
    rows: NDArray[np.int64],
    *,
    seed: int = 0,
) -> BorderProbe | None:
    """Look for the class in eight small squares at the rim: corners and middles of the edges.

    Args:
        images: (n, h, w, c) of any supported type; may be a memory map.
        targets: int (n,); one class an image.
        class_names: k names.
        rows: Training rows to look at; at most 1,000 of them are.
        seed: Draws and halves the rows.

    Returns:
        The best place, or None where no class has 20 images beside 20 others.
    """
    drawn = np.random.default_rng(seed).permutation(rows)[:MOST_IMAGES]
    chosen, judged = drawn[::2], drawn[1::2]
    side = max(2, round(PATCH * min(images.shape[1:3])))
    best: tuple[float, int, int] | None = None  # distance from chance, place, class
    seen = _places(images, np.sort(chosen), side)
    truth = targets[np.sort(chosen)]
    for k in range(len(class_names)):
        if not _enough(truth == k) or not _enough(targets[judged] == k):
            continue
        for place in range(len(PLACES)):
            area = auroc(seen[:, place], truth == k)
            if best is None or abs(area - 0.5) > abs(best[0]):
                best = (area - 0.5, place, k)
    if best is None:
        return None
    gap, place, k = best
    judged = np.sort(judged)
    area = auroc(_places(images, judged, side)[:, place], targets[judged] == k)
    return BorderProbe(
        place=PLACES[place],
        class_name=class_names[k],
        brighter=gap > 0,
        side_px=side,
        auroc=area if gap > 0 else 1 - area,
        n=len(judged),
        n_class=int((targets[judged] == k).sum()),
    )


def _enough(positive: NDArray[np.bool_]) -> bool:
    return MIN_IMAGES <= int(positive.sum()) <= len(positive) - MIN_IMAGES


def _places(images: NDArray[Any], rows: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    """Mean intensity of each place of some images, float (m, 8), in the order of PLACES.

    One image at a time: a memory map may be larger than memory.
    """
    height, width = images.shape[1:3]
    tops = (0, (height - side) // 2, height - side)
    lefts = (0, (width - side) // 2, width - side)
    corners = [(top, left) for top in tops for left in lefts if (top, left) != (tops[1], lefts[1])]
    means = [
        [images[row, top : top + side, left : left + side].mean() for top, left in corners]
        for row in rows.tolist()
    ]
    return np.array(means, np.float64).reshape(len(rows), len(corners))
