"""How a run waits for its cluster; time and the cluster are the test's own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.cluster.growth import Pending, _of_first_version, _of_second_version
from rayalign.config import LoadedJob
from rayalign.errors import InputError
from rayalign.pipeline.growth import Growth
from rayalign.pipeline.hashing import stage_hashes
from rayalign.storage.summary import write_done

Study = Callable[..., LoadedJob]
GPU_MACHINE = {"CPU": 16.0, "GPU": 1.0}


class Cluster:
    """A cluster that adds one GPU machine each `interval` seconds while its demand is larger than it is."""

    def __init__(self, machines: int, *, most: int = 100, interval: float = 60.0, orders: bool = True) -> None:
        self.now = 0.0
        self.demands: list[list[dict[str, float]]] = []
        self._machines = [dict(GPU_MACHINE) for _ in range(machines)]
        self._most = most
        self._interval = interval
        self._orders = orders
        self._next = interval

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self._lacks() and self.now >= self._next:
            self._machines.append(dict(GPU_MACHINE))
            self._next = self.now + self._interval

    def resources(self) -> dict[str, float]:
        return {kind: sum(machine[kind] for machine in self._machines) for kind in ("CPU", "GPU")}

    def machines(self) -> list[dict[str, float]]:
        return self._machines

    def demand(self, bundles: list[dict[str, float]]) -> None:
        self.demands.append(bundles)

    def pending(self) -> Pending:
        return Pending({"gpu": 1} if self._orders and self._lacks() else {})

    def _lacks(self) -> bool:
        wanted = sum(bundle.get("GPU", 0.0) for bundle in self.demands[-1]) if self.demands else 0.0
        return len(self._machines) < min(self._most, wanted)


@pytest.fixture
def job(study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose online stage needs three GPUs."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    return lambda *more: study("rollout.gpus=1", "stages.rl.roles.policy.gpus=1", *more)


def growth(loaded: LoadedJob, cluster: Cluster) -> Growth:
    return Growth(loaded, cluster, cluster.clock, cluster.sleep)


def gpus(bundles: list[dict[str, float]]) -> float:
    return sum(bundle.get("GPU", 0.0) for bundle in bundles)


def test_a_stage_waits_until_its_machines_have_come(job: Study, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(0)
    with caplog.at_level(logging.INFO, logger="rayalign"):
        growth(job(), cluster).wait_for("rl")
    assert 120 < cluster.now < 200 and cluster.resources()["GPU"] == 3
    first = caplog.messages[0]
    assert first.startswith("rl waits for the cluster: needs 3 GPU, ") and "has 0 GPU, 0 CPU" in first
    assert first.endswith("pending 1 x gpu")
    assert 4 <= len(caplog.messages) <= 8, "a line each half minute"


def test_each_stage_demands_what_it_needs_itself_and_the_end_nothing(job: Study) -> None:
    cluster = Cluster(3)
    growing = growth(job(), cluster)
    for stage in ("base", "rl"):
        growing.wait_for(stage)
    growing.end()
    base, rl, end = cluster.demands
    assert (gpus(base), gpus(rl), end) == (0.0, 3.0, [])
    assert cluster.now == 0.0, "all of it was there"


def test_a_cluster_that_cannot_grow_so_far_ends_the_wait_by_the_deadline(job: Study) -> None:
    cluster = Cluster(1, most=2)
    cluster.pending = lambda: Pending({}, failed=1)  # type: ignore[method-assign]
    with pytest.raises(InputError) as refused:
        growth(job("cluster.scale_timeout=300"), cluster).wait_for("rl")
    assert 300 <= cluster.now < 305
    text = str(refused.value)
    assert "stages.rl.roles: needs 3 GPU, " in text and "has 2 GPU, 32 CPU, pending 1 refused by the provider" in text
    assert "not there after 300 s (cluster.scale_timeout); ask for fewer devices, or add machines" in text


def test_a_cluster_without_an_autoscaler_is_not_waited_for_so_long(job: Study) -> None:
    cluster = Cluster(1, most=1)
    with pytest.raises(InputError, match=r"pending none: no machine is on its way since 120 s; ask for fewer devices"):
        growth(job(), cluster).wait_for("rl")
    assert 120 <= cluster.now < 125


def test_a_machine_that_comes_unannounced_is_waited_for(job: Study) -> None:
    cluster = Cluster(1, interval=100.0, orders=False)
    growth(job(), cluster).wait_for("rl")
    assert cluster.resources()["GPU"] == 3


def test_an_engine_that_fits_on_no_machine_is_refused(job: Study) -> None:
    cluster = Cluster(4)
    loaded = job("rollout.engines=1", "rollout.gpus=2", "rollout.tensor_parallel=2")
    with pytest.raises(InputError, match=r"needs 3 GPU, .* with .*2 GPU on one machine, has 4 GPU"):
        growth(loaded, cluster).wait_for("rl")


def test_without_time_to_grow_everything_must_be_there_from_the_start(job: Study) -> None:
    cluster = Cluster(2)
    fixed = growth(job("cluster.scale_timeout=0"), cluster)
    with pytest.raises(InputError, match=r"stages\.rl\.roles: asks for 3 devices .* there are 2; .* or add machines"):
        fixed.refuse_oversize()
    fixed.wait_for("rl")
    assert cluster.demands == [] and cluster.now == 0.0


def test_a_stage_that_is_finished_asks_for_nothing(job: Study) -> None:
    loaded = job("cluster.scale_timeout=0")
    write_done(Path(loaded.job.output) / "study" / "stages" / "rl", stage_hashes(loaded.job)["rl"])
    growth(loaded, Cluster(2)).refuse_oversize()


def test_both_versions_of_the_autoscaler_report_what_they_add() -> None:
    report = {"pending_launches": {"gpu": 2}, "pending_nodes": [["10.0.0.9", "gpu", "setting-up"]], "failed_nodes": []}
    assert str(_of_first_version(report)) == "3 x gpu"
    assert not _of_first_version({})

    class Node:
        ray_node_type_name = "gpu"

    class Launch(Node):
        count = 2

    class Status:
        pending_launches = [Launch()]
        pending_nodes = [Node()]
        failed_launches = [Launch()]

    assert str(_of_second_version(Status())) == "3 x gpu, 1 refused by the provider"
