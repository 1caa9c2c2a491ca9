"""The roles of one training stage as actor groups; only the declared ones start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import ray

from rayalign.actors.hosted import FrozenSpec, Rendezvous
from rayalign.actors.learner import CriticActor, LearnerSpec, PolicyActor
from rayalign.actors.preparer import PreparerActor
from rayalign.actors.reference import ReferenceActor
from rayalign.actors.reward import RewardActor, RewardSpec
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.placement import Claim, Placement, claims, free_cpus, process_environment
from rayalign.config import ClusterConfig, RoleConfig
from rayalign.storage.events import EventLog
from rayalign.types import Role

KINDS = {"policy": PolicyActor, "critic": CriticActor, "reference": ReferenceActor, "reward": RewardActor}


@dataclass(slots=True)
class Roles:
    """The running groups of a stage."""

    groups: dict[Role, ActorGroup] = field(default_factory=dict)
    placement: Placement | None = None

    def __getitem__(self, role: Role) -> ActorGroup:
        return self.groups[role]

    def __contains__(self, role: Role) -> bool:
        return role in self.groups

    def stop(self) -> None:
        """End every actor and give the bundles back."""
        for group in self.groups.values():
            group.kill()
        if self.placement is not None:
            self.placement.remove()


async def start_roles(
    specs: Mapping[Role, LearnerSpec | FrozenSpec | RewardSpec],
    hosting: Mapping[Role, RoleConfig],
    cluster: ClusterConfig,
    events: EventLog,
) -> Roles:
    """Place and start the declared roles, all at once; on any failure none is left behind."""
    roles: dict[str, RoleConfig] = {role: hosting.get(role, RoleConfig()) for role in specs}
    wanted = claims(roles, free_cpus=free_cpus())
    placement = Placement(roles, wanted, timeout=cluster.start_timeout)
    running = Roles(placement=placement)
    with ExitStack() as undo:
        undo.callback(running.stop)
        for role, spec in specs.items():
            kind, claim = ray.remote(KINDS[role]), wanted[role]
            actors = [kind.options(**placement.options(claim, {})).remote(spec) for _ in range(roles[role].actors)]
            running.groups[role] = ActorGroup(role, actors, events=events, timeout=cluster.call_timeout)
        await asyncio.gather(*(_set_up(group, cluster, events) for group in running.groups.values()))
        undo.pop_all()
    return running


async def start_preparer(algorithm: Mapping[str, Any], cluster: ClusterConfig, events: EventLog) -> ActorGroup:
    """The one CPU actor that collates and prepares; it asks for no cores of its own."""
    claim = Claim(cpus=0, gpus=0, threads=1)
    options = {"num_cpus": 0, "runtime_env": {"env_vars": process_environment(claim)}}
    actor = ray.remote(PreparerActor).options(**options).remote(algorithm, cluster.call_timeout)
    group = ActorGroup("preparer", [actor], events=events, timeout=cluster.call_timeout)
    await group.locate(cluster.start_timeout)
    return group


async def _set_up(group: ActorGroup, cluster: ClusterConfig, events: EventLog) -> None:
    limit = cluster.start_timeout
    home = (await group.locate(limit))[0]
    meetings = {a: Rendezvous(rank, len(group), home.address, home.port) for rank, a in enumerate(group.actors)}
    await group.all(lambda actor: actor.setup.remote(meetings[actor]), timeout=limit)
    events.write("actors_ready", role=group.role)
