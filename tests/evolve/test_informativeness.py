from __future__ import annotations

import math

import numpy as np
import pytest

from rayalign.errors import InputError
from rayalign.evolve.informativeness import informativeness, sampling_weights, topic_blend

REWARDS = [[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [-1.0, 4.0, 3.5]]


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        ("gap", [2.0, 0.0, 5.0]),
        ("max_mean", [1.0, 0.0, 4.0 - 6.5 / 3]),
        ("dueling", [1.0, 0.0, 0.5]),
        ("mean", [2.0, 0.0, 6.5 / 3]),
        ("inverse_mean", [1 - 2.0 / (6.5 / 3), 1.0, 0.0]),
        ("variance", [2 / 3, 0.0, np.var([-1.0, 4.0, 3.5])]),
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_each_metric_by_hand(metric: str, values: list[float]) -> None:
    assert informativeness(REWARDS, metric) == pytest.approx(values)  # type: ignore[arg-type]


def test_absent_rewards_are_left_out_and_a_prompt_without_any_has_no_value() -> None:
    rewards = [[1.0, math.nan, 2.0], [math.nan] * 3, [5.0, math.nan, math.nan]]
    assert informativeness(rewards, "dueling") == pytest.approx([1.0, math.nan, 0.0], nan_ok=True)
    assert informativeness(rewards, "gap") == pytest.approx([1.0, math.nan, 0.0], nan_ok=True)
    assert informativeness([[1.0], [2.0]], "dueling").tolist() == [0.0, 0.0]


def test_equal_means_are_halfway() -> None:
    assert informativeness([[1.0, 3.0], [2.0, 2.0]], "inverse_mean").tolist() == [0.5, 0.5]


def test_weights_are_proportional_or_from_the_least_on() -> None:
    assert sampling_weights([1.0, 3.0, 4.0], kind="proportional") == pytest.approx([1 / 8, 3 / 8, 4 / 8])
    assert sampling_weights([1.0, 3.0, 4.0], kind="min-max") == pytest.approx([0.0, 2 / 5, 3 / 5])
    assert sampling_weights([-1.0, 0.0, 2.0], kind="proportional") == pytest.approx([0.0, 1 / 4, 3 / 4])


def test_constant_values_give_equal_weights_and_absent_ones_none() -> None:
    assert sampling_weights([2.0, 2.0, math.nan], kind="min-max").tolist() == [0.5, 0.5, 0.0]
    assert sampling_weights([0.0, 0.0], kind="proportional").tolist() == [0.5, 0.5]


def test_the_floor_is_spread_over_all_prompts_with_a_value() -> None:
    weights = sampling_weights([0.0, 1.0, math.nan], kind="min-max", floor=0.2)
    assert weights == pytest.approx([0.1, 0.9, 0.0])


def test_topics_that_are_rare_gain() -> None:
    blend = topic_blend([0.5, 0.25, 0.25], ["a", "a", "b"], 0.25)
    assert blend == pytest.approx([0.75 * 0.5 + 0.25 * 0.25, 0.75 * 0.25 + 0.25 * 0.25, 0.75 * 0.25 + 0.25 * 0.5])
    assert blend.sum() == pytest.approx(1.0)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(InputError, match="no metric 'loo'"):
        informativeness(REWARDS, "loo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="table of prompts"):
        informativeness([1.0, 2.0], "gap")
    with pytest.raises(InputError, match="every reward is absent"):
        sampling_weights([math.nan], kind="min-max")
    with pytest.raises(InputError, match="from 0 to 1"):
        sampling_weights([1.0], kind="min-max", floor=2.0)
    with pytest.raises(InputError, match="name one for each"):
        topic_blend([1.0], [], 0.1)
