"""Do new answers look like those on validation? Two-sample tests, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from scanwise.metrics.inputs import Floats, Ints
from scanwise.metrics.intervals import MIN_UNITS
from scanwise.metrics.multiplicity import holm

ALPHA = 0.05
LEAST_EXPECTED = 5.0  # in a cell of a chi-square table (Cochran, Biometrics 10, 1954)


@dataclass(frozen=True)
class DriftTest:
    """One comparison; without `p` it could not be made, and `reason` says why."""

    what: str
    test: str  # what `statistic` belongs to; of Fisher's test it is the difference of the shares
    n_reference: int
    n_new: int
    statistic: float | None = None
    p: float | None = None
    p_corrected: float | None = None  # by Holm, over all tests that could be made
    reason: str = ""

    @property
    def verdict(self) -> str:
        """'drift', 'no drift shown' (which is no proof of sameness), or 'not measured'."""
        if self.p_corrected is None:
            return "not measured"
        return "drift" if self.p_corrected < ALPHA else "no drift shown"


def score_drift(what: str, reference: Floats, new: Floats) -> DriftTest:
    """Are two samples of a score drawn from one distribution? Two-sided Kolmogorov-Smirnov.

    Args:
        what: Name of the score.
        reference: Of the images compared with, float (m,); NaN is left out.
        new: Of the new images, float (n,); NaN is left out.

    Source:
        Hodges, Arkiv för Matematik 3, 1958; scipy.stats.ks_2samp.
    """
    known, found = reference[~np.isnan(reference)], new[~np.isnan(new)]
    empty = DriftTest(what, "Kolmogorov-Smirnov", len(known), len(found))
    if reason := _too_few(empty):
        return replace(empty, reason=reason)
    result = stats.ks_2samp(known, found)
    return replace(empty, statistic=float(result.statistic), p=float(result.pvalue))


def share_drift(what: str, reference: Ints, new: Ints) -> DriftTest:
    """Have kinds the same shares in two samples?

    Of two kinds by Fisher's exact test, which needs no minimum in its cells. Of more by Pearson's
    chi-square, the rarest kinds put together until each cell is expected to hold five.

    Args:
        what: Name of the kinds.
        reference: Images of each kind among those compared with, int (k,).
        new: Among the new ones, int (k,).
    """
    test = "Fisher's exact" if len(reference) == 2 else "chi-square"
    empty = DriftTest(what, test, int(reference.sum()), int(new.sum()))
    if reason := _too_few(empty):
        return replace(empty, reason=reason)
    if len(reference) == 2:
        p = float(stats.fisher_exact(np.stack([reference, new])).pvalue)
        apart = float(new[0] / new.sum() - reference[0] / reference.sum())
        return replace(empty, statistic=apart, p=p)
    table = _pooled(np.stack([reference, new]).astype(np.float64))
    if table.shape[1] < 2:
        return replace(empty, reason="all but a few images are of one kind")
    result = stats.chi2_contingency(table, correction=False)
    return replace(empty, statistic=float(result.statistic), p=float(result.pvalue))


def corrected(tests: Sequence[DriftTest]) -> tuple[DriftTest, ...]:
    """The same tests, each with its p value corrected for the number of tests."""
    made = [test.p for test in tests if test.p is not None]
    values = iter(holm(made).tolist() if made else [])
    return tuple(
        test if test.p is None else replace(test, p_corrected=next(values)) for test in tests
    )


def _too_few(test: DriftTest) -> str:
    fewest = min(test.n_reference, test.n_new)
    return f"too few images (n={fewest}, {MIN_UNITS} are needed)" if fewest < MIN_UNITS else ""


def _pooled(table: Floats) -> Floats:
    """Columns (2, k) in falling order, the last ones added up until each expects enough."""
    columns = table[:, np.argsort(-table.sum(axis=0), kind="stable")]
    columns = columns[:, columns.sum(axis=0) > 0]
    share = table.sum(axis=1).min() / table.sum()  # of the smaller sample
    while columns.shape[1] > 1 and columns[:, -1].sum() * share < LEAST_EXPECTED:
        last = columns[:, -2:].sum(axis=1, keepdims=True)
        columns = np.concatenate([columns[:, :-2], last], axis=1)
    return columns
