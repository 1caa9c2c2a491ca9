"""Ranges of seconds: the ideal of each phase over the share of it that measured runs reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayalign.config import DataConfig, Job
from rayalign.forecast.calibration import Calibration, Share
from rayalign.forecast.hardware import Hardware
from rayalign.forecast.iteration import Iteration, Lengths, RoleWork
from rayalign.forecast.seconds import BUSY_CORES, Ideal, ideal_seconds
from rayalign.pipeline.kind import StageKind, shape_in
from rayalign.pipeline.plan import StagePlan

SHORTEST_SHARE, LONGEST_SHARE = 0.25, 1.0
"""of the room for prompt or answer, where no stage on such data was measured"""


@dataclass(frozen=True, slots=True)
class Span:
    """A range with its middle."""

    low: float
    middle: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.middle + other.middle, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.middle * factor, self.high * factor)


NOTHING = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class LengthRange:
    """Mean lengths, at least, typically and at most."""

    low: Lengths
    middle: Lengths
    high: Lengths
    source: str


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """The seconds of one phase."""

    phase: str
    seconds: Span
    core_seconds: Span
    """of CPU cores; 0 where devices do the work"""
    share: Share


def length_range(
    job: Job, data: DataConfig | None, max_tokens: int, calibration: Calibration, prompt: float | None = None
) -> LengthRange:
    """From measured stages on data of the same format, else from the room that the job gives.

    Args:
        prompt: mean length of the prompts, where they have been read.
    """
    room = max(job.rollout.context - max_tokens, 1)
    measured = calibration.lengths(data.format) if data is not None and data.path is None else []
    prompts = sorted(length for length, _ in measured) or _shares_of(room)
    answers = sorted(min(answer, max_tokens) for _, answer in measured) or _shares_of(max_tokens)
    if prompt is not None:
        prompts = [prompt]
    low, high = Lengths(prompts[0], answers[0]), Lengths(prompts[-1], answers[-1])
    middle = Lengths(prompts[len(prompts) // 2], answers[len(answers) // 2])
    read = ", as read" if prompt is not None else ""
    ground = ", as measured" if measured else ", as there is room"
    source = f"prompts of {low.prompt:.0f} to {high.prompt:.0f} tokens{read or ground}, "
    return LengthRange(low, middle, high, f"{source}answers of {low.answer:.0f} to {high.answer:.0f}{ground}")


def _shares_of(room: float) -> list[float]:
    """The least, a middle and the largest mean length that has so much room."""
    middle = (SHORTEST_SHARE * LONGEST_SHARE) ** 0.5
    return [SHORTEST_SHARE * room, middle * room, LONGEST_SHARE * room]


def phase_times(
    job: Job,
    kind: StageKind[Any],
    plan: StagePlan,
    works: Sequence[Iteration],
    hardware: Hardware,
    calibration: Calibration,
) -> dict[str, PhaseTime]:
    """The range of each phase, from its work at the low, the middle and the high lengths."""
    precisions = role_precisions(job, kind)
    ideals = [ideal_seconds(work, plan, hardware, precisions) for work in works]
    times = {}
    for phase in ideals[0]:
        low, middle, high = (ideal[phase] for ideal in ideals)
        share = calibration.share(
            hardware.calibrated_by,
            phase,
            largest_model(job, kind, works[0][phase]),
            working_actors(plan, works[0][phase]),
        )
        times[phase] = PhaseTime(phase, _corrected(low, middle, high, share), _cores(low, middle, high, share), share)
    return times


def iteration_seconds(times: Iterable[PhaseTime], *, overlapped: bool, cores: float) -> Span:
    """Seconds of a whole iteration; overlapped, engines write while the rest goes on, as far as there are cores."""
    every = list(times)
    total = sum((time.seconds for time in every), NOTHING)
    if not overlapped:
        return total
    writing = sum((time.seconds for time in every if time.phase == "generate"), NOTHING)
    rest = sum((time.seconds for time in every if time.phase != "generate"), NOTHING)
    busy = sum((time.core_seconds for time in every), NOTHING) * (1 / (BUSY_CORES * cores))
    return Span(
        max(writing.low, rest.low, busy.low),
        max(writing.middle, rest.middle, busy.middle),
        max(writing.high, rest.high, busy.high),
    )


def role_precisions(job: Job, kind: StageKind[Any]) -> Mapping[str, str]:
    """In what each role computes."""
    precisions = {need.role: need.learner.precision for need in kind.roles(job)}
    return precisions | {"generator": "bf16" if job.rollout.dtype == "bfloat16" else "fp32"}


def largest_model(job: Job, kind: StageKind[Any], works: Sequence[RoleWork]) -> int:
    """Parameters of the largest model that works in a phase; 1 where none does."""
    models = {need.role: need.model for need in kind.roles(job)}
    sizes = [1]
    for each in works:
        shape = shape_in(job, models[each.role]) if each.role in models else None
        if shape is not None:
            sizes.append(shape.parameters)
    return max(sizes)


def working_actors(plan: StagePlan, works: Sequence[RoleWork]) -> int:
    """Actors that work in a phase at the same time."""
    actors = {role.role: role.actors for role in plan.roles}
    roles = {each.role for each in works}
    return max(1, sum(actors.get(role, 1) for role in roles))


def _corrected(low: Ideal, middle: Ideal, high: Ideal, share: Share) -> Span:
    return Span(low.seconds / share.high, middle.seconds / share.middle, high.seconds / share.low)


def _cores(low: Ideal, middle: Ideal, high: Ideal, share: Share) -> Span:
    return Span(low.core_seconds / share.high, middle.core_seconds / share.middle, high.core_seconds / share.low)
