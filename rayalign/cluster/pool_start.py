"""The start of a generator pool: places for its engines, and the engines in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import ray

from rayalign.actors.generator import GeneratorActor
from rayalign.actors.hosted import GROUPS
from rayalign.cluster.forks import IMPORTS
from rayalign.cluster.further_engines import FurtherEngines
from rayalign.cluster.group import Actor, ActorGroup
from rayalign.cluster.placement import Claim, Placement, Slot, claims, free_cpus
from rayalign.cluster.pool import GeneratorPool
from rayalign.cluster.seats import Seat, Seats
from rayalign.cluster.starting_engines import StartingEngines
from rayalign.config import ClusterConfig, LoraConfig, RoleConfig, RolloutConfig
from rayalign.rollout import EngineName
from rayalign.rollout.vllm import LIBRARIES, environment
from rayalign.storage.events import EventLog

CONCURRENCY = 8
"""calls that an engine's actor answers at the same time, from Ray and over its wire alike"""


async def start_pool(
    engine: EngineName,
    model: str,
    config: RolloutConfig,
    cluster: ClusterConfig,
    events: EventLog,
    adapter: LoraConfig | None = None,
    slots: Sequence[Slot] = (),
) -> GeneratorPool:
    """Place and start the engines, all at once.

    Args:
        adapter: the largest that they must take beside their base.
        slots: of each engine, on devices that it shares with others; none: it has its own. An engine that dies on a
            shared device is not replaced, since a new one would start in the turn of others.
    """
    hosting = RoleConfig(actors=config.engines, cpus=config.cpus, gpus=config.gpus, threads=config.threads)
    logical = cluster.logical_devices is not None
    half = free_cpus() / 2  # of the machine, for the pool
    shares = claims({"generator": hosting}, free_cpus=half, logical=logical)
    computing = config.model_copy(update={"gpus": 0.0}) if logical else config
    claim, timeout = shares["generator"], cluster.start_timeout
    placement = Placement({"generator": hosting}, shares, timeout=timeout, slots={"generator": slots} if slots else {})
    seats: dict[Actor, Seat] = {}
    arguments = (engine, model, computing, cluster.call_timeout, adapter)
    imports = {IMPORTS: ",".join(LIBRARIES)} if engine == "vllm" and not computing.gpus else {}
    variables = {**environment(computing), **imports}
    for _ in range(config.engines):
        options = placement.options(claim, variables)
        seat = partial(_start_engine, arguments, options)
        seats[seat(None)] = seat
    group = ActorGroup(
        "generator",
        list(seats),
        events=events,
        timeout=cluster.call_timeout,
        heartbeat=cluster.heartbeat_timeout,
        wire_threads=CONCURRENCY,
    )
    with ExitStack() as undo:
        undo.callback(placement.remove)
        undo.callback(group.kill)
        await group.locate(cluster.start_timeout)
        await group.all(lambda actor: actor.setup.remote(), timeout=cluster.start_timeout)
        await group.connect(*group.actors)
        undo.pop_all()
    replaced = Seats("generator", {} if slots else seats, events, cluster.restarts)
    starting = StartingEngines(replaced, cluster.start_timeout)
    further = _further_engines(config, claim, variables, arguments, events)
    return GeneratorPool(group, placement, engine, model, cluster.call_timeout, adapter, starting, further)


def _start_engine(arguments: tuple[Any, ...], options: Mapping[str, Any], lost: Actor | None = None) -> Actor:
    """Start an engine, in the place of one that was lost or a new one."""
    kind = ray.remote(concurrency_groups=GROUPS)(GeneratorActor)
    return kind.options(max_concurrency=CONCURRENCY, **options).remote(*arguments)


def _further_engines(
    config: RolloutConfig,
    claim: Claim,
    environment: Mapping[str, str],
    arguments: tuple[Any, ...],
    events: EventLog,
) -> FurtherEngines | None:
    """Places for as many engines as the job allows beyond the first ones; None for a pool that stays as it is."""
    count = (config.max_engines or config.engines) - config.engines
    if count == 0:
        return None
    return FurtherEngines(count, claim, environment, partial(_start_engine, arguments), events)
