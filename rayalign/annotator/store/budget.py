"""Spend by judge and by client, and hard limits that hold across processes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from rayalign.annotator.judges.verdicts import Usage
from rayalign.annotator.store.database import RESERVATIONS, SPEND, Database
from rayalign.config.annotators import BudgetConfig
from rayalign.errors import RayalignError

N = TypeVar("N", int, float)

_NANO = 1_000_000_000
"""money is counted in whole nanodollars, so that sums are exact"""
_POLL = (0.005, 0.25)
"""seconds between two attempts to reserve while requests in flight hold the rest, at first and at most"""
_SPENT = ("prompt_tokens", "completion_tokens", "nanodollars", "seconds")
_CLIENT: sa.BindParameter[str] = sa.bindparam("client")
_SETTLED = sa.select(
    (SPEND.c.client == _CLIENT).label("own"),
    sa.false().label("live"),
    (SPEND.c.prompt_tokens + SPEND.c.completion_tokens).label("tokens"),
    SPEND.c.nanodollars,
)
_RESERVED = sa.select(
    RESERVATIONS.c.client == _CLIENT,
    RESERVATIONS.c.until >= sa.bindparam("now"),
    RESERVATIONS.c.tokens,
    RESERVATIONS.c.nanodollars,
)
_COUNTED = sa.union_all(_SETTLED, _RESERVED).subquery()
_TOTALS = (sa.func.sum(_COUNTED.c.tokens), sa.func.sum(_COUNTED.c.nanodollars))
_SUMS = sa.select(_COUNTED.c.own, _COUNTED.c.live, *_TOTALS).group_by(_COUNTED.c.own, _COUNTED.c.live)
"""sums of spend and reservations, by whether the client is `client` and whether they are in flight at `now`"""
_RELEASE = RESERVATIONS.delete().where(RESERVATIONS.c.id == sa.bindparam("reservation"))


class BudgetError(RayalignError):
    """A request could pass a limit of the budget, and was not sent; the message says what is left."""


class BusyError(BudgetError):
    """The request would fit if other requests in flight cost less than they may."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """The most that one request may cost, reserved until it is settled."""

    id: str
    judge: str
    client: str


class Totals(NamedTuple):
    """Settled spend."""

    judges: dict[str, Usage]
    clients: dict[str, Usage]


class Left(NamedTuple):
    """The rest of a budget; None: no limit."""

    tokens: int | None
    dollars: float | None


class _Amount(NamedTuple):
    tokens: int
    nanodollars: int


class _Spent(NamedTuple):
    settled: _Amount
    """with the reservations of killed processes"""
    in_flight: _Amount


class Budget:
    """The spend in the annotator's database, and its limits.

    No limit is passed as long as every estimate is an upper bound. A killed process may have been billed for its
    reservations: they count as spent for good. Safe for many threads, processes and (PostgreSQL) machines. Methods that
    are no coroutines wait for the database: on an event loop they go through `Database.aside`.

    Args:
        limits: None in all fields: spend is only counted.
        clock: unix seconds.
    """

    def __init__(self, database: Database, limits: BudgetConfig, *, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self._limits = limits
        self._clock = clock
        insert = self.database.insert(SPEND)
        sums = {name: SPEND.c[name] + insert.excluded[name] for name in _SPENT}
        self._add = insert.on_conflict_do_update(index_elements=[SPEND.c.judge, SPEND.c.client], set_=sums)
        self._short: set[str] = set()
        """clients whose last request has to wait for others in flight"""

    async def hold(self, judge: str, client: str, most: Usage, wait: float, lease: float) -> Reservation:
        """`reserve`, retried for `wait` seconds while requests in flight hold the rest of the budget.

        Raises:
            BudgetError: as `reserve`.
        """
        if self._limits == BudgetConfig():  # without a limit nothing waits for the database
            return self.reserve(judge, client, most, lease)
        reserve = partial(self.reserve, judge, client, most, lease)
        end, pause = time.monotonic() + wait, _POLL[0]
        while True:
            try:
                return await self.database.aside(reserve, writes=True, undo=lambda late: self.settle(late, Usage()))
            except BusyError:
                if (left := end - time.monotonic()) <= 0:
                    raise
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _POLL[1])

    def reserve(self, judge: str, client: str, most: Usage, lease: float = 60.0) -> Reservation:
        """Reserve the most that a request may cost, before it is sent.

        Args:
            lease: seconds until the reservation counts as spent, since its process may have been killed.

        Raises:
            BusyError: it would fit if requests in flight cost less than they may.
            BudgetError: it could pass a limit.
        """
        reservation = Reservation(uuid.uuid4().hex, judge, client)
        if self._limits == BudgetConfig():
            return reservation
        needed = _Amount(most.prompt_tokens + most.completion_tokens, round(most.price * _NANO))
        try:
            if client in self._short:  # it polls, and requests that settle need the lock
                with self.database.reading() as connection:
                    self._check(connection, client, needed)
            with self.database.writing() as connection:
                self._check(connection, client, needed)
                row = {"id": reservation.id, "client": client, "until": self._clock() + lease, **needed._asdict()}
                connection.execute(RESERVATIONS.insert(), row)
        except BusyError:
            self._short.add(client)
            raise
        self._short.discard(client)
        return reservation

    def settle(self, reservation: Reservation, actual: Usage) -> None:
        """Replace a reservation by the cost of its request; also after its lease.

        With limits, settling a reservation again changes nothing.
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
            is_open = unlimited or connection.execute(_RELEASE, {"reservation": reservation.id}).rowcount
            if is_open and actual != Usage():
                connection.execute(self._add, row)

    def left(self, client: str) -> Left:
        """The rest of the budget, or of the client's own where that is less; requests in flight may cost nothing."""
        limits = self._limits
        if limits == BudgetConfig():
            return Left(None, None)
        with self.database.reading() as connection:
            by_all, by_client = _spent(connection, client, self._clock())
        tokens = _rest(limits.tokens, by_all.settled.tokens)
        client_tokens = _rest(limits.per_client_tokens, by_client.settled.tokens)
        dollars = _rest(limits.dollars, by_all.settled.nanodollars / _NANO)
        client_dollars = _rest(limits.per_client_dollars, by_client.settled.nanodollars / _NANO)
        return Left(_smaller(tokens, client_tokens), _smaller(dollars, client_dollars))

    def totals(self) -> Totals:
        """The settled spend of all processes."""
        with self.database.reading() as connection:
            return Totals(_by(connection, SPEND.c.judge), _by(connection, SPEND.c.client))

    def _check(self, connection: sa.Connection, client: str, needed: _Amount) -> None:
        """Refuse an amount that passes a limit; of all limits, one that waiting cannot mend comes first."""
        limits = self._limits
        by_all, by_client = _spent(connection, client, self._clock())
        own = f"the budget of client {client}"
        refusals = [
            _refusal("the budget", limits.tokens, by_all, needed, 0, _tokens),
            _refusal("the budget", _nano(limits.dollars), by_all, needed, 1, _dollars),
            _refusal(own, limits.per_client_tokens, by_client, needed, 0, _tokens),
            _refusal(own, _nano(limits.per_client_dollars), by_client, needed, 1, _dollars),
        ]
        final = [refusal for refusal in refusals if refusal is not None and not isinstance(refusal, BusyError)]
        waiting = [refusal for refusal in refusals if isinstance(refusal, BusyError)]
        if final:
            raise final[0]
        if waiting:
            raise waiting[-1]


def _spent(connection: sa.Connection, client: str, now: float) -> tuple[_Spent, _Spent]:
    """The spend of all clients, and of one."""
    rows = connection.execute(_SUMS, {"client": client, "now": now}).all()
    own_rows = [row for row in rows if row.own]
    return _sum(rows), _sum(own_rows)


def _sum(rows: Sequence[Any]) -> _Spent:
    tokens = {False: 0, True: 0}
    nanodollars = {False: 0, True: 0}
    for _, live, row_tokens, row_nanodollars in rows:
        tokens[bool(live)] += int(row_tokens)
        nanodollars[bool(live)] += int(row_nanodollars)
    return _Spent(_Amount(tokens[False], nanodollars[False]), _Amount(tokens[True], nanodollars[True]))


def _refusal(
    budget: str, limit: int | None, spent: _Spent, needed: _Amount, unit: int, shown: Callable[[int], str]
) -> BudgetError | None:
    """The error of an amount that could pass a limit; None where it fits.

    Args:
        budget: its name, for people.
        unit: 0 tokens, 1 nanodollars.
    """
    settled, in_flight, amount = spent.settled[unit], spent.in_flight[unit], needed[unit]
    if limit is None or settled + in_flight + amount <= limit:
        return None
    rest = shown(max(0, limit - settled))
    shortage = f"{budget} has {rest} of {shown(limit)} left, and this may cost {shown(amount)}; nothing was sent: "
    if settled + amount > limit:
        return BudgetError(f"{shortage}raise the limit under `budget`")
    return BusyError(f"{shortage}requests in flight hold back {shown(in_flight)}; ask again later")


def _tokens(count: int) -> str:
    return f"{count} tokens"


def _dollars(nanodollars: int) -> str:
    return f"${nanodollars / _NANO:.6g}"


def _nano(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * _NANO)


def _rest(limit: N | None, spent: N) -> N | None:
    return None if limit is None else max(type(limit)(0), limit - spent)


def _smaller(first: N | None, second: N | None) -> N | None:
    if first is None:
        return second
    return first if second is None else min(first, second)


def _by(connection: sa.Connection, column: sa.Column[str]) -> dict[str, Usage]:
    sums = [sa.func.sum(SPEND.c[name]) for name in _SPENT]
    rows = connection.execute(sa.select(column, *sums).group_by(column))
    totals: dict[str, Usage] = {}
    for name, prompt_tokens, completion_tokens, nanodollars, seconds in rows:
        totals[name] = Usage(int(prompt_tokens), int(completion_tokens), int(nanodollars) / _NANO, seconds)
    return totals
