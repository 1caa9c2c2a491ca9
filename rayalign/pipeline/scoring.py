"""Scores of candidates that an offline stage has drawn: by reward actors where a reward model takes part, else here."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, TypeVar

from rayalign.cluster.group import Actor, ActorGroup
from rayalign.cluster.replicas import Replicas
from rayalign.cluster.waits import together
from rayalign.config import BestOf, DrawingSection, LearnerConfig, RewardSource
from rayalign.coordinator.scoring import GROUPS_PER_CALL
from rayalign.data.pairs import Question
from rayalign.errors import InputError
from rayalign.models.configuration import reads_pairs
from rayalign.pipeline.context import RunContext
from rayalign.scoring.base import Scorer
from rayalign.scoring.parts import RewardCombiner
from rayalign.scoring.selection import answers_apart, best_candidates, scored_example
from rayalign.scoring.sources import RewardSpec, make_scorer
from rayalign.types import Example, Group, Score

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
_GROUPS_HERE = 512
"""groups in one call of a scorer in this process"""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The answers that were chosen, and what they were chosen from."""

    answers: list[Example]
    """for each prompt that has any"""
    drawn: list[Example]
    """all candidates of all prompts, with their scores"""
    groups: Sequence[Group]
    """the same, as the model wrote them"""


def resolved(context: RunContext, sources: Sequence[RewardSource]) -> tuple[RewardSource, ...]:
    """Sources with models as folders and annotators as URLs; the name of a part stays that of the job."""
    places: list[RewardSource] = []
    for source in sources:
        if source.form in ("model", "annotator"):
            place = {"source": context.model(source.source), "name": source.label}
            places.append(source.model_copy(update=place))
        else:
            places.append(source)
    return tuple(places)


async def choose(
    context: RunContext,
    name: str,
    stage: DrawingSection,
    model: str,
    best_of: BestOf | None,
    groups: Sequence[Group],
    provenance: str | Sequence[str] | None = None,
) -> Chosen:
    """The answers among the candidates that a model wrote; all of them where nothing chooses.

    Args:
        provenance: as `source` of `scored_example`; None: the model. A sequence: one answer is chosen of all places.
    """
    provenance = model if provenance is None else provenance
    count = len(provenance) if not isinstance(provenance, str) else best_of.n if best_of else 1
    if best_of is None or count == 1:
        answers = [scored_example(group, provenance) for group in groups]
        return Chosen(answers, answers, groups)
    scored = await _scored(context, name, stage, model, best_of, groups, count)
    report_absent(name, scored)
    drawn = [scored_example(group, provenance) for group in scored]
    answers = []
    for group, example in zip(scored, drawn, strict=True):
        best = best_candidates(group, count)
        if best:
            answers.append(replace(example, candidates=tuple(example.candidates[place] for place in best)))
    if len(answers) < len(groups):
        logger.warning("%s: %d prompts have no candidate with a score", name, len(groups) - len(answers))
    return Chosen(answers, drawn, groups)


def report_absent(name: str, groups: Sequence[Group]) -> None:
    """Log how many candidates have no score, and the commonest reason."""
    scores: list[Score] = []
    for group in groups:
        scores += group.scores
    reasons = Counter(score.reason or "no reason" for score in scores if score.value is None)
    if reasons:
        reason, count = reasons.most_common(1)[0]
        total = len(scores)
        logger.warning("%s: %d of %d candidates have no score; %d: %s", name, reasons.total(), total, count, reason)


async def _scored(
    context: RunContext,
    name: str,
    stage: DrawingSection,
    model: str,
    best_of: BestOf,
    groups: Sequence[Group],
    count: int,
) -> list[Group]:
    """Groups with their scores; the candidates of one answer are scored together, and no others: they may vote."""
    ballots = [answers_apart(group, count) for group in groups]
    scores = iter(await _scores(context, name, stage, model, best_of, list(chain.from_iterable(ballots))))
    scored: list[Group] = []
    for group, own_ballots in zip(groups, ballots, strict=True):
        own_scores = chain.from_iterable(islice(scores, len(own_ballots)))
        scored.append(replace(group, scores=tuple(own_scores)))
    if not best_of.has_parts:
        return scored
    return RewardCombiner(best_of.rewards, best_of.combine or "weighted").take(scored)


async def _scores(
    context: RunContext, name: str, stage: DrawingSection, model: str, best_of: BestOf, groups: Sequence[Group]
) -> list[tuple[Score, ...]]:
    """The scores of each group, by `reward` actors or in this process."""
    policy, timeout = context.model(model), context.job.cluster.call_timeout
    spec = RewardSpec(resolved(context, best_of.rewards), stage.reader, policy, timeout, named=best_of.has_parts)
    if not any(source.form == "model" for source in best_of.rewards):
        return await asyncio.to_thread(in_parts, make_scorer(spec), groups)
    context.session()
    with context.starting(f"the reward of {name}"):
        roles = await context.start_roles(name, {"reward": spec})
    async with roles:
        return await _by_actors(roles["reward"], groups, lambda actor, part: actor.score.remote(part))


def in_parts(scorer: Scorer, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
    """In this process; the deadline of an annotator's call holds for each part."""
    scores: list[tuple[Score, ...]] = []
    for start in range(0, len(groups), _GROUPS_HERE):
        scores += scorer.score(groups[start : start + _GROUPS_HERE])
    return scores


async def compare(
    context: RunContext, name: str, model: str, reader: LearnerConfig, questions: Sequence[Question]
) -> list[Score]:
    """What a pairwise reward model says of each question, by `reward` actors.

    Raises:
        InputError: the model reads one answer.
    """
    folder = context.model(model)
    if not reads_pairs(folder):
        raise InputError(f"{model} scores single answers; name a pairwise reward model, which compares two")
    source = RewardSource(source=folder, name="pairwise")
    spec = RewardSpec((source,), reader, folder, context.job.cluster.call_timeout)
    context.session()
    with context.starting(f"the pairwise reward model of {name}"):
        roles = await context.start_roles(name, {"reward": spec})
    async with roles:
        return await _by_actors(roles["reward"], questions, lambda actor, part: actor.compare.remote(part))


async def _by_actors(
    reward: ActorGroup, items: Sequence[Item], call: Callable[[Actor, Sequence[Item]], Any]
) -> list[Any]:
    """The answers to calls of several items each, by turns over the replicas; one answer for each item."""
    replicas = Replicas(reward)
    starts = iter(range(0, len(items), GROUPS_PER_CALL))
    answers: dict[int, list[Any]] = {}

    async def serve(replica: int) -> None:
        for start in starts:
            part = items[start : start + GROUPS_PER_CALL]
            answers[start] = await replicas.ask(replica, _with_part(call, part))

    await together(*(serve(replica) for replica in range(len(replicas))))
    return list(chain.from_iterable(answers[start] for start in sorted(answers)))


def _with_part(call: Callable[[Actor, Sequence[Item]], Any], part: Sequence[Item]) -> Callable[[Actor], Any]:
    return lambda actor: call(actor, part)
