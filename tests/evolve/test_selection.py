from __future__ import annotations

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.evolve.selection import select


def test_greedy_takes_the_highest_and_the_earlier_of_equal_ones() -> None:
    assert select([0.1, 0.4, 0.4, 0.1], 3, kind="greedy", seed=0).tolist() == [0, 1, 2]


def test_weighted_draws_by_weight_without_repetition() -> None:
    weights = [0.7, 0.2, 0.1, 0.0]
    firsts = [int(select(weights, 1, kind="weighted", seed=seed)[0]) for seed in range(2000)]
    assert np.bincount(firsts, minlength=4) / 2000 == pytest.approx(weights, abs=0.04)
    assert select(weights, 3, kind="weighted", seed=1).tolist() == [0, 1, 2]


def test_strata_get_equal_shares_and_the_rest_goes_to_the_highest() -> None:
    weights = np.arange(100) / 4950
    places = select(weights, 23, kind="stratified", seed=0)
    assert len(set(places.tolist())) == 23
    assert np.bincount(places // 10).tolist() == [2, 2, 2, 2, 2, 2, 2, 3, 3, 3]
    assert len(select([0.2, 0.8, 0.0], 3, kind="stratified", seed=0)) == 3


def test_the_same_seed_takes_the_same_prompts() -> None:
    weights = np.random.default_rng(0).random(1000)
    first, second = (select(weights, 100, kind="weighted", seed=5) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="2 of them have a weight"):
        select([0.5, 0.5, 0.0], 3, kind="weighted", seed=0)
