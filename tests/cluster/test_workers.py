"""Processes that take one role after another, over real actors."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rayalign.actors.hosted import HostedActor, Rendezvous
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.roles import Roles, set_up
from rayalign.cluster.workers import Workers
from rayalign.config import ClusterConfig, RoleConfig
from rayalign.errors import ActorError
from rayalign.storage.events import EventLog

pytestmark = pytest.mark.ray
CLUSTER = ClusterConfig(start_timeout=280.0, call_timeout=280.0)
ONE = {"role": RoleConfig()}
NAMED = {"role": RoleConfig(cpus=0.5, actors=2)}


@pytest.fixture(scope="module")
def role() -> type[HostedActor]:
    # in here, so that it goes to the workers by value
    class Tenant(HostedActor):
        """A role that leaves everything behind that a role could leave."""

        def __init__(self, spec: Any) -> None:
            self.environment = os.environ.get("TENANT"), os.environ.get("RANK")

        def setup(self, meeting: Rendezvous) -> None:
            meeting.enter()
            os.environ["TENANT"] = "here"

        def facts(self) -> dict[str, Any]:
            return {
                "threads": (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]),
                "environment": self.environment,
                "group": torch.distributed.is_initialized(),
                "random": torch.rand(()).item(),
                "parameters": sum(isinstance(thing, torch.nn.Parameter) for thing in gc.get_objects()),
            }

        def settle(self) -> None:
            from rayalign.models.process_group import meet

            meet()
            torch.distributed.barrier()
            self.model = torch.nn.Linear(8, 8)
            self.model.itself = self.model  # type: ignore[assignment]

        def fail(self) -> None:
            raise ValueError("no such room")

    return Tenant


@pytest.fixture(scope="module")
def workers(ray_session: None) -> Iterator[Workers]:
    group = Workers(CLUSTER)
    yield group
    group.stop()


async def lodge(workers: Workers, hosting: dict[str, RoleConfig], role: type[HostedActor], events: EventLog) -> Roles:
    """The roles of a stage that has begun."""
    processes = workers.take(hosting)["role"]
    roles = Roles(workers, {"role": ActorGroup("role", processes, events=events, timeout=280.0)})
    await set_up(roles["role"], role, None, CLUSTER)
    return roles


def pids(roles: Roles) -> list[int]:
    return [roles["role"].pid(actor) for actor in roles["role"].actors]


def test_a_next_role_in_the_same_process_finds_nothing_of_the_one_before(
    workers: Workers, role: type[HostedActor], events: EventLog
) -> None:
    async def stage(hosting: dict[str, RoleConfig]) -> tuple[int, dict[str, Any]]:
        async with await lodge(workers, hosting, role, events) as roles:
            facts = await roles["role"].first(lambda actor: actor.facts.remote())
            await roles["role"].first(lambda actor: actor.settle.remote())
            return pids(roles)[0], facts

    pid, first = asyncio.run(stage({"role": RoleConfig(threads=3)}))
    again, second = asyncio.run(stage({"role": RoleConfig(threads=1)}))
    assert again == pid
    assert (first["threads"], second["threads"]) == ((3, "3"), (1, "1"))
    unchanged = ("environment", "group", "random", "parameters")
    assert [first[name] for name in unchanged] == [second[name] for name in unchanged]
    assert second["environment"] == (None, None)
    assert (second["group"], second["parameters"]) == (False, 0)


def test_a_failed_stage_ends_its_processes_and_a_dead_one_is_replaced(
    workers: Workers, role: type[HostedActor], events: EventLog
) -> None:
    async def failing() -> int:
        async with await lodge(workers, ONE, role, events) as roles:
            failed.extend(pids(roles))
            await roles["role"].first(lambda actor: actor.fail.remote())
        return 0

    async def sound() -> int:
        async with await lodge(workers, ONE, role, events) as roles:
            return pids(roles)[0]

    failed: list[int] = []
    with pytest.raises(ActorError, match="no such room"):
        asyncio.run(failing())
    second = asyncio.run(sound())
    assert second != failed[0]
    os.kill(second, signal.SIGKILL)
    process = workers._free[0]
    limit = time.monotonic() + 60
    while process in workers._free and time.monotonic() < limit:
        workers._forget_dead()
        time.sleep(0.1)
    assert asyncio.run(sound()) != second


def test_claimed_cpus_stay_only_for_a_stage_that_claims_the_same(
    workers: Workers, role: type[HostedActor], events: EventLog
) -> None:
    async def stage(hosting: dict[str, RoleConfig]) -> list[int]:
        async with await lodge(workers, hosting, role, events) as roles:
            return pids(roles)

    first = asyncio.run(stage(NAMED))
    assert len(set(first)) == 2
    assert asyncio.run(stage(NAMED)) == first
    fewer = asyncio.run(stage({"role": RoleConfig(cpus=0.5)}))
    assert not set(fewer) & set(first)
    workers.keep(ONE)
    assert not set(asyncio.run(stage({"role": RoleConfig(cpus=0.5)}))) & set(fewer)


def test_a_helper_leaves_the_processes_that_are_loaded_to_the_roles_with_models(workers: Workers) -> None:
    workers.stop()
    workers.start(ONE)
    (loaded,) = workers._free
    helper = workers.take_helper()
    assert helper is loaded  # rather than one more process
    workers.release([helper])
    first, second = workers.take_helper(), workers.take_helper()
    workers.release([second, first])
    assert workers.take(ONE)["role"] == [loaded]
    assert workers.take_helper() is second
    workers.stop()


def test_processes_start_once_for_the_largest_stage(workers: Workers) -> None:
    three = {"policy": RoleConfig(), "reference": RoleConfig(actors=2), "placed": RoleConfig(cpus=1.0)}
    workers.start(three)
    free = list(workers._free)
    assert len(free) == 3
    workers.start(three)
    workers.start(ONE)
    assert workers._free == free
