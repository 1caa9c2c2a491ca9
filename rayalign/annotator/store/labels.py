"""Pairs in named queues, and the verdicts of people and simulated annotators on them: append-only tables.

No row is ever changed or deleted. A later verdict of a labeller on a pair replaces the earlier one; a withdrawal is a
row of its own that names the row it takes back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from rayalign.annotator.asking.api import PairItem
from rayalign.annotator.store.database import Database
from rayalign.errors import InputError

Kind = Literal["human", "annotator"]
MAX_QUEUE = 10_000
"""pairs of one queue: as many as people label by hand and one page can count"""

_METADATA = sa.MetaData()
_PAIRS = sa.Table(
    "label_pairs",
    _METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("id", sa.String(64), nullable=False),
    sa.Column("prompt", sa.String(64), nullable=False),
    sa.Column("generator_1", sa.Text),
    sa.Column("generator_2", sa.Text),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("queue", "id"),
)
_VERDICTS = sa.Table(
    "label_verdicts",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("queue", sa.String(64), nullable=False),
    sa.Column("pair", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("labeller", sa.String(64), nullable=False),
    sa.Column("preference", sa.Float),
    sa.Column("withdraws", sa.Integer, index=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Index("label_verdicts_by_labeller", "queue", "labeller"),
)
_WITHDRAWN = sa.select(_VERDICTS.c.withdraws).where(_VERDICTS.c.withdraws.is_not(None))
_STANDS = _VERDICTS.c.withdraws.is_(None) & _VERDICTS.c.number.not_in(_WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Label:
    """The verdict of one labeller on one pair that counts, in the order of the stored answers."""

    pair: str
    prompt: str
    """hash of the instruction"""
    kind: Kind
    labeller: str
    preference: float | None
    """None: the labeller skipped the pair"""
    generators: tuple[str | None, str | None] = (None, None)


class LabelStore:
    """The database behind the labelling page; any number of threads and processes may share one.

    Args:
        url: SQLAlchemy's; as `Database`.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, _METADATA)

    def add(self, queue: str, items: Sequence[PairItem]) -> int:
        """Append pairs to a queue and return how many are new; equal content is one pair, whatever its `id`.

        Raises:
            InputError: the queue would grow beyond `MAX_QUEUE`; nothing was added.
        """
        insert = self._database.insert(_PAIRS).on_conflict_do_nothing()
        with self._database.writing() as connection:
            added = connection.execute(insert.returning(_PAIRS.c.id), [_row(queue, item) for item in items])
            new = len(added.all())
            if new and connection.execute(_count(queue)).scalar_one() > MAX_QUEUE:
                raise InputError(
                    f"queue {queue} would hold more than {MAX_QUEUE} pairs; label them in several queues, or let "
                    "the annotate stage of a job judge them"
                )
        return new

    def size(self, queue: str) -> int:
        """The number of pairs in a queue; 0 for an unknown one."""
        return int(self._scalar(_count(queue)))

    def pair(self, queue: str, pair: str) -> PairItem | None:
        """The pair of that id, with the `id` and `meta` that it was uploaded with."""
        query = sa.select(_PAIRS.c.body).where(_PAIRS.c.queue == queue, _PAIRS.c.id == pair)
        body = self._scalar(query)
        return None if body is None else PairItem.model_validate_json(body)

    def items(self, queue: str, pairs: Collection[str]) -> dict[str, PairItem]:
        """The pairs of those ids, at most some hundreds."""
        columns = sa.select(_PAIRS.c.id, _PAIRS.c.body)
        query = columns.where(_PAIRS.c.queue == queue, _PAIRS.c.id.in_(pairs))
        return {row.id: PairItem.model_validate_json(row.body) for row in self._all(query)}

    def after(self, queue: str, position: int, limit: int) -> list[tuple[int, str, PairItem]]:
        """The next pairs in order of arrival: position, id, pair."""
        columns = sa.select(_PAIRS.c.position, _PAIRS.c.id, _PAIRS.c.body)
        later = columns.where(_PAIRS.c.queue == queue, _PAIRS.c.position > position)
        rows = self._all(later.order_by(_PAIRS.c.position).limit(limit))
        return [(row.position, row.id, PairItem.model_validate_json(row.body)) for row in rows]

    def unseen(self, queue: str, labeller: str) -> list[str]:
        """Ids of the pairs on which a person has no standing verdict."""
        labelled = sa.select(_VERDICTS.c.pair).where(_by(queue, "human", labeller), _STANDS)
        query = sa.select(_PAIRS.c.id).where(_PAIRS.c.queue == queue, _PAIRS.c.id.not_in(labelled))
        return [row.id for row in self._all(query)]

    def record(self, queue: str, kind: Kind, labeller: str, verdicts: Sequence[tuple[str, float | None]]) -> None:
        """Append verdicts, each a pair's id and a preference in the order of the stored answers."""
        rows = [
            {"queue": queue, "kind": kind, "labeller": labeller, "pair": pair, "preference": preference}
            for pair, preference in verdicts
        ]
        if rows:
            with self._database.writing() as connection:
                connection.execute(sa.insert(_VERDICTS), rows)

    def withdraw(self, queue: str, labeller: str) -> str | None:
        """Take back a person's latest standing verdict; returns the id of its pair, or None where there is none."""
        latest = sa.select(_VERDICTS.c.number, _VERDICTS.c.pair).where(_by(queue, "human", labeller), _STANDS)
        with self._database.writing() as connection:
            row = connection.execute(latest.order_by(_VERDICTS.c.number.desc()).limit(1)).first()
            if row is None:
                return None
            back = {"queue": queue, "kind": "human", "labeller": labeller, "pair": row.pair, "withdraws": row.number}
            connection.execute(sa.insert(_VERDICTS), back)
        return str(row.pair)

    def standing(self, queue: str) -> list[Label]:
        """The verdicts that count: the last of each labeller on each pair."""
        on_pair = (_PAIRS.c.queue == _VERDICTS.c.queue) & (_PAIRS.c.id == _VERDICTS.c.pair)
        joined = sa.select(_VERDICTS, _PAIRS.c.prompt, _PAIRS.c.generator_1, _PAIRS.c.generator_2).join(_PAIRS, on_pair)
        standing = joined.where(_VERDICTS.c.queue == queue, _STANDS)
        rows = self._all(standing.order_by(_VERDICTS.c.number))
        last = {(row.kind, row.labeller, row.pair): row for row in rows}
        return [_label(row) for row in last.values()]

    def progress(self) -> dict[str, tuple[int, dict[tuple[Kind, str], int]]]:
        """For each queue its size, and the number of pairs that each labeller has labelled."""
        sizes = sa.select(_PAIRS.c.queue, sa.func.count().label("n")).group_by(_PAIRS.c.queue)
        progress: dict[str, tuple[int, dict[tuple[Kind, str], int]]] = {}
        for row in self._all(sizes):
            progress[row.queue] = (row.n, {})
        by_labeller = (_VERDICTS.c.queue, _VERDICTS.c.kind, _VERDICTS.c.labeller)
        pairs = sa.func.count(_VERDICTS.c.pair.distinct()).label("n")
        labelled = sa.select(*by_labeller, pairs).where(_STANDS).group_by(*by_labeller)
        for row in self._all(labelled):
            _, counts = progress[row.queue]
            counts[row.kind, row.labeller] = row.n
        return progress

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _all(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._database.reading() as connection:
            return connection.execute(query).all()

    def _scalar(self, query: sa.Select[Any]) -> Any:
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one_or_none()


def _count(queue: str) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(_PAIRS).where(_PAIRS.c.queue == queue)


def _by(queue: str, kind: Kind, labeller: str) -> sa.ColumnElement[bool]:
    return (_VERDICTS.c.queue == queue) & (_VERDICTS.c.kind == kind) & (_VERDICTS.c.labeller == labeller)


def _label(row: sa.Row[Any]) -> Label:
    generators = (row.generator_1, row.generator_2)
    return Label(row.pair, row.prompt, row.kind, row.labeller, row.preference, generators)


def _row(queue: str, item: PairItem) -> dict[str, str | None]:
    content = item.model_dump(mode="json", exclude={"id"})
    generators = {key: item.meta[key].replace("\0", "") for key in ("generator_1", "generator_2") if key in item.meta}
    return {
        "queue": queue,
        "id": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "prompt": hashlib.sha256(item.text.encode()).hexdigest(),
        "generator_1": generators.get("generator_1"),
        "generator_2": generators.get("generator_2"),
        "body": item.model_dump_json(),
    }
