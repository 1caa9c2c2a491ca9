"""A pool that grows from one engine to three as machines come, and goes back to one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import ray

from rayalign.actors.learner import LearnerSpec
from rayalign.algorithms.base import load
from rayalign.cluster.channel import WeightChannel
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.pool_start import start_pool
from rayalign.cluster.roles import start_roles
from rayalign.cluster.session import Session, machines
from rayalign.config import ClusterConfig, LearnerConfig, RoleConfig, RolloutConfig, SamplingConfig
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.rollout.base import Finished, Request
from rayalign.storage.events import EventLog
from rayalign.weights.paths.base import PathConfig
from rayalign.weights.probe import Bound, probe_tokens
from tests.autoscaling.simulated import autoscaling_head

pytestmark = [pytest.mark.autoscaling, pytest.mark.ray, pytest.mark.timeout(1800)]
ENGINES = RolloutConfig(engine="local", engines=1, max_engines=3, context=64, max_sequences=8, cpus=2)
GROUPS = 6
"""of two candidates, at each version"""
PATIENCE = 300.0


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterConfig]:
    """A cluster of no machine that grows to three of three CPUs, which this process has joined."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with autoscaling_head(tmp_path, most=3, cpus=3) as head:
        config = ClusterConfig(address=head.address, call_timeout=300.0, start_timeout=300.0)
        with Session(config):
            yield config


async def write(pool: GeneratorPool, version: int) -> list[Finished]:
    """The candidates of one version, each once."""
    sampling = SamplingConfig(max_tokens=8)
    wanted = [Request(f"v{version}/{i}", (5, 6 + i // 2), i, sampling, ()) for i in range(2 * GROUPS)]
    candidates: dict[str, Finished] = {}
    await pool.submit(wanted)
    async with aclosing(pool.finished()) as stream:
        while len(candidates) < len(wanted):
            candidate = await asyncio.wait_for(anext(stream), PATIENCE)
            assert candidate.key not in candidates, "a candidate came twice"
            candidates[candidate.key] = candidate
    assert candidates.keys() == {request.key for request in wanted} and pool.pending == 0
    return list(candidates.values())


async def start_policy(model: str, cluster: ClusterConfig, events: EventLog) -> ActorGroup:
    learner = LearnerConfig(learning_rate=1e-2, minibatch=4)
    spec = LearnerSpec(model, learner, {"name": "sft"}, temperature=1.0, total_steps=10, seed=0, timeout=60.0)
    roles = await start_roles({"policy": spec}, {"policy": RoleConfig(cpus=0.5)}, cluster, events)
    return roles["policy"]


def update(policy: ActorGroup) -> None:
    rows = [EncodedRow(tuple(range(i, i + 10)), (False, *[True] * 9), i) for i in range(8)]
    batch = load({"name": "sft"}).prepare(collate_examples(rows, 0))
    asyncio.run(policy.all(lambda actor: actor.update.remote([ray.put(batch)], 1)))


def workers() -> int:
    """Machines beside the head."""
    return sum(machine.get("CPU", 0.0) > 0 for machine in machines())


def test_engines_come_with_machines_and_go_before_them(cluster: ClusterConfig, model: str, tmp_path: Path) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    pool = asyncio.run(start_pool("local", model, ENGINES, cluster, events))
    policy = asyncio.run(start_policy(model, cluster, events))
    path = PathConfig(name="store", timeout=120.0, bucket_bytes=1 << 18)
    channel = WeightChannel(probe_tokens(100), bound=Bound("fp32"), path=path, events=events)
    sizes: list[int] = []
    version, deadline = 0, time.monotonic() + PATIENCE
    while len(pool.group) < 3:
        assert time.monotonic() < deadline, f"the pool had {sizes} engines"
        version += 1
        update(policy)
        asyncio.run(channel.transfer(policy, pool, version))
        written = asyncio.run(write(pool, version))
        versions = {run[1] for candidate in written for run in candidate.version_runs}
        assert versions == {version}, "no engine writes with other weights than the last proven ones"
        sizes.append(len(pool.group))
        time.sleep(1.0)
    assert sizes == sorted(sizes) and sizes[0] == 1 and workers() == 3
    pool.shrink()
    assert len(pool.group) == 1
    deadline = time.monotonic() + PATIENCE
    while workers() > 1 and time.monotonic() < deadline:
        time.sleep(1.0)
    assert workers() == 1, "machines without engines go"
    assert len(asyncio.run(write(pool, version + 1))) == 2 * GROUPS
    pool.stop()
    events.close()
