"""The figures of an evaluation: answers drawn, measured and compared."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

from rayalign.actors.hosted import FrozenSpec
from rayalign.actors.reward import RewardSpec
from rayalign.cluster.group import ActorGroup
from rayalign.config import EvaluateStage, LearnerConfig, RewardSource, SamplingConfig
from rayalign.coordinator.rendering import Renderer
from rayalign.data.preferences import base_id
from rayalign.evaluation.baselines import ANSWERS, gold_utility
from rayalign.pipeline import profiles
from rayalign.pipeline.best_of_figures import best_of_figures
from rayalign.pipeline.context import RunContext
from rayalign.pipeline.drawing import draw
from rayalign.pipeline.scoring import Chosen, choose, in_parts, report_absent, resolved
from rayalign.scoring.sources import make_scorer
from rayalign.statistics.intervals import mean_interval, paired_difference, rate_interval
from rayalign.statistics.ranks import rank_correlation
from rayalign.statistics.winrate import win_rate
from rayalign.storage.records import write_jsonl
from rayalign.storage.report_judges import RANKS
from rayalign.storage.report_profiles import at_profile
from rayalign.types import Candidate, Example, Group, Prompt, Role, Trajectory

logger = logging.getLogger(__name__)
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
    annotated = await asyncio.to_thread(_annotated, context, stage, prompts, answers)
    results += best_of_figures(stage, drawn, [*results, *annotated], seed=context.job.seed)
    results += [*annotated, *judge_correlations(stage.judges, _rivals(stage), annotated)]
    results += await _perplexities(context, name, stage, prompts, answers)
    return {"results": results, "comparisons": comparisons}


def _records(prompts: Mapping[str, Prompt], answers: Answers, values: Values) -> Iterator[dict[str, Any]]:
    """Every answer with its value."""
    for model, candidates in answers.items():
        for prompt_id, answer in candidates.items():
            prompt, value = prompts[prompt_id].messages[-1].content, values[model].get(prompt_id)
            row: dict[str, Any] = {"model": model, "prompt_id": prompt_id, "prompt": prompt}
            row |= {"answer": answer.text, "value": value}
            if answer.turns:
                row["turns"] = [turn.content for turn in answer.turns]
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


def compare(
    stage: EvaluateStage, values: profiles.Values, *, seed: int, clusters: Mapping[str, str] | None = None
) -> profiles.Table:
    """The mean of each row; paired differences and win rates of each model against the ones to beat.

    Args:
        clusters: prompt id -> what is resampled as a whole; None: each prompt by itself.
    """

    def groups(prompt_ids: Iterable[str]) -> list[str] | None:
        return [clusters[prompt_id] for prompt_id in prompt_ids] if clusters else None

    results = []
    for name, own in values.items():
        mean = mean_interval(list(own.values()), groups(own), seed=seed)
        results.append({"name": name, "metric": stage.metric, **mean._asdict()})
    comparisons = []
    for name, rival, common in _meetings(stage, values):
        ours, theirs = [values[name][p] for p in common], [values[rival][p] for p in common]
        gap = paired_difference(ours, theirs, groups(common), seed=seed)
        interval = {"mean_difference": gap.mean, "low": gap.low, "high": gap.high, "n": gap.n}
        comparisons.append({"a": name, "b": rival, "metric": stage.metric, **interval})
        preferences = [_preference(a, b) for a, b in zip(ours, theirs, strict=True)]
        results += _wins(name, f"win_rate_against_{rival}", preferences, seed, groups(common))
    return results, comparisons


def _preference(ours: float, theirs: float) -> float:
    """2 where ours is better, 1 where theirs is, 1.5 between equals."""
    if ours == theirs:
        return 1.5
    return 2.0 if ours > theirs else 1.0


def _meetings(stage: EvaluateStage, table: Mapping[str, Mapping[str, object]]) -> Iterator[tuple[str, str, list[str]]]:
    """Each model, one that it is compared with, and the prompts that both have in the table."""
    for rival in _rivals(stage):
        for name in stage.names:
            common = [p for p in table.get(name, {}) if p in table.get(rival, {})]
            if name != rival and common:
                yield name, rival, common


def _rivals(stage: EvaluateStage) -> tuple[str, ...]:
    """The models that every other one is compared with."""
    return stage.against or (next(iter(stage.models)),)


def _wins(
    name: str, metric: str, preferences: Sequence[float | None], seed: int, clusters: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Win rate in percent, in AlpacaEval's convention: a draw is half a win, an absent verdict is left out.

    No row without any verdict.
    """
    if all(preference is None for preference in preferences):
        logger.warning("%s: %s has no verdict", name, metric)
        return []
    rates = [None if p is None else 100 * (p - 1) for p in preferences]
    spread = rate_interval(rates, clusters, most=100.0, seed=seed)
    return [{"name": name, "metric": metric, **spread._asdict(), "mean": win_rate(preferences).win_rate}]


def _annotated(
    context: RunContext, stage: EvaluateStage, prompts: Mapping[str, Prompt], answers: Answers
) -> list[dict[str, Any]]:
    """Win rates as an annotator of the service sees them."""
    rows: list[dict[str, Any]] = []
    seed = context.job.seed
    for judge in stage.judges:
        with closing(context.annotator(judge)) as service:
            for name, rival, common in _meetings(stage, answers):
                pairs = [(prompts[p], answers[rival][p].text, answers[name][p].text) for p in common]
                preferences = service.compare(pairs, seed=seed)
                metric = f"win_rate_by_{judge}_against_{rival}"
                groups = [base_id(prompts[p]) for p in common] if profiles.clusters(prompts) else None
                rows += _wins(name, metric, preferences, seed, groups)
                for profile, places in profiles.places([prompts[p] for p in common]).items():
                    own = [preferences[place] for place in places]
                    rows += _wins(name, at_profile(metric, profile), own, seed)
    return rows


def judge_correlations(judges: Sequence[str], rivals: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Spearman's correlation of each two judges' win rates over the models that both compared with a rival."""
    rates: dict[str, dict[str, float]] = {}
    for row in rows:
        rates.setdefault(row["metric"], {})[row["name"]] = row["mean"]
    correlations = []
    for first, second in combinations(judges, 2):
        for rival in rivals:
            ours = rates.get(f"win_rate_by_{first}_against_{rival}", {})
            theirs = rates.get(f"win_rate_by_{second}_against_{rival}", {})
            names = [name for name in ours if name in theirs]
            rho = rank_correlation([ours[name] for name in names], [theirs[name] for name in names])
            metric = f"rank_correlation_of_{first}_and_{second}_against_{rival}"
            row = {"name": RANKS, "metric": metric, "mean": rho, "low": None, "high": None, "n": len(names)}
            correlations.append(row)
    return [row for row in correlations if not math.isnan(row["mean"])]


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
    scorer = make_scorer([source], named=False, config=LearnerConfig(), policy="", timeout=timeout)
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
    means = await reference.first(lambda actor: actor.mean_logprobs.remote(groups, pad_id))
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
