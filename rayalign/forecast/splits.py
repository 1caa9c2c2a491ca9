"""How devices may be divided between engines and training, and which division has the fastest iterations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayalign.config import Job, RoleConfig
from rayalign.forecast.calibration import Calibration
from rayalign.forecast.forecast import NOT_READ, Forecast, forecast
from rayalign.forecast.hardware import Hardware
from rayalign.forecast.timing import NOTHING, Span
from rayalign.pipeline.kind import kind_of, trainings_of
from rayalign.pipeline.needs import GENERATOR, RoleNeed

REWARD_SHARE = 0.2
"""of the device that a reward model has beside an engine, where devices are shared by turns"""


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


def splits(
    job: Job, hardware: Hardware, calibration: Calibration, prompts: Mapping[str, float] = NOT_READ
) -> list[Split]:
    """Every division that fits, the fastest first; empty where nothing is to be divided or a time is not known."""
    if hardware.total.gpus < 1 or not job.rollout.gpus or not _online_stages(job):
        return []
    divisions = []
    for candidate in _candidates(job, hardware.total.gpus, hardware.machine_devices):
        changed, overrides, engines, training, shared = candidate
        if not _is_sound(changed):
            continue
        outcome = forecast(changed, hardware, calibration, prompts=prompts)
        if not set(_online_stages(job)).isdisjoint(outcome.untimed):
            return []
        if outcome.fits:
            divisions.append(Split(engines, training, shared, overrides, online_seconds(outcome, changed), outcome))
    # Where training takes the same time anyway, its spare devices are of more use to the engines.
    return sorted(divisions, key=lambda split: (split.seconds.middle, -split.engines))


def online_seconds(outcome: Forecast, job: Job) -> Span:
    """Seconds of all iterations of the online stages."""
    names = _online_stages(job)
    totals = [stage.total for stage in outcome.stages if stage.name in names]
    return sum((total for total in totals if total is not None), NOTHING)


def _online_stages(job: Job) -> list[str]:
    return [name for name, training in trainings_of(job).items() if training.stage.online]


def _is_sound(job: Job) -> bool:
    """Whether each online stage may have its devices so."""
    for name in _online_stages(job):
        kind = kind_of(job.stages[name])
        if next(iter(kind.problems()), None) or next(iter(kind.device_problems(job)), None):
            return False
    return True


Candidate = tuple[Job, tuple[str, ...], int, int, bool]


def _candidates(job: Job, devices: int, machine_devices: int) -> Iterator[Candidate]:
    """Divisions of all devices, and of those of fewer machines, between which no network is."""
    parallel = job.rollout.tensor_parallel
    for used in {*range(machine_devices, devices, machine_devices), devices}:
        for engine_devices in range(parallel, used, parallel):
            yield from _divided(job, engine_devices, used - engine_devices)
        yield from _by_turns(job, used)


def _divided(job: Job, engine_devices: int, training: int) -> Iterator[Candidate]:
    """Engines and roles on devices of their own: frozen models share one, the ranks have the others."""
    roles_of: dict[str, dict[str, RoleConfig]] = {}
    for name in _online_stages(job):
        trained, frozen = _needs(job, name)
        ranks = _most_ranks(job, name, (training - bool(frozen)) // len(trained))
        if not ranks:
            return
        roles = {need.role: _host(need, ranks, 1.0) for need in trained}
        roles |= {need.role: _host(need, 1, 1 / len(frozen)) for need in frozen}
        roles_of[name] = roles
    engines = engine_devices // job.rollout.tensor_parallel
    changed, overrides = _changed(job, engines, float(job.rollout.tensor_parallel), roles_of, shared=False)
    yield changed, overrides, engine_devices, training, False


def _by_turns(job: Job, devices: int) -> Iterator[Candidate]:
    """Training laid over all devices, and so are the engines; a reward model stands beside one of them."""
    parallel = job.rollout.tensor_parallel
    roles_of: dict[str, dict[str, RoleConfig]] = {}
    has_reward = False
    for name in _online_stages(job):
        trained, frozen = _needs(job, name)
        ranks = _most_ranks(job, name, devices)
        if not ranks:
            return
        readers = [need for need in frozen if need.role != "reward"]
        share = 1 / (len(trained) + len(readers))
        roles = {need.role: _host(need, ranks, share) for need in (*trained, *readers)}
        for need in frozen:
            if need.role == "reward":
                has_reward = True
                roles[need.role] = _host(need, 1, 1.0 if parallel > 1 else REWARD_SHARE)
        roles_of[name] = roles
    engine_gpus = float(parallel)
    if has_reward and parallel == 1:
        engine_gpus = 1 - REWARD_SHARE
    engines = (devices - (has_reward and parallel > 1)) // parallel
    if engines:
        changed, overrides = _changed(job, engines, engine_gpus, roles_of, shared=True)
        yield changed, overrides, engines * parallel, devices, True


def _most_ranks(job: Job, name: str, most: int) -> int:
    """Ranks of each trained role, as many as divide its batches evenly; 0 where no number does."""
    for ranks in range(most, 0, -1):
        trained, _ = _needs(job, name)
        hosts = {need.role: _host(need, ranks, 1.0) for need in trained}
        stage = _with_roles(job.stages[name], hosts)
        if next(iter(kind_of(stage).problems()), None) is None:
            return ranks
    return 0


def _needs(job: Job, name: str) -> tuple[list[RoleNeed], list[RoleNeed]]:
    """The roles of a stage that are trained, and those that only read, as far as they use devices of their own."""
    kind = kind_of(job.stages[name])
    own = [need for need in kind.roles(job) if need.role != GENERATOR and need.within is None]
    trained = [need for need in own if need.trained]
    frozen = [need for need in own if not need.trained and need.models]
    return trained, frozen


def _host(need: RoleNeed, actors: int, gpus: float) -> RoleConfig:
    return need.host.model_copy(update={"actors": actors, "gpus": gpus})


def _with_roles(stage: Any, hosts: Mapping[str, RoleConfig]) -> Any:
    return stage.model_copy(update={"roles": {**stage.roles, **hosts}})


def _changed(
    job: Job, engines: int, engine_gpus: float, roles_of: Mapping[str, Mapping[str, RoleConfig]], *, shared: bool
) -> tuple[Job, tuple[str, ...]]:
    """The job so laid out, and the overrides that do it."""
    overrides = [f"rollout.engines={engines}", f"rollout.gpus={engine_gpus:g}"]
    overrides.append(f"cluster.share_devices={str(shared).lower()}")
    stages = dict(job.stages)
    for name, hosts in roles_of.items():
        stages[name] = _with_roles(stages[name], hosts)
        for role, host in hosts.items():
            overrides.append(f"stages.{name}.roles.{role}={{actors: {host.actors}, gpus: {host.gpus:.3g}}}")
    changes = {
        "rollout": job.rollout.model_copy(update={"engines": engines, "gpus": engine_gpus}),
        "cluster": job.cluster.model_copy(update={"share_devices": shared}),
        "stages": stages,
    }
    return job.model_copy(update=changes), tuple(overrides)
