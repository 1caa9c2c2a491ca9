from __future__ import annotations

import math

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.statistics.intervals import (
    bootstrap,
    bounds,
    mean_interval,
    paired_difference,
    rate_interval,
    share_interval,
)


def test_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 1000).tolist()
    found = mean_interval(values)
    half = 1.96 * float(np.std(values)) / math.sqrt(1000)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)
    assert found.n == 1000
    assert found.low > 0


def test_answers_to_one_prompt_count_as_one() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.0, 100)
    once = mean_interval(values.tolist())
    nine = mean_interval(np.repeat(values, 9).tolist(), np.repeat(np.arange(100), 9).tolist())
    assert nine == pytest.approx(once)
    assert nine.n == 100
    naive = mean_interval(np.repeat(values, 9).tolist())
    assert naive.high - naive.low < 0.5 * (nine.high - nine.low)


def test_clusters_of_unequal_size_weigh_by_their_values() -> None:
    assert mean_interval([1.0, 1.0, 1.0, 5.0], ["a", "a", "a", "b"]).mean == 2.0


def test_the_seed_fixes_the_interval() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, 50).tolist()
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5)
    assert mean_interval(values, seed=5) != mean_interval(values, seed=6)


def test_absent_values_are_left_out() -> None:
    found = mean_interval([1.0, None, 3.0, math.nan], ["a", "b", "c", "d"])
    assert (found.mean, found.n) == (2.0, 2)
    assert paired_difference([1.0, None, 3.0], [0.0, 5.0, None])[::3] == (1.0, 1)
    with pytest.raises(InputError, match="absent"):
        mean_interval([None, None])


def test_pairing_removes_what_prompts_share() -> None:
    hard = np.random.default_rng(2).normal(0.0, 10.0, 300)
    found = paired_difference((hard + 0.5).tolist(), hard.tolist())
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="same prompts"):
        paired_difference([1.0], [1.0, 2.0])


def test_a_single_value_has_no_interval() -> None:
    found = mean_interval([3.0])
    assert found.mean == 3.0
    assert math.isnan(found.low) and math.isnan(found.high)


def test_more_draws_than_are_held_at_once() -> None:
    found = mean_interval(np.tile([0.0, 1.0], 1500).tolist())
    assert found.low < 0.5 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(3000), rel=0.1)


def test_the_interval_of_a_share_is_wilsons() -> None:
    # centre (p + z2/2n) / (1 + z2/n), half z / (1 + z2/n) * sqrt(p(1 - p)/n + z2/4n2), with z2 = 3.8415
    assert share_interval(0.5, 100) == pytest.approx((0.5, 0.40383, 0.59617, 100), abs=1e-5)
    assert min(share_interval(0.0, n).low for n in range(1, 200)) == 0.0
    assert share_interval(0.0, 10)[1:3] == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_a_rate_is_never_certain() -> None:
    values = [0.0, 1.0] * 20
    assert rate_interval(values) == mean_interval(values)
    assert rate_interval([1.0] * 10)[1:3] == pytest.approx((1 - 0.27753, 1.0), abs=1e-5)
    # of few, Wilson's though they differ
    assert rate_interval([0.0, 100.0], most=100.0)[1:3] == pytest.approx([100 * x for x in share_interval(0.5, 2)[1:3]])
    # ten alike may hide 27.8% of others, which may be -1 or 1
    assert rate_interval([0.0] * 10, least=-1.0)[:3] == pytest.approx((0.0, -0.27753, 0.27753), abs=1e-5)


def test_bootstrap_of_any_statistic_is_that_of_the_mean() -> None:
    values = np.repeat(np.random.default_rng(4).normal(0.0, 1.0, 200), 2)
    clusters = np.repeat(np.arange(200), 2).tolist()
    drawn = bootstrap(lambda w: np.average(values, weights=w), clusters)
    known = mean_interval(values.tolist(), clusters)
    assert bounds(drawn) == pytest.approx((known.low, known.high), abs=0.02)
    assert np.isnan(bounds(bootstrap(lambda w: w.sum(), ["a", "a"]))).all()


def test_bounds_bear_few_undefined_resamples_only() -> None:
    drawn = np.linspace(0.0, 1.0, 1001)
    assert bounds(drawn) == pytest.approx((0.025, 0.975))
    drawn[:20] = np.nan
    assert bounds(drawn)[1] == pytest.approx(0.975, abs=0.01)
    drawn[:30] = np.nan
    assert np.isnan(bounds(drawn)).all()
