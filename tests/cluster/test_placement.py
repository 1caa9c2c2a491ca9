from __future__ import annotations

import os
import time
from functools import partial

import pytest
import ray

from rayalign.cluster import placement
from rayalign.cluster.placement import Claim, Placement, claims, process_environment
from rayalign.config import RoleConfig
from rayalign.waiting import reported


def shares(free: float, **roles: RoleConfig) -> dict[str, float]:
    return {name: claim.cpus for name, claim in claims(roles, free_cpus=free).items()}


def test_roles_without_cpus_share_evenly_what_the_others_leave() -> None:
    found = shares(4.0, policy=RoleConfig(cpus=1.5), critic=RoleConfig(), reward=RoleConfig(actors=2))
    assert found == {"policy": 1.5, "critic": 0.83, "reward": 0.83}  # 2.5 / 3, rounded down


def test_no_share_is_above_one() -> None:
    assert shares(64.0, policy=RoleConfig(), critic=RoleConfig()) == {"policy": 1.0, "critic": 1.0}


@pytest.mark.parametrize("free", [0.0, 0.005, 1.0])
def test_a_share_is_never_zero_which_ray_would_refuse(free: float) -> None:
    assert shares(free, policy=RoleConfig(cpus=1.0), critic=RoleConfig())["critic"] == 0.01


def test_threads_and_gpus_are_taken_over() -> None:
    found = claims({"policy": RoleConfig(gpus=2.0, threads=7), "critic": RoleConfig()}, free_cpus=2.0)
    assert (found["policy"].gpus, found["policy"].threads, found["critic"].threads) == (2.0, 7, 1)
    assert found["policy"].bundle == {"CPU": 1.0, "GPU": 2.0}
    assert found["critic"].bundle == {"CPU": 1.0}


def test_the_environment_names_threads_and_keeps_deepspeed_off_devices_that_were_not_given() -> None:
    cpu, gpu = process_environment(Claim(1.0, 0.0, 3)), process_environment(Claim(1.0, 1.0, 3))
    assert (cpu["OMP_NUM_THREADS"], cpu["MKL_NUM_THREADS"]) == ("3", "3")
    assert cpu["DS_ACCELERATOR"] == "cpu"
    assert gpu["DS_ACCELERATOR"] == "cuda"


def test_only_an_actor_without_devices_has_them_hidden() -> None:
    assert process_environment(Claim(1.0, 0.0, 1))["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in process_environment(Claim(1.0, 0.5, 1))


class LateGroup:
    """A placement group that has its room after a while."""

    def wait(self, timeout_seconds: float) -> bool:
        time.sleep(0.3)
        return True


def test_a_wait_for_room_says_what_is_needed_and_what_there_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(placement, "reported", partial(reported, first=0.02))
    monkeypatch.setattr(placement, "placement_group", lambda *_, **__: LateGroup())
    monkeypatch.setattr(placement.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setattr(placement.ray, "available_resources", lambda: {"CPU": 1.0})
    placement.reserve([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}], timeout=5.0)
    needed = "2 CPU needed, 1 free of 4, 1 GPU needed, 0 free of 1"
    assert f"waiting for room for the roles: {needed} (0 s)" in caplog.messages


@pytest.mark.ray
def test_a_role_without_devices_sees_none_of_the_machines(ray_session: None) -> None:
    roles = {"reward": RoleConfig(cpus=0.1)}
    role_claims = claims(roles, free_cpus=1.0)
    placement = Placement(roles, role_claims, timeout=60.0)
    options = placement.options(role_claims["reward"], {})
    visible = ray.remote(lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "all")).options(**options)
    try:
        assert ray.get(visible.remote(), timeout=60) == ""
    finally:
        placement.remove()
