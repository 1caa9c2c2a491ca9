"""What judges cost, by judge and by client, and hard limits that hold across processes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from rayalign.annotator.database import RESERVATIONS, SPEND, Database
from rayalign.annotator.verdicts import Bill, Usage
from rayalign.config.annotators import BudgetConfig
from rayalign.errors import RayalignError

_NANO = 1_000_000_000
"""money is counted in whole nanodollars, so that sums are exact"""
_POLL = (0.005, 0.25)
"""seconds between two looks at whether requests in flight have been settled, at first and at most"""
_SPENT = ("prompt_tokens", "completion_tokens", "nanodollars", "seconds")
_TOLD: tuple[Callable[[int], str], ...] = ("{} tokens".format, lambda nano: f"${nano / _NANO:.6g}")
"""how people read tokens and nanodollars"""
_COUNTED = sa.union_all(
    sa.select(
        (SPEND.c.client == sa.bindparam("client")).label("own"),
        sa.false().label("live"),
        (SPEND.c.prompt_tokens + SPEND.c.completion_tokens).label("tokens"),
        SPEND.c.nanodollars,
    ),
    sa.select(
        RESERVATIONS.c.client == sa.bindparam("client"),
        RESERVATIONS.c.until >= sa.bindparam("now"),
        RESERVATIONS.c.tokens,
        RESERVATIONS.c.nanodollars,
    ),
).subquery()
_SUMS = sa.select(
    _COUNTED.c.own, _COUNTED.c.live, sa.func.sum(_COUNTED.c.tokens), sa.func.sum(_COUNTED.c.nanodollars)
).group_by(_COUNTED.c.own, _COUNTED.c.live)
"""what is spent and held back, apart for the client `client` and for what is in flight at `now`"""
_RELEASED = RESERVATIONS.delete().where(RESERVATIONS.c.id == sa.bindparam("held"))


class BudgetError(RayalignError):
    """A request could pass a limit of the budget, and was not sent; the message says what is left."""


class BusyError(BudgetError):
    """The request would fit, were it not for the most that others in flight may cost."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one request may cost at most, held back until it is settled."""

    id: str
    judge: str
    client: str


class Totals(NamedTuple):
    """What was settled so far."""

    judges: dict[str, Usage]
    clients: dict[str, Usage]


class Left(NamedTuple):
    """What may still be spent; None: no limit."""

    tokens: int | None
    dollars: float | None


class _Amount(NamedTuple):
    tokens: int
    nanodollars: int


class Budget:
    """The spend in the annotator's database, and its limits.

    A limit is never passed as long as every estimate is an upper bound. What a killed process held back may have been
    billed: it counts as spent for good. Safe for many threads, processes and (PostgreSQL) machines. What is no
    coroutine waits for the database: on an event loop it goes through `Database.aside`.

    Args:
        limits: None in all fields: spend is counted alone.
        clock: unix seconds.
    """

    def __init__(self, database: Database, limits: BudgetConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._limits = limits
        self._clock = clock
        insert = self.database.insert(SPEND)
        sums = {n: SPEND.c[n] + insert.excluded[n] for n in _SPENT}
        self._add = insert.on_conflict_do_update(index_elements=[SPEND.c.judge, SPEND.c.client], set_=sums)
        self._short: set[str] = set()
        """clients whose last request has to wait"""

    async def hold(self, judge: str, client: str, most: Usage, wait: float, lease: float) -> Reservation:
        """`reserve`, once requests in flight have left enough of what they held back, within `wait` seconds.

        Raises:
            BudgetError: as `reserve`.
        """
        if self._limits == BudgetConfig():  # which is worth no hop to a thread
            return self.reserve(judge, client, most, lease)
        asked = partial(self.reserve, judge, client, most, lease)
        end, pause = time.monotonic() + wait, _POLL[0]
        while True:
            try:
                return await self.database.aside(asked, writes=True, undo=lambda late: self.settle(late, Usage()))
            except BusyError:
                if (left := end - time.monotonic()) <= 0:
                    raise
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _POLL[1])

    def reserve(self, judge: str, client: str, most: Usage, lease: float = 60.0) -> Reservation:
        """Hold back the most that a request may cost, before it is sent.

        Args:
            lease: seconds after which nobody waits for it to be settled: its process may have been killed.

        Raises:
            BusyError: it would fit if requests in flight cost less than they may.
            BudgetError: with it a limit could be passed.
        """
        reservation = Reservation(uuid.uuid4().hex, judge, client)
        if self._limits == BudgetConfig():
            return reservation
        asked = _Amount(most.prompt_tokens + most.completion_tokens, round(most.price * _NANO))
        try:
            if client in self._short:  # it looks again and again, and those who settle need the lock
                with self.database.reading() as connection:
                    self._check(connection, client, asked)
            with self.database.writing() as connection:
                self._check(connection, client, asked)
                row = {"id": reservation.id, "client": client, "until": self._clock() + lease, **asked._asdict()}
                connection.execute(RESERVATIONS.insert(), row)
        except BusyError:
            self._short.add(client)
            raise
        self._short.discard(client)
        return reservation

    def settle(self, reservation: Reservation, actual: Usage) -> None:
        """Count what the request cost, in the place of what was held back; also after the lease ended.

        A reservation is settled once; where there are limits, again changes nothing.
        """
        row = {
            "judge": reservation.judge,
            "client": reservation.client,
            "prompt_tokens": actual.prompt_tokens,
            "completion_tokens": actual.completion_tokens,
            "nanodollars": round(actual.price * _NANO),
            "seconds": actual.seconds,
        }
        unlimited = self._limits == BudgetConfig()
        if unlimited and actual == Usage():
            return
        with self.database.writing() as connection:
            held = unlimited or connection.execute(_RELEASED, {"held": reservation.id}).rowcount
            if held and actual != Usage():
                connection.execute(self._add, row)

    def left(self, client: str) -> Left:
        """Of the budget, or of the client's own where that has less."""
        limits = self._limits
        if limits == BudgetConfig():
            return Left(None, None)
        with self.database.reading() as connection:
            # what is in flight may cost less than is held back
            (whole, _), (own, _) = _spent(connection, client, self._clock())
        tokens = [(limits.tokens, whole.tokens), (limits.per_client_tokens, own.tokens)]
        money = [(limits.dollars, whole.nanodollars), (limits.per_client_dollars, own.nanodollars)]
        return Left(
            min((max(0, limit - held) for limit, held in tokens if limit is not None), default=None),
            min((max(0.0, limit - held / _NANO) for limit, held in money if limit is not None), default=None),
        )

    def totals(self) -> Totals:
        """What was settled, of all processes."""
        with self.database.reading() as connection:
            return Totals(_by(connection, SPEND.c.judge), _by(connection, SPEND.c.client))

    def _check(self, connection: sa.Connection, client: str, asked: _Amount) -> None:
        limits = self._limits
        busy: BusyError | None = None
        whole, own = _spent(connection, client, self._clock())
        for name, tokens, dollars, (spent, flying) in (
            ("the budget", limits.tokens, limits.dollars, whole),
            (f"the budget of client {client}", limits.per_client_tokens, limits.per_client_dollars, own),
        ):
            limit = (tokens, None if dollars is None else round(dollars * _NANO))
            for most, gone, held, needed, told in zip(limit, spent, flying, asked, _TOLD, strict=True):
                if most is None or gone + held + needed <= most:
                    continue
                says = (
                    f"{name} has {told(max(0, most - gone))} of {told(most)} left, and this may cost {told(needed)}; "
                )
                if gone + needed > most:
                    raise BudgetError(f"{says}nothing was sent: raise the limit under `budget`")
                busy = BusyError(f"{says}nothing was sent: requests in flight hold back {told(held)}; ask again later")
        if busy is not None:
            raise busy


class Account:
    """What one judge spends for one client."""

    def __init__(self, budget: Budget, judge: str, client: str) -> None:
        self._budget, self._judge, self._client = budget, judge, client
        self.refused: RayalignError | None = None
        """why the last request could not be sent, or not be settled; not where it is to wait for others in flight"""

    @asynccontextmanager
    async def paying(self, most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
        """As `Paying`."""
        try:
            reservation = await self._budget.hold(self._judge, self._client, most, wait, lease)
        except BusyError:
            raise
        except RayalignError as error:
            self.refused = error
            raise
        bill = Bill()
        try:
            yield bill
        finally:
            try:
                await self._budget.database.insist(partial(self._budget.settle, reservation, bill.cost))
            except RayalignError as error:  # what was paid for is worth keeping all the same
                self.refused = error


def _spent(connection: sa.Connection, client: str, now: float) -> list[tuple[_Amount, _Amount]]:
    """Spent, with what the dead held back, and held back in flight; by all, and by one client."""
    rows = connection.execute(_SUMS, {"client": client, "now": now}).all()

    def total(live: bool, *, alone: bool) -> _Amount:
        mine = [row for row in rows if bool(row.live) == live and (row.own or not alone)]
        return _Amount(sum(int(row[2]) for row in mine), sum(int(row[3]) for row in mine))

    return [(total(False, alone=alone), total(True, alone=alone)) for alone in (False, True)]


def _by(connection: sa.Connection, column: sa.Column[str]) -> dict[str, Usage]:
    sums = [sa.func.sum(SPEND.c[n]) for n in _SPENT]
    rows = connection.execute(sa.select(column, *sums).group_by(column))
    return {
        name: Usage(int(prompt), int(done), int(money) / _NANO, seconds) for name, prompt, done, money, seconds in rows
    }
