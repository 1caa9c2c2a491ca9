"""The work of each phase of an online iteration, or of one offline step, from the job's numbers.

generate   engines write; the reward scores beside them      publish   new weights to the engines
evaluate   forward passes that the algorithm needs           other     collating, preparing, journal
update     all trained roles at once                         turn      memory moves, where devices are shared
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rayalign.config import Job, LearnerConfig, TrainStage
from rayalign.coordinator.passes import forward_passes
from rayalign.forecast.work import Work, forward, generate, prompts_of_minibatch, train, trained_parameters
from rayalign.models.catalogue import ModelShape
from rayalign.pipeline.kind import shape_in
from rayalign.pipeline.needs import GENERATOR, RoleNeed
from rayalign.pipeline.plan import StagePlan
from rayalign.pipeline.sizes import BYTES
from rayalign.pipeline.train import TrainKind

PHASES = ("generate", "evaluate", "update", "publish", "turn", "other")
LONGEST = 2.0
"""the longest answer of a batch beside the mean, where `max_tokens` allows it"""
PUBLISH_CALLS = 20
OTHER_CALLS = 8
COLLATED_BYTES = 1000
"""read and written in the driver and the preparer for each token of a batch [bytes]"""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean lengths of a stage's samples [tokens]."""

    prompt: float
    answer: float

    @property
    def total(self) -> float:
        """Prompt and answer."""
        return self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class RoleWork:
    """What each actor of a role does in a phase."""

    role: str
    work: Work
    hidden: int = 0
    """units of the model's layers"""
    to_engines: bool = False
    """its traffic goes to the engines, not between its own ranks"""


Iteration = dict[str, list[RoleWork]]
"""phase -> the roles that work in it at the same time"""


def iteration_work(job: Job, kind: TrainKind, plan: StagePlan, lengths: Lengths) -> Iteration | None:
    """The work of an online iteration; None where the shape of a model is not known."""
    shapes = _shapes(job, kind)
    if shapes is None:
        return None
    needs = {need.role: need for need in kind.roles(job)}
    stage = kind.stage
    samples = stage.prompts * stage.candidates_per_prompt
    phases: Iteration = {phase: [] for phase in PHASES}
    phases["generate"] += _generation(job, stage, shapes[GENERATOR], lengths)
    if "reward" in needs and needs["reward"].models:
        phases["generate"].append(_reading(needs["reward"], shapes["reward"], samples, stage.prompts, lengths))
    phases["evaluate"] += _evaluation(job, kind, needs, shapes, samples, lengths)
    for role in kind.trained:
        phases["update"].append(_update(kind, needs[role], shapes[role], samples, lengths))
    phases["publish"].append(_publication(job, kind.learner("policy"), shapes["policy"]))
    phases["turn"] += _turns(plan)
    tokens = samples * lengths.total
    phases["other"].append(RoleWork("driver", Work(bytes=COLLATED_BYTES * tokens, calls=OTHER_CALLS)))
    return phases


def learner_step(need: RoleNeed, shape: ModelShape, lengths: Lengths) -> RoleWork:
    """One optimizer step on a minibatch of given rows."""
    ranks, config = need.host.actors, need.learner
    tokens = config.minibatch * lengths.total / ranks
    work = train(shape, tokens, lengths.total, config, ranks, steps=1)
    return RoleWork(need.role, work, shape.hidden)


def draws_from_engines(stage: TrainStage) -> int:
    """Candidates of a prompt that the engines write."""
    return sum(source.count for source in stage.candidate_sources if source.source == "live")


def longest_answer(answer: float, max_tokens: int) -> float:
    """The longest answer of a batch, from the mean."""
    return min(float(max_tokens), LONGEST * answer)


def _shapes(job: Job, kind: TrainKind) -> dict[str, ModelShape] | None:
    shapes = {}
    for need in kind.roles(job):
        if need.models == 0:
            continue
        shape = shape_in(job, need.model)
        if shape is None:
            return None
        shapes[need.role] = shape
    return shapes


def _generation(job: Job, stage: TrainStage, shape: ModelShape, lengths: Lengths) -> Iterator[RoleWork]:
    count = draws_from_engines(stage)
    yield engine_work(job, shape, stage.prompts, count, lengths, stage.sampling.max_tokens)


def engine_work(job: Job, shape: ModelShape, prompts: float, count: int, lengths: Lengths, max_tokens: int) -> RoleWork:
    """What one engine does to write `count` answers to each of so many prompts, which all engines share."""
    pool = job.rollout
    work = generate(
        shape,
        prompts=prompts / pool.engines,
        samples=prompts * count / pool.engines,
        prompt=lengths.prompt,
        answer=lengths.answer,
        longest=longest_answer(lengths.answer, max_tokens),
        sequences=pool.max_sequences,
        width=BYTES[pool.dtype],
        tensor_parallel=pool.tensor_parallel,
    )
    return RoleWork(GENERATOR, work, shape.hidden)


def _reading(need: RoleNeed, shape: ModelShape, samples: float, prompts: float, lengths: Lengths) -> RoleWork:
    """A forward pass over the whole batch, shared by the role's actors."""
    tokens = samples * lengths.total / need.host.actors
    models = max(need.models, 1)
    read = _read_share(need, lengths, samples, prompts)
    work = forward(shape, tokens, lengths.total, need.learner, read) * models
    return RoleWork(need.role, work, shape.hidden)


def _read_share(need: RoleNeed, lengths: Lengths, rows: float, prompts: float) -> float:
    """Which share of the tokens of rows a role reads, if it reads each of so many prompts once."""
    config = need.learner
    may_be_flash = bool(need.host.gpus) and config.precision == "bf16" and config.attention != "sdpa"
    if may_be_flash:  # reads each row by itself
        return 1.0
    return (prompts * lengths.prompt + rows * lengths.answer) / (rows * lengths.total)


def _evaluation(
    job: Job,
    kind: TrainKind,
    needs: dict[str, RoleNeed],
    shapes: dict[str, ModelShape],
    samples: float,
    lengths: Lengths,
) -> Iterator[RoleWork]:
    gap = 0.0 if job.rollout.dtype == "float32" and kind.stage.learner.precision == "fp32" else math.inf
    for each in forward_passes(kind.algorithm, kind.stage, gap):
        # A policy with an adapter is its own reference.
        role = each.role if each.role in needs else "policy"
        yield _reading(needs[role], shapes[role], samples, kind.stage.prompts, lengths)


def _update(kind: TrainKind, need: RoleNeed, shape: ModelShape, samples: float, lengths: Lengths) -> RoleWork:
    stage, config, ranks = kind.stage, need.learner, need.host.actors
    steps = kind.algorithm.passes * math.ceil(samples / config.minibatch)
    rows = kind.algorithm.passes * samples
    rows_of_step = min(config.minibatch, samples)
    prompts = prompts_of_minibatch(
        stage.prompts,
        stage.candidates_per_prompt,
        config.minibatch,
        whole_groups=kind.algorithm.unit != "sequence",
    )
    if stage.mix is not None and need.role == "policy":  # rows with prompts of their own
        rows += steps * stage.mix.samples
        rows_of_step += stage.mix.samples
        prompts += stage.mix.samples
    read = _read_share(need, lengths, rows_of_step, prompts)
    work = train(shape, rows * lengths.total / ranks, lengths.total, config, ranks, steps, read)
    return RoleWork(need.role, work, shape.hidden)


def _publication(job: Job, config: LearnerConfig, shape: ModelShape) -> RoleWork:
    """Weights from the first rank to every engine, which load them side by side."""
    is_whole = config.lora is None or job.rollout.adapter == "merged"
    numbers = shape.parameters if is_whole else trained_parameters(shape, config)
    work = Work(traffic=numbers * BYTES[config.precision], calls=PUBLISH_CALLS)
    return RoleWork("policy", work, to_engines=True)


def _turns(plan: StagePlan) -> Iterator[RoleWork]:
    """What each role moves between its devices and main memory, there and back."""
    if not plan.shared:
        return
    for role in plan.roles:
        parts = role.parts or {}
        moved = sum(size for part, size in parts.items() if part != "cache")
        if not role.resident and role.within is None:
            yield RoleWork(role.role, Work(traffic=2.0 * moved))
