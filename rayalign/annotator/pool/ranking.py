"""Scores and rankings from a pool: by a judge's own scores where it has them, else by its preferences."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from rayalign.annotator.asking.api import (
    POOL,
    PairItem,
    PreferenceRequest,
    RankItem,
    RankReply,
    RankRequest,
    ScoreReply,
    ScoreRequest,
)
from rayalign.annotator.judges.criteria import BallotJudge
from rayalign.annotator.judges.verdicts import Pair, Scoring, Verdict
from rayalign.annotator.pool.annotator import PoolAnnotator
from rayalign.annotator.pool.pool import Pool
from rayalign.annotator.store.verdict_store import key as verdict_key
from rayalign.errors import InputError
from rayalign.types import Message, Prompt, Score


class Graded:
    """The grades of a paid model, through the pool's cache and budget; implements `Scoring`."""

    def __init__(self, pool: Pool, annotator: PoolAnnotator, judge: BallotJudge, seed: int, client: str) -> None:
        self._pool, self._annotator, self._judge = pool, replace(annotator, judge=judge), judge
        self._seed, self._client = seed, client

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """As `Scoring.scores`; all ballots at once."""
        ballots = self._judge.ballots(items)
        scores: dict[tuple[tuple[Message, ...], str], Score] = {}
        for graded in await asyncio.gather(*map(self._graded, ballots)):
            scores |= graded
        return [scores[prompt.messages, answer] for prompt, answer in items]

    async def _graded(self, ballot: Sequence[Pair]) -> dict[tuple[tuple[Message, ...], str], Score]:
        seed = self._seed if self._judge.seeded else 0
        keys = [verdict_key(self._judge.revision, row, seed) for row in ballot]
        queries = dict(zip(keys, ballot, strict=True))
        verdicts = await self._pool.verdicts(self._annotator, queries, self._seed, self._client)
        return {(row[0].messages, row[1]): _score(verdicts[key]) for key, row in queries.items()}


def _score(verdict: Verdict) -> Score:
    return Score(None, verdict.reason) if verdict.utilities is None else Score(verdict.utilities[0])


async def score(pool: Pool, request: ScoreRequest, client: str = "") -> list[ScoreReply]:
    """One score for each answer; InputError for an unknown annotator, or one that only compares."""
    scoring = _scoring(pool, request, client)
    if scoring is None:
        able = ", ".join(info.name for info in pool.infos if info.scores) or "none here"
        raise InputError(f"annotator: {request.annotator} compares answers and scores none; those that score: {able}")
    scores = await scoring.scores([(item.prompt, item.output) for item in request.items])
    return [
        ScoreReply(index=index, id=item.id, score=value.value, reason=value.reason)
        for index, (item, value) in enumerate(zip(request.items, scores, strict=True))
    ]


def verdicts(pool: Pool, request: RankRequest) -> int:
    """Judgings that a ranking takes: one for each answer where they are scored, else one for each pair of them."""
    sizes = [len(item.outputs) for item in request.items]
    if _scoring(pool, request) is not None:
        return sum(sizes)
    return sum(size * (size - 1) // 2 for size in sizes)


async def rank(pool: Pool, request: RankRequest, client: str) -> list[RankReply]:
    """One order for each list of answers; an answer without any verdict comes last, with the reason."""
    scoring = _scoring(pool, request, client)
    if scoring is not None:
        scores = await _scored(scoring, request.items)
    else:
        scores = await _compared(pool, request, client)
    return [_reply(index, *row) for index, row in enumerate(zip(request.items, scores, strict=True))]


def _scoring(pool: Pool, request: RankRequest | ScoreRequest, client: str = "") -> Scoring | None:
    """What gives single answers scores; None for an annotator that only compares."""
    if request.annotator == POOL:
        return None
    annotator = pool.annotator(request.annotator)
    if annotator.ballots is not None:
        return Graded(pool, annotator, annotator.ballots, request.seed, client)
    return annotator.scoring


async def _scored(scoring: Scoring, items: Sequence[RankItem]) -> list[list[Score]]:
    answers: list[tuple[Prompt, str]] = []
    for item in items:
        answers.extend((item.prompt, output) for output in item.outputs)
    scores = iter(await scoring.scores(answers))
    return [list(itertools.islice(scores, len(item.outputs))) for item in items]


async def _compared(pool: Pool, request: RankRequest, client: str) -> list[list[Score]]:
    """The mean preference of each answer over the others (Borda's count)."""
    pairs, places = [], []
    for i, item in enumerate(request.items):
        for a, b in itertools.combinations(range(len(item.outputs)), 2):
            inputs = item.model_dump(exclude={"outputs", "id"})
            pairs.append(PairItem(**inputs, output_1=item.outputs[a], output_2=item.outputs[b]))
            places.append((i, a, b))
    comparisons = PreferenceRequest.model_construct(
        annotator=request.annotator, seed=request.seed, pairs=tuple(pairs), both_orders=False, flip=0.0, stream=False
    )  # already valid, and longer than one request may be
    wins: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    reason = None
    async for annotation in pool.annotate(comparisons, client):
        i, a, b = places[annotation.index]
        if annotation.preference is None:
            reason = annotation.reason
            continue
        wins[i, a].append(2.0 - annotation.preference)
        wins[i, b].append(annotation.preference - 1.0)
    absent = Score(None, reason or "no pair had a verdict")
    scores: list[list[Score]] = []
    for i, item in enumerate(request.items):
        shares = [wins[i, answer] for answer in range(len(item.outputs))]
        scores.append([Score(mean(share)) if share else absent for share in shares])
    return scores


def _reply(index: int, item: RankItem, scores: Sequence[Score]) -> RankReply:
    values = tuple(score.value for score in scores)
    reasons = [score.reason for score in scores if score.value is None]
    order = sorted(range(len(values)), key=lambda k: (values[k] is None, -(values[k] or 0.0)))
    return RankReply(index=index, id=item.id, order=tuple(order), scores=values, reason=reasons[0] if reasons else None)
