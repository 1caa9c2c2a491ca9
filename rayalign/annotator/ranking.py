"""Scores and rankings from a pool: by a judge's own numbers where it has them, else by its preferences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rayalign.annotator.api import (
    POOL,
    PairItem,
    PreferenceRequest,
    RankItem,
    RankReply,
    RankRequest,
    ScoreReply,
    ScoreRequest,
)
from rayalign.annotator.pool import Pool
from rayalign.annotator.verdicts import Scoring
from rayalign.errors import InputError
from rayalign.types import Score


async def score(pool: Pool, request: ScoreRequest) -> list[ScoreReply]:
    """One score for each answer; InputError for an unknown annotator, or one that only compares."""
    member = None if request.annotator == POOL else pool.member(request.annotator)
    if member is None or member.scoring is None:
        able = ", ".join(info.name for info in pool.infos if info.scores) or "none here"
        raise InputError(f"annotator: {request.annotator} compares answers and scores none; those that score: {able}")
    found = await member.scoring.scores([(item.prompt, item.output) for item in request.items])
    return [
        ScoreReply(index=i, id=item.id, score=one.value, reason=one.reason)
        for i, (item, one) in enumerate(zip(request.items, found, strict=True))
    ]


def verdicts(pool: Pool, request: RankRequest) -> int:
    """Judgings that a ranking comes to: its answers where they are scored, else all pairs of them."""
    sizes = [len(item.outputs) for item in request.items]
    return sum(sizes if _scoring(pool, request) is not None else (n * (n - 1) // 2 for n in sizes))


async def rank(pool: Pool, request: RankRequest, client: str) -> list[RankReply]:
    """One order for each list of answers; an answer without any verdict comes last, and why is said."""
    scoring = _scoring(pool, request)
    if scoring is not None:
        scores = await _scored(scoring, request.items)
    else:
        scores = await _compared(pool, request, client)
    return [_reply(i, item, found) for i, (item, found) in enumerate(zip(request.items, scores, strict=True))]


def _scoring(pool: Pool, request: RankRequest) -> Scoring | None:
    return None if request.annotator == POOL else pool.member(request.annotator).scoring


async def _scored(scoring: Scoring, items: Sequence[RankItem]) -> list[list[Score]]:
    flat = iter(await scoring.scores([(item.prompt, output) for item in items for output in item.outputs]))
    return [[next(flat) for _ in item.outputs] for item in items]


async def _compared(pool: Pool, request: RankRequest, client: str) -> list[list[Score]]:
    """The mean preference of each answer over the others (Borda's count)."""
    pairs, places = [], []
    for i, item in enumerate(request.items):
        for a, b in itertools.combinations(range(len(item.outputs)), 2):
            given = item.model_dump(exclude={"outputs", "id"})
            pairs.append(PairItem(**given, output_1=item.outputs[a], output_2=item.outputs[b]))
            places.append((i, a, b))
    asked = PreferenceRequest.model_construct(
        annotator=request.annotator, seed=request.seed, pairs=tuple(pairs), both_orders=False, flip=0.0, stream=False
    )  # already valid, and longer than what one request may bring
    wins: list[list[list[float]]] = [[[] for _ in item.outputs] for item in request.items]
    reason = None
    async for annotation in pool.annotate(asked, client):
        i, a, b = places[annotation.index]
        if annotation.preference is None:
            reason = annotation.reason
            continue
        wins[i][a].append(2.0 - annotation.preference)
        wins[i][b].append(annotation.preference - 1.0)
    return [
        [Score(sum(w) / len(w)) if w else Score(None, reason or "no pair had a verdict") for w in answers]
        for answers in wins
    ]


def _reply(index: int, item: RankItem, scores: Sequence[Score]) -> RankReply:
    order = sorted(range(len(scores)), key=lambda k: (scores[k].value is None, -(scores[k].value or 0.0)))
    return RankReply(
        index=index,
        id=item.id,
        order=tuple(order),
        scores=tuple(s.value for s in scores),
        reason=next((s.reason for s in scores if s.value is None), None),
    )
