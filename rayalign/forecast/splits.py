"""How devices may be divided between engines and training, and which division has the fastest iterations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rayalign.config import Job, RoleConfig, TrainStage
from rayalign.forecast.calibration import Calibration
from rayalign.forecast.forecast import Forecast, forecast
from rayalign.forecast.hardware import Hardware
from rayalign.forecast.timing import NOTHING, Span
from rayalign.pipeline.kind import GENERATOR, RoleNeed, kind_of
from rayalign.pipeline.train import TrainKind


@dataclass(frozen=True, slots=True)
class Split:
    """One division of the devices that fits."""

    engines: int
    """devices of engines"""
    training: int
    """devices of all other roles"""
    shared: bool
    """engines and training take turns on all devices"""
    overrides: tuple[str, ...]
    """with which the job has it"""
    seconds: Span
    """of the iterations of all online stages"""
    forecast: Forecast

    def __str__(self) -> str:
        if self.shared:
            return f"all {max(self.engines, self.training)} devices by turns"
        return f"{self.engines} for engines, {self.training} for training"


def splits(job: Job, hardware: Hardware, calibration: Calibration) -> list[Split]:
    """Every division that fits, the fastest first; empty where nothing is to be divided."""
    if hardware.total.gpus < 1 or not job.rollout.gpus or not _online_stages(job):
        return []
    found = []
    for candidate in _candidates(job, hardware.total.gpus):
        changed, overrides, engines, training, shared = candidate
        if not _is_sound(changed):
            continue
        outcome = forecast(changed, hardware, calibration)
        if outcome.fits:
            found.append(Split(engines, training, shared, overrides, online_seconds(outcome, changed), outcome))
    return sorted(found, key=lambda split: split.seconds.middle)


def online_seconds(outcome: Forecast, job: Job) -> Span:
    """Seconds of all iterations of the online stages."""
    names = _online_stages(job)
    totals = [stage.total for stage in outcome.stages if stage.name in names]
    return sum((total for total in totals if total is not None), NOTHING)


def _online_stages(job: Job) -> list[str]:
    return [name for name, stage in job.stages.items() if isinstance(stage, TrainStage) and stage.online]


def _is_sound(job: Job) -> bool:
    """Whether each online stage has whole batches on its ranks, and may share devices if it does."""
    for name in _online_stages(job):
        kind = kind_of(job.stages[name])
        if next(iter(kind.problems()), None) or next(iter(kind.device_problems(job)), None):
            return False
    return True


Candidate = tuple[Job, tuple[str, ...], int, int, bool]


def _candidates(job: Job, devices: int) -> Iterator[Candidate]:
    parallel = job.rollout.tensor_parallel
    for engine_devices in range(parallel, devices, parallel):
        yield from _divided(job, engine_devices, devices - engine_devices)
    yield from _by_turns(job, devices)


def _divided(job: Job, engine_devices: int, training: int) -> Iterator[Candidate]:
    """Engines and roles on devices of their own: frozen models share one, the ranks have the others."""
    roles_of: dict[str, dict[str, RoleConfig]] = {}
    for name in _online_stages(job):
        trained, frozen = _needs(job, name)
        ranks = (training - bool(frozen)) // len(trained)
        if ranks < 1:
            return
        roles = {need.role: _host(need, ranks, 1.0) for need in trained}
        roles |= {need.role: _host(need, 1, 1 / len(frozen)) for need in frozen}
        roles_of[name] = roles
    engines = engine_devices // job.rollout.tensor_parallel
    changed, overrides = _changed(job, engines, roles_of, shared=False)
    yield changed, overrides, engine_devices, training, False


def _by_turns(job: Job, devices: int) -> Iterator[Candidate]:
    """Training laid over all devices, engines over all but one that a reward model has."""
    roles_of: dict[str, dict[str, RoleConfig]] = {}
    reward_devices = 0
    for name in _online_stages(job):
        trained, frozen = _needs(job, name)
        has_reward = any(need.role == "reward" for need in frozen)
        reward_devices = max(reward_devices, int(has_reward))
        readers = [need for need in frozen if need.role != "reward"]
        share = 1 / (len(trained) + len(readers))
        roles = {need.role: _host(need, devices, share) for need in trained}
        roles |= {need.role: _host(need, devices, share) for need in readers}
        roles |= {need.role: _host(need, 1, 1.0) for need in frozen if need.role == "reward"}
        roles_of[name] = roles
    engines = (devices - reward_devices) // job.rollout.tensor_parallel
    if engines:
        changed, overrides = _changed(job, engines, roles_of, shared=True)
        yield changed, overrides, engines * job.rollout.tensor_parallel, devices, True


def _needs(job: Job, name: str) -> tuple[list[RoleNeed], list[RoleNeed]]:
    """The roles of a stage that are trained, and those that only read, as far as they use devices of their own."""
    kind = kind_of(job.stages[name])
    assert isinstance(kind, TrainKind)
    own = [need for need in kind.roles(job) if need.role != GENERATOR and need.within is None]
    trained = [need for need in own if need.trained]
    frozen = [need for need in own if not need.trained and need.models]
    return trained, frozen


def _host(need: RoleNeed, actors: int, gpus: float) -> RoleConfig:
    return need.host.model_copy(update={"actors": actors, "gpus": gpus})


def _changed(
    job: Job, engines: int, roles_of: dict[str, dict[str, RoleConfig]], *, shared: bool
) -> tuple[Job, tuple[str, ...]]:
    overrides = [f"rollout.engines={engines}", f"cluster.share_devices={str(shared).lower()}"]
    stages = dict(job.stages)
    for name, roles in roles_of.items():
        stage = stages[name]
        stages[name] = stage.model_copy(update={"roles": {**getattr(stage, "roles"), **roles}})
        for role, host in roles.items():
            overrides.append(f"stages.{name}.roles.{role}={{actors: {host.actors}, gpus: {host.gpus:.2g}}}")
    changes = {
        "rollout": job.rollout.model_copy(update={"engines": engines}),
        "cluster": job.cluster.model_copy(update={"share_devices": shared}),
        "stages": stages,
    }
    return job.model_copy(update=changes), tuple(overrides)
