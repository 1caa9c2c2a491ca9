"""The roles of one training stage as actor groups; only the declared ones start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rayalign.actors.hosted import FrozenSpec, HostedActor, Rendezvous
from rayalign.actors.learner import CriticActor, LearnerSpec, PolicyActor
from rayalign.actors.place import Place
from rayalign.actors.preparer import PreparerActor, PreparerSpec
from rayalign.actors.reference import ReferenceActor
from rayalign.actors.reward import RewardActor
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.seats import Renewal, Seats
from rayalign.cluster.sharing import SharedRoles
from rayalign.cluster.threads import IDLE_ENGINES, EngineThreads
from rayalign.cluster.waits import together
from rayalign.cluster.workers import Process, Workers
from rayalign.config import ClusterConfig, RoleConfig
from rayalign.scoring.sources import RewardSpec
from rayalign.storage.events import EventLog
from rayalign.types import Role

PREPARER = "preparer"
WIRE_THREADS = {"reward": 1}
"""calls that an actor answers over its wire at a time; the other roles are called seldom, and have none"""
KINDS: Mapping[Role, type[HostedActor]] = {
    "policy": PolicyActor,
    "critic": CriticActor,
    "reference": ReferenceActor,
    "reward": RewardActor,
}

Specs = Mapping[Role, LearnerSpec | FrozenSpec | RewardSpec]
"""what each role is made from"""


@dataclass(slots=True)
class Roles:
    """The running groups of a stage. Leaving them releases their processes, after a failure it ends these too."""

    workers: Workers
    groups: dict[str, ActorGroup] = field(default_factory=dict)
    shared: SharedRoles | None = None
    """those that share devices"""

    def __getitem__(self, role: str) -> ActorGroup:
        return self.groups[role]

    def __contains__(self, role: object) -> bool:
        return role in self.groups

    async def __aenter__(self) -> Roles:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            await self.release()
        else:
            self.stop()

    async def release(self) -> None:
        """End the roles and leave their processes to the next stage; where roles share devices these end too."""
        if self.shared is not None:
            self.stop()
            return
        with ExitStack() as undo:
            undo.callback(self.stop)
            await together(*(group.all(lambda actor: actor.actor.end.remote()) for group in self.groups.values()))
            undo.pop_all()
        self.workers.release(self._processes())
        self._forget_groups()

    def stop(self) -> None:
        """End every actor and free what it claimed."""
        self.workers.kill(self._processes())
        self._forget_groups()
        if self.shared is not None:
            self.shared.leave()

    def _forget_groups(self) -> None:
        for group in self.groups.values():
            group.wires.close()
        self.groups = {}

    def _processes(self) -> list[Process]:
        processes: list[Process] = []
        for group in self.groups.values():
            processes += group.actors
        return processes


async def start_roles(
    specs: Specs,
    hosting: Mapping[Role, RoleConfig],
    cluster: ClusterConfig,
    events: EventLog,
    workers: Workers | None = None,
    shared: SharedRoles | None = None,
    preparer: PreparerSpec | None = None,
    engines: EngineThreads = IDLE_ENGINES,
) -> Roles:
    """Start the declared roles in worker processes, all at once; on any failure none is left behind.

    Args:
        workers: processes of the run; None: new ones.
        shared: the roles that share devices, which load in waves; None: each has its own.
        preparer: of the actor that collates and prepares, which claims no cores; None: there is none.
        engines: threads of the engines that work beside the roles.
    """
    running = Roles(workers or Workers(cluster), shared=shared)
    with ExitStack() as undo:
        undo.callback(running.stop)
        hosts: dict[str, RoleConfig] = {role: hosting.get(role, RoleConfig()) for role in specs}
        processes = running.workers.take(hosts, shared.slots if shared else {}, engines)
        for role in specs:
            running.groups[role] = actor_group(role, processes[role], cluster, events, spread=hosts[role].spread)
        loads = [_load_models(running, specs, cluster)]
        if preparer is not None:
            helpers = [running.workers.take_helper()]
            running.groups[PREPARER] = actor_group(PREPARER, helpers, cluster, events)
            loads.append(set_up(running[PREPARER], PreparerActor, preparer, cluster))
        await asyncio.gather(*loads)
        _renew_the_lost(running, specs, preparer, cluster, events)
        for role in specs:
            events.write("actors_ready", role=role)
        undo.pop_all()
    return running


def actor_group(
    role: str, processes: Sequence[Process], cluster: ClusterConfig, events: EventLog, *, spread: bool = False
) -> ActorGroup:
    """The processes of a role as its actors, with the deadlines of the job.

    Args:
        spread: the actors hold one frozen model in parts, so each call is for all of them.
    """
    return ActorGroup(
        role,
        processes,
        events=events,
        timeout=cluster.call_timeout,
        heartbeat=cluster.heartbeat_timeout,
        spread=spread,
        wire_threads=WIRE_THREADS.get(role, 0),
    )


def _renew_the_lost(
    roles: Roles, specs: Specs, preparer: PreparerSpec | None, cluster: ClusterConfig, events: EventLog
) -> None:
    """Let other processes take the places of lost ones, in the roles whose actors share neither state nor a model."""
    renewed: dict[str, tuple[type[HostedActor], Any]] = {}
    for role, spec in specs.items():
        if not isinstance(spec, LearnerSpec) and not roles[role].spread:
            renewed[role] = KINDS[role], spec
    if preparer is not None:
        renewed[PREPARER] = PreparerActor, preparer
    for name, (kind, spec) in renewed.items():
        group = roles[name]
        seats = Seats(name, dict.fromkeys(group.actors, roles.workers.replace), events, cluster.restarts)
        group.renewal = Renewal(seats, partial(_set_up_one, group, kind, spec, cluster))


async def _set_up_one(
    group: ActorGroup, kind: type[HostedActor], spec: Any, cluster: ClusterConfig, rank: int, process: Process
) -> None:
    """Have one process become the actor of a rank, in the place of one that was lost."""
    limit = cluster.start_timeout
    await group.one(process, lambda new: new.actor.begin.remote(kind, spec, process.threads), timeout=limit)
    place: Place = await group.one(process, lambda new: new.where.remote(), timeout=limit)
    process.place = place
    group.note(process, rank, place)
    meeting = Rendezvous(rank, len(group), place.address, place.port)
    await group.one(process, lambda new: new.setup.remote(meeting), timeout=limit)
    await group.connect(process)


async def _load_models(roles: Roles, specs: Specs, cluster: ClusterConfig) -> None:
    """Set up the roles with models, those that share devices in waves."""
    shared = roles.shared
    for wave in shared.waves(specs) if shared else [list(specs)]:
        groups = [roles[role] for role in wave]
        if shared:
            await shared.admit(groups)
        await asyncio.gather(*(set_up(roles[role], KINDS[role], specs[role], cluster) for role in wave))
        if shared:
            shared.verify(groups)


async def set_up(group: ActorGroup, kind: type[HostedActor], spec: Any, cluster: ClusterConfig) -> None:
    """Have worker processes become the actors of a role, which then know each other."""
    limit = cluster.start_timeout
    await group.all(lambda process: process.actor.begin.remote(kind, spec, process.threads), timeout=limit)
    home = (await group.locate(limit))[0]
    for process, place in group.places.items():
        process.place = place
    meetings: dict[Process, Rendezvous] = {}
    for rank, actor in enumerate(group.actors):
        meetings[actor] = Rendezvous(rank, len(group), home.address, home.port, group.spread)
    await group.all(lambda actor: actor.setup.remote(meetings[actor]), timeout=limit)
    await group.connect(*group.actors)
