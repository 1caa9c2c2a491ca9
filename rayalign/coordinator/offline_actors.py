"""Offline training in worker processes of the run: the loop of `offline_loop.py` as a role, one rank in each process.

driver    asyncio: waits for the ranks, watches them, hears Ctrl-C
ranks     train_offline in a worker's main thread              heartbeat thread -> ranks/*.json
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rayalign.actors.worker import RankActor, RankSpec
from rayalign.cluster.causes import precedence
from rayalign.cluster.roles import Roles, actor_group, set_up
from rayalign.cluster.workers import Workers
from rayalign.config import ClusterConfig, RoleConfig
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.coordinator.progress import Watch
from rayalign.storage.events import EventLog

LOOK = 0.2
"""seconds between two looks at the ranks"""
PATIENCE = 5.0
"""seconds in which the other ranks of one that failed fail too; the first error need not be the cause"""
FOREVER = float("inf")
"""the deadline of the loop is that of its watch"""


async def train_on_workers(
    spec: OfflineSpec,
    host: RoleConfig,
    workers: Workers,
    cluster: ClusterConfig,
    events: EventLog,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the loop once and wait for it; its results are what it left in the stage's folder.

    Args:
        ready: called once every rank has loaded what it needs.

    Raises:
        LostError: a process was lost.
        ActorError: the loop failed by itself.
        DeadlineError: a rank did not get on; with what it waits for.
    """
    name = f"train:{spec.role}"
    processes = workers.take({name: host})[name]
    group = actor_group(name, processes, cluster, events)
    async with Roles(workers, {name: group}):
        await set_up(group, RankActor, RankSpec(train_offline, spec), cluster)
        watch = Watch(
            spec.ranks_folder, spec.role, len(group), start_timeout=cluster.start_timeout, timeout=spec.timeout
        )
        ranks = [
            asyncio.ensure_future(group.one(actor, lambda rank: rank.run.remote(), timeout=FOREVER))
            for actor in group.actors
        ]
        try:
            await _watch(ranks, watch, ready)
        finally:
            for rank in ranks:
                rank.cancel()


async def _watch(ranks: Sequence[asyncio.Future[None]], watch: Watch, ready: Callable[[], None]) -> None:
    """Wait for the ranks, and raise what ended the first one that failed."""
    pending, failed, was_ready = set(ranks), False, False
    while pending and not failed:
        ended, pending = await asyncio.wait(pending, timeout=LOOK, return_when=asyncio.FIRST_EXCEPTION)
        failed = any(rank.exception() is not None for rank in ended)
        if not failed:
            watch.check()
        if watch.ready and not was_ready:
            ready()
            was_ready = True
    if pending:
        await asyncio.wait(pending, timeout=PATIENCE)
    failures = [error for rank in ranks if rank.done() and (error := rank.exception()) is not None]
    if failures:
        raise min(failures, key=precedence)
