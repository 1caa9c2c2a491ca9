"""What a job will do, before anything starts: roles on devices, sizes, batch arithmetic, and which stages will run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayalign.cluster.threads import share_threads
from rayalign.cluster.turns import PRESENCE, TURNS, Presence, Sizes, Turn, present_parts
from rayalign.config import Job, RoleConfig
from rayalign.pipeline.hashing import stage_states
from rayalign.pipeline.kind import StageKind, kind_of, shape_in
from rayalign.pipeline.machine import Machine, planned_machine
from rayalign.pipeline.needs import GENERATOR, RoleNeed, host_alone
from rayalign.pipeline.process_memory import process_memory
from rayalign.pipeline.sizes import role_parts
from rayalign.pipeline.stage_rows import recognised


@dataclass(frozen=True, slots=True)
class RolePlan:
    """One role of a stage; all of its actors are alike."""

    role: str
    model: str
    trained: bool
    actors: int
    cpus: float
    gpus: float
    threads: int
    parameters: int | None
    """None: a model whose sizes are not known here"""
    memory: int | None
    """estimate for one actor, on each of its devices [bytes]"""
    devices: tuple[str, ...] = ()
    """for each actor `cpu`, `gpu:0`, or several as `gpu:0,1`"""
    within: str | None = None
    """the role in whose actors it runs"""
    parts: Sizes | None = None
    """`memory` by part; None: sizes that are not known here"""
    presence: Presence = field(default_factory=dict)
    """which parts it has on shared devices in each turn"""
    resident: bool = False
    """on shared devices in every turn"""
    spread: bool = False
    """its actors are ranks that hold one frozen model in parts"""
    unsized: bool = False
    """it has a model whose sizes are not known here; a reward of rules, code or an annotator has none"""

    def memory_in(self, turn: Turn) -> int:
        """What one actor has on each of its shared devices in a turn [bytes]."""
        parts = self.parts or {}
        present = present_parts(self.presence, turn, parts, resident=self.resident)
        return sum(parts.get(part, 0) for part in present)

    @property
    def bundle(self) -> dict[str, float]:
        """What one actor asks of Ray."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def device_numbers(self) -> list[str]:
        """The device of each actor, of an actor on several all of them."""
        numbers = []
        for device in self.devices:
            if device != "cpu":
                numbers += device.removeprefix("gpu:").split(",")
        return numbers


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: who runs, on what, how many samples and steps."""

    name: str
    kind: str
    state: str
    roles: tuple[RolePlan, ...]
    batch: str
    rows: str | None = None
    """what its data are recognised as, where the job does not name their format"""
    driver_memory: int = 0
    """for what the stage computes in the run's own process [bytes]"""
    processes: int = 0
    """main memory of all processes themselves, before they hold a model [bytes]"""
    shared: bool = False
    """engines and roles take turns on the same devices"""
    logical: bool = False
    """the devices are names, and what is on them is in main memory"""

    @property
    def devices(self) -> int:
        """How many GPUs it takes."""
        return len(self.device_memory)

    @property
    def cpus(self) -> float:
        """How many CPUs it takes."""
        return sum(r.actors * r.cpus for r in self.roles)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What each actor asks of Ray."""
        bundles: list[dict[str, float]] = [{"GPU": 1.0}] * self.devices if self.shared else []
        for role in self.roles:
            if role.within is None:
                bundle = {"CPU": role.cpus} if self.shared else role.bundle
                bundles += [bundle] * role.actors
        return bundles

    @property
    def memory(self) -> int:
        """Main memory of all processes and what they hold, as far as it is known [bytes]."""
        actors = 0
        for role in self.roles:
            actors += (role.memory or 0) * (role.actors if self.logical else role.devices.count("cpu"))
        return self.processes + self.driver_memory + actors

    @property
    def device_memory(self) -> dict[str, int]:
        """Claims on each device, where roles take turns those of the fullest one [bytes]."""
        if not self.shared:
            return _claims((role, role.memory or 0) for role in self.roles)
        most: dict[str, int] = defaultdict(int)
        for turn in TURNS:
            for device, claim in self.turn_memory(turn).items():
                most[device] = max(most[device], claim)
        return dict(most)

    def turn_memory(self, turn: Turn) -> dict[str, int]:
        """Claims on each shared device in a turn [bytes]."""
        return _claims((role, role.memory_in(turn)) for role in self.roles)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole job; the generator pool is one for all stages."""

    stages: tuple[StagePlan, ...]
    machine: Machine | None
    """None: a cluster that is not this machine"""
    device_bytes: int
    """capacity of one device"""

    @property
    def warnings(self) -> list[str]:
        """Estimates that exceed what there is; being estimates, they refuse nothing."""
        warnings = []
        for stage in self.stages:
            if self.machine and stage.memory > self.machine.memory:
                available = f"this machine has {size(self.machine.memory)}"
                warnings.append(f"{stage.name} needs about {size(stage.memory)}; {available}")
            for device, claim in stage.device_memory.items():
                if claim > self.device_bytes and not stage.shared:
                    available = f"{device}, which has {size(self.device_bytes)}"
                    warnings.append(f"{stage.name} needs about {size(claim)} of {available}")
        return warnings


def plan(job: Job, machine: Machine | None = None) -> Plan:
    """The plan of a job that `check` has passed, on a machine or a cluster as large as one; None: where it will run."""
    machine = machine or planned_machine(job.cluster)
    cores = machine.cpus if machine else float("inf")
    sharing = job.cluster.share_devices
    # A stage without use for the pool ends one that shares devices.
    pool_is_lasting = not sharing and bool(job.rollout.gpus or job.rollout.cpus)
    states = stage_states(job)
    stages = []
    pool: list[RolePlan] = []
    for name, stage in job.stages.items():
        kind = kind_of(stage)
        shared = sharing and kind.uses_pool(job)
        roles = _roles(job, kind, cores, pool, shared)
        if pool_is_lasting:  # from its first stage to the end of the run
            pool = [role for role in roles if role.role == GENERATOR]
        placed = tuple(_place(roles, shared))
        stages.append(
            StagePlan(
                name,
                stage.kind,
                states[name],
                placed,
                kind.batch(),
                recognised(kind.data) if kind.data_use else None,
                driver_memory=kind.driver_memory(job),
                processes=process_memory(job, kind),
                shared=shared,
                logical=job.cluster.logical_devices is not None,
            )
        )
    return Plan(tuple(stages), machine, job.cluster.device_bytes)


def size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _roles(job: Job, kind: StageKind[Any], cores: float, pool: Sequence[RolePlan], shared: bool) -> list[RolePlan]:
    """The roles of a stage; last `pool`, which runs already, where the stage has no use for it."""
    needs = kind.roles(job)
    if not shared:
        needs = [replace(need, host=host_alone(job.cluster, need.host)) for need in needs]
    shared_cores = 1 if math.isinf(cores) else int(cores)
    hosts = {need.role: need.host for need in needs if need.role != GENERATOR and need.within is None}
    threads = share_threads(hosts, shared_cores, kind.engine_threads(job))
    threads[GENERATOR] = job.rollout.threads
    idle = [] if kind.uses_pool(job) else list(pool)
    free_cores = cores - sum(role.actors * role.cpus for role in idle)
    share = _share([need.host for need in needs if need.within is None], free_cores)
    return [_role(job, need, share, threads.get(need.role, 1)) for need in needs] + idle


def _role(job: Job, need: RoleNeed, share: float, threads: int) -> RolePlan:
    host = need.host
    shape = shape_in(job, need.model)
    parts = role_parts(job, need, shape) if shape else None
    memory = need.memory
    if memory is None and parts is not None:
        memory = sum(parts.values())
    own_cpus = host.cpus or share
    return RolePlan(
        role=need.role,
        model=need.model,
        trained=need.trained,
        actors=host.actors,
        cpus=0.0 if need.within else own_cpus,
        gpus=0.0 if need.within else host.gpus,
        threads=threads,
        parameters=shape.parameters if shape else None,
        memory=memory,
        within=need.within,
        parts=parts,
        presence=need.presence or PRESENCE.get(need.role, {}),
        resident=host.resident,
        spread=host.spread,
        unsized=need.models > 0 and memory is None,
    )


def _share(hosts: Sequence[RoleConfig], cores: float) -> float:
    """CPUs of each actor that names none: an even share of what the others leave, at most one."""
    named = sum(host.actors * host.cpus for host in hosts if host.cpus is not None)
    unnamed = sum(host.actors for host in hosts if host.cpus is None)
    return min(1.0, max(cores - named, 0.0) / unnamed) if unnamed else 0.0


def _claims(roles: Iterable[tuple[RolePlan, int]]) -> dict[str, int]:
    """The sums on each device of what each actor of the roles has there."""
    claims: dict[str, int] = defaultdict(int)
    for role, memory in roles:
        for device in role.device_numbers:
            claims[f"gpu:{device}"] += memory
    return dict(claims)


def _place(roles: Sequence[RolePlan], shared: bool) -> Iterator[RolePlan]:
    """Devices given out in order, fractions packed together.

    Where they are shared, what works while the engines write and what works after them is each given all devices, and
    the engines come first: so they are on the same ones in all stages.
    """
    used: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    placed: dict[str | None, tuple[str, ...]] = {}
    order = sorted(roles, key=lambda role: shared and role.role != GENERATOR)
    for role in order:
        if role.within not in placed:
            side = "after" if shared and "rollout" not in role.presence else ""
            has_ranks = role.trained or role.spread
            placed[role.role] = tuple(_devices(role, used[side], apart=shared and has_ranks))
    for role in roles:
        yield replace(role, devices=placed[role.within or role.role])


def _devices(role: RolePlan, used: dict[int, float], *, apart: bool) -> Iterator[str]:
    """The devices of each actor; `apart`: no two actors of the role on the same, as ranks need it."""
    avoided: set[str] = set()
    for _ in range(role.actors):
        device = _next_device(role.gpus, used, avoided)
        if apart:
            avoided.add(device)
        yield device


def _next_device(gpus: float, used: dict[int, float], avoided: set[str]) -> str:
    """Where the next actor goes; its share is added to `used`."""
    if gpus == 0:
        return "cpu"
    first = 0
    while f"gpu:{first}" in avoided or (used[first] and used[first] + gpus > 1 + 1e-9):
        first += 1
    numbers = range(first, first + max(1, round(gpus)))
    for number in numbers:
        used[number] += min(gpus, 1.0)
    return "gpu:" + ",".join(map(str, numbers))
