from __future__ import annotations

import math

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.evaluation import frontier, overoptimisation


def test_pareto_points_in_order_of_kl() -> None:
    kl = [[3.0, 3.0], [1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]
    reward = [[0.5, 0.7], [0.4, 0.4], [0.1, math.nan], [0.6, 0.6]]
    found = frontier(["c", "a", "b", "d"], kl, reward)
    assert [p.name for p in found] == ["a", "b", "c", "d"]
    assert [p.best for p in found] == [True, False, True, False]
    assert found[2].reward.mean == pytest.approx(0.6) and found[2].reward.low == pytest.approx(0.5)
    assert found[1].reward.n == 1


def test_frontier_intervals_are_clustered() -> None:
    rewards = np.random.default_rng(0).normal(size=(1, 100))
    once = frontier(["a"], np.ones((1, 100)), rewards)[0].reward
    thrice = frontier(["a"], np.ones((1, 300)), np.repeat(rewards, 3, axis=1), np.repeat(np.arange(100), 3))[0].reward
    assert thrice == pytest.approx(once)


def curves(gold: list[float], noise: float = 0.3, n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prompts = rng.normal(0.0, 1.0, n)
    proxy = np.linspace(0.0, 1.0, len(gold))[:, None] + prompts + rng.normal(0.0, noise, (len(gold), n))
    return proxy, np.array(gold)[:, None] + prompts + rng.normal(0.0, noise, (len(gold), n))


def test_a_true_turn_is_found_and_said_to_be_real() -> None:
    proxy, gold = curves([0.0, 0.4, 0.6, 0.5, 0.3])
    found = overoptimisation([0, 1, 2, 4, 8], proxy, gold, gold - 0.1)
    turn = found.gold_turn
    assert turn.peak == 2 and turn.real and turn.p_value < 0.01
    assert 0.1 < turn.drop_low < turn.drop and turn.drop == pytest.approx(0.3, abs=0.1)
    assert turn.proxy_rise.mean == pytest.approx(0.5, abs=0.1)
    assert found.judge_turn is not None and found.judge_turn.drop == pytest.approx(turn.drop)
    assert len(found.proxy) == len(found.judge) == 5 and found.x == (0, 1, 2, 4, 8)


def test_a_curve_that_rises_throughout_has_no_turn() -> None:
    proxy, gold = curves([0.0, 0.2, 0.4, 0.6, 0.8])
    turn = overoptimisation(range(5), proxy, gold).gold_turn
    assert (turn.peak, turn.drop, turn.real) == (4, 0.0, False)


def test_a_turn_picked_out_of_noise_is_seldom_called_real() -> None:
    called = 0
    for seed in range(40):
        proxy, gold = curves([0.0] * 12, noise=1.0, n=60, seed=seed)
        called += overoptimisation(range(12), proxy, gold, seed=seed).gold_turn.real
    assert called <= 6


def test_a_fall_of_gold_and_proxy_alike_is_no_over_optimisation() -> None:
    proxy, gold = curves([0.0, 0.6, 0.1])
    assert not overoptimisation(range(3), gold, gold).gold_turn.real
    assert overoptimisation(range(3), proxy, gold).gold_turn.real


def test_a_single_prompt_proves_nothing() -> None:
    turn = overoptimisation([1, 2, 3], [[0.0], [1.0], [2.0]], [[0.0], [1.0], [0.0]]).gold_turn
    assert (turn.peak, turn.drop, turn.real) == (1, 1.0, False)
    assert math.isnan(turn.drop_low) and math.isnan(turn.p_value)


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match="rising order"):
        overoptimisation([1, 1], np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(InputError, match="rising order"):
        overoptimisation([1], np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match="gold: needs one row for each of the 2 points"):
        overoptimisation([1, 2], np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(InputError, match="rewards: row 0 has no value"):
        frontier(["a"], [[1.0]], [[math.nan]])
