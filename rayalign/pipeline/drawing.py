"""Groups of candidates that an offline stage draws: of one model, or of several sources for each prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from rayalign.annotator.endpoints.answers import AnswerRequest, write_answers
from rayalign.config import DATASET, AnswerSource, DrawingSection, Endpoint, merged_sampling, taken
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.rendering import Draw, Renderer, draws
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.finished_groups import FinishedGroups
from rayalign.rollout.base import candidate_seed
from rayalign.rollout.environment import load_environment
from rayalign.storage.records import decode, read_jsonl
from rayalign.types import Candidate, Example, Group, Trajectory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """What one source gives to each prompt."""

    source: AnswerSource
    model: str | None
    """that the engines draw with; None: the answers come from elsewhere"""
    first: int
    """place of its first candidate in the group"""

    @property
    def label(self) -> str:
        """What is kept with each candidate."""
        endpoint = self.source.endpoint.model if self.source.endpoint else None
        return self.source.name or self.model or self.source.examples or endpoint or DATASET

    @property
    def places(self) -> range:
        """Places of its candidates in the group."""
        return range(self.first, self.first + self.source.count)


def shares(sources: Sequence[AnswerSource], model: str) -> list[Share]:
    """The shares of all sources, one after another; `model` is that of the stage."""
    first, result = 0, []
    for source in sources:
        own_model = (source.model or model) if source.is_drawn else None
        result.append(Share(source, own_model, first))
        first += source.count
    return result


async def draw(
    context: RunContext,
    name: str,
    model: str,
    stage: DrawingSection,
    count: int,
    *,
    first: int = 0,
    examples: Sequence[Example] | None = None,
    finished: FinishedGroups | None = None,
) -> list[Group]:
    """`count` candidates of a model for each prompt of a stage; a prompt whose generation failed is left out.

    Args:
        first: the first place that the seeds count from, so that draws from different places are independent.
        examples: the prompts, with ids of the stage's; None: all of these.
        finished: groups that were drawn before an interruption, and are not drawn again.
    """
    chosen = context.inputs.fitting(name, model) if examples is None else examples
    places = list(range(first, first + count))
    return list((await _draw_by_model(context, model, stage, places, (), chosen, finished)).values())


async def draw_sources(
    context: RunContext,
    name: str,
    model: str,
    stage: DrawingSection,
    sources: Sequence[AnswerSource],
    *,
    finished: FinishedGroups | None = None,
) -> list[Group]:
    """The candidates of all sources for each prompt; a prompt without any is left out.

    Args:
        finished: groups of the engines that were drawn before an interruption, and are not drawn again.
    """
    all_shares = shares(sources, model)
    examples = context.inputs.fitting(name, model)
    by_prompt: dict[str, dict[int, Trajectory]] = {example.prompt.id: {} for example in examples}
    renderer = Renderer(context.model(model), context.job.rollout.context, stage.sampling)
    for own_model in dict.fromkeys(share.model for share in all_shares if share.model):
        own = [share for share in all_shares if share.model == own_model]
        places = list(chain.from_iterable(share.places for share in own))
        samplings = [(share.source.count, merged_sampling(stage.sampling, share.source.sampling)) for share in own]
        fitting = context.inputs.fitting(name, own_model)
        groups = await _draw_by_model(context, own_model, stage, places, draws(samplings), fitting, finished)
        for prompt_id in groups.keys() & by_prompt.keys():
            for trajectory in groups[prompt_id].trajectories:
                place = places[trajectory.index]
                if own_model != model:  # whose tokens the stage's model may not have
                    text = Candidate(trajectory.text, turns=trajectory.turns)
                    trajectory = renderer.dataset_trajectory(prompt_id, place, groups[prompt_id].prompt, text)
                by_prompt[prompt_id][place] = replace(trajectory, index=place)
    for share in all_shares:
        written = await _written_elsewhere(context, stage, share, examples)
        for example, answers in zip(examples, written, strict=False):
            for place, answer in zip(share.places, answers, strict=False):
                if answer is not None:
                    trajectory = renderer.dataset_trajectory(example.prompt.id, place, example.prompt, answer)
                    by_prompt[example.prompt.id][place] = trajectory
    merged: list[Group] = []
    for slot, example in enumerate(examples):
        trajectories = tuple(trajectory for _, trajectory in sorted(by_prompt[example.prompt.id].items()))
        if trajectories:
            merged.append(Group(str(slot), example.prompt, 0, trajectories))
    return merged


def labels(sources: Sequence[AnswerSource], model: str) -> list[str]:
    """The provenance of the candidate at each place."""
    names: list[str] = []
    for share in shares(sources, model):
        names += [share.label] * share.source.count
    return names


async def _written_elsewhere(
    context: RunContext, stage: DrawingSection, share: Share, examples: Sequence[Example]
) -> list[Sequence[Candidate | None]]:
    """The answers of a source to each prompt, where it is not the engines that write them."""
    if share.model is not None:
        return []
    if share.source.endpoint is not None:
        return await _over_http(context, stage, share, share.source.endpoint, examples)
    if share.source.examples is None:
        return [taken(share.source, example.candidates) for example in examples]
    rows = [decode(Example, row) for row in read_jsonl(context.output(share.source.examples))]
    by_prompt = {example.prompt.id: example.candidates for example in rows}
    return [taken(share.source, by_prompt.get(example.prompt.id, ())) for example in examples]


async def _over_http(
    context: RunContext, stage: DrawingSection, share: Share, endpoint: Endpoint, examples: Sequence[Example]
) -> list[Sequence[Candidate | None]]:
    requests: list[AnswerRequest] = []
    for slot, example in enumerate(examples):
        for place in share.places:
            requests.append(
                AnswerRequest(example.prompt, candidate_seed(context.job.seed, 0, slot, example.prompt.id, place))
            )
    texts = await write_answers(endpoint, requests, merged_sampling(stage.sampling, share.source.sampling))
    answers = [None if text is None else Candidate(text) for text in texts]
    count = share.source.count
    return [answers[start : start + count] for start in range(0, len(answers), count)]


async def _draw_by_model(
    context: RunContext,
    model: str,
    stage: DrawingSection,
    places: Sequence[int],
    own_draws: tuple[Draw, ...],
    examples: Sequence[Example],
    finished: FinishedGroups | None,
) -> dict[str, Group]:
    """Candidates of one model by the prompt's id, the i-th at `places[i]`; none where drawing failed."""
    orders = []
    for slot, example in enumerate(examples):
        prompt = example.prompt
        seeds = tuple(candidate_seed(context.job.seed, 0, slot, prompt.id, place) for place in places)
        orders.append(GroupOrder(str(slot), prompt, seeds, own_draws))
    groups = {} if finished is None else finished.of(model)
    if groups:
        logger.info("%s: %d of %d groups were drawn before an interruption", model, len(groups), len(orders))
    missing = [order for order in orders if order.group_id not in groups]
    if missing:
        assembler = await _assembler(context, model, stage)
        keep = None if finished is None else partial(finished.add, model)
        for result in await assembler.generate(missing, keep):
            if result.group is not None:
                groups[result.group_id] = result.group
    in_order = [groups[order.group_id] for order in orders if order.group_id in groups]
    return {group.prompt.id: group for group in in_order}


async def _assembler(context: RunContext, model: str, stage: DrawingSection) -> GroupAssembler:
    job, folder = context.job, context.model(model)
    return GroupAssembler(
        await context.pool(folder),
        Renderer(folder, job.rollout.context, stage.sampling),
        timeout=job.cluster.call_timeout,
        environment=load_environment(stage.environment) if stage.environment else None,
        max_turns=stage.max_turns,
    )
