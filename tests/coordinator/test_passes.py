"""Which forward passes an iteration needs."""

from __future__ import annotations

import math

import pytest

from rayalign.algorithms.base import load
from rayalign.config import TrainStage
from rayalign.coordinator.passes import forward_passes

PPO = load({"name": "ppo", "kl_coefficient": 0.1})


def stage(**changes: object) -> TrainStage:
    fields = {
        "kind": "train",
        "algorithm": {"name": "ppo"},
        "model": "a",
        "reward": "b",
        "candidates": [{"source": "live", "count": 2}],
    }
    return TrainStage.model_validate(fields | changes)


def fields(settings: TrainStage, gap: float = 4e-6) -> list[str]:
    return [each.field for each in forward_passes(PPO, settings, gap)]


def test_the_policys_own_is_left_out_where_engines_agree() -> None:
    assert fields(stage()) == ["reference_logprobs_BT", "values_BT"]


def test_it_is_left_out_of_stale_answers_whose_writer_is_the_old_policy() -> None:
    behaviour = {"max_staleness": 1, "overlap": {"old_policy": "behaviour"}}
    assert fields(stage(**behaviour)) == ["reference_logprobs_BT", "values_BT"]
    assert "logprobs_BT" in fields(stage(**behaviour), gap=2e-4)
    assert "logprobs_BT" in fields(stage(max_staleness=1, overlap={"in_flight": "wait"}))


@pytest.mark.parametrize("gap", [2e-4, math.inf])
def test_it_is_computed_where_they_differ(gap: float) -> None:
    assert fields(stage(), gap) == ["logprobs_BT", "reference_logprobs_BT", "values_BT"]


@pytest.mark.parametrize(
    "changes",
    [
        {"max_staleness": 1},
        {"deterministic": True},
        {"sampling": {"top_p": 0.9}},
        {"sampling": {"top_k": 40}},
        {"guards": [{"metric": "rollout/mismatch_k3", "above": 0.1, "action": "warn"}]},
        {"candidates": [{"source": "live", "count": 2}, {"source": "dataset", "count": 1}]},
    ],
)
def test_it_is_computed_where_the_engines_numbers_are_others(changes: dict[str, object]) -> None:
    assert "logprobs_BT" in fields(stage(**changes))


def test_an_algorithm_can_insist() -> None:
    rrhf = load({"name": "rrhf"})
    assert not rrhf.takes_engine_logprobs
