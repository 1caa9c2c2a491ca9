"""Language models that write prompts for an evolve stage: over the engines of the run, or over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.annotator.endpoints.answers import AnswerRequest, write_answers
from rayalign.config import Endpoint, SamplingConfig
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.rendering import Renderer
from rayalign.data.chat import encode_prompt
from rayalign.evolve.evolvers import Complete
from rayalign.pipeline.context import RunContext
from rayalign.types import Prompt


def by_engines(context: RunContext, model: str, sampling: SamplingConfig) -> Complete:
    """A model of the job through the rollout pool; an instruction that leaves no room for an answer has none."""

    async def complete(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[str | None]:
        job, folder = context.job, context.model(model)
        renderer = Renderer(folder, job.rollout.context, sampling)
        pool = await context.pool(folder)
        orders: list[GroupOrder] = []
        for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            if _fits(renderer, prompt, sampling):
                orders.append(GroupOrder(str(place), prompt, (seed,)))
        assembler = GroupAssembler(pool, renderer, timeout=job.cluster.call_timeout)
        texts: list[str | None] = [None] * len(prompts)
        for result in await assembler.generate(orders) if orders else ():
            if result.group is not None:
                texts[int(result.group_id)] = result.group.trajectories[0].text
        return texts

    return complete


def by_endpoint(endpoint: Endpoint, sampling: SamplingConfig) -> Complete:
    """A model behind an OpenAI-compatible endpoint."""

    async def complete(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[str | None]:
        requests = [AnswerRequest(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return await write_answers(endpoint, requests, sampling)

    return complete


def _fits(renderer: Renderer, prompt: Prompt, sampling: SamplingConfig) -> bool:
    tokens = encode_prompt(renderer.tokenizer, prompt, context=renderer.context, reserve=sampling.max_tokens)
    return tokens is not None
