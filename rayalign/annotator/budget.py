"""What judges cost, by judge and by client, and hard limits that hold across processes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from rayalign.annotator.database import RESERVATIONS, SCHEMA_TABLE, SPEND, Database
from rayalign.annotator.verdicts import Usage
from rayalign.config.annotators import BudgetConfig
from rayalign.errors import RayalignError

_NANO = 1_000_000_000
"""money is counted in whole nanodollars, so that sums are exact"""


class BudgetError(RayalignError):
    """A request could pass a limit of the budget, and was not sent; the message says what is left."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one request may cost at most, held back until it is settled or cancelled."""

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


class _Held(NamedTuple):
    tokens: int
    nanodollars: int


class Budget:
    """The spend in the annotator's database, and its limits.

    A limit is never passed as long as every estimate is an upper bound. What a killed process held back counts as spent
    until its lease ends. Safe for many threads, processes and (PostgreSQL) machines.

    Args:
        url: the database, as `VerdictStore`'s.
        limits: None in all fields: spend is counted alone.
        lease: seconds that a reservation lives; longer than any request.
        clock: unix seconds.
    """

    def __init__(
        self, url: str, limits: BudgetConfig, *, lease: float = 900.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = Database(url)
        self._limits = limits
        self._lease = lease
        self._clock = clock

    def reserve(self, judge: str, client: str, estimate: Usage) -> Reservation:
        """Hold back the most that a request may cost, before it is sent.

        Raises:
            BudgetError: with it a limit could be passed.
        """
        reservation = Reservation(uuid.uuid4().hex, judge, client)
        if self._limits == BudgetConfig():
            return reservation
        asked = _Held(estimate.prompt_tokens + estimate.completion_tokens, round(estimate.price * _NANO))
        now = self._clock()
        with self._database.writing() as connection:
            # Locks out every other reservation until the commit, in both databases.
            connection.execute(SCHEMA_TABLE.update().values(version=SCHEMA_TABLE.c.version))
            connection.execute(RESERVATIONS.delete().where(RESERVATIONS.c.until < now))
            self._check(connection, client, asked)
            connection.execute(
                RESERVATIONS.insert().values(
                    id=reservation.id, client=client, until=now + self._lease, **asked._asdict()
                )
            )
        return reservation

    def settle(self, reservation: Reservation, actual: Usage) -> None:
        """Count what the request cost, in the place of what was held back; also after the lease ended.

        A reservation is settled or cancelled once.
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
            connection.execute(added, {"judge": reservation.judge, "client": reservation.client, **row})
            connection.execute(RESERVATIONS.delete().where(RESERVATIONS.c.id == reservation.id))

    def cancel(self, reservation: Reservation) -> None:
        """Give back what was held for a request that cost nothing."""
        with self._database.writing() as connection:
            connection.execute(RESERVATIONS.delete().where(RESERVATIONS.c.id == reservation.id))

    def left(self, client: str) -> Left:
        """Of the budget, or of the client's own where that has less."""
        limits = self._limits
        if limits == BudgetConfig():
            return Left(None, None)
        with self._database.reading() as connection:
            whole, own = _held(connection, None), _held(connection, client)
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

    def _check(self, connection: sa.Connection, client: str, asked: _Held) -> None:
        limits = self._limits
        for whose, dollars, tokens in (
            (None, limits.dollars, limits.tokens),
            (client, limits.per_client_dollars, limits.per_client_tokens),
        ):
            if dollars is None and tokens is None:
                continue
            held = _held(connection, whose)
            name = "the budget" if whose is None else f"the budget of client {whose}"
            if tokens is not None and held.tokens + asked.tokens > tokens:
                left = max(0, tokens - held.tokens)
                raise BudgetError(f"{name} has {left} of {tokens} tokens left, and this may take {asked.tokens}{_END}")
            if dollars is not None and held.nanodollars + asked.nanodollars > (limit := round(dollars * _NANO)):
                left_dollars, needed = max(0, limit - held.nanodollars) / _NANO, asked.nanodollars / _NANO
                raise BudgetError(
                    f"{name} has ${left_dollars:.6g} of ${dollars:g} left, and this may cost ${needed:.6g}{_END}"
                )


_END = "; nothing was sent: raise the limit under `budget`, or wait for requests in flight to settle"


def _held(connection: sa.Connection, client: str | None) -> _Held:
    """Spent and held back, by one client or by all."""
    tokens, money = 0, 0
    for table, counted in (
        (SPEND, SPEND.c.prompt_tokens + SPEND.c.completion_tokens),
        (RESERVATIONS, RESERVATIONS.c.tokens),
    ):
        query = sa.select(sa.func.sum(counted), sa.func.sum(table.c.nanodollars))
        row = connection.execute(query if client is None else query.where(table.c.client == client)).one()
        tokens, money = tokens + int(row[0] or 0), money + int(row[1] or 0)
    return _Held(tokens, money)


def _by(connection: sa.Connection, column: sa.Column[str]) -> dict[str, Usage]:
    sums = [sa.func.sum(SPEND.c[n]) for n in ("prompt_tokens", "completion_tokens", "nanodollars", "seconds")]
    rows = connection.execute(sa.select(column, *sums).group_by(column))
    return {
        name: Usage(int(prompt), int(done), int(money) / _NANO, seconds) for name, prompt, done, money, seconds in rows
    }
