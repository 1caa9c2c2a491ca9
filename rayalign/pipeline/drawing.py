"""Groups of candidates that an offline stage draws: of one model, or of several sources for each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rayalign.config import DATASET, AnswerSource, DrawingSection, merged_sampling
from rayalign.coordinator.groups import GroupAssembler, GroupOrder
from rayalign.coordinator.rendering import Draw, Renderer, draws
from rayalign.pipeline.context import RunContext
from rayalign.rollout.base import candidate_seed
from rayalign.rollout.environment import load_environment
from rayalign.storage.records import decode, read_jsonl
from rayalign.types import Candidate, Example, Group, Trajectory


@dataclass(frozen=True, slots=True)
class Share:
    """What one source gives to each prompt."""

    source: AnswerSource
    model: str | None
    """that draws; None: the answers are there already"""
    first: int
    """place of its first candidate in the group"""

    @property
    def label(self) -> str:
        """What is kept with each candidate."""
        return self.source.name or self.model or self.source.examples or DATASET

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


async def draw(context: RunContext, name: str, model: str, stage: DrawingSection, count: int) -> list[Group]:
    """`count` candidates of a model for each prompt of a stage; a prompt whose generation failed is left out."""
    drawn = await _draw_by_model(context, name, model, stage, list(range(count)), ())
    return [group for group in drawn if group is not None]


async def draw_sources(
    context: RunContext, name: str, model: str, stage: DrawingSection, sources: Sequence[AnswerSource]
) -> list[Group]:
    """The candidates of all sources for each prompt; a prompt without any is left out."""
    all_shares = shares(sources, model)
    by_slot: dict[int, dict[int, Trajectory]] = {}
    for own_model in dict.fromkeys(share.model for share in all_shares if share.model):
        own = [share for share in all_shares if share.model == own_model]
        places = [place for share in own for place in share.places]
        samplings = [(share.source.count, merged_sampling(stage.sampling, share.source.sampling)) for share in own]
        groups = await _draw_by_model(context, name, own_model, stage, places, draws(samplings))
        for slot, group in enumerate(groups):
            for trajectory in group.trajectories if group else ():
                place = places[trajectory.index]
                by_slot.setdefault(slot, {})[place] = replace(trajectory, index=place)
    renderer = Renderer(context.model(model), context.job.rollout.context, stage.sampling)
    earlier = {share.source.examples: _answers_of(context, share.source.examples) for share in all_shares}
    merged: list[Group] = []
    for slot, example in enumerate(context.inputs.fitting(name, model)):
        trajectories = by_slot.setdefault(slot, {})
        answers = {**{key: rows.get(example.prompt.id, ()) for key, rows in earlier.items()}, None: example.candidates}
        for place, answer in _written_before(all_shares, answers):
            trajectories[place] = renderer.dataset_trajectory(str(slot), place, example.prompt, answer)
        if trajectories:
            merged.append(Group(str(slot), example.prompt, 0, tuple(trajectories[key] for key in sorted(trajectories))))
    return merged


def labels(sources: Sequence[AnswerSource], model: str) -> list[str]:
    """The provenance of the candidate at each place."""
    return [share.label for share in shares(sources, model) for _ in share.places]


def _answers_of(context: RunContext, examples: str | None) -> dict[str, tuple[Candidate, ...]]:
    """The candidates that an earlier stage has of each prompt, by the prompt's id."""
    if examples is None:
        return {}
    rows = (decode(Example, row) for row in read_jsonl(context.output(examples)))
    return {example.prompt.id: example.candidates for example in rows}


def _written_before(
    all_shares: Sequence[Share], answers: Mapping[str | None, Sequence[Candidate]]
) -> Iterator[tuple[int, Candidate]]:
    """Place and text of the answers that no model draws now, by the stage that has them; None: the data set."""
    for share in all_shares:
        if share.model is None:
            yield from zip(share.places, answers[share.source.examples], strict=False)


async def _draw_by_model(
    context: RunContext,
    name: str,
    model: str,
    stage: DrawingSection,
    places: Sequence[int],
    own_draws: tuple[Draw, ...],
) -> list[Group | None]:
    """Candidates of one model for each prompt, of which the i-th stands at `places[i]`; None where drawing failed."""
    job, folder = context.job, context.model(model)
    renderer = Renderer(folder, job.rollout.context, stage.sampling)
    pool = await context.pool(folder)
    orders = []
    for slot, example in enumerate(context.inputs.fitting(name, model)):
        seeds = tuple(candidate_seed(job.seed, 0, slot, example.prompt.id, place) for place in places)
        orders.append(GroupOrder(str(slot), example.prompt, seeds, own_draws))
    assembler = GroupAssembler(
        pool,
        renderer,
        timeout=job.cluster.call_timeout,
        environment=load_environment(stage.environment) if stage.environment else None,
        max_turns=stage.max_turns,
    )
    return [result.group for result in await assembler.generate(orders)]
