"""The stage that draws answers of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rayalign.config import DataConfig, DrawingSection, GenerateStage, Job, SamplingConfig
from rayalign.pipeline import best_of
from rayalign.pipeline.kind import (
    CANDIDATES,
    LANGUAGE_MODEL,
    SCORED,
    AnnotatorRead,
    Output,
    Problem,
    Read,
    RoleNeed,
    StageKind,
    generator,
)
from rayalign.scoring.selection import best_of_n_kl
from rayalign.storage.records import write_jsonl
from rayalign.types import Group

if TYPE_CHECKING:
    from rayalign.data.readers import Use
    from rayalign.pipeline.context import RunContext

DRAWN = "drawn"
"""output of a stage that chooses: all candidates with their scores"""


class GenerateKind(StageKind[GenerateStage]):
    """Candidates for prompts; records.jsonl holds one example for each prompt."""

    def reads(self) -> Sequence[Read]:
        chosen_by = best_of.reads(self.stage.best_of, "best_of") if self.stage.best_of else ()
        return [Read("model", self.stage.model, (LANGUAGE_MODEL,)), *chosen_by]

    def outputs(self) -> dict[str, Output]:
        outputs = {"": Output(CANDIDATES, "records.jsonl")}
        if self._chooses:
            outputs[DRAWN] = Output(SCORED, "drawn.jsonl")
        return outputs

    def batch(self) -> str:
        count = self.stage.count
        if not self._chooses:
            return f"{count} candidates for each prompt"
        return f"{count} x the best of {self._candidates // count} candidates for each prompt"

    @property
    def _candidates(self) -> int:
        """Candidates of each prompt."""
        choice = self.stage.best_of
        return self.stage.count * (choice.n if choice else 1)

    @property
    def _chooses(self) -> bool:
        return self._candidates > self.stage.count

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

    def annotators(self) -> Sequence[AnnotatorRead]:
        return list(best_of.annotators(self.stage.best_of, "best_of")) if self.stage.best_of else []

    def problems(self) -> Iterator[Problem]:
        if self.stage.best_of:
            yield from best_of.problems(self.stage.best_of, "best_of")

    def roles(self, job: Job) -> Sequence[RoleNeed]:
        models = dict.fromkeys(read.value for read in self.reads()[1:]) if self._chooses else {}
        return [generator(job, self.stage.model), *best_of.reward_role(self.stage, models)]

    def prompt_models(self) -> Sequence[str]:
        return [self.stage.model]

    def tokenizers(self, name: str) -> Sequence[tuple[str, str]]:
        return [(read.key, read.value) for read in self.reads()]

    def run(self, context: RunContext, name: str) -> dict[str, Any]:
        return asyncio.run(self._run(context, name))

    async def _run(self, context: RunContext, name: str) -> dict[str, Any]:
        from rayalign.pipeline.scoring import choose

        stage, outputs, folder = self.stage, self.outputs(), context.stage_folder(name)
        groups = await draw(context, name, stage.model, stage, self._candidates)
        chosen = await choose(context, name, stage, stage.model, stage.best_of, groups)
        write_jsonl(folder / outputs[""].path, chosen.answers)
        figures: dict[str, Any] = {"rows": len(chosen.answers)}
        if DRAWN in outputs:
            write_jsonl(folder / outputs[DRAWN].path, chosen.drawn)
            figures["without_score"] = len(groups) - len(chosen.answers)
            figures["estimated_kl"] = best_of_n_kl(self._candidates // stage.count)
        return figures


async def draw(context: RunContext, name: str, reference: str, stage: DrawingSection, count: int) -> list[Group]:
    """`count` candidates of a model for each prompt of a stage; a prompt whose generation failed is left out."""
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
    return [group for group in groups if group is not None]


KIND = GenerateKind
