from __future__ import annotations

import pytest

from rayalign.forecast.hardware import Hardware
from rayalign.forecast.iteration import RoleWork
from rayalign.forecast.seconds import BUSY_CORES, CALL, CORE_FLOPS, CPU_PASS, DEVICE_PASS, GRAPH_PASS, Rates
from rayalign.forecast.work import Work
from rayalign.pipeline.machine import Machine
from rayalign.pipeline.plan import RolePlan, StagePlan
from tests.forecast.conftest import Machines

SECOND = CORE_FLOPS
"""operations of one core in a second"""


def role(name: str, *devices: str, threads: int = 1) -> RolePlan:
    gpus = 0.0 if devices[0] == "cpu" else 1.0
    return RolePlan(name, "model", True, len(devices), 1.0, gpus, threads, 1, 1, devices=devices)


def stage(*roles: RolePlan) -> StagePlan:
    return StagePlan("rl", "train", "will run", roles, "")


def cpus(cores: int) -> Hardware:
    return Hardware("test", Machine(cores, 0, 1, 1), "test CPU", None, 0, 25.0, 1.0, None, "USD")


def test_a_cpu_actor_of_one_thread_takes_its_operations_and_its_passes() -> None:
    rates = Rates(stage(role("policy", "cpu")), cpus(4), {})
    ideal = rates.phase("update", [RoleWork("policy", Work(flops=2 * SECOND, layer_passes=100, calls=3))])
    assert ideal.seconds == pytest.approx(2 + 100 * CPU_PASS + 3 * CALL)


def test_two_actors_on_two_cores_share_what_the_cores_do_when_both_are_busy() -> None:
    rates = Rates(stage(role("policy", "cpu"), role("critic", "cpu")), cpus(2), {})
    both = [RoleWork("policy", Work(flops=SECOND)), RoleWork("critic", Work(flops=SECOND))]
    assert rates.phase("update", both).seconds == pytest.approx(2 / (2 * BUSY_CORES))


def test_threads_help_wide_matrices_more_than_narrow_ones() -> None:
    rates = Rates(stage(role("policy", "cpu", threads=2)), cpus(8), {})
    wide = rates.phase("update", [RoleWork("policy", Work(flops=SECOND), hidden=4096)])
    narrow = rates.phase("update", [RoleWork("policy", Work(flops=SECOND), hidden=128)])
    assert wide.seconds == pytest.approx(1 / (1 + BUSY_CORES))
    assert narrow.seconds == pytest.approx(1 / (1 + BUSY_CORES / 8))


def test_a_device_is_bound_by_its_operations_or_by_its_memory(machines: Machines) -> None:
    rates = Rates(stage(role("policy", "gpu:0")), machines(8), {"policy": "bf16"})
    busy = rates.phase("update", [RoleWork("policy", Work(flops=989e12, bytes=1, layer_passes=10))])
    assert busy.seconds == pytest.approx(1 + 10 * DEVICE_PASS)
    reading = rates.phase("update", [RoleWork("policy", Work(flops=1, bytes=3350e9))])
    assert reading.seconds == pytest.approx(1)
    assert reading.core_seconds == 0


def test_fp32_has_its_own_peak(machines: Machines) -> None:
    rates = Rates(stage(role("policy", "gpu:0")), machines(8), {"policy": "fp32"})
    assert rates.phase("update", [RoleWork("policy", Work(flops=67e12))]).seconds == pytest.approx(1)


def test_engines_start_their_kernels_as_one_graph(machines: Machines) -> None:
    rates = Rates(stage(role("generator", "gpu:0")), machines(8), {})
    ideal = rates.phase("generate", [RoleWork("generator", Work(layer_passes=10))])
    assert ideal.seconds == pytest.approx(10 * GRAPH_PASS)


def test_roles_on_one_device_wait_for_each_other(machines: Machines) -> None:
    precisions = {"policy": "bf16", "critic": "bf16"}
    works = [RoleWork("policy", Work(flops=989e12)), RoleWork("critic", Work(flops=989e12))]
    together = Rates(stage(role("policy", "gpu:0"), role("critic", "gpu:0")), machines(8), precisions)
    apart = Rates(stage(role("policy", "gpu:0"), role("critic", "gpu:1")), machines(8), precisions)
    assert together.phase("update", works).seconds == pytest.approx(2)
    assert apart.phase("update", works).seconds == pytest.approx(1)


def test_ranks_on_one_machine_use_its_link_and_others_the_network(machines: Machines) -> None:
    work = [RoleWork("policy", Work(traffic=450e9))]
    inside = Rates(stage(role("policy", "gpu:0", "gpu:1")), machines(2, count=2), {})
    across = Rates(stage(role("policy", "gpu:1", "gpu:2")), machines(2, count=2), {})
    assert inside.phase("update", work).seconds == pytest.approx(1)
    assert across.phase("update", work).seconds == pytest.approx(9)  # 400 Gbit/s are 50 GB/s


def test_new_weights_cross_the_network_where_engines_stand_on_another_machine(machines: Machines) -> None:
    plan = stage(role("policy", "gpu:0"), role("generator", "gpu:2"))
    rates = Rates(plan, machines(2, count=2), {})
    work = [RoleWork("policy", Work(traffic=50e9), to_engines=True)]
    assert rates.phase("publish", work).seconds == pytest.approx(1)
