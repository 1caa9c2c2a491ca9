"""Whether a job fits on given machines, and the change that makes it fit: tried on the plan, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rayalign.config import Job, LearnerConfig, RoleConfig
from rayalign.forecast.hardware import GIB, LOCAL, Hardware
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.needs import RoleNeed
from rayalign.pipeline.plan import Plan, StagePlan, plan, size

LEAST_CACHE = 1 * GIB
"""smallest KV cache that a remedy proposes [bytes]"""


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something for which the machines are too small."""

    stage: str
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """Something that lowers what a device has to hold."""

    override: str
    """as it is written behind the command"""
    apply: Callable[[Job], Job]


def job_on(job: Job, hardware: Hardware, *, local: bool) -> Job:
    """The job with the devices of the machines in the place of those that it names itself."""
    if local or job.cluster.logical_devices is not None:
        return job
    changes: dict[str, Any] = {"address": job.cluster.address or LOCAL, "gpus": hardware.total.gpus}
    if hardware.device is not None:
        changes["gpu_memory"] = int(hardware.device.memory * GIB)
    return job.model_copy(update={"cluster": job.cluster.model_copy(update=changes)})


def misfits(planned: Plan, job: Job, hardware: Hardware) -> Iterator[Misfit]:
    """Everything for which the machines are too small, each with its remedy."""
    for stage in planned.stages:
        devices, cores = _device_count(job, hardware), hardware.total.cpus
        if stage.devices > devices:
            yield Misfit(
                stage.name,
                f"needs {stage.devices} devices, but there are {devices}; lower rollout.engines or the actors of its "
                "roles, or take more machines",
            )
        if stage.cpus > cores + 1e-6:
            yield Misfit(stage.name, f"needs {stage.cpus:g} CPUs, but there are {cores:g}; lower the cpus of its roles")
        if stage.memory > hardware.total.memory:
            yield Misfit(
                stage.name,
                f"needs about {size(stage.memory)} of main memory, but there are {size(hardware.total.memory)}; "
                "lower its actors or rollout.engines, or take larger machines",
            )
        yield from _device_misfits(planned, stage, job, hardware)
    yield from _parallel_misfits(job, hardware)


def _device_misfits(planned: Plan, stage: StagePlan, job: Job, hardware: Hardware) -> Iterator[Misfit]:
    fullest = max(stage.device_memory.items(), key=lambda item: item[1], default=None)
    if fullest is None or fullest[1] <= planned.device_bytes:
        return
    device, claim = fullest
    overrides = remedy(job, stage.name, hardware)
    advice = "set " + " ".join(overrides) if overrides else "use devices with more memory, or a smaller model"
    yield Misfit(
        stage.name,
        f"puts about {size(claim)} on {device}, which has {size(planned.device_bytes)}; {advice}",
    )


def _parallel_misfits(job: Job, hardware: Hardware) -> Iterator[Misfit]:
    parallel = job.rollout.tensor_parallel
    if job.rollout.gpus and hardware.device is not None and parallel > hardware.machine_devices:
        yield Misfit(
            "rollout",
            f"splits an engine over {parallel} devices, but a machine has {hardware.machine_devices}; "
            f"lower rollout.tensor_parallel to {hardware.machine_devices}",
        )


def remedy(job: Job, name: str, hardware: Hardware) -> list[str]:
    """The overrides with which a stage fits its devices, tried one upon the other; empty: none was found."""
    original = _stage_plan(job, name, hardware)
    # A stage that takes too many devices anyway still gets a remedy for its memory.
    most_devices = max(original.devices, _device_count(job, hardware))
    changed = job
    overrides: list[str] = []
    for change in _changes(job, original):
        tried = change.apply(changed)
        stage = _stage_plan(tried, name, hardware)
        if stage.devices > most_devices:
            continue
        changed = tried
        overrides.append(change.override)
        if _has_memory(stage, job):
            is_enough = _has_memory(_stage_plan(change.apply(job), name, hardware), job)
            return [change.override] if is_enough else overrides
    return []


def _device_count(job: Job, hardware: Hardware) -> int:
    logical = job.cluster.logical_devices
    return hardware.total.gpus if logical is None else logical.count


def _stage_plan(job: Job, name: str, hardware: Hardware) -> StagePlan:
    planned = plan(job, hardware.total)
    return next(stage for stage in planned.stages if stage.name == name)


def _has_memory(stage: StagePlan, job: Job) -> bool:
    """Whether no device has to hold too much."""
    return max(stage.device_memory.values(), default=0) <= job.cluster.device_bytes


def _changes(job: Job, planned: StagePlan) -> Iterator[Change]:
    """What may be changed of a stage, the mildest first."""
    name = planned.name
    learner = kind_of(job.stages[name]).learners().get("learner")
    if learner is not None:
        for key, value in (
            ("gradient_checkpointing", True),
            ("zero_stage", 3),
            ("precision", "bf16"),
        ):
            if getattr(learner, key) != value:
                yield _learner_change(name, key, value)
        if learner.micro_tokens > 1024:
            yield _learner_change(name, "micro_tokens", 1024)
    yield from _spread_changes(job, planned)
    cache = job.rollout.cache_bytes
    while cache // 2 >= LEAST_CACHE:
        cache //= 2
        yield _cache_change(cache)


def _learner_change(name: str, key: str, value: Any) -> Change:
    def apply(job: Job) -> Job:
        stage = job.stages[name]
        changes: dict[str, LearnerConfig] = {}
        for learner_key, learner in kind_of(stage).learners().items():
            changes[learner_key] = learner.model_copy(update={key: value})
        return job.model_copy(update={"stages": {**job.stages, name: stage.model_copy(update=changes)}})

    written = str(value).lower() if isinstance(value, bool) else value
    return Change(f"stages.{name}.learner.{key}={written}", apply)


def _spread_changes(job: Job, planned: StagePlan) -> Iterator[Change]:
    """The largest model first: where its second actor takes the last device, none is left for the others."""
    memory = {role.role: role.memory or 0 for role in planned.roles}
    needs = [need for need in kind_of(job.stages[planned.name]).roles(job) if _is_spreadable(need)]
    for need in sorted(needs, key=lambda need: memory[need.role], reverse=True):
        yield _spread_change(planned.name, need.role, need.host)


def _is_spreadable(need: RoleNeed) -> bool:
    """Whether its actors may hold it in parts: frozen models alone, which no actor holds in parts yet."""
    is_frozen = need.role in ("reference", "reward") and not need.trained
    has_actors = need.within is None and not need.host.spread
    # Parts are exchanged by NCCL, which refuses two ranks on one device.
    return is_frozen and has_actors and need.only_models and need.host.gpus >= 1


def _spread_change(name: str, role: str, host: RoleConfig) -> Change:
    actors = max(host.actors, 2)

    def apply(job: Job) -> Job:
        stage: Any = job.stages[name]
        spread = host.model_copy(update={"actors": actors, "spread": True})
        changed = stage.model_copy(update={"roles": {**stage.roles, role: spread}})
        return job.model_copy(update={"stages": {**job.stages, name: changed}})

    written = f"{{actors: {actors}, gpus: {host.gpus:g}, spread: true}}"
    return Change(f"'stages.{name}.roles.{role}={written}'", apply)


def _cache_change(cache: int) -> Change:
    def apply(job: Job) -> Job:
        return job.model_copy(update={"rollout": job.rollout.model_copy(update={"cache_bytes": cache})})

    return Change(f"rollout.cache_bytes={cache}", apply)
