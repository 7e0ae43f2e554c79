"""A paired gain against closed forms and against scipy's bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from scanwise.core.errors import DataError
from scanwise.metrics.paired import paired_gain


def test_the_gain_agrees_with_scipys_paired_bootstrap(rng):
    first, second = rng.random(200), rng.random(200) + 0.1
    found = paired_gain(first, second, np.zeros(200, int), num_resamples=9_000)
    reference = bootstrap(
        (second - first,), np.mean, n_resamples=9_000, method="percentile", rng=1
    ).confidence_interval
    assert found.value == pytest.approx((second - first).mean())
    assert found.low == pytest.approx(reference.low, abs=0.006)
    assert found.high == pytest.approx(reference.high, abs=0.006)


def test_pairing_cancels_what_both_share(rng):
    hardness = rng.normal(size=300) * 10
    found = paired_gain(hardness, hardness + 0.5, np.zeros(300, int))
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_groups_are_drawn_whole(rng):
    """Copies of an image add no evidence: the interval is that of the groups."""
    base = rng.normal(size=40)
    groups = tuple(str(i // 10) for i in range(400))
    copied = paired_gain(np.zeros(400), np.repeat(base, 10), np.zeros(400, int), groups=groups)
    single = paired_gain(np.zeros(40), base, np.zeros(40, int))
    assert copied.low == pytest.approx(single.low, abs=0.06)
    assert copied.high == pytest.approx(single.high, abs=0.06)


def test_few_images_carry_their_caution():
    assert "too few" in (paired_gain(np.zeros(5), np.arange(5.0), np.zeros(5, int)).reason or "")


def test_other_images_can_not_be_compared():
    with pytest.raises(DataError, match="same images"):
        paired_gain(np.zeros(3), np.zeros(4), np.zeros(3, int))
    with pytest.raises(DataError, match="same images"):
        paired_gain(np.zeros(0), np.zeros(0), np.zeros(0, int))


def test_answers_that_never_differed_may_still_differ():
    right = np.ones(43)
    found = paired_gain(right, right, np.zeros(43, int))
    assert found.value == 0.0
    assert found.high == pytest.approx(1.96**2 / (43 + 1.96**2), abs=1e-3)  # Wilson, 0 of 43
    assert found.low == -found.high
