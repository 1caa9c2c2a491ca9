"""A reward that is killed or stopped, over real actors: another process takes its place and scores its groups."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from rayalign.cluster.roles import start_roles
from rayalign.config import ClusterConfig, LearnerConfig, RewardSource, RoleConfig
from rayalign.scoring.sources import RewardSpec
from rayalign.storage.events import EventLog
from rayalign.types import Group, Message, Prompt, Segment, Trajectory

pytestmark = pytest.mark.ray
CLUSTER = ClusterConfig(start_timeout=280.0, call_timeout=1800.0, heartbeat_timeout=8.0)
SOURCE = RewardSource.model_validate({"rules": {"kind": "length", "high": 3, "margin": 20}})
WRITTEN = Trajectory("g", 0, (1, 2), (Segment(0, "policy", 0),), (-1.0, -1.0), "stop", "a b")
GROUP = Group("g", Prompt("p", (Message("user", "q"),)), 0, (WRITTEN,))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "host"), [(signal.SIGKILL, RoleConfig(actors=2)), (signal.SIGSTOP, RoleConfig(cpus=0.2))]
)
def test_another_process_takes_the_place_of_a_lost_one(
    ray_session: None,
    events: EventLog,
    logged: Callable[[str], list[dict[str, Any]]],
    number: signal.Signals,
    host: RoleConfig,
) -> None:
    async def work() -> list[Any]:
        roles = await start_roles({"reward": spec}, {"reward": host}, CLUSTER, events)
        async with roles:
            reward = roles["reward"]
            before = await reward.all(lambda actor: reward.wires.to(actor).score.remote([GROUP]))
            assert all(reward.wires.to(actor) is not actor for actor in reward.actors)
            lost = reward.pid(reward.actors[-1])
            os.kill(lost, number)
            begin = time.monotonic()
            after = await reward.all(lambda actor: reward.wires.to(actor).score.remote([GROUP]))
            assert time.monotonic() - begin < 60.0
            assert reward.pid(reward.actors[-1]) != lost
            assert all(reward.wires.to(actor) is not actor for actor in reward.actors)
            assert not psutil.pid_exists(lost) or psutil.Process(lost).status() == psutil.STATUS_ZOMBIE
            assert logged("actor_lost")[-1]["replaced"]
            assert f"(pid {lost})" in logged("actor_lost")[-1]["reason"]
            return [before, after]

    spec = RewardSpec((SOURCE,), LearnerConfig(), "", 60.0)
    before, after = asyncio.run(work())
    assert before == after
    assert len(after) == host.actors
