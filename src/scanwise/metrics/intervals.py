"""95 % intervals: Wilson for proportions, a vectorised bootstrap for everything else.

How often they hold the truth is simulated by benchmarks/coverage.py (docs/intervals.md).

Images of one class are resampled among themselves (stratified), so each resample has the class
counts of the split; multi-label images are resampled as they are. Where images come in groups
(patients, slides) whole groups are drawn, since images of one patient are not independent; a class
that a resample then lacks is left out of its averages.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy  # its parts are loaded at first use
from numpy.typing import NDArray

from scanwise.core.errors import DataError
from scanwise.core.types import Interval
from scanwise.metrics.inputs import Floats, Ints

LEVEL = 0.95
Z = 1.959963984540054  # scipy.special.ndtri(0.5 + LEVEL / 2), without the time to import it
NUM_RESAMPLES = 2000
MIN_UNITS = 30  # below it an interval is printed with a caution (CAPABILITIES E3)
_CHUNK_CELLS = 2**21  # of one block of weights: 16 MiB, so that it stays near the processor


def wilson_interval(successes: int, n: int) -> Interval:
    """A proportion with its 95 % Wilson score interval.

    Args:
        successes: Images that count, in [0, n].
        n: Images in all. 0 gives no value but the reason; under 30 gives a caution.

    Raises:
        DataError: If successes is outside [0, n].

    Source:
        Wilson, J. Am. Stat. Assoc. 22, 1927; Brown, Cai and DasGupta, Stat. Sci. 16, 2001.

    >>> print(wilson_interval(90, 100))
    0.900 [0.826, 0.945]
    """
    if not 0 <= successes <= n:
        raise DataError(f"successes must lie in [0, {n}], got {successes}.")
    if n == 0:
        return Interval(None, reason="n=0")
    share = successes / n
    spread = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    # At the ends the bound is the end itself; rounding must not push it past the value.
    low = 0.0 if successes == 0 else min(float(centre - spread), share)
    high = 1.0 if successes == n else max(float(centre + spread), share)
    return Interval(share, max(0.0, low), min(1.0, high), caution(n))


def never_seen(units: int) -> float:
    """Upper 95 % bound of a share of which not one case was seen in `units` > 0 images."""
    return float(wilson_interval(0, units).high or 0.0)


def caution(units: int, noun: str = "n") -> str | None:
    """'too few to conclude (n=12)' under 30 units, else None."""
    return f"too few to conclude ({noun}={units})" if units < MIN_UNITS else None


def resample_weights(
    strata: Ints, groups: Ints | None, num_resamples: int, seed: int, width: int = 1
) -> Iterator[Floats]:
    """How often each image is drawn in each bootstrap resample, block by block.

    Args:
        strata: Stratum of each image, int (n,) in [0, s); each is resampled to its own size.
        groups: Group of each image, int (n,) in [0, m); then m whole groups are drawn with
            replacement and `strata` is not used.
        num_resamples: Resamples over all blocks.
        seed: Same seed, same weights, whatever the block size.
        width: Cells that the caller needs per resample, if more than n; makes blocks smaller.

    Yields:
        Float (n, r): whole numbers; r sums to num_resamples over the blocks.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993; for groups Field and Welsh,
        J. R. Stat. Soc. B 69, 2007 (randomised cluster bootstrap).
    """
    pool = strata if groups is None else np.zeros(int(groups.max()) + 1, dtype=np.int64)
    m = len(pool)
    order = np.argsort(pool, kind="stable")
    sizes = np.bincount(pool)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    size = np.repeat(sizes, sizes)
    block = max(1, _CHUNK_CELLS // max(len(strata), width))
    rng = np.random.default_rng(seed)
    for done in range(0, num_resamples, block):
        r = min(block, num_resamples - done)
        # One row of uniforms a resample: the draws don't depend on how they are cut into blocks.
        drawn = start + (rng.random((r, m)) * size).astype(np.int64)
        cells = order[drawn] * r + np.arange(r)[:, None]
        counts = np.bincount(cells.ravel(), minlength=m * r).reshape(m, r).astype(np.float64)
        yield counts if groups is None else counts[groups]


def group_numbers(groups: tuple[str, ...] | NDArray[np.str_] | None) -> Ints | None:
    """Groups as numbers (n,), or None where each image is its own group (nothing is clustered).

    An empty name is no group: such an image stands alone.
    """
    if groups is None:
        return None
    own = [str(name) or f"\0{row}" for row, name in enumerate(groups)]
    names, numbers = np.unique(np.array(own), return_inverse=True)
    return None if len(names) == len(numbers) else numbers.astype(np.int64)


def percentile_interval(
    value: float,
    resamples: Floats,
    *,
    units: int,
    noun: str = "n",
    lowest: float = 0.0,
    highest: float = 1.0,
    recentre: bool = False,
    edge_doubt: float | None = None,
) -> Interval:
    """An estimate with the central 95 % of its bootstrap resamples.

    Args:
        value: The estimate; NaN is not allowed.
        resamples: The same quantity in each resample, (r,); NaN where it can't be evaluated.
        units: Images (groups, where those are drawn) behind the estimate, for the caution.
        noun: What the units are, for the caution.
        lowest: Smallest possible value; -1 for correlations.
        highest: Largest possible value, inf if unbounded.
        recentre: Move the interval by the mean difference of resamples and estimate. For
            quantities that noise can only push up, such as the ECE: each resample adds the same
            upward bias once more, and the plain interval can lie above the estimate.
        edge_doubt: How far, as a share of the range, the interval of a perfect (or worst possible)
            score reaches; by default the Wilson bound of "not one in `units`".

    Returns:
        An interval that contains `value`. Without one where under half of the resamples can be
        evaluated or there is one unit. A perfect score, which resampling can't lower, is opened by
        `edge_doubt`, so that no interval claims certainty.

    Source:
        Efron and Tibshirani 1993, chapter 13 (percentile method).
    """
    usable = resamples[~np.isnan(resamples)]
    if units < 2:
        return Interval(value, reason=f"no interval: {noun}={units}")
    if len(usable) < max(1, len(resamples) / 2):
        return Interval(value, reason="no interval: most resamples lack the class")
    tail = (1 - LEVEL) / 2
    low, high = (float(bound) for bound in np.quantile(usable, [tail, 1 - tail]))
    if recentre:
        bias = float(usable.mean()) - value
        low, high = low - bias, high - bias
    if low == high and value in (lowest, highest):
        reach = 1.0 if np.isinf(highest) else highest - lowest
        doubt = reach * (never_seen(units) if edge_doubt is None else edge_doubt)
        low, high = (low, high + doubt) if value == lowest else (low - doubt, high)
    low, high = min(max(low, lowest), value), max(min(high, highest), value)
    return Interval(value, low, high, caution(units, noun))


def logit_interval(
    value: float,
    resamples: Floats,
    *,
    units: int,
    noun: str = "n",
    lowest: float = 0.0,
    highest: float = 1.0,
    freedom: float | None = None,
    edge_doubt: float | None = None,
) -> Interval:
    """An estimate in a bounded range with a t interval of its logit, spread by the bootstrap.

    Near the end of its range a score's errors are lopsided; on the scale of the logit they are
    not. Percentiles of the resamples cover less than they promise there, and with few images.

    Args:
        value: The estimate; NaN is not allowed.
        resamples: The same quantity in each resample, (r,); NaN where it can't be evaluated.
        units: Images (groups, where those are drawn) behind the estimate, for the caution.
        noun: What the units are, for the caution.
        lowest, highest: Ends of the range, both finite.
        freedom: Degrees of freedom of the variance; by default units - 1. The bootstrap's variance
            lacks a factor (freedom + 1) / freedom, which is put in.
        edge_doubt: As in `percentile_interval`, which judges what stands at an end of the range,
            where a logit is infinite, and what can't be judged at all.

    Returns:
        An interval that contains `value`.

    Source:
        Pepe, The Statistical Evaluation of Medical Tests, 2003, section 5.2 (logit of the AUROC);
        t and the factor as in Hesterberg, Am. Stat. 69, 2015, section 4.1.
    """
    plain = percentile_interval(
        value, resamples, units=units, noun=noun, lowest=lowest, highest=highest,
        edge_doubt=edge_doubt,
    )  # fmt: skip
    if plain.low is None or value in (lowest, highest):
        return plain
    reach = highest - lowest
    share = (value - lowest) / reach
    degrees = units - 1.0 if freedom is None else freedom
    spread = float(np.nanstd(resamples, ddof=1)) / reach * np.sqrt((degrees + 1) / degrees)
    special = scipy.special
    half = -float(special.stdtrit(degrees, (1 - LEVEL) / 2)) * spread / (share * (1 - share))
    low, high = (float(special.expit(special.logit(share) + side)) for side in (-half, half))
    low, high = min(lowest + reach * low, value), max(lowest + reach * high, value)
    return Interval(value, low, high, plain.reason)
