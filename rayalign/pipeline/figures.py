"""The figures of an evaluation: answers drawn, measured and compared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from rayalign.actors.hosted import FrozenSpec
from rayalign.cluster.group import ActorGroup
from rayalign.cluster.replicas import Replicas
from rayalign.config import EvaluateStage, LearnerConfig, RewardSource, SamplingConfig
from rayalign.coordinator.rendering import Renderer
from rayalign.data.preferences import base_id
from rayalign.evaluation.baselines import ANSWERS, gold_utility
from rayalign.pipeline import profiles
from rayalign.pipeline.answer_figures import answer_rows
from rayalign.pipeline.best_of_figures import best_of_figures
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.drawing import draw
from rayalign.pipeline.scoring import Chosen, choose, in_parts, report_absent, resolved
from rayalign.pipeline.win_rates import annotated, compare, judge_correlations, rivals
from rayalign.scoring.sources import RewardSpec, make_scorer
from rayalign.statistics.intervals import mean_interval
from rayalign.storage.dialogues import dialogue_fields
from rayalign.storage.records import write_jsonl
from rayalign.types import Candidate, Example, Group, Prompt, Role, Trajectory

Answers = dict[str, dict[str, Candidate]]
"""name -> prompt id -> answer"""
Values = dict[str, dict[str, float]]


async def evaluate(context: RunContext, name: str, stage: EvaluateStage) -> dict[str, Any]:
    """Draw one answer of each model to each prompt, measure, compare."""
    prompts = {e.prompt.id: e.prompt for e in context.inputs.prompts(name)}
    chosen = await _choose(context, name, stage)
    answers = _answers(stage, chosen, prompts)
    values = await _values(context, name, stage, prompts, answers)
    records = list(_records(prompts, answers, values))
    drawn = {model: own.drawn for model, own in chosen.items() if model in stage.best_of}
    _add_candidates(records, drawn)
    write_jsonl(context.stage_folder(name) / "records.jsonl", records)
    seed = context.job.seed
    results, comparisons = profiles.compared(
        stage, prompts, answers, values, partial(compare, stage, seed=seed), seed=seed
    )
    by_judges = await asyncio.to_thread(annotated, context, stage, prompts, answers)
    results += best_of_figures(stage, drawn, [*results, *by_judges], seed=seed)
    results += [*by_judges, *judge_correlations(stage.judges, rivals(stage), by_judges)]
    for model, own in chosen.items():
        results += answer_rows(model, own.groups, answers[model], seed=seed)
    results += await _perplexities(context, name, stage, prompts, answers)
    return {"results": results, "comparisons": comparisons}


def _records(prompts: Mapping[str, Prompt], answers: Answers, values: Values) -> Iterator[dict[str, Any]]:
    """Every answer with its value."""
    for model, candidates in answers.items():
        for prompt_id, answer in candidates.items():
            prompt = prompts[prompt_id]
            row: dict[str, Any] = {"model": model, "prompt_id": prompt_id, **dialogue_fields(prompt, answer)}
            row["value"] = values[model].get(prompt_id)
            if prompt.meta:
                row["meta"] = dict(prompt.meta)
            yield row


def _add_candidates(records: Sequence[dict[str, Any]], drawn: Mapping[str, Sequence[Example]]) -> None:
    """Put beside each answer that was chosen what it was chosen from."""
    by_answer: dict[tuple[str, str], Sequence[Candidate]] = {}
    for model, examples in drawn.items():
        by_answer |= {(model, example.prompt.id): example.candidates for example in examples}
    for record in records:
        own = by_answer.get((record["model"], record["prompt_id"]))
        if own is not None:
            record["candidates"] = [{"answer": candidate.text, "score": candidate.score} for candidate in own]


async def _choose(context: RunContext, stage_name: str, stage: EvaluateStage) -> dict[str, Chosen]:
    """The answers of each model, all written before the first is scored."""
    drawn: dict[str, list[Group]] = {}
    models: dict[str, str] = {}
    for writer in profiles.writers(stage):
        choice = stage.best_of.get(writer.name)
        examples = writer.examples(context.inputs.fitting(stage_name, writer.model))
        count = choice.n if choice else 1
        # Best-of-n is compared with its reference, whose own answer is at place 0 and must not be among its candidates.
        first = int(count > 1)
        groups = await draw(context, stage_name, writer.model, stage, count, first=first, examples=examples)
        drawn.setdefault(writer.name, []).extend(groups)
        models.setdefault(writer.name, writer.model)
    chosen: dict[str, Chosen] = {}
    for name, groups in drawn.items():
        model, choice = models[name], stage.best_of.get(name)
        chosen[name] = await choose(context, stage_name, stage, model, choice, groups)
    return chosen


def _answers(stage: EvaluateStage, chosen: Mapping[str, Chosen], prompts: Mapping[str, Prompt]) -> Answers:
    answers: Answers = {}
    for name, own in chosen.items():
        answers[name] = {example.prompt.id: example.candidates[0] for example in own.answers}
    for baseline in stage.baselines:
        write = ANSWERS[baseline]
        answers[baseline] = {p: Candidate(write(prompt), baseline) for p, prompt in prompts.items()}
    return answers


async def _values(
    context: RunContext, stage_name: str, stage: EvaluateStage, prompts: Mapping[str, Prompt], answers: Answers
) -> Values:
    if stage.metric == "gold_utility":
        return {name: _gold_utilities(prompts, texts) for name, texts in answers.items()}
    assert stage.reward is not None  # `check` refuses the metric without it
    source = RewardSource(source=stage.reward)
    if source.form != "model":
        [place] = await asyncio.to_thread(resolved, context, [source])
        return await asyncio.to_thread(verified, place, prompts, answers, context.job.cluster.call_timeout)
    async with _frozen(context, stage_name, stage, "reward", stage.reward) as (reward, renderer):
        return {name: await _rewards(reward, _groups(renderer, prompts, texts)) for name, texts in answers.items()}


def _gold_utilities(prompts: Mapping[str, Prompt], answers: Mapping[str, Candidate]) -> dict[str, float]:
    return {prompt_id: gold_utility(prompts[prompt_id], answer.text) for prompt_id, answer in answers.items()}


async def _rewards(reward: ActorGroup, groups: Sequence[Group]) -> dict[str, float]:
    """The score of the answer in each group; one without a score is absent."""
    scores = await reward.first(lambda actor: actor.score.remote(groups))
    values = {group.id: group_scores[0].value for group, group_scores in zip(groups, scores, strict=True)}
    return {prompt_id: value for prompt_id, value in values.items() if value is not None}


def verified(source: RewardSource, prompts: Mapping[str, Prompt], answers: Answers, timeout: float = 0.0) -> Values:
    """Scores by rules, code or an annotator, which need no tokens and no actor.

    Args:
        timeout: seconds in which an annotator has to score some of the answers.
    """
    scorer = make_scorer(RewardSpec((source,), LearnerConfig(), "", timeout))
    values: Values = {}
    for name, candidates in answers.items():
        groups: list[Group] = []
        for prompt_id, answer in candidates.items():
            written = Trajectory(prompt_id, 0, (), (), (), "stop", answer.text, turns=answer.turns)
            groups.append(Group(prompt_id, prompts[prompt_id], 0, (written,)))
        scored = [replace(group, scores=scores) for group, scores in zip(groups, in_parts(scorer, groups), strict=True)]
        report_absent(name, scored)
        scores = {group.id: group.scores[0].value for group in scored}
        values[name] = {p: value for p, value in scores.items() if value is not None}
    return values


async def _perplexities(
    context: RunContext, stage_name: str, stage: EvaluateStage, prompts: Mapping[str, Prompt], answers: Answers
) -> list[dict[str, Any]]:
    """exp of the mean negative log-prob of a token, by the named model; the interval is clustered by prompt."""
    if stage.perplexity is None:
        return []
    rows = []
    async with _frozen(context, stage_name, stage, "reference", stage.perplexity) as (reference, renderer):
        for name in stage.names:
            written = {prompt_id: answer for prompt_id, answer in answers[name].items() if answer.text}
            losses = await _losses(reference, _groups(renderer, prompts, written), renderer.pad_id)
            interval = mean_interval(losses, [base_id(prompts[p]) for p in written], seed=context.job.seed)
            mean, low, high = (math.exp(x) for x in interval[:3])
            rows.append({"name": name, "metric": "perplexity", "mean": mean, "low": low, "high": high, "n": interval.n})
    return rows


async def _losses(reference: ActorGroup, groups: Sequence[Group], pad_id: int) -> list[float]:
    """The mean negative log-prob of a token in each answer."""
    means = await Replicas(reference).ask(0, lambda actor: actor.mean_logprobs.remote(groups, pad_id))
    return [-mean for mean in means]


def _groups(renderer: Renderer, prompts: Mapping[str, Prompt], answers: Mapping[str, Candidate]) -> list[Group]:
    """Answers as groups of one, in the tokens of the model that is to read them."""
    groups = []
    for prompt_id, answer in answers.items():
        trajectory = renderer.dataset_trajectory(prompt_id, 0, prompts[prompt_id], answer)
        groups.append(Group(prompt_id, prompts[prompt_id], 0, (trajectory,)))
    return groups


@asynccontextmanager
async def _frozen(
    context: RunContext, name: str, stage: EvaluateStage, role: Role, reference: str
) -> AsyncIterator[tuple[ActorGroup, Renderer]]:
    """A frozen model in an actor of its own, while this is entered."""
    context.session()
    model = context.model(reference)
    timeout = context.job.cluster.call_timeout
    spec: FrozenSpec | RewardSpec = FrozenSpec(model, stage.reader, 1.0, model, timeout)
    if role == "reward":
        spec = RewardSpec((RewardSource(source=model),), stage.reader, model, timeout)
    with context.starting(f"the {role} of an evaluation"):
        roles = await context.start_roles(name, {role: spec})
    async with roles:
        yield roles[role], Renderer(model, context.job.rollout.context, SamplingConfig())
