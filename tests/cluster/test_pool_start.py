"""What the engines of a pool are started with: their settings, deadlines and places for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rayalign.cluster import pool_start
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.placement import Slot
from rayalign.cluster.pool import GeneratorPool
from rayalign.config import ClusterConfig, LogicalDevices, LoraConfig, RolloutConfig
from rayalign.storage.events import EventLog

CLUSTER = ClusterConfig(start_timeout=11.0, call_timeout=22.0, heartbeat_timeout=33.0, restarts=7)
ADAPTER = LoraConfig(rank=4)
Start = Callable[..., GeneratorPool]


class Placement:
    """Places without a cluster."""

    def __init__(self, hosting: Any, shares: Any, *, timeout: float, slots: Any) -> None:
        self.hosting, self.timeout, self.slots = hosting, timeout, slots

    def options(self, claim: Any, variables: Any) -> dict[str, Any]:
        return {"variables": variables}

    def remove(self) -> None:
        pass


@pytest.fixture
def limits() -> list[float | None]:
    """The deadlines of the calls until the engines are ready."""
    return []


@pytest.fixture
def engines() -> list[tuple[Any, ...]]:
    """What each engine was made from."""
    return []


@pytest.fixture
def start(
    monkeypatch: pytest.MonkeyPatch, events: EventLog, limits: list[float | None], engines: list[tuple[Any, ...]]
) -> Start:
    """Starts a pool whose engines are numbers."""

    def engine(arguments: tuple[Any, ...], options: Any, lost: Any = None) -> int:
        engines.append(arguments)
        return len(engines)

    async def call_all(group: ActorGroup, call: Any, *, timeout: float | None = None) -> list[Any]:
        limits.append(timeout)
        return []

    async def locate(group: ActorGroup, timeout: float) -> list[Any]:
        return await call_all(group, None, timeout=timeout)

    async def connect(group: ActorGroup, *actors: Any) -> None:
        assert list(actors) == group.actors
        assert group._wire_threads == pool_start.CONCURRENCY
        connected.append(group)

    monkeypatch.setattr(pool_start, "Placement", Placement)
    monkeypatch.setattr(pool_start, "free_cpus", lambda: 8.0)
    monkeypatch.setattr(pool_start, "_start_engine", engine)
    monkeypatch.setattr(ActorGroup, "all", call_all)
    monkeypatch.setattr(ActorGroup, "locate", locate)
    monkeypatch.setattr(ActorGroup, "connect", connect)

    def pool(cluster: ClusterConfig = CLUSTER, slots: Any = (), **rollout: Any) -> GeneratorPool:
        config = RolloutConfig(**rollout)
        made = asyncio.run(pool_start.start_pool("local", "m", config, cluster, events, ADAPTER, slots))
        assert connected.pop() is made.group
        return made

    connected: list[ActorGroup] = []
    return pool


def test_a_pool_waits_by_the_deadlines_of_the_job(
    start: Start, limits: list[float | None], engines: list[tuple[Any, ...]]
) -> None:
    pool = start(engines=2)
    group = pool.group
    placement: Any = pool._placement
    assert limits == [11.0, 11.0] and placement.timeout == pool._starting._timeout == 11.0
    assert (pool.timeout, group._timeout, group._heartbeat) == (22.0, 22.0, 33.0)
    assert [(made[0], made[1], made[3], made[4]) for made in engines] == [("local", "m", 22.0, ADAPTER)] * 2
    assert pool.adapter == ADAPTER and pool._further is None


def test_lost_engines_are_replaced_as_often_as_the_job_allows(start: Start) -> None:
    seats = start(engines=2)._starting._seats
    assert seats is not None
    assert seats._left == 7
    assert seats.refill(2, RuntimeError("lost")) == 3
    device = ClusterConfig(logical_devices=LogicalDevices(count=1, bytes=1 << 30))
    shared = start(device, [Slot("node", ("logical:0",), {})], engines=1, gpus=0.5)._starting._seats
    assert shared is not None
    assert shared.refill(4, RuntimeError("lost")) is None, "it would start in the turn of others"


def test_a_pool_grows_to_the_engines_that_the_job_allows(start: Start) -> None:
    further = start(engines=2, max_engines=5)._further
    assert further is not None and further._count == 3
