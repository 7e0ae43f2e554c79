"""Exact McNemar test and Holm's correction against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from scanwise.core.errors import DataError
from scanwise.metrics.mcnemar import mcnemar_exact
from scanwise.metrics.multiplicity import holm
from scanwise.metrics.seeds import spread


@pytest.fixture
def rng() -> np.random.Generator:
    """Its own for each test, so that none depends on which others ran."""
    return np.random.default_rng(7)


def _answers(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    first = [True] * both + [False] * gained + [True] * lost + [False] * neither
    second = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return first, second


def test_p_equals_statsmodels_on_random_tables(rng):
    for _ in range(200):
        both, gained, lost, neither = (int(number) for number in rng.integers(0, 40, 4))
        if gained + lost == 0:
            continue
        found = mcnemar_exact(*_answers(both, gained, lost, neither))
        reference = mcnemar([[both, lost], [gained, neither]], exact=True)
        assert (found.gained, found.lost) == (gained, lost)
        assert found.p_value == pytest.approx(reference.pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "p_value"),
    [
        ((5, 0, 0, 3), 1.0),  # never differ
        ((0, 1, 0, 0), 1.0),  # one image
        ((9, 6, 0, 2), 2 * 0.5**6),
        ((9, 0, 6, 2), 2 * 0.5**6),
        ((0, 4, 4, 0), 1.0),
    ],
)
def test_degenerate_tables(table, p_value):
    assert mcnemar_exact(*_answers(*table)).p_value == pytest.approx(p_value)


def test_bounds_are_clopper_pearson_and_go_with_p(rng):
    for _ in range(100):
        gained, lost = (int(number) for number in rng.integers(1, 30, 2))
        found = mcnemar_exact(*_answers(40, gained, lost, 0))
        n, differ = 40 + gained + lost, gained + lost
        share = beta.ppf(0.025, gained, lost + 1), beta.ppf(0.975, gained + 1, lost)
        assert found.low == pytest.approx((2 * share[0] - 1) * differ / n, abs=1e-9)
        assert found.high == pytest.approx((2 * share[1] - 1) * differ / n, abs=1e-9)
        assert (found.low <= 0 <= found.high) == (found.p_value >= 0.05)


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1, 0], [1]), ([[1, 0]], [[1, 0]]), ([0, 2], [0, 1])]
)
def test_other_answers_are_refused(first, second):
    with pytest.raises(DataError, match="right or wrong"):
        mcnemar_exact(first, second)


def test_holm_equals_statsmodels(rng):
    for m in (1, 2, 5, 30):
        p_values = rng.random(m) ** 3
        p_values[: m // 2] = p_values[0]  # ties
        reference = multipletests(p_values, method="holm")[1]
        np.testing.assert_allclose(holm(p_values), reference, rtol=1e-12)


def test_holm_of_nothing_and_of_nonsense():
    assert holm([]).shape == (0,)
    for wrong in ([0.2, 1.2], [float("nan")], [[0.1]]):
        with pytest.raises(DataError, match="p values"):
            holm(wrong)


def test_spread_over_seeds_is_the_sample_sd(rng):
    values = rng.random(5)
    found = spread(values.tolist())
    assert (found.mean, found.sd) == (
        pytest.approx(values.mean()),
        pytest.approx(values.std(ddof=1)),
    )
    assert str(spread([0.8])) == "0.800 (n=1: no SD)"
    assert str(spread([0.8, 0.8])) == "0.800 ± 0.000 (n=2)"
    for wrong in ([], [0.1, float("nan")]):
        with pytest.raises(DataError, match="each seed"):
            spread(wrong)
