"""Verdicts stored by content, so that no pair is judged, or paid for, twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial

import sqlalchemy as sa

from rayalign.annotator.judges.verdicts import Pair, Usage, Verdict
from rayalign.annotator.store.database import CLAIMS, VERDICTS, Database

_BLOCK = 1000
"""keys in one statement"""
_RECENT = 16_384
"""verdicts in memory"""
_POLL = (0.005, 0.25)
"""seconds between two queries for the verdicts of others, at first and at most"""
_KEYS: sa.BindParameter[list[str]] = sa.bindparam("keys", expanding=True)


def key(revision: str, pair: Pair, seed: int) -> str:
    """The key of a verdict: SHA-256 (hex) of everything that decides it.

    Args:
        revision: the judge's, which covers its model, prompt, parser and sampling.
        pair: prompt (its turns and meta, not its id) and answers in the order that the judge sees.
        seed: the request's.
    """
    prompt, first, second = pair
    turns = [(message.role, message.content) for message in prompt.messages]
    content = json.dumps((revision, seed, turns, sorted(prompt.meta.items()), first, second))
    return hashlib.sha256(content.encode()).hexdigest()


class VerdictStore:
    """An append-only table of verdicts, and the claims on verdicts in progress; the first verdict of a key stays.

    Safe for many threads, processes and (PostgreSQL) machines, and for a kill at any moment. Methods that are no
    coroutines wait for the database: on an event loop they go through `Database.aside`.

    Args:
        clock: unix seconds, alike on all machines to well within a lease.

    Raises:
        RayalignError: as `Database`.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._clock = clock
        self._recent: dict[str, Verdict] = {}

    def get_many(self, keys: Iterable[str]) -> dict[str, Verdict]:
        """The stored verdicts, by key."""
        requested = list(keys)
        verdicts = self._in_memory(requested)
        if len(verdicts) == len(requested):
            return verdicts
        query = sa.select(VERDICTS.c.key, VERDICTS.c.value).where(VERDICTS.c.key.in_(_KEYS))
        with self.database.reading() as connection:
            for block in _blocks(key for key in requested if key not in verdicts):
                rows = connection.execute(query, {"keys": block})
                loaded = {row.key: _decoded(row.value) for row in rows}
                self._remember(loaded)
                verdicts |= loaded
        return verdicts

    async def look_up(self, keys: Collection[str]) -> dict[str, Verdict]:
        """As `get_many`."""
        in_memory = self._in_memory(keys)  # needs no hop to a thread
        if len(in_memory) == len(keys):
            return in_memory
        return await self.database.aside(partial(self.get_many, keys))

    def put_many(self, verdicts: Mapping[str, Verdict]) -> None:
        """Store verdicts, all or none of them; a key that has a verdict already keeps it.

        Raises:
            ValueError: a verdict without a preference: failures are never stored.
        """
        failed = [key for key, verdict in verdicts.items() if not _is_valid(verdict)]
        if failed:
            raise ValueError(f"only verdicts with a preference from 1 to 2 are kept; {failed[0]} has none")
        if not verdicts:
            return
        rows = [{"key": k, "value": _encoded(verdicts[k])} for k in sorted(verdicts)]
        with self.database.writing() as connection:
            connection.execute(self.database.insert(VERDICTS).on_conflict_do_nothing(), rows)

    def claim(self, keys: Iterable[str], owner: str, lease_seconds: float) -> set[str]:
        """Claim keys for this owner; returns those without a verdict and without another live claim.

        Args:
            owner: unique to one caller; two tasks of a process are two owners.
            lease_seconds: until anyone may take the claim over; another claim in time renews it.
        """
        insert = self.database.insert(CLAIMS)
        ours: set[str] = set()
        with self.database.writing() as connection:
            now = self._clock()  # after the wait for the lock: a lease begins when it is written
            claim = insert.on_conflict_do_update(
                index_elements=[CLAIMS.c.key],
                set_={"owner": insert.excluded.owner, "until": insert.excluded.until},
                where=sa.or_(CLAIMS.c.until < now, CLAIMS.c.owner == owner),
            ).returning(CLAIMS.c.key)
            for block in _blocks(keys):
                rows = [{"key": k, "owner": owner, "until": now + lease_seconds} for k in block]
                ours.update(connection.execute(claim, rows).scalars())
            # A verdict is stored before its claim is released: one stored since the caller's query is visible here.
            judged: set[str] = set()
            for block in _blocks(ours):
                stored = sa.select(VERDICTS.c.key).where(VERDICTS.c.key.in_(_KEYS))
                judged.update(connection.execute(stored, {"keys": block}).scalars())
            self._drop(connection, judged, owner)
        return ours - judged

    def release(self, keys: Iterable[str], owner: str) -> None:
        """End this owner's claims; its verdicts must be stored before."""
        with self.database.writing() as connection:
            self._drop(connection, keys, owner)

    async def wait(self, keys: Collection[str], deadline: float) -> dict[str, Verdict]:
        """Verdicts of other owners, once each of them is stored, or its claim is released or expired.

        Args:
            keys: those that `claim` did not return; keys missing from the result can be claimed again.
            deadline: seconds from now, after which the stored ones are returned.
        """
        end = time.monotonic() + deadline
        pause = _POLL[0]
        verdicts: dict[str, Verdict] = {}
        while True:
            missing = set(keys) - verdicts.keys()
            claimed, stored = await self.database.aside(partial(self._state, missing))
            verdicts |= stored
            left = end - time.monotonic()
            if left <= 0 or claimed <= verdicts.keys():
                return verdicts
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _POLL[1])

    def _in_memory(self, keys: Iterable[str]) -> dict[str, Verdict]:
        recent = self._recent
        return {key: recent[key] for key in keys if key in recent}

    def _remember(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep loaded verdicts in memory, since they never change; the memory is emptied when it is full."""
        if len(self._recent) + len(verdicts) > _RECENT:
            self._recent = {}
        self._recent |= verdicts

    def _state(self, keys: Collection[str]) -> tuple[set[str], dict[str, Verdict]]:
        claimed = self._claimed(keys)  # before the verdicts: a claim released in between has its verdict stored
        return claimed, self.get_many(keys)

    def _claimed(self, keys: Iterable[str]) -> set[str]:
        claims = sa.select(CLAIMS.c.key).where(CLAIMS.c.key.in_(_KEYS))
        live = claims.where(CLAIMS.c.until >= self._clock())
        with self.database.reading() as connection:
            claimed: set[str] = set()
            for block in _blocks(keys):
                claimed.update(connection.execute(live, {"keys": block}).scalars())
        return claimed

    def _drop(self, connection: sa.Connection, keys: Iterable[str], owner: str) -> None:
        own = CLAIMS.delete().where(CLAIMS.c.key.in_(_KEYS), CLAIMS.c.owner == owner)
        for block in _blocks(keys):
            connection.execute(own, {"keys": block})


def _blocks(keys: Iterable[str]) -> Iterator[list[str]]:
    """Keys in one order everywhere, so that no two transactions deadlock."""
    ordered = sorted(set(keys))
    yield from (ordered[i : i + _BLOCK] for i in range(0, len(ordered), _BLOCK))


def _is_valid(verdict: Verdict) -> bool:
    return verdict.preference is not None and 1.0 <= verdict.preference <= 2.0


def _encoded(verdict: Verdict) -> str:
    """As JSON in ASCII: lone surrogates and NUL are escaped, which PostgreSQL's text could not hold."""
    usage = verdict.usage
    return json.dumps(
        {
            "preference": verdict.preference,
            "explanation": verdict.explanation,
            "completion": verdict.completion,
            "utilities": verdict.utilities,
            "usage": (usage.prompt_tokens, usage.completion_tokens, usage.price, usage.seconds),
        }
    )


def _decoded(text: str) -> Verdict:
    row = json.loads(text)
    utilities = None if row["utilities"] is None else (row["utilities"][0], row["utilities"][1])
    return Verdict(row["preference"], None, row["explanation"], row["completion"], utilities, Usage(*row["usage"]))
