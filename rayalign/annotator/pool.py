"""A pool of named annotators: who is asked about which pair, in which order, at what price, and never twice.

request -> plan (who, which order, noise) -> chunks of one annotator -> cache -> claim -> judge -> cache -> reply
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from rayalign.annotator import drawing
from rayalign.annotator.api import POOL, Annotation, AnnotatorInfo, PairItem, PreferenceRequest
from rayalign.annotator.budget import Account, Budget, Left
from rayalign.annotator.member import Member
from rayalign.annotator.store import VerdictStore
from rayalign.annotator.store import key as verdict_key
from rayalign.annotator.verdicts import Pair, Usage, Verdict
from rayalign.config import nearest
from rayalign.errors import InputError, RayalignError

logger = logging.getLogger(__name__)

_LEASE = 10.0
"""seconds for which the pairs of a killed process stay out of others' reach"""
_AT_ONCE = 64
"""paid chunks in progress of one client at one annotator; its endpoint has a limit of its own"""

_Paid = tuple[dict[str, Verdict], dict[str, Verdict]]  # verdicts for which others paid, and those paid for here


@dataclass(frozen=True, slots=True)
class _Ask:
    """One pair in the order that the judge sees."""

    pair: Pair
    switched: bool
    key: str


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    item: PairItem
    asks: tuple[_Ask, ...]


@dataclass(slots=True)
class _Plan:
    settled: list[Annotation] = field(default_factory=list)
    """what no judge is asked about: label noise, equal answers"""
    rows: dict[str, list[_Row]] = field(default_factory=dict)
    """annotator -> rows"""


class Pool:
    """The annotators of one file, with their cache and their budget."""

    def __init__(
        self, members: Sequence[Member], store: VerdictStore, budget: Budget, *, chunk: int, timeout: float
    ) -> None:
        self._members = {member.name: member for member in members}
        self._store = store
        self.database = store.database
        self._budget = budget
        self._chunk = chunk
        self._timeout = timeout
        self._slots: defaultdict[tuple[str, str], asyncio.Semaphore]
        self._slots = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._paying: set[asyncio.Task[_Paid]] = set()

    @property
    def infos(self) -> list[AnnotatorInfo]:
        """Every annotator, in the file's order."""
        return [member.info for member in self._members.values()]

    def names(self) -> list[str]:
        """Every annotator's name, in the file's order."""
        return list(self._members)

    def member(self, name: str) -> Member:
        """The annotator of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self._members:
            raise InputError(f"annotator: there is no {name!r}; {nearest(name, [POOL, *self._members])}")
        return self._members[name]

    def check(self, request: PreferenceRequest) -> None:
        """Refuse what can be refused before anything is judged.

        Raises:
            InputError: unknown annotator, or nobody to draw.
        """
        if request.annotator != POOL:
            self.member(request.annotator)
        elif not any(m.pooled for m in self._members.values()):
            raise InputError("annotator: no annotator is pooled; name one")

    async def drain(self) -> None:
        """Bring to its end what is being paid for, though its asker has gone."""
        if self._paying:
            await asyncio.wait(self._paying, timeout=self._timeout)

    def ready(self) -> bool:
        """Whether the cache answers; waits for it, as `totals` and `unpaid` do."""
        self._store.get_many(["0" * 64])
        return True

    def totals(self) -> Mapping[str, Usage]:
        """What has been spent on each judge."""
        return self._budget.totals()[0]

    async def annotate(self, request: PreferenceRequest, client: str = "") -> AsyncGenerator[Annotation, None]:
        """One annotation for each pair, as they finish.

        Raises:
            InputError: unknown annotator.
            BudgetError: the next judging could pass a limit.
        """
        plan = self._plan(request)
        for annotation in plan.settled:
            yield annotation
        work = [asyncio.create_task(self._annotated(*chunk, request.seed, client)) for chunk in self._chunks(plan)]
        try:
            for finished in asyncio.as_completed(work, timeout=self._timeout):
                for annotation in await finished:
                    yield annotation
        finally:
            for task in work:
                task.cancel()

    def unpaid(self, request: PreferenceRequest, seen: set[str]) -> Iterator[tuple[Member, list[Pair]]]:
        """What the request would have to pay for: the pairs that the cache lacks, by annotator.

        Args:
            seen: keys of verdicts that are counted already; those of this request are added.
        """
        for name, rows in self._plan(request).rows.items():
            if self._members[name].estimate is not None:
                asks = {ask.key: ask.pair for row in rows for ask in row.asks if ask.key not in seen}
                seen.update(asks)
                known = self._store.get_many(list(asks))
                yield self._members[name], [pair for key, pair in asks.items() if key not in known]

    def left(self, client: str) -> Left:
        """What the client may still spend."""
        return self._budget.left(client)

    def _plan(self, request: PreferenceRequest) -> _Plan:
        plan = _Plan()
        self.check(request)
        drawn = [m.name for m in self._members.values() if m.pooled]
        for index, item in enumerate(request.pairs):
            name = request.annotator
            if name == POOL:
                name = drawing.annotator_for(drawn, item.input + (item.instruction or item.text), request.seed)
            noise = drawing.noisy_label(item.input + (item.instruction or item.text), request.seed, request.flip)
            if item.output_1 == item.output_2:
                plan.settled.append(_settled(index, item, name, 1.5, "the answers are the same", noise=False))
            elif noise is not None:
                plan.settled.append(_settled(index, item, name, noise, "drawn as label noise", noise=True))
            else:
                plan.rows.setdefault(name, []).append(self._row(index, item, self._members[name], request))
        return plan

    def _row(self, index: int, item: PairItem, member: Member, request: PreferenceRequest) -> _Row:
        switched = member.randomize_order and drawing.is_switched(item.text, request.seed)
        orders = (switched, not switched) if request.both_orders else (switched,)
        return _Row(index, item, tuple(_ask(item, member, order, request.seed) for order in orders))

    def _chunks(self, plan: _Plan) -> list[tuple[Member, list[_Row]]]:
        return [
            (member, rows[start : start + size])
            for member, rows in ((self._members[name], rows) for name, rows in plan.rows.items())
            for size in (member.judge.batch if member.estimate is not None else self._chunk,)
            for start in range(0, len(rows), size)
        ]

    async def _annotated(self, member: Member, rows: list[_Row], seed: int, client: str) -> list[Annotation]:
        asks = {ask.key: ask.pair for row in rows for ask in row.asks}
        found = await self._store.look_up(asks.keys())
        judged: dict[str, Verdict] = {}
        missing = {key: pair for key, pair in asks.items() if key not in found}
        if missing and member.estimate is None:
            judged = await self._judged(member, missing, seed, client)
        elif missing:
            slots = self._slots[member.name, client]
            async with asyncio.timeout(self._timeout):
                await slots.acquire()
            # What has been sent will be paid for: it is brought to its end and kept even if the asker has gone.
            paying = asyncio.create_task(self._paid(member, missing, seed, client))
            self._paying.add(paying)
            paying.add_done_callback(lambda task: self._ended(slots, task))
            others, judged = await asyncio.shield(paying)
            found |= others
        found |= judged
        payer = {ask.key: row.index for row in reversed(rows) for ask in row.asks if ask.key in judged}
        return [_annotation(member.name, row, found, payer) for row in rows]

    def _ended(self, slots: asyncio.Semaphore, task: asyncio.Task[_Paid]) -> None:
        slots.release()
        self._paying.discard(task)
        if not task.cancelled():
            task.exception()  # told to the asker, who may have gone

    async def _judged(self, member: Member, missing: Mapping[str, Pair], seed: int, client: str) -> dict[str, Verdict]:
        account = Account(self._budget, member.name, client)
        verdicts = await member.judge.judge(list(missing.values()), seed=seed, paying=account.paying)
        found = dict(zip(missing, verdicts, strict=True))
        given = {key: v for key, v in found.items() if v.preference is not None}
        await self.database.insist(partial(self._store.put_many, given))
        if account.refused is not None:
            raise account.refused  # only now: what was paid for beside it is kept
        return found

    async def _paid(self, member: Member, asked: dict[str, Pair], seed: int, client: str) -> _Paid:
        """Judge what nobody else is judging now; wait for the rest, and judge it too where its judge has died."""
        others, judged = dict[str, Verdict](), dict[str, Verdict]()
        owner = uuid.uuid4().hex
        async with asyncio.timeout(self._timeout):
            while missing := asked.keys() - others.keys() - judged.keys():
                mine = await self._claimed(missing, owner)
                if mine:
                    async with self._holding(mine, owner):
                        judged |= await self._judged(member, {key: asked[key] for key in mine}, seed, client)
                if theirs := missing - judged.keys():
                    others |= await self._store.wait(theirs, self._timeout)
        return others, judged

    async def _claimed(self, keys: Collection[str], owner: str) -> set[str]:
        claim, back = partial(self._store.claim, keys, owner, _LEASE), partial(self._store.release, owner=owner)
        return await self.database.aside(claim, writes=True, undo=back)

    @asynccontextmanager
    async def _holding(self, keys: Collection[str], owner: str) -> AsyncIterator[None]:
        """Claims renewed while they are worked on, then given back; those of a killed process soon run out."""

        async def renew() -> None:
            again = partial(self._store.claim, keys, owner, _LEASE)
            while True:
                await asyncio.sleep(_LEASE / 5)
                try:
                    await self.database.aside(again, writes=True)  # a late one stands: the work goes on
                except RayalignError as error:  # the next renewal may get through
                    logger.warning("claims could not be renewed: %s", error)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await self.database.aside(partial(self._store.release, keys, owner), writes=True)


def _ask(item: PairItem, member: Member, switched: bool, seed: int) -> _Ask:
    first, second = (item.output_2, item.output_1) if switched else (item.output_1, item.output_2)
    pair = (item.prompt, first, second)
    return _Ask(pair, switched, verdict_key(member.judge.revision, pair, seed if member.seeded else 0))


def _settled(index: int, item: PairItem, name: str, preference: float, why: str, *, noise: bool) -> Annotation:
    return Annotation(index=index, id=item.id, annotator=name, preference=preference, explanation=why, noise=noise)


def _annotation(name: str, row: _Row, found: Mapping[str, Verdict], payer: Mapping[str, int]) -> Annotation:
    """The row's verdict in the request's order; two that disagree make a tie. Each new one is paid for by one row."""
    new = {ask.key for ask in row.asks if payer.get(ask.key) == row.index}
    verdicts = [found[a.key].mirrored if a.switched else found[a.key] for a in row.asks]
    given = [v.preference for v in verdicts if v.preference is not None]
    consistent = first_shown = None
    preference = given[0] if len(given) == len(verdicts) else None
    if len(verdicts) == 2 and preference is not None:
        first_shown = sum(p - 1.0 if a.switched else 2.0 - p for a, p in zip(row.asks, given, strict=True)) / 2
        consistent = (given[0] - 1.5) * (given[1] - 1.5) > 0 or given[0] == given[1]
        preference = sum(given) / 2 if consistent else 1.5
    completion = verdicts[0].completion
    return Annotation(
        index=row.index,
        id=row.item.id,
        annotator=name,
        preference=preference,
        reason=next((v.reason for v in verdicts if v.preference is None), None),
        explanation=verdicts[0].explanation,
        cached=not new and preference is not None,
        switched=row.asks[0].switched,
        consistent=consistent,
        first_shown=first_shown,
        raw_completion=completion if completion is None or isinstance(completion, str) else dict(completion),
        price=sum(v.usage.price for v in verdicts),
        paid=sum(found[key].usage.price for key in new),
        seconds=sum(v.usage.seconds for v in verdicts),
    )
