"""The stage that draws answers of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayalign.config import DataConfig, EvaluateStage, GenerateStage, Job, SamplingConfig
from rayalign.pipeline.kind import CANDIDATES, LANGUAGE_MODEL, Output, Read, RoleNeed, StageKind, generator
from rayalign.storage.records import encode, write_jsonl
from rayalign.types import Candidate, Example, Group

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext


class GenerateKind(StageKind[GenerateStage]):
    """Candidates for prompts; records.jsonl holds one example for each prompt."""

    def reads(self) -> Sequence[Read]:
        return [Read("model", self.stage.model, (LANGUAGE_MODEL,))]

    def outputs(self) -> dict[str, Output]:
        return {"": Output(CANDIDATES, "records.jsonl")}

    def batch(self) -> str:
        return f"{self.stage.count} candidates for each prompt"

    @property
    def data(self) -> DataConfig:
        return self.stage.data

    @property
    def data_use(self) -> Use:
        return "prompts"

    @property
    def sampling(self) -> SamplingConfig:
        return self.stage.sampling

    @property
    def environment(self) -> str | None:
        return self.stage.environment

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        return [generator(job, self.stage.model)]

    def prompt_models(self) -> Sequence[str]:
        return [self.stage.model]

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [("model", self.stage.model)]

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        stage = self.stage
        examples = asyncio.run(draw(context, name, stage.model, stage, stage.count))
        write_jsonl(context.stage_folder(name) / self.outputs()[""].path, [encode(example) for example in examples])
        return {"rows": len(examples)}


async def draw(
    context: RunContext, name: str, reference: str, stage: GenerateStage | EvaluateStage, count: int
) -> list[Example]:
    """`count` answers of a model to each prompt of a stage; a prompt whose generation failed is left out."""
    from rayalign.coordinator.groups import GroupAssembler, GroupOrder
    from rayalign.coordinator.rendering import Renderer
    from rayalign.rollout.base import candidate_seed
    from rayalign.rollout.environment import load_environment

    job = context.job
    model = context.model(reference)
    renderer = Renderer(model, job.rollout.context, stage.sampling)
    prompts = context.inputs.fitting(name, reference)
    pool = await context.pool(model)
    orders = []
    for slot, example in enumerate(prompts):
        seeds = tuple(candidate_seed(job.seed, 0, slot, example.prompt.id, index) for index in range(count))
        orders.append(GroupOrder(str(slot), example.prompt, seeds))
    assembler = GroupAssembler(
        pool,
        renderer,
        timeout=job.cluster.call_timeout,
        environment=load_environment(stage.environment) if stage.environment else None,
        max_turns=stage.max_turns,
    )
    groups = [result.group for result in await assembler.generate(orders)]
    return [_answers(group, reference) for group in groups if group is not None]


def _answers(group: Group, source: str) -> Example:
    return Example(group.prompt, tuple(Candidate(t.text, source, turns=t.turns) for t in group.trajectories))


KIND = GenerateKind
