"""The annotator's one database: verdicts, claims on verdicts in progress, and spend."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateIndex, CreateTable

from rayalign.errors import DeadlineError, InputError, RayalignError
from rayalign.waiting import FIRST, reported

T = TypeVar("T")
logger = logging.getLogger(__name__)

SCHEMA = 1
_WAIT = 30.0
"""longest wait for another process's lock on the file, and for a connection [s]"""
_PATIENCE = _WAIT + 5.0
"""longest wait of a caller [s]; the database's own limits have better messages, and come first"""
_READERS = 4
"""threads for queries of one process"""
_BACKLOG = 16_384
"""most calls in progress, so that those of a database that hangs do not pile up"""
_ALONE = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7206017)"}
"""takes the lock on writing until the end of the transaction"""
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}
"""libpq's: the loss of a server's machine is noticed within 30 s"""
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""seconds between two attempts to write a verdict or a bill"""
_tables = sa.MetaData()
SCHEMA_TABLE = sa.Table("rayalign_schema", _tables, sa.Column("version", sa.Integer, primary_key=True))
VERDICTS = sa.Table(
    "verdict",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)
CLAIMS = sa.Table(
    "claim",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)
SPEND = sa.Table(
    "spend",
    _tables,
    sa.Column("judge", sa.Text, primary_key=True),
    sa.Column("client", sa.Text, primary_key=True),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("nanodollars", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
)
RESERVATIONS = sa.Table(
    "reservation",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("nanodollars", sa.BigInteger, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)


class Database:
    """A pool of connections to SQLite (WAL) or PostgreSQL, for many threads; other processes open their own.

    A commit outlives the process at once (kill -9), and a loss of power up to the last few of SQLite's commits.

    Raises:
        InputError: a URL that can't be used, or a database of another schema.
        RayalignError: here and in every use: the database is locked, full or gone.
    """

    def __init__(self, url: str, tables: sa.MetaData | None = None, *, patience: float = _PATIENCE) -> None:
        """`tables` are made beside the annotator's own, as those are: once, whoever comes first."""
        self._patience = patience
        self._readers = ThreadPoolExecutor(_READERS, "reader")
        self._writer = ThreadPoolExecutor(1, "writer")  # several would only wait for each other's locks
        self._room = threading.BoundedSemaphore(_BACKLOG)
        try:
            parsed = _parsed(url)
            self._shown = parsed.set(query={}).render_as_string(hide_password=True)
            self._engine = _engine(parsed)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
            raise InputError(
                f"annotator cache: the URL cannot be used ({error}); give sqlite:///FILE, or postgresql://... "
                "with rayalign's extra `postgres` installed"
            ) from None
        self.insert: Any = sqlite.insert if parsed.get_backend_name() == "sqlite" else postgresql.insert
        """the dialect's insert, which knows ON CONFLICT"""
        self._create([*_tables.sorted_tables, *(tables.sorted_tables if tables is not None else ())])

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for queries."""
        with self._explained(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction, the only one of all processes, committed at the end of the block.

        Its reads stay valid until the commit, and no two transactions deadlock.
        """
        with self._explained(), self._engine.begin() as connection:
            connection.exec_driver_sql(_ALONE[connection.dialect.name])
            yield connection

    async def aside(
        self, call: Callable[[], T], *, writes: bool = False, undo: Callable[[T], object] | None = None
    ) -> T:
        """Run the call in a thread and return its result, so that the event loop waits for no database.

        A call that has begun ends even if its caller is cancelled; writes run in the order of their callers.

        Args:
            undo: reverses a call whose caller has gone, from its result.

        Raises:
            DeadlineError: no answer in time; the call may still take effect.
            RayalignError: as the call, or too many wait already.
        """
        if not self._room.acquire(blocking=False):
            raise RayalignError(f"annotator cache {self._shown}: too much waits for the database; ask again later")
        begun = (self._writer if writes else self._readers).submit(call)
        begun.add_done_callback(lambda _: self._room.release())
        report = asyncio.get_running_loop().call_later(FIRST, logger.warning, "waiting for %s", self._waited_for)
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(asyncio.wrap_future(begun))
        except (TimeoutError, asyncio.CancelledError) as gone:
            if undo is not None:
                begun.add_done_callback(lambda late: late.exception() or self._writer.submit(undo, late.result()))
            if isinstance(gone, TimeoutError):
                raise DeadlineError(
                    f"annotator cache {self._shown}: no answer in {self._patience:g} s; see whether the database "
                    "hangs, and ask again"
                ) from None
            raise
        finally:
            report.cancel()

    async def insist(self, write: Callable[[], None]) -> None:
        """Write, with retries for some seconds while the database is away.

        Raises:
            RayalignError: as the last attempt, or the first that may still take effect.
        """
        for pause in _PAUSES:
            try:
                return await self.aside(write, writes=True)
            except DeadlineError:
                raise
            except RayalignError as error:
                logger.warning("the next attempt to write is in %g s: %s", pause, error)
            await asyncio.sleep(pause)
        await self.aside(write, writes=True)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the database as one sentence."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise RayalignError(
                f"annotator cache {self._shown}: {cause}; free the disk, stop what locks it or bring the server back, "
                "and ask again: what was stored is kept"
            ) from error

    @property
    def _waited_for(self) -> str:
        return f"the annotator cache {self._shown}: another process holds its lock, or the database is slow"

    def _create(self, tables: Sequence[sa.Table]) -> None:
        with reported(lambda: self._waited_for, logger.warning), self.writing() as connection:
            for table in tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in table.indexes:
                    connection.execute(CreateIndex(index, if_not_exists=True))
            version = connection.execute(sa.select(sa.func.max(SCHEMA_TABLE.c.version))).scalar()
            if version is None:
                connection.execute(SCHEMA_TABLE.insert().values(version=SCHEMA))
        if version not in (None, SCHEMA):
            self.close()
            raise InputError(
                f"annotator cache {self._shown} has schema {version}, and this version of rayalign keeps {SCHEMA}; "
                "name another database in `cache`"
            )


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ValueError:  # its message would show the password
        raise sa.exc.ArgumentError("its port is no number") from None
    if "@" in (parsed.host or ""):
        raise sa.exc.ArgumentError("an @ in the password is written %40")
    return parsed


def _engine(url: sa.URL) -> sa.Engine:
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=_WAIT,
            max_overflow=0,  # a server takes a hundred in all, and every replica has two such pools
            connect_args={"connect_timeout": int(_WAIT), "client_encoding": "utf8", **_KEEPALIVE},
        )
        sa.event.listen(engine, "connect", _limit)
        return engine
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise sa.exc.ArgumentError("neither a file of SQLite nor PostgreSQL through psycopg")
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"annotator cache: {error}; name a file in a folder that can be made") from None
    engine = sa.create_engine(url, pool_timeout=_WAIT, connect_args={"timeout": _WAIT})
    sa.event.listen(engine, "connect", _prepare)
    return engine


def _limit(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Limit the waits for a writer, and for one whose machine is gone."""
    cursor = connection.cursor()
    for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
        cursor.execute(f"SET {limit} = '{_WAIT}s'")
    cursor.close()
    connection.commit()


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Readers never wait for a writer (WAL); a commit is written, and synced at checkpoints only."""
    cursor = connection.cursor()
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            # SQLite does not apply its own timeout here, and two processes may come to a new file at once.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
