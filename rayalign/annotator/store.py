"""Verdicts kept by content, so that no pair is judged, or paid for, twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial

import sqlalchemy as sa

from rayalign.annotator.database import CLAIMS, VERDICTS, Database
from rayalign.annotator.verdicts import Pair, Usage, Verdict

_BLOCK = 1000
"""keys in one statement"""
_RECENT = 16_384
"""verdicts held in memory"""
_POLL = (0.005, 0.25)
"""seconds between two looks at others' work, at first and at most"""
_KEYS: sa.BindParameter[list[str]] = sa.bindparam("keys", expanding=True)


def key(revision: str, pair: Pair, seed: int) -> str:
    """What a verdict is kept under: SHA-256 (hex) over all that decides it.

    Args:
        revision: the judge's, which covers its model, prompt, parser and sampling.
        pair: prompt (its turns and meta, not its id) and answers in the order that the judge is to see.
        seed: the request's.
    """
    prompt, first, second = pair
    turns = [(message.role, message.content) for message in prompt.messages]
    content = json.dumps((revision, seed, turns, sorted(prompt.meta.items()), first, second))
    return hashlib.sha256(content.encode()).hexdigest()


class VerdictStore:
    """An append-only table of verdicts and the claims on those under way; the first verdict of a key stays.

    Safe for many threads, processes and (PostgreSQL) machines, and for a kill at any moment. What is no coroutine waits
    for the database: on an event loop it goes through `Database.aside`.

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
        """The verdicts that are there, by key."""
        wanted = list(keys)
        found = self._held(wanted)
        if len(found) == len(wanted):
            return found
        query = sa.select(VERDICTS.c.key, VERDICTS.c.value).where(VERDICTS.c.key.in_(_KEYS))
        with self.database.reading() as connection:
            for block in _blocks(key for key in wanted if key not in found):
                read = {row.key: _decoded(row.value) for row in connection.execute(query, {"keys": block})}
                self._remember(read)
                found |= read
        return found

    async def look_up(self, keys: Collection[str]) -> dict[str, Verdict]:
        """As `get_many`."""
        held = self._held(keys)  # which is worth no hop to a thread
        return held if len(held) == len(keys) else await self.database.aside(partial(self.get_many, keys))

    def put_many(self, verdicts: Mapping[str, Verdict]) -> None:
        """Keep verdicts, all or none of them; one whose key has a verdict already is left out.

        Raises:
            ValueError: a verdict without a preference: failures are never kept.
        """
        failed = [k for k, v in verdicts.items() if v.preference is None or not 1.0 <= v.preference <= 2.0]
        if failed:
            raise ValueError(f"only verdicts with a preference from 1 to 2 are kept; {failed[0]} has none")
        if not verdicts:
            return
        rows = [{"key": k, "value": _encoded(verdicts[k])} for k in sorted(verdicts)]
        with self.database.writing() as connection:
            connection.execute(self.database.insert(VERDICTS).on_conflict_do_nothing(), rows)

    def claim(self, keys: Iterable[str], owner: str, lease_seconds: float) -> set[str]:
        """The keys that are now this owner's to judge: without a verdict, and not under another live claim.

        Args:
            owner: unique to one caller; two tasks of a process are two owners.
            lease_seconds: after it anyone may take the claim over; claiming again in time renews it.
        """
        insert = self.database.insert(CLAIMS)
        ours: set[str] = set()
        with self.database.writing() as connection:
            now = self._clock()  # the lock may have been long in coming, and a lease begins when it is written
            taken = insert.on_conflict_do_update(
                index_elements=[CLAIMS.c.key],
                set_={"owner": insert.excluded.owner, "until": insert.excluded.until},
                where=sa.or_(CLAIMS.c.until < now, CLAIMS.c.owner == owner),
            ).returning(CLAIMS.c.key)
            for block in _blocks(keys):
                rows = [{"key": k, "owner": owner, "until": now + lease_seconds} for k in block]
                ours.update(connection.execute(taken, rows).scalars())
            # A verdict is stored before its claim is released, so one made since the caller looked is seen here.
            done: set[str] = set()
            for block in _blocks(ours):
                stored = sa.select(VERDICTS.c.key).where(VERDICTS.c.key.in_(_KEYS))
                done.update(connection.execute(stored, {"keys": block}).scalars())
            self._drop(connection, done, owner)
        return ours - done

    def release(self, keys: Iterable[str], owner: str) -> None:
        """End this owner's claims, after what was found has been put."""
        with self.database.writing() as connection:
            self._drop(connection, keys, owner)

    async def wait(self, keys: Collection[str], deadline: float) -> dict[str, Verdict]:
        """Verdicts that other owners are at work on, once each of them is there, or its claim is gone or ran out.

        Args:
            keys: those that `claim` did not give; what is missing from the answer can be claimed again.
            deadline: seconds from now, after which what is there is returned.
        """
        end, pause = time.monotonic() + deadline, _POLL[0]
        found: dict[str, Verdict] = {}
        while True:
            missing = set(keys) - found.keys()
            claimed, there = await self.database.aside(partial(self._state, missing))
            found |= there
            left = end - time.monotonic()
            if left <= 0 or claimed <= found.keys():
                return found
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _POLL[1])

    def _held(self, keys: Iterable[str]) -> dict[str, Verdict]:
        recent = self._recent
        return {key: recent[key] for key in keys if key in recent}

    def _remember(self, verdicts: Mapping[str, Verdict]) -> None:
        """Hold what was read, since it never changes; all is let go when it becomes too much."""
        if len(self._recent) + len(verdicts) > _RECENT:
            self._recent = {}
        self._recent |= verdicts

    def _state(self, keys: Collection[str]) -> tuple[set[str], dict[str, Verdict]]:
        claimed = self._claimed(keys)  # before the verdicts: what is released in between has been put
        return claimed, self.get_many(keys)

    def _claimed(self, keys: Iterable[str]) -> set[str]:
        live = sa.select(CLAIMS.c.key).where(CLAIMS.c.key.in_(_KEYS), CLAIMS.c.until >= self._clock())
        with self.database.reading() as connection:
            return {k for block in _blocks(keys) for k in connection.execute(live, {"keys": block}).scalars()}

    def _drop(self, connection: sa.Connection, keys: Iterable[str], owner: str) -> None:
        for block in _blocks(keys):
            connection.execute(CLAIMS.delete().where(CLAIMS.c.key.in_(_KEYS), CLAIMS.c.owner == owner), {"keys": block})


def _blocks(keys: Iterable[str]) -> Iterator[list[str]]:
    """In one order everywhere, so that two transactions never hold what the other waits for."""
    ordered = sorted(set(keys))
    yield from (ordered[i : i + _BLOCK] for i in range(0, len(ordered), _BLOCK))


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
