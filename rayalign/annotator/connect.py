"""One annotator, wherever it is: a service behind a URL, or a pool of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from rayalign.annotator.api import Annotation, Estimate, PairItem, PreferenceRequest
from rayalign.annotator.build import build_pool
from rayalign.annotator.client import AnnotatorClient, batches, item_of
from rayalign.annotator.estimates import estimate
from rayalign.annotator.files import load_service
from rayalign.annotator.verdicts import Pair
from rayalign.config import words
from rayalign.errors import InputError

Row = dict[str, Any]
_LARGE = 1000
"""pairs from which a job tells its cost though nothing is to be paid"""
_ROWS = 1024
"""pairs in progress at once in a pool of this process"""


class Annotator(Protocol):
    """What annotates files and stages; also a `Judge`."""

    def annotate(
        self, rows: Iterable[PairItem], *, seed: int = 0, both_orders: bool = False, flip: float = 0.0
    ) -> Iterator[Annotation]:
        """One annotation for each pair, in their order; few rows are held at a time."""

    def compare(self, pairs: Sequence[Pair], *, seed: int) -> list[float | None]:
        """As `Judge.compare`."""

    def estimate(self, rows: Iterable[PairItem], **options: Any) -> Estimate:
        """About what `annotate` with the same rows and options would cost now."""

    def close(self) -> None:
        """Give connections back."""


class LocalAnnotator:
    """The pool of a file (or the embedded one) in this process, with the file's cache and budget."""

    def __init__(self, file: Path | None, annotator: str = "pool") -> None:
        self._pool = build_pool(load_service(file))
        self._annotator = annotator
        self._runner = asyncio.Runner()

    def annotate(
        self, rows: Iterable[PairItem], *, seed: int = 0, both_orders: bool = False, flip: float = 0.0
    ) -> Iterator[Annotation]:
        """As `Annotator.annotate`."""
        for start, batch in batches(rows, _ROWS):
            request = self._request(batch, seed=seed, both_orders=both_orders, flip=flip)
            for annotation in self._runner.run(self._done(request)):
                yield annotation.model_copy(update={"index": start + annotation.index})

    def compare(self, pairs: Sequence[Pair], *, seed: int) -> list[float | None]:
        """As `Judge.compare`."""
        return [a.preference for a in self.annotate((item_of(*pair) for pair in pairs), seed=seed)]

    def estimate(self, rows: Iterable[PairItem], **options: Any) -> Estimate:
        """As `Annotator.estimate`."""
        seen: set[str] = set()
        requests = (self._request(part, **options) for _, part in batches(rows, _ROWS))
        parts = (estimate(self._pool, request, seen=seen) for request in requests)
        return sum(parts, Estimate())

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    def _request(self, pairs: Sequence[PairItem], **options: Any) -> PreferenceRequest:
        try:
            return PreferenceRequest(annotator=self._annotator, pairs=tuple(pairs), **options)
        except ValidationError as error:
            raise InputError(_first(error)) from None

    async def _done(self, request: PreferenceRequest) -> list[Annotation]:
        try:
            return sorted([a async for a in self._pool.annotate(request)], key=lambda a: a.index)
        finally:
            await self._pool.drain()  # or a refused budget would leave the rest unpaid for and held back


def announce(annotator: Annotator, rows: Iterable[PairItem], say: Callable[[str], object], **options: Any) -> None:
    """Before a job that costs or is large: say about what it will cost.

    Raises:
        InputError: even at the least that is more than the budget has left.
    """
    cost = annotator.estimate(rows, **options)
    if cost.verdicts or cost.pairs >= _LARGE:
        say(str(cost))
    if cost.dollars_left is not None and cost.least_price > cost.dollars_left:
        needed, left = f"${cost.least_price:.4g}", f"${cost.dollars_left:.4g}"
    elif cost.tokens_left is not None and cost.least_tokens > cost.tokens_left:
        needed, left = f"{cost.least_tokens:,} tokens", f"{cost.tokens_left:,}"
    else:
        return
    raise InputError(
        f"annotating these pairs takes at least {needed} and the budget has {left} left; nothing was sent: raise the "
        "limit under `budget`, or annotate fewer"
    )


def item_in(row: Row, where: str) -> PairItem:
    """What is asked of a row with instruction, maybe input, output_1 and output_2.

    Raises:
        InputError: it is no pair; the message says where.
    """
    known = {key: row[key] for key in PairItem.model_fields if key != "id" and row.get(key) is not None}
    try:
        return PairItem.model_validate(known)
    except ValidationError as error:
        raise InputError(f"{where}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), words(first))))


def public(row: Row, annotation: Annotation) -> Row:
    """A row of annotations.json as alpaca_eval 0.6 writes it; what it has no name for keeps ours."""
    found = {
        **row,
        "annotator": annotation.annotator,
        "preference": annotation.preference,
        "preference_raw_completion": annotation.raw_completion,
        "preference_price_per_example": annotation.price,
        "preference_time_per_example": annotation.seconds,
    }
    if annotation.reason is not None:
        found["preference_reason"] = annotation.reason
    if annotation.consistent is not None:
        found["preference_consistent"] = annotation.consistent
    return found


def connect(where: str | None, annotator: str = "pool", *, deadline: float = 600.0) -> Annotator:
    """The annotator of a service (`http://...`), of a file (a path), or of the embedded pool (None)."""
    if where is not None and where.startswith(("http://", "https://")):
        return AnnotatorClient(where, annotator, deadline=deadline)
    return LocalAnnotator(None if where is None else Path(where), annotator)
