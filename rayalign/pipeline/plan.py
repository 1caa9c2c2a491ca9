"""What a job will do, before anything starts: roles on devices, sizes, batch arithmetic, and which stages will run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rayalign.config import Job, LearnerConfig, RoleConfig
from rayalign.models.catalogue import ModelShape
from rayalign.pipeline.hashing import stage_states
from rayalign.pipeline.kind import GENERATOR, RoleNeed, kind_of, shape_in
from rayalign.pipeline.machine import Machine, planned_machine

BYTES = {"fp32": 4, "bf16": 2, "float32": 4, "bfloat16": 2}
GRADIENT = 4
"""bytes of one gradient"""
ACTIVATIONS = 17
"""numbers kept for the backward pass per token, layer and hidden unit (Korthikanti 2022, eq. 1: 34 bytes in bf16)"""


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
    driver_memory: int = 0
    """of the run's own process [bytes]"""

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
        bundles = []
        for role in self.roles:
            if role.within is None:
                bundles += [role.bundle] * role.actors
        return bundles

    @property
    def memory(self) -> int:
        """Main memory of all actors and the run's own process, as far as it is known [bytes]."""
        return self.driver_memory + sum((r.memory or 0) * r.devices.count("cpu") for r in self.roles)

    @property
    def device_memory(self) -> dict[str, int]:
        """Claims on each device [bytes]."""
        claims: dict[str, int] = defaultdict(int)
        for role in self.roles:
            for device in role.device_numbers:
                claims[f"gpu:{device}"] += role.memory or 0
        return dict(claims)


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole job; the generator pool is one for all stages."""

    stages: tuple[StagePlan, ...]
    machine: Machine | None
    """None: a cluster that is not this machine"""
    gpu_memory: int

    @property
    def warnings(self) -> list[str]:
        """Estimates that exceed what there is; being estimates, they refuse nothing."""
        warnings = []
        for stage in self.stages:
            if self.machine and stage.memory > self.machine.memory:
                available = f"this machine has {size(self.machine.memory)}"
                warnings.append(f"{stage.name} needs about {size(stage.memory)}; {available}")
            for device, claim in stage.device_memory.items():
                if claim > self.gpu_memory:
                    available = f"{device}, which has {size(self.gpu_memory)}"
                    warnings.append(f"{stage.name} needs about {size(claim)} of {available}")
        return warnings


def plan(job: Job, machine: Machine | None = None) -> Plan:
    """The plan of a job that `check` has passed, on a machine or a cluster as large as one; None: where it will run."""
    machine = machine or planned_machine(job.cluster)
    cores = machine.cpus if machine else float("inf")
    pool_is_lasting = bool(job.rollout.gpus or job.rollout.cpus)
    states = stage_states(job)
    stages = []
    pool: list[RolePlan] = []
    for name, stage in job.stages.items():
        kind = kind_of(stage)
        roles = _roles(job, kind.roles(job), cores, pool)
        if pool_is_lasting:  # from its first stage to the end of the run
            pool = [role for role in roles if role.role == GENERATOR]
        placed = tuple(_place(roles))
        stages.append(StagePlan(name, stage.kind, states[name], placed, kind.batch(), kind.driver_memory(job)))
    return Plan(tuple(stages), machine, job.cluster.gpu_memory)


def size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _roles(job: Job, needs: Sequence[RoleNeed], cores: float, pool: Sequence[RolePlan]) -> list[RolePlan]:
    """The roles of a stage; last `pool`, which runs already, where the stage has no use for it."""
    uses_pool = any(need.role == GENERATOR for need in needs)
    idle = [] if uses_pool else list(pool)
    free_cores = cores - sum(role.actors * role.cpus for role in idle)
    share = _share([need.host for need in needs if need.within is None], free_cores)
    return [_role(job, need, share) for need in needs] + idle


def _role(job: Job, need: RoleNeed, share: float) -> RolePlan:
    host = need.host
    shape = shape_in(job, need.model)
    memory = need.memory
    if memory is None and shape is not None:
        memory = _memory(job, need, shape)
    own_cpus = host.cpus or share
    return RolePlan(
        role=need.role,
        model=need.model,
        trained=need.trained,
        actors=host.actors,
        cpus=0.0 if need.within else own_cpus,
        gpus=0.0 if need.within else host.gpus,
        threads=host.threads or max(1, int(host.cpus or 1)),
        parameters=shape.parameters if shape else None,
        memory=memory,
        within=need.within,
    )


def _share(hosts: Sequence[RoleConfig], cores: float) -> float:
    """CPUs of each actor that names none: an even share of what the others leave, at most one."""
    named = sum(host.actors * host.cpus for host in hosts if host.cpus is not None)
    unnamed = sum(host.actors for host in hosts if host.cpus is None)
    return min(1.0, max(cores - named, 0.0) / unnamed) if unnamed else 0.0


def _memory(job: Job, need: RoleNeed, shape: ModelShape) -> int:
    """Memory of one actor on each of its devices [bytes]."""
    if need.role == GENERATOR:
        weights = shape.parameters * BYTES[job.rollout.dtype]
        return weights // job.rollout.tensor_parallel + job.rollout.cache_bytes
    if need.trained:
        return learner_memory(shape, need.learner, need.host.actors)
    shapes = [shape, *(shape_in(job, model) for model in need.further_models)]
    parameters = sum(each.parameters for each in shapes if each is not None)
    return parameters * BYTES[need.learner.precision]


def learner_memory(shape: ModelShape, config: LearnerConfig, ranks: int) -> int:
    """Weights, gradients, Adam and activations of one rank [bytes].

    Adam's two moments and, beside bf16 weights, the fp32 master copy are divided over the ranks from ZeRO stage 1 on,
    gradients, added up in fp32, from 2, weights from 3 (Rajbhandari 2020, figure 1). An adapter alone has gradients
    and moments.
    """
    width = BYTES[config.precision]
    optimizer = 8 if config.precision == "fp32" else 12
    weights = trained = shape.parameters
    if config.lora is not None:
        trained = shape.adapter_parameters(config.lora.rank, config.lora.targets)
        weights += trained
    states = 0
    for size, first_divided in ((optimizer * trained, 1), (GRADIENT * trained, 2), (width * weights, 3)):
        shares = ranks if config.zero_stage >= first_divided else 1
        states += size // shares
    per_unit = 1 if config.gradient_checkpointing else ACTIVATIONS
    return states + config.micro_tokens * shape.hidden * shape.layers * per_unit * width


def _place(roles: Sequence[RolePlan]) -> Iterator[RolePlan]:
    """Devices given out in order, fractions packed together."""
    used: dict[int, float] = defaultdict(float)
    placed: dict[str | None, tuple[str, ...]] = {}
    for role in roles:
        if role.within not in placed:
            placed[role.role] = tuple(_next_device(role.gpus, used) for _ in range(role.actors))
        yield replace(role, devices=placed[role.within or role.role])


def _next_device(gpus: float, used: dict[int, float]) -> str:
    """Where the next actor goes; its share is added to `used`."""
    if gpus == 0:
        return "cpu"
    first = 0
    while used[first] and used[first] + gpus > 1 + 1e-9:
        first += 1
    numbers = range(first, first + max(1, round(gpus)))
    for number in numbers:
        used[number] += min(gpus, 1.0)
    return "gpu:" + ",".join(map(str, numbers))
