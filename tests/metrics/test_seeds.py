"""Spread over seeds, beside statsmodels and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scanwise.core.errors import DataError
from scanwise.metrics.seeds import seed_spread, spread_ratio


def test_spread_is_the_sample_sd_with_the_chi_square_interval():
    values = [0.71, 0.74, 0.69, 0.73]
    found = seed_spread(values)
    assert found.value == pytest.approx(stats.tstd(values))
    # Snedecor and Cochran: (n - 1) s² / chi² with 3 degrees of freedom, 9.348 and 0.2158.
    np.testing.assert_allclose(
        [found.low, found.high], found.value * np.sqrt(3 / np.array([9.3484, 0.21580])), rtol=1e-4
    )


def test_intervals_hold_the_truth_95_times_in_100():
    rng = np.random.default_rng(1)
    draws = rng.normal(0.7, 0.02, (2000, 2, 5))
    spreads = [seed_spread(first) for first, _ in draws]
    ratios = [spread_ratio(first, second) for first, second in draws]
    assert np.mean([each.low <= 0.02 <= each.high for each in spreads]) == pytest.approx(
        0.95, abs=0.015
    )
    assert np.mean([each.low <= 1 <= each.high for each in ratios]) == pytest.approx(
        0.95, abs=0.015
    )


def test_one_seed_and_equal_seeds_say_so():
    assert seed_spread([0.7]).value is None
    assert seed_spread([0.7, 0.7]).low is None
    assert spread_ratio([0.7], [0.6, 0.8]).value is None
    assert spread_ratio([0.7, 0.7], [0.6, 0.8]).value is None
    with pytest.raises(DataError, match="one seed"):
        seed_spread([])
