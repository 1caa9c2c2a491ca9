"""A pool of named annotators with one cache and one budget; no pair is judged, or paid for, twice.

request -> plan (annotator, order, noise) -> chunks of one annotator -> cache -> claim -> judge -> cache -> reply
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from rayalign.annotator.asking.api import POOL, Annotation, AnnotatorInfo, PreferenceRequest
from rayalign.annotator.judges.verdicts import Pair, Usage, Verdict
from rayalign.annotator.pool.annotator import PoolAnnotator
from rayalign.annotator.pool.planning import Row, annotations_of, plan, queries_of
from rayalign.annotator.store.account import Account
from rayalign.annotator.store.budget import Budget, Left
from rayalign.annotator.store.verdict_store import VerdictStore
from rayalign.config import nearest
from rayalign.errors import InputError, RayalignError

logger = logging.getLogger(__name__)

_LEASE = 10.0
"""seconds until others may judge the pairs of a killed process"""
_AT_ONCE = 64
"""paid chunks in progress of one client at one annotator; its endpoint has a limit of its own"""


class _Judged(NamedTuple):
    """Verdicts of a chunk, by key."""

    by_others: dict[str, Verdict]
    """judged and paid for elsewhere meanwhile"""
    here: dict[str, Verdict]


class Pool:
    """The annotators of one file, with their cache and their budget."""

    def __init__(
        self, annotators: Sequence[PoolAnnotator], store: VerdictStore, budget: Budget, *, chunk: int, timeout: float
    ) -> None:
        self._annotators = {annotator.name: annotator for annotator in annotators}
        self._store = store
        self.database = store.database
        self._budget = budget
        self._chunk = chunk
        self._timeout = timeout
        self._slots: defaultdict[tuple[str, str], asyncio.Semaphore]
        self._slots = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._paying: set[asyncio.Task[_Judged]] = set()

    @property
    def infos(self) -> list[AnnotatorInfo]:
        """Every annotator, in the file's order."""
        return [annotator.info for annotator in self._annotators.values()]

    def names(self) -> list[str]:
        """Every annotator's name, in the file's order."""
        return list(self._annotators)

    def annotator(self, name: str) -> PoolAnnotator:
        """The annotator of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self._annotators:
            raise InputError(f"annotator: there is no {name!r}; {nearest(name, [POOL, *self._annotators])}")
        return self._annotators[name]

    def check(self, request: PreferenceRequest) -> None:
        """Refuse a request before anything is judged.

        Raises:
            InputError: unknown annotator, or none to draw.
        """
        if request.annotator != POOL:
            self.annotator(request.annotator)
        elif not any(m.pooled for m in self._annotators.values()):
            raise InputError("annotator: no annotator is pooled; name one")

    async def drain(self) -> None:
        """Finish the judgings that are being paid for, though their client has gone."""
        if self._paying:
            await asyncio.wait(self._paying, timeout=self._timeout)

    def ready(self) -> bool:
        """Whether the cache answers; waits for it, as `totals` and `unpaid` do."""
        self._store.get_many(["0" * 64])
        return True

    def totals(self) -> Mapping[str, Usage]:
        """Spend so far, by judge."""
        return self._budget.totals()[0]

    async def annotate(self, request: PreferenceRequest, client: str = "") -> AsyncGenerator[Annotation, None]:
        """One annotation for each pair, as they finish.

        Raises:
            InputError: unknown annotator.
            BudgetError: the next judging could pass a limit.
        """
        self.check(request)
        work = plan(request, self._annotators)
        for annotation in work.settled:
            yield annotation
        chunks = self._chunks(work.rows)
        tasks = [asyncio.create_task(self._annotated(*chunk, request.seed, client)) for chunk in chunks]
        try:
            for finished in asyncio.as_completed(tasks, timeout=self._timeout):
                for annotation in await finished:
                    yield annotation
        finally:
            for task in tasks:
                task.cancel()

    def unpaid(self, request: PreferenceRequest, counted: set[str]) -> Iterator[tuple[PoolAnnotator, list[Pair]]]:
        """The pairs that the request would have to pay for, since the cache lacks them; by annotator.

        Args:
            counted: keys of verdicts that are counted already; those of this request are added.
        """
        self.check(request)
        for name, rows in plan(request, self._annotators).rows.items():
            annotator = self._annotators[name]
            if annotator.estimate is None:
                continue
            queries = queries_of(rows)
            new = {key: pair for key, pair in queries.items() if key not in counted}
            counted.update(new)
            cached = self._store.get_many(new)
            yield annotator, [pair for key, pair in new.items() if key not in cached]

    def left(self, client: str) -> Left:
        """The budget that the client has left."""
        return self._budget.left(client)

    def _chunks(self, rows_by_name: Mapping[str, list[Row]]) -> list[tuple[PoolAnnotator, list[Row]]]:
        chunks: list[tuple[PoolAnnotator, list[Row]]] = []
        for name, rows in rows_by_name.items():
            annotator = self._annotators[name]
            size = annotator.judge.batch if annotator.estimate is not None else self._chunk
            for start in range(0, len(rows), size):
                chunks.append((annotator, rows[start : start + size]))
        return chunks

    async def verdicts(
        self, annotator: PoolAnnotator, queries: Mapping[str, Pair], seed: int, client: str = ""
    ) -> dict[str, Verdict]:
        """The verdict of each key: from the cache, else judged now in one call, and stored where it is one.

        Raises:
            BudgetError: the judging could pass a limit.
        """
        stored, judged = await self._verdicts(annotator, queries, seed, client)
        return stored | judged

    async def _annotated(self, annotator: PoolAnnotator, rows: list[Row], seed: int, client: str) -> list[Annotation]:
        stored, judged = await self._verdicts(annotator, queries_of(rows), seed, client)
        return annotations_of(annotator.name, rows, stored | judged, judged)

    async def _verdicts(
        self, annotator: PoolAnnotator, queries: Mapping[str, Pair], seed: int, client: str
    ) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
        """Those that were there or were judged elsewhere meanwhile, and those that were judged here."""
        stored = await self._store.look_up(queries.keys())
        missing = {key: pair for key, pair in queries.items() if key not in stored}
        judged: dict[str, Verdict] = {}
        if missing and annotator.estimate is None:
            judged = await self._judged(annotator, missing, seed, client)
        elif missing:
            by_others, judged = await self._paid(annotator, missing, seed, client)
            stored |= by_others
        return stored, judged

    async def _paid(self, annotator: PoolAnnotator, missing: dict[str, Pair], seed: int, client: str) -> _Judged:
        """Judge in a slot of the client; a judging that was sent is finished and stored even if its client goes."""
        slots = self._slots[annotator.name, client]
        async with asyncio.timeout(self._timeout):
            await slots.acquire()
        task = asyncio.create_task(self._judged_once(annotator, missing, seed, client))
        self._paying.add(task)
        task.add_done_callback(lambda ended: self._release(slots, ended))
        return await asyncio.shield(task)

    def _release(self, slots: asyncio.Semaphore, task: asyncio.Task[_Judged]) -> None:
        slots.release()
        self._paying.discard(task)
        if not task.cancelled():
            task.exception()  # read, or asyncio would log it where the client has gone

    async def _judged(
        self, annotator: PoolAnnotator, missing: Mapping[str, Pair], seed: int, client: str
    ) -> dict[str, Verdict]:
        account = Account(self._budget, annotator.name, client)
        judgings = await annotator.judge.judge(list(missing.values()), seed=seed, paying=account.paying)
        verdicts = dict(zip(missing, judgings, strict=True))
        valid = {key: verdict for key, verdict in verdicts.items() if verdict.preference is not None}
        await self.database.insist(partial(self._store.put_many, valid))
        if account.refused is not None:
            raise account.refused  # only now: the verdicts that were paid for are stored
        return verdicts

    async def _judged_once(self, annotator: PoolAnnotator, pairs: dict[str, Pair], seed: int, client: str) -> _Judged:
        """Judge the pairs that nobody else is judging; wait for the rest, and judge those whose judge has died."""
        outcome = _Judged({}, {})
        owner = uuid.uuid4().hex
        async with asyncio.timeout(self._timeout):
            while missing := pairs.keys() - outcome.by_others.keys() - outcome.here.keys():
                claimed = await self._claimed(missing, owner)
                if claimed:
                    async with self._renewed(claimed, owner):
                        ours = {key: pairs[key] for key in claimed}
                        outcome.here.update(await self._judged(annotator, ours, seed, client))
                if theirs := missing - claimed:
                    outcome.by_others.update(await self._store.wait(theirs, self._timeout))
        return outcome

    async def _claimed(self, keys: Collection[str], owner: str) -> set[str]:
        claim = partial(self._store.claim, keys, owner, _LEASE)
        return await self.database.aside(claim, writes=True, undo=partial(self._store.release, owner=owner))

    @asynccontextmanager
    async def _renewed(self, keys: Collection[str], owner: str) -> AsyncIterator[None]:
        """Renew claims during the work and release them after it; those of a killed process soon expire."""

        async def renew() -> None:
            claim = partial(self._store.claim, keys, owner, _LEASE)
            while True:
                await asyncio.sleep(_LEASE / 5)
                try:
                    await self.database.aside(claim, writes=True)  # a late renewal stands: the work goes on
                except RayalignError as error:  # the next renewal may succeed
                    logger.warning("claims could not be renewed: %s", error)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            await self.database.aside(partial(self._store.release, keys, owner), writes=True)
