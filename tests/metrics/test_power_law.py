"""The power law of a learning curve, against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from scanwise.core.errors import DataError
from scanwise.metrics.power_law import fit_power_law

SIZES = np.array([100.0, 250, 500, 1000])


@pytest.mark.parametrize(
    ("a", "b", "c"), [(2.0, 0.5, 0.0), (2.0, 0.5, 0.05), (8.0, 1.0, 0.1), (0.6, 0.12, 0.0)]
)
def test_a_known_law_is_found_again(a, b, c):
    curve = fit_power_law(SIZES, a * SIZES**-b + c)
    assert curve.b[0] == pytest.approx(b, abs=1e-4)
    assert curve.c[0] == pytest.approx(c, abs=1e-4)
    assert curve.a[0] * curve.scale ** curve.b[0] == pytest.approx(a, rel=1e-3)
    expected = a * 2000.0**-b + c
    assert curve.at([2000.0])[0, 0] == pytest.approx(expected, abs=1e-5)


def test_noisy_points_are_fitted_as_scipy_fits_them():
    rng = np.random.default_rng(1)
    sizes = np.geomspace(50, 5000, 8)
    spread = rng.uniform(0.005, 0.02, 8)
    errors = 1.5 * sizes**-0.4 + 0.06 + rng.normal(0, spread)
    (a, b, c), _ = curve_fit(
        lambda n, a, b, c: a * n**-b + c, sizes, errors, p0=(1, 0.5, 0.01), sigma=spread,
        bounds=([0, 0.05, 0], [50, 3, 1]), xtol=1e-12, ftol=1e-12, gtol=1e-12,
    )  # fmt: skip
    ours = fit_power_law(sizes, errors, spread).at([100, 10_000])[:, 0]
    np.testing.assert_allclose(ours, a * np.array([100, 10_000]) ** -b + c, atol=2e-4)


def test_the_level_is_never_below_zero():
    errors = 0.5 - 0.1 * np.log10(SIZES)  # falls ever faster than any law with c > 0
    assert fit_power_law(SIZES, errors).c[0] == 0


def test_flat_points_promise_nothing_and_rising_points_rise():
    flat = fit_power_law(SIZES, np.full(4, 0.2))
    np.testing.assert_allclose(flat.at([2000.0]), 0.2)
    rising = fit_power_law(SIZES, [0.1, 0.12, 0.13, 0.135]).at([1000.0, 2000.0])[:, 0]
    assert rising[1] > rising[0]


def test_many_resamples_are_fitted_as_each_alone():
    rng = np.random.default_rng(0)
    table = SIZES[:, None] ** -0.3 + rng.normal(0, 0.01, (4, 700))
    together = fit_power_law(SIZES, table).at([2000.0])[0]
    alone = [fit_power_law(SIZES, table[:, i]).at([2000.0])[0, 0] for i in (0, 499, 500, 699)]
    np.testing.assert_allclose(together[[0, 499, 500, 699]], alone)


@pytest.mark.parametrize("sizes", [[1, 2, 3], [10, 10, 20, 30], [0, 1, 2, 3]])
def test_too_few_sizes_are_refused(sizes):
    with pytest.raises(DataError, match="4 distinct"):
        fit_power_law(sizes, np.full(len(sizes), 0.1))
