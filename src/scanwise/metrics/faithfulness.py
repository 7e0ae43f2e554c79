"""Do maps of evidence show what the network used? Deletion, insertion, and random weights.

A map that is beside the point looks as convincing as a good one, so three things are measured of a
gallery: does the answer fall faster when pixels are deleted in the map's order than in a random
one, does it rise faster when they are inserted, and does the map change when the network's weights
are replaced by random ones?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats
from scanwise.metrics.paired import paired_gain

FAITHFUL, NOT_FAITHFUL, TOO_FEW = "faithful", "not faithful", "too few to judge"
MIN_IMAGES = 10  # fewer are not judged
# From here on maps of the trained and of a random network count as much alike: half of the way from
# unrelated to equal. Adebayo et al. name no limit.
SAME_MAP = 0.5


@dataclass(frozen=True, eq=False)
class MapScores:
    """What was measured of each map, all float (n,).

    `deletion` and `insertion` are areas under the curve of the explained class's probability while
    pixels go (less is better) or come (more is better) in the map's order; `…_random` the same in a
    random order, the mean of several. `correlation` is the rank correlation with the map of the
    network with random weights.
    """

    deletion: Floats
    deletion_random: Floats
    insertion: Floats
    insertion_random: Floats
    correlation: Floats

    def __len__(self) -> int:
        return len(self.deletion)

    def row(self, index: int) -> dict[str, float]:
        """The scores of one map, for JSON."""
        return {name: float(getattr(self, name)[index]) for name in self.__dataclass_fields__}

    @classmethod
    def from_rows(cls, rows: Sequence[dict[str, Any]]) -> MapScores:
        """The inverse of `row`."""
        names = cls.__dataclass_fields__
        return cls(*(np.array([row[name] for row in rows], np.float64) for name in names))


@dataclass(frozen=True)
class Faithfulness:
    """The judgement on a gallery.

    Gains are mean differences over images, paired, above 0 where the maps beat random ones.
    """

    n: int
    images: int  # distinct images (or groups) behind them
    deletion: float
    deletion_random: float
    deletion_gain: Interval
    insertion: float
    insertion_random: float
    insertion_gain: Interval
    correlation: Interval
    verdict: str
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            key: value.to_json()
            if isinstance(value, Interval)
            else list(value)
            if isinstance(value, tuple)
            else value
            for key, value in self.__dict__.items()
        }


def curve_area(curve: Floats) -> Floats:
    """Area under curves of equally spaced points over [0, 1], float (n, s) to (n,), trapezoids.

    >>> float(curve_area(np.array([[1.0, 0.5, 0.0]]))[0])
    0.5
    """
    return np.asarray(np.trapezoid(curve, dx=1 / (curve.shape[-1] - 1), axis=-1))


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> Floats:
    """Spearman's correlation of each pair of maps, (n, h, w) each, to float (n,) in [-1, 1].

    A map without any difference in it has no ranks: 0 where one of a pair is flat (it did change),
    1 where both are.
    """
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    spreads = [np.sqrt((rank**2).sum(axis=1)) for rank in centred]
    product, flat = spreads[0] * spreads[1], [spread == 0 for spread in spreads]
    found = (centred[0] * centred[1]).sum(axis=1) / np.where(product > 0, product, 1.0)
    return np.where(flat[0] & flat[1], 1.0, found)


def judge_maps(
    scores: MapScores, units: Sequence[str], *, no_skill: str | None = None
) -> Faithfulness:
    """Are these maps better than random ones, and do they depend on what was learned?

    Args:
        scores: Of n > 0 maps.
        units: Image of each map, or its patient (n,); maps of one are no independent evidence.
        no_skill: Why the network knows nothing, if it does not: then no map of it can be trusted.

    Returns:
        "not faithful" if the 95 % interval of either gain does not exclude 0, the mean correlation
        is at least 0.5, or the network has no skill; "too few to judge" under 10 images.

    Raises:
        DataError: If there is no map.

    Source:
        Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421 (deletion, insertion); Adebayo et al.,
        NeurIPS 2018, arXiv:1810.03292 (random weights).
    """
    if not len(scores):
        raise DataError("there is no map to judge.")
    deletion = _mean_gain(scores.deletion, scores.deletion_random, units)
    insertion = _mean_gain(scores.insertion_random, scores.insertion, units)
    correlation = _mean_gain(np.zeros(len(scores)), scores.correlation, units)
    reasons = [] if no_skill is None else [f"the network has no skill: {no_skill}"]
    for what, gain in (("deletion", deletion), ("insertion", insertion)):
        if gain.low is None or gain.low <= 0:
            reasons.append(f"{what}: not better than random maps ({gain.signed()})")
    if float(scores.correlation.mean()) >= SAME_MAP:
        reasons.append(
            "weight randomisation: the maps hardly change when all weights are drawn anew (rank "
            f"correlation {correlation})"
        )
    images = len(set(units))
    verdict = NOT_FAITHFUL if reasons else FAITHFUL
    return Faithfulness(
        n=len(scores),
        images=images,
        deletion=float(scores.deletion.mean()),
        deletion_random=float(scores.deletion_random.mean()),
        deletion_gain=deletion,
        insertion=float(scores.insertion.mean()),
        insertion_random=float(scores.insertion_random.mean()),
        insertion_gain=insertion,
        correlation=correlation,
        verdict=TOO_FEW if images < MIN_IMAGES else verdict,
        reasons=tuple(reasons) if images >= MIN_IMAGES else (f"n={images}",),
    )


def _mean_gain(first: Floats, second: Floats, units: Sequence[str]) -> Interval:
    one_stratum = np.zeros(len(first), np.int64)
    return paired_gain(first, second, one_stratum, groups=tuple(units))
