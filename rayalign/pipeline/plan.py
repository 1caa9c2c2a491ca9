"""What a job will do, before anything starts: roles on devices, sizes, batch arithmetic, and which stages will run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rayalign.algorithms.base import Algorithm, load
from rayalign.config import (
    AnnotateStage,
    EvaluateStage,
    GenerateStage,
    Job,
    LearnerConfig,
    PretrainStage,
    RoleConfig,
    Stage,
    TrainStage,
)
from rayalign.models.catalogue import ModelShape, shape_of
from rayalign.pipeline.hashing import ANNOTATOR, REFERENCE, stage_states
from rayalign.pipeline.machine import Machine, planned_machine

if TYPE_CHECKING:
    from rayalign.data.readers import Use

GENERATOR = "generator"
BYTES = {"fp32": 4, "bf16": 2, "float32": 4, "bfloat16": 2}
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

    @property
    def bundle(self) -> dict[str, float]:
        """What one actor asks of Ray."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: who runs, on what, how many samples and steps."""

    name: str
    kind: str
    state: str
    roles: tuple[RolePlan, ...]
    batch: str

    @property
    def devices(self) -> int:
        """How many GPUs it takes."""
        return len(self.device_memory)

    @property
    def cpus(self) -> float:
        """How many CPUs it takes."""
        return sum(r.actors * r.cpus for r in self.roles)

    @property
    def memory(self) -> int:
        """Main memory of all actors together, as far as it is known [bytes]."""
        return sum((r.memory or 0) * r.devices.count("cpu") for r in self.roles)

    @property
    def device_memory(self) -> dict[str, int]:
        """Claims on each device [bytes]."""
        claims: dict[str, int] = defaultdict(int)
        for role in self.roles:
            for device in (d for devices in role.devices if devices != "cpu" for d in devices[4:].split(",")):
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
        """What the estimates say will not fit; they are estimates, so they do not refuse."""
        found = []
        for stage in self.stages:
            if self.machine and stage.memory > self.machine.memory:
                found.append(
                    f"{stage.name} needs about {size(stage.memory)}; this machine has {size(self.machine.memory)}"
                )
            for device, claim in stage.device_memory.items():
                if claim > self.gpu_memory:
                    found.append(
                        f"{stage.name} needs about {size(claim)} of {device}, which has {size(self.gpu_memory)}"
                    )
        return found


def plan(job: Job, machine: Machine | None = None) -> Plan:
    """The plan of a job that `check` has passed, on a machine or a cluster as large as one; None: where it will run."""
    machine = machine or planned_machine(job.cluster)
    states = stage_states(job)
    stages, pool = [], list[RolePlan]()
    for name, stage in job.stages.items():
        roles = _roles(job, stage, machine.cpus if machine else float("inf"), pool)
        if job.rollout.gpus or job.rollout.cpus:  # which the pool keeps from its first stage to the end of the run
            pool = [role for role in roles if role.role == GENERATOR]
        stages.append(StagePlan(name, stage.kind, states[name], tuple(_place(roles)), _arithmetic(stage)))
    return Plan(tuple(stages), machine, job.cluster.gpu_memory)


def scored_over_http(stage: TrainStage) -> bool:
    """Whether the scores come from the annotator service, not from a model of the job."""
    return (stage.reward or "").startswith((ANNOTATOR, "http://", "https://"))


def role_models(stage: Stage, algorithm: Algorithm[Any] | None) -> dict[str, str | None]:
    """Which model each role of a stage starts from; None where the job names none though one is needed."""
    if isinstance(stage, PretrainStage):
        return {"policy": stage.model}
    if isinstance(stage, GenerateStage):
        return {GENERATOR: stage.model}
    if isinstance(stage, EvaluateStage):
        # the pool loads the models one after another
        models: dict[str, str | None] = {GENERATOR: next(iter(stage.models.values()))}
        models |= {"reward": stage.reward} if stage.metric == "reward" else {}
        return models | ({"reference": stage.perplexity} if stage.perplexity else {})
    if isinstance(stage, AnnotateStage) or algorithm is None:
        return {}
    others = {
        "policy": stage.model,
        "critic": stage.critic or (stage.model if scored_over_http(stage) else stage.reward) or stage.model,
        "reference": stage.reference or stage.model,
        "reward": stage.reward,
    }
    first = algorithm.trains[0]
    roles = [r for r in ("policy", "critic", "reference", "reward") if r in algorithm.roles]
    if stage.online and stage.reward and "reward" not in roles:
        roles.append("reward")
    models = {role: stage.model if role == first else others[role] for role in roles}
    return {**models, GENERATOR: stage.model} if stage.online else models


def data_use(stage: Stage, algorithm: Algorithm[Any] | None) -> Use | None:
    """What a stage reads its own `data` as; None where it reads none."""
    if isinstance(stage, PretrainStage):
        return "corpus"
    if isinstance(stage, AnnotateStage) or (isinstance(stage, TrainStage) and (stage.examples or algorithm is None)):
        return None
    if not isinstance(stage, TrainStage) or stage.online or algorithm is None:
        return "prompts"
    return "demonstrations" if algorithm.unit == "sequence" and "scores" not in algorithm.needs else "comparisons"


def shape_in(job: Job, model: str) -> ModelShape | None:
    """The shape of a model as the job names it, through the stages that made it."""
    if not model.startswith(REFERENCE):
        return shape_of(model)
    maker = job.stages[model.removeprefix(REFERENCE)]
    if isinstance(maker, PretrainStage):
        return shape_of(maker.model, None if maker.data.format == "paddock" else maker.vocabulary)
    return shape_in(job, maker.model) if isinstance(maker, TrainStage) else None


def candidates_per_prompt(stage: TrainStage) -> int:
    """Candidates of one group, counting all that a data set may give."""
    return sum(c.count for c in stage.candidates)


def size(number: float) -> str:
    """Bytes for people."""
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def _roles(job: Job, stage: Stage, cores: float, pool: list[RolePlan]) -> list[RolePlan]:
    """The roles of a stage; last `pool`, which runs already, where the stage has no use for it."""
    algorithm = load(stage.algorithm) if isinstance(stage, TrainStage) else None
    trained = algorithm.trains if algorithm else ("policy",) if isinstance(stage, PretrainStage) else ()
    hosts = stage.roles if isinstance(stage, TrainStage | PretrainStage | EvaluateStage) else {}
    models = {role: (model, _host(job, role, hosts)) for role, model in role_models(stage, algorithm).items() if model}
    held = pool if GENERATOR not in models else []
    share = _share([host for _, host in models.values()], cores - sum(r.actors * r.cpus for r in held))
    roles = []
    for role, (model, host) in models.items():
        learns, shape = role in trained, shape_in(job, model)
        roles.append(
            RolePlan(
                role=role,
                model=model,
                trained=learns,
                actors=host.actors,
                cpus=host.cpus or share,
                gpus=host.gpus,
                threads=host.threads or max(1, int(host.cpus or 1)),
                parameters=shape.parameters if shape else None,
                memory=_memory(job, stage, role, learns, shape, host.actors) if shape else None,
            )
        )
    return roles + held


def _share(hosts: Sequence[RoleConfig], cores: float) -> float:
    """CPUs of each actor that names none: an even share of what the others leave, at most one."""
    named = sum(h.actors * h.cpus for h in hosts if h.cpus is not None)
    unnamed = sum(h.actors for h in hosts if h.cpus is None)
    return min(1.0, max(cores - named, 0.0) / unnamed) if unnamed else 0.0


def _host(job: Job, role: str, hosts: dict[Any, RoleConfig]) -> RoleConfig:
    if role != GENERATOR:
        return hosts.get(role, RoleConfig())
    pool = job.rollout
    return RoleConfig(actors=pool.engines, cpus=pool.cpus, gpus=pool.gpus, threads=pool.threads)


def _memory(job: Job, stage: Stage, role: str, learns: bool, shape: ModelShape, ranks: int) -> int:
    if role == GENERATOR:
        return shape.parameters * BYTES[job.rollout.dtype] // job.rollout.tensor_parallel + job.rollout.cache_bytes
    config = stage.learner if isinstance(stage, TrainStage | PretrainStage) else LearnerConfig()
    if role == "critic" and isinstance(stage, TrainStage):
        config = stage.critic_learner or config
    return learner_memory(shape, config, ranks) if learns else shape.parameters * BYTES[config.precision]


def learner_memory(shape: ModelShape, config: LearnerConfig, ranks: int) -> int:
    """Weights, gradients, Adam and activations of one rank [bytes].

    Adam's two moments and, beside bf16 weights, the fp32 master copy are divided over the ranks from ZeRO stage 1 on,
    gradients from 2, weights from 3 (Rajbhandari 2020, figure 1).
    """
    width = BYTES[config.precision]
    optimizer = 8 if config.precision == "fp32" else 12
    parts = [(optimizer, 1), (width, 2), (width, 3)]
    states = sum(b * shape.parameters // (ranks if config.zero_stage >= stage else 1) for b, stage in parts)
    kept = 1 if config.gradient_checkpointing else ACTIVATIONS
    return states + config.micro_tokens * shape.hidden * shape.layers * kept * width


def _place(roles: Sequence[RolePlan]) -> Iterator[RolePlan]:
    """Devices given out in order, fractions packed together."""
    used: dict[int, float] = defaultdict(float)
    for role in roles:
        devices = []
        for _ in range(role.actors):
            if role.gpus == 0:
                devices.append("cpu")
                continue
            first = next(i for i in range(len(used) + 1) if used[i] == 0 or used[i] + role.gpus <= 1 + 1e-9)
            wanted = range(first, first + max(1, round(role.gpus)))
            for device in wanted:
                used[device] += min(role.gpus, 1.0)
            devices.append("gpu:" + ",".join(map(str, wanted)))
        yield replace(role, devices=tuple(devices))


def _arithmetic(stage: Stage) -> str:
    if isinstance(stage, PretrainStage):
        return f"{stage.learner.minibatch} samples a step, {stage.epochs} epochs"
    if isinstance(stage, GenerateStage):
        return f"{stage.count} candidates for each prompt"
    if isinstance(stage, AnnotateStage):
        return f"{stage.pairs} pairs of each group"
    if isinstance(stage, EvaluateStage):
        return f"{len(stage.models)} models, one answer each to the same prompts"
    minibatch = stage.learner.minibatch
    if not stage.online:
        length = f"{stage.steps} steps" if stage.steps else f"at most {stage.epochs} epochs"
        return f"{minibatch} samples a step, {length}"
    passes = load(stage.algorithm).passes
    count = candidates_per_prompt(stage)
    samples = stage.prompts * count
    steps = samples // minibatch
    return (
        f"{stage.prompts} prompts x {count} candidates = {samples} samples; / minibatch {minibatch} = {steps} steps; "
        f"x {passes} passes = {steps * passes} steps an iteration; x {stage.iterations} iterations = "
        f"{steps * passes * stage.iterations} steps"
    )
