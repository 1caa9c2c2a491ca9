from __future__ import annotations

import pytest

from rayalign.cluster.threads import EngineThreads, share_threads
from rayalign.config import RoleConfig

ONE = RoleConfig()
PPO = {"policy": ONE, "critic": ONE, "reference": ONE, "reward": ONE}


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, {"policy": 1, "critic": 1, "reference": 1, "reward": 1}),
        (2, {"policy": 1, "critic": 1, "reference": 1, "reward": 1}),
        (8, {"policy": 4, "critic": 4, "reference": 2, "reward": 6}),
        (64, {"policy": 16, "critic": 16, "reference": 16, "reward": 16}),
    ],
)
def test_policy_and_critic_share_the_cores_of_the_update(cores: int, expected: dict[str, int]) -> None:
    assert share_threads(PPO, cores, EngineThreads(score=2)) == expected


def test_engines_that_write_during_the_update_have_their_cores() -> None:
    beside = EngineThreads(update=2, score=2)
    assert share_threads(PPO, 8, beside) == {"policy": 3, "critic": 3, "reference": 2, "reward": 6}
    assert share_threads(PPO, 2, beside) == {"policy": 1, "critic": 1, "reference": 1, "reward": 1}


def test_what_the_job_names_wins_and_the_others_share_the_rest() -> None:
    roles = {"policy": RoleConfig(threads=6), "critic": ONE, "reference": RoleConfig(cpus=3.5), "reward": ONE}
    assert share_threads(roles, 8) == {"policy": 6, "critic": 2, "reference": 3, "reward": 8}
    named = {"policy": RoleConfig(threads=32), "reference": RoleConfig(cpus=0.5)}
    assert share_threads(named, 8) == {"policy": 32, "reference": 1}


@pytest.mark.parametrize(("cores", "actors", "expected"), [(2, 1, 2), (2, 2, 1), (8, 2, 4), (8, 3, 2), (64, 2, 16)])
def test_the_ranks_of_an_offline_stage_share_the_machine(cores: int, actors: int, expected: int) -> None:
    assert share_threads({"train:reward": RoleConfig(actors=actors)}, cores) == {"train:reward": expected}
