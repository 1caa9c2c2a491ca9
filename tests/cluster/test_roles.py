"""The deadlines of a stage's roles, and which of them are replaced where they are lost."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from rayalign.actors.hosted import FrozenSpec
from rayalign.actors.learner import LearnerSpec
from rayalign.actors.place import Place
from rayalign.actors.preparer import PreparerSpec
from rayalign.actors.reference import ReferenceActor
from rayalign.cluster.roles import PREPARER, Roles, _renew_the_lost, _set_up_one, actor_group, set_up
from rayalign.cluster.wires import Wires
from rayalign.config import ClusterConfig, LearnerConfig
from rayalign.storage.events import EventLog

CLUSTER = ClusterConfig(start_timeout=11.0, call_timeout=22.0, heartbeat_timeout=33.0, restarts=7)
LEARNER = LearnerSpec("m", LearnerConfig(), {"name": "ppo"}, 1.0, 1, 0, 22.0)
FROZEN = FrozenSpec("m", LearnerConfig(), 1.0, "m", 22.0)
PREPARE = PreparerSpec({"name": "ppo"}, 22.0)


def test_a_group_has_the_deadlines_of_the_job(events: EventLog) -> None:
    process: Any = "process"
    group = actor_group("reference", [process], CLUSTER, events, spread=True)
    assert (group._timeout, group._heartbeat, group.spread) == (22.0, 33.0, True)


def test_roles_without_a_state_are_replaced_as_often_as_the_job_allows(events: EventLog) -> None:
    workers: Any = SimpleNamespace(replace=lambda process: f"after {process}")
    names = ("policy", "reference", "reward", PREPARER)
    groups = {}
    for name in names:
        process: Any = f"{name}'s process"
        groups[name] = actor_group(name, [process], CLUSTER, events, spread=name == "reward")
    specs: Any = {"policy": LEARNER, "reference": FROZEN, "reward": FROZEN}
    _renew_the_lost(Roles(workers, groups), specs, PREPARE, CLUSTER, events)
    assert groups["policy"].renewal is None, "its weights would be lost"
    assert groups["reward"].renewal is None, "its model is in parts"
    for name in ("reference", PREPARER):
        renewal = groups[name].renewal
        assert renewal is not None and renewal.seats._left == 7
        assert renewal.seats.refill(f"{name}'s process", RuntimeError("lost")) == f"after {name}'s process"


class Process:
    """A worker process of two threads."""

    threads, place = 2, None


class Group:
    """Answers every call at once, and keeps the deadlines that the calls had."""

    def __init__(self) -> None:
        self.place = Place(4, "10.0.0.1", 4000)
        self.limits: list[float | None] = []
        self.actors = [Process()]
        self.places: dict[Any, Place] = {}
        self.spread = False
        self.wires = Wires()
        self.connected: list[Any] = []

    async def connect(self, *actors: Any) -> None:
        self.connected += actors

    def __len__(self) -> int:
        return len(self.actors)

    async def one(self, actor: Any, call: Any, *, timeout: float | None = None) -> Any:
        self.limits.append(timeout)
        return self.place

    async def all(self, call: Any, *, timeout: float | None = None) -> list[Any]:
        self.limits.append(timeout)
        return [self.place]

    async def locate(self, timeout: float) -> list[Place]:
        return await self.all(None, timeout=timeout)

    def note(self, process: Any, rank: int, place: Place) -> None:
        pass


def test_all_that_starts_has_the_deadline_of_a_start() -> None:
    group: Any = Group()
    asyncio.run(set_up(group, ReferenceActor, FROZEN, CLUSTER))
    assert group.limits == [11.0] * 3
    again: Any = Group()
    process: Any = Process()
    asyncio.run(_set_up_one(again, ReferenceActor, FROZEN, CLUSTER, 0, process))
    assert again.limits == [11.0] * 3 and process.place == again.place
