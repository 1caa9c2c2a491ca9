"""The forecast of a job on given machines: what fits, seconds of each phase, hours and cost of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from rayalign.config import Job
from rayalign.forecast.calibration import Calibration
from rayalign.forecast.fits import Misfit, job_on, misfits
from rayalign.forecast.hardware import Hardware
from rayalign.forecast.iteration import Iteration, engine_work, iteration_work, learner_step
from rayalign.forecast.rows import answers_written, optimizer_steps, rows_read
from rayalign.forecast.timing import (
    NOTHING,
    PhaseTime,
    Span,
    iteration_seconds,
    length_range,
    phase_times,
)
from rayalign.pipeline.kind import StageKind, kind_of, shape_in
from rayalign.pipeline.plan import Plan, StagePlan, plan
from rayalign.pipeline.train import TrainKind

NOT_READ: Mapping[str, float] = MappingProxyType({})
ROWS = "its rows are not here, and they decide how much there is to do; data.limit says how many"


@dataclass(frozen=True, slots=True)
class StageForecast:
    """The time of one stage."""

    name: str
    unit: str
    """what `seconds` is of: iteration, step, or all answers; empty: not forecast"""
    seconds: Span = NOTHING
    count: int | None = None
    """how many units; None: only the run will show it"""
    phases: Mapping[str, PhaseTime] = field(default_factory=dict)
    lengths: str = ""
    """on what the lengths of prompts and answers rest"""
    unknown: str = ""
    """why there is no time, or no total"""

    @property
    def total(self) -> Span | None:
        """Seconds of the stage; None where it is not known."""
        return self.seconds * self.count if self.unit and self.count is not None else None

    @property
    def bottleneck(self) -> str:
        """The phase that takes longest."""
        return max(self.phases, key=lambda phase: self.phases[phase].seconds.middle, default="")


@dataclass(frozen=True, slots=True)
class Forecast:
    """A job on given machines."""

    hardware: Hardware
    plan: Plan
    stages: tuple[StageForecast, ...]
    misfits: tuple[Misfit, ...]

    @property
    def fits(self) -> bool:
        """Whether the machines are large enough."""
        return not self.misfits

    @property
    def unsized(self) -> list[str]:
        """Stages with a model of unknown sizes, of which nobody knows whether they fit."""
        return [stage.name for stage in self.plan.stages if any(role.unsized for role in stage.roles)]

    @property
    def hours(self) -> Span:
        """Of all stages whose time is known."""
        totals = [stage.total for stage in self.stages]
        return sum((total for total in totals if total is not None), NOTHING) * (1 / 3600)

    @property
    def cost(self) -> Span | None:
        """Of these hours; None without a price."""
        return None if self.hardware.price is None else self.hours * self.hardware.price

    @property
    def untimed(self) -> list[str]:
        """Stages that the hours leave out."""
        return [stage.name for stage in self.stages if stage.total is None]

    @property
    def is_timed(self) -> bool:
        """Whether the hours are of any stage."""
        return len(self.untimed) < len(self.stages)


def forecast(
    job: Job,
    hardware: Hardware,
    calibration: Calibration,
    *,
    local: bool = False,
    prompts: Mapping[str, float] = NOT_READ,
) -> Forecast:
    """What a job that `check` has passed takes on given machines.

    Args:
        local: the machines are this one.
        prompts: stage -> mean tokens of its prompts, where they have been read.
    """
    placed = job_on(job, hardware, local=local)
    planned = plan(placed, None if local else hardware.total)
    stages = []
    for stage_plan in planned.stages:
        prompt = prompts.get(stage_plan.name)
        stages.append(_stage(placed, stage_plan, hardware, calibration, prompt))
    return Forecast(hardware, planned, tuple(stages), tuple(misfits(planned, placed, hardware)))


def _stage(
    job: Job, stage_plan: StagePlan, hardware: Hardware, calibration: Calibration, prompt: float | None
) -> StageForecast:
    name = stage_plan.name
    kind = kind_of(job.stages[name])
    training = kind.training
    if training is not None and training.stage.online:
        return _online(job, training, stage_plan, hardware, calibration, prompt)
    if kind.learners():
        return _offline(job, kind, stage_plan, hardware, calibration)
    if kind.sampling is not None and kind.uses_pool(job):
        return _drawing(job, kind, stage_plan, hardware, calibration, prompt)
    return StageForecast(name, "", unknown="its time is not forecast")


def _online(
    job: Job, kind: TrainKind, stage_plan: StagePlan, hardware: Hardware, calibration: Calibration, prompt: float | None
) -> StageForecast:
    stage = kind.stage
    lengths = length_range(job, stage.data, stage.sampling.max_tokens, calibration, prompt)
    works = []
    for each in (lengths.low, lengths.middle, lengths.high):
        work = iteration_work(job, kind, stage_plan, each)
        if work is None:
            return _unknown_shape(stage_plan)
        works.append(work)
    times = phase_times(job, kind, stage_plan, works, hardware, calibration)
    overlapped = stage.max_staleness > 0 and not stage_plan.shared
    seconds = iteration_seconds(times.values(), overlapped=overlapped, cores=hardware.total.cpus)
    return StageForecast(stage_plan.name, "iteration", seconds, stage.iterations, times, lengths.source)


def _offline(
    job: Job, kind: StageKind[Any], stage_plan: StagePlan, hardware: Hardware, calibration: Calibration
) -> StageForecast:
    need = next(need for need in kind.roles(job) if need.trained)
    shape = shape_in(job, need.model)
    if shape is None:
        return _unknown_shape(stage_plan)
    lengths = length_range(job, kind.data, job.rollout.context // 2, calibration)
    works = [{"update": [learner_step(need, shape, each)]} for each in (lengths.low, lengths.middle, lengths.high)]
    times = phase_times(job, kind, stage_plan, works, hardware, calibration)
    steps = optimizer_steps(job, stage_plan.name)
    unknown = "" if steps else ROWS
    seconds = times["update"].seconds
    return StageForecast(stage_plan.name, "step", seconds, steps, times, lengths.source, unknown)


def _drawing(
    job: Job,
    kind: StageKind[Any],
    stage_plan: StagePlan,
    hardware: Hardware,
    calibration: Calibration,
    prompt: float | None,
) -> StageForecast:
    sampling = kind.sampling
    assert sampling is not None, "a stage that draws has a sampling section"
    model = next(role.model for role in stage_plan.roles if role.role == "generator")
    shape = shape_in(job, model)
    if shape is None:
        return _unknown_shape(stage_plan)
    rows, answers = rows_read(job, stage_plan.name), answers_written(job, stage_plan.name)
    if not rows or not answers:
        return StageForecast(stage_plan.name, "", unknown=ROWS)
    lengths = length_range(job, kind.data, sampling.max_tokens, calibration, prompt)
    works: list[Iteration] = []
    for each in (lengths.low, lengths.middle, lengths.high):
        works.append({"generate": [engine_work(job, shape, rows, max(1, answers // rows), each, sampling.max_tokens)]})
    times = phase_times(job, kind, stage_plan, works, hardware, calibration)
    return StageForecast(stage_plan.name, "all answers", times["generate"].seconds, 1, times, lengths.source)


def _unknown_shape(stage_plan: StagePlan) -> StageForecast:
    return StageForecast(
        stage_plan.name, "", unknown="the sizes of a model are not known here; name a local folder to have its time"
    )
