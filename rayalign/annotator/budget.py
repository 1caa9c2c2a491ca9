"""What judges cost, by judge and by client, and hard limits that hold across processes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
_TOLD: tuple[Callable[[int], str], ...] = ("{} tokens".format, lambda nano: f"${nano / _NANO:.6g}")
"""how people read tokens and nanodollars"""


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
    billed: it counts as spent for good. Safe for many threads, processes and (PostgreSQL) machines.

    Args:
        url: the database, as `VerdictStore`'s.
        limits: None in all fields: spend is counted alone.
        clock: unix seconds.
    """

    def __init__(self, url: str, limits: BudgetConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._database = Database(url)
        self._limits = limits
        self._clock = clock

    async def hold(self, judge: str, client: str, most: Usage, wait: float, lease: float) -> Reservation:
        """`reserve`, once requests in flight have left enough of what they held back, within `wait` seconds.

        Raises:
            BudgetError: as `reserve`.
        """
        end, pause = time.monotonic() + wait, _POLL[0]
        while True:
            try:
                return self.reserve(judge, client, most, lease)
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
        now = self._clock()
        with self._database.writing() as connection:
            self._check(connection, client, asked, now)
            connection.execute(
                RESERVATIONS.insert().values(id=reservation.id, client=client, until=now + lease, **asked._asdict())
            )
        return reservation

    def settle(self, reservation: Reservation, actual: Usage) -> None:
        """Count what the request cost, in the place of what was held back; also after the lease ended.

        A reservation is settled once.
        """
        row = {
            "prompt_tokens": actual.prompt_tokens,
            "completion_tokens": actual.completion_tokens,
            "nanodollars": round(actual.price * _NANO),
            "seconds": actual.seconds,
        }
        insert = self._database.insert(SPEND)
        added = insert.on_conflict_do_update(
            index_elements=[SPEND.c.judge, SPEND.c.client], set_={n: SPEND.c[n] + insert.excluded[n] for n in row}
        )
        with self._database.writing() as connection:
            if actual != Usage():
                connection.execute(added, {"judge": reservation.judge, "client": reservation.client, **row})
            connection.execute(RESERVATIONS.delete().where(RESERVATIONS.c.id == reservation.id))

    def left(self, client: str) -> Left:
        """Of the budget, or of the client's own where that has less."""
        limits = self._limits
        if limits == BudgetConfig():
            return Left(None, None)
        with self._database.reading() as connection:
            now = self._clock()  # what is in flight may cost less than is held back
            (whole, _), (own, _) = _spent(connection, None, now), _spent(connection, client, now)
        tokens = [(limits.tokens, whole.tokens), (limits.per_client_tokens, own.tokens)]
        money = [(limits.dollars, whole.nanodollars), (limits.per_client_dollars, own.nanodollars)]
        return Left(
            min((max(0, limit - held) for limit, held in tokens if limit is not None), default=None),
            min((max(0.0, limit - held / _NANO) for limit, held in money if limit is not None), default=None),
        )

    def totals(self) -> Totals:
        """What was settled, of all processes."""
        with self._database.reading() as connection:
            return Totals(_by(connection, SPEND.c.judge), _by(connection, SPEND.c.client))

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def _check(self, connection: sa.Connection, client: str, asked: _Amount, now: float) -> None:
        limits = self._limits
        busy: BusyError | None = None
        for whose, tokens, dollars in (
            (None, limits.tokens, limits.dollars),
            (client, limits.per_client_tokens, limits.per_client_dollars),
        ):
            if tokens is None and dollars is None:
                continue
            spent, flying = _spent(connection, whose, now)
            limit = (tokens, None if dollars is None else round(dollars * _NANO))
            name = "the budget" if whose is None else f"the budget of client {whose}"
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
        self.refused: BudgetError | None = None
        """the last refusal"""

    @asynccontextmanager
    async def paying(self, most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
        """As `Paying`."""
        try:
            reservation = await self._budget.hold(self._judge, self._client, most, wait, lease)
        except BudgetError as error:
            self.refused = error
            raise
        bill = Bill()
        try:
            yield bill
        finally:
            self._budget.settle(reservation, bill.cost)


def _spent(connection: sa.Connection, client: str | None, now: float) -> tuple[_Amount, _Amount]:
    """Spent, with what the dead held back, and held back in flight; by one client or by all."""
    tokens = SPEND.c.prompt_tokens + SPEND.c.completion_tokens
    live = RESERVATIONS.c.until >= now

    def total(table: sa.Table, tokens: sa.ColumnElement[int], *which: sa.ColumnElement[bool]) -> _Amount:
        mine = () if client is None else (table.c.client == client,)
        query = sa.select(sa.func.sum(tokens), sa.func.sum(table.c.nanodollars)).where(*which, *mine)
        return _Amount(*(int(value or 0) for value in connection.execute(query).one()))

    settled, dead = total(SPEND, tokens), total(RESERVATIONS, RESERVATIONS.c.tokens, ~live)
    gone = _Amount(settled.tokens + dead.tokens, settled.nanodollars + dead.nanodollars)
    return gone, total(RESERVATIONS, RESERVATIONS.c.tokens, live)


def _by(connection: sa.Connection, column: sa.Column[str]) -> dict[str, Usage]:
    sums = [sa.func.sum(SPEND.c[n]) for n in ("prompt_tokens", "completion_tokens", "nanodollars", "seconds")]
    rows = connection.execute(sa.select(column, *sums).group_by(column))
    return {
        name: Usage(int(prompt), int(done), int(money) / _NANO, seconds) for name, prompt, done, money, seconds in rows
    }
