"""Which annotator judges which pair and in which order, and the annotation that its verdicts make."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rayalign.annotator.asking.api import POOL, Annotation, PairItem, PreferenceRequest
from rayalign.annotator.judges import sampling
from rayalign.annotator.judges.verdicts import Pair, Verdict
from rayalign.annotator.pool.annotator import PoolAnnotator
from rayalign.annotator.store.verdict_store import key as verdict_key


@dataclass(frozen=True, slots=True)
class Query:
    """One pair in the order that the judge sees."""

    pair: Pair
    switched: bool
    key: str
    """of its verdict in the store"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a request: its pair in one order or in both."""

    index: int
    item: PairItem
    queries: tuple[Query, ...]


@dataclass(slots=True)
class Plan:
    """The work of one request."""

    settled: list[Annotation] = field(default_factory=list)
    """annotations without a judge: label noise, equal answers"""
    rows: dict[str, list[Row]] = field(default_factory=dict)
    """annotator -> rows"""


def plan(request: PreferenceRequest, annotators: Mapping[str, PoolAnnotator]) -> Plan:
    """The annotator, the order and the label noise of each pair.

    Args:
        annotators: by name, in the order of the pool's file.
    """
    work = Plan()
    pooled = [annotator.name for annotator in annotators.values() if annotator.pooled]
    for index, item in enumerate(request.pairs):
        inputs = item.input + (item.instruction or item.text)
        name = request.annotator
        if name == POOL:
            name = sampling.annotator_for(pooled, inputs, request.seed)
        noise = sampling.noisy_label(inputs, request.seed, request.flip)
        if item.output_1 == item.output_2:
            work.settled.append(_settled(index, item, name, 1.5, "the answers are the same", noise=False))
        elif noise is not None:
            work.settled.append(_settled(index, item, name, noise, "drawn as label noise", noise=True))
        else:
            work.rows.setdefault(name, []).append(_row(index, item, annotators[name], request))
    return work


def queries_of(rows: Collection[Row]) -> dict[str, Pair]:
    """Key -> pair of all rows; equal pairs share a key."""
    pairs: dict[str, Pair] = {}
    for row in rows:
        pairs.update({query.key: query.pair for query in row.queries})
    return pairs


def annotations_of(
    name: str, rows: Collection[Row], verdicts: Mapping[str, Verdict], judged: Collection[str]
) -> list[Annotation]:
    """One annotation for each row; the first row that needs a newly judged verdict pays for it.

    Args:
        name: of the annotator.
        verdicts: by key.
        judged: keys of the verdicts that were judged for these rows.
    """
    unpaid = set(judged)
    merged: list[Annotation] = []
    for row in rows:
        paid = {query.key for query in row.queries} & unpaid
        unpaid -= paid
        merged.append(_annotation(name, row, verdicts, paid))
    return merged


def _row(index: int, item: PairItem, annotator: PoolAnnotator, request: PreferenceRequest) -> Row:
    switched = annotator.randomize_order and sampling.is_switched(item.text, request.seed)
    queries = [_query(item, annotator, switched, request.seed)]
    if request.both_orders:
        queries.append(_query(item, annotator, not switched, request.seed))
    return Row(index, item, tuple(queries))


def _query(item: PairItem, annotator: PoolAnnotator, switched: bool, seed: int) -> Query:
    first, second = (item.output_2, item.output_1) if switched else (item.output_1, item.output_2)
    pair = (item.prompt, first, second)
    return Query(pair, switched, verdict_key(annotator.judge.revision, pair, seed if annotator.seeded else 0))


def _settled(index: int, item: PairItem, name: str, preference: float, why: str, *, noise: bool) -> Annotation:
    return Annotation(index=index, id=item.id, annotator=name, preference=preference, explanation=why, noise=noise)


def _annotation(name: str, row: Row, verdicts: Mapping[str, Verdict], paid: Collection[str]) -> Annotation:
    """The row's verdict in the request's order; two that disagree make a tie."""
    in_order: list[Verdict] = []
    for query in row.queries:
        verdict = verdicts[query.key]
        in_order.append(verdict.mirrored if query.switched else verdict)
    preferences = [verdict.preference for verdict in in_order if verdict.preference is not None]
    reasons = [verdict.reason for verdict in in_order if verdict.preference is None]
    consistent = first_shown = None
    preference = preferences[0] if not reasons else None
    if len(in_order) == 2 and not reasons:
        first_shown = _share_of_first_shown(row, preferences)
        consistent = _agree(*preferences)
        preference = sum(preferences) / 2 if consistent else 1.5
    completion = in_order[0].completion
    return Annotation(
        index=row.index,
        id=row.item.id,
        annotator=name,
        preference=preference,
        reason=reasons[0] if reasons else None,
        explanation=in_order[0].explanation,
        cached=not paid and preference is not None,
        switched=row.queries[0].switched,
        consistent=consistent,
        first_shown=first_shown,
        raw_completion=completion if completion is None or isinstance(completion, str) else dict(completion),
        price=sum(verdict.usage.price for verdict in in_order),
        paid=sum(verdicts[key].usage.price for key in paid),
        seconds=sum(verdict.usage.seconds for verdict in in_order),
    )


def _agree(first: float, second: float) -> bool:
    """Whether two preferences are for the same answer, or equal."""
    return (first - 1.5) * (second - 1.5) > 0 or first == second


def _share_of_first_shown(row: Row, preferences: Collection[float]) -> float:
    """How far the verdicts of both orders went to the answer shown first: 0 never, 1 both times."""
    shares = 0.0
    for query, preference in zip(row.queries, preferences, strict=True):
        shares += preference - 1.0 if query.switched else 2.0 - preference
    return shares / 2
