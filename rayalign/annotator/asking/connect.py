"""One annotator: of a service behind a URL, or of a pool in this process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from rayalign.annotator.asking.api import Annotation, Estimate, PairItem, PreferenceRequest
from rayalign.annotator.asking.client import AnnotatorClient, batches, item_of
from rayalign.annotator.asking.estimates import estimate
from rayalign.annotator.judges.verdicts import Pair
from rayalign.annotator.pool.build import build_pool
from rayalign.annotator.service_file import load_service
from rayalign.config import words
from rayalign.errors import InputError

Row = dict[str, Any]
_LARGE = 1000
"""pairs from which a job logs its cost even where it is nothing"""
_ROWS = 1024
"""pairs in progress at once in a pool of this process"""


class Annotator(Protocol):
    """Annotates files and stages; also a `Judge`."""

    def annotate(
        self, rows: Iterable[PairItem], *, seed: int = 0, both_orders: bool = False, flip: float = 0.0
    ) -> Iterator[Annotation]:
        """One annotation for each pair, in their order; few rows are in memory at a time."""

    def compare(self, pairs: Sequence[Pair], *, seed: int, flip: float = 0.0) -> list[float | None]:
        """As `Judge.compare`; a share `flip` of the verdicts is turned round, as label noise."""

    def estimate(self, rows: Iterable[PairItem], **options: Any) -> Estimate:
        """The estimated cost of `annotate` with the same rows and options now."""

    def close(self) -> None:
        """Close the connections."""


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
            for annotation in self._runner.run(self._in_order(request)):
                yield annotation.model_copy(update={"index": start + annotation.index})

    def compare(self, pairs: Sequence[Pair], *, seed: int, flip: float = 0.0) -> list[float | None]:
        """As `Annotator.compare`."""
        rows = [item_of(*pair) for pair in pairs]
        return [annotation.preference for annotation in self.annotate(rows, seed=seed, flip=flip)]

    def estimate(self, rows: Iterable[PairItem], **options: Any) -> Estimate:
        """As `Annotator.estimate`."""
        total = Estimate()
        counted: set[str] = set()
        for _, batch in batches(rows, _ROWS):
            total += estimate(self._pool, self._request(batch, **options), counted=counted)
        return total

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    def _request(self, pairs: Sequence[PairItem], **options: Any) -> PreferenceRequest:
        try:
            return PreferenceRequest(annotator=self._annotator, pairs=tuple(pairs), **options)
        except ValidationError as error:
            raise InputError(_first(error)) from None

    async def _in_order(self, request: PreferenceRequest) -> list[Annotation]:
        try:
            annotations = [annotation async for annotation in self._pool.annotate(request)]
        finally:
            await self._pool.drain()  # or a refused budget would leave requests unsettled
        return sorted(annotations, key=lambda annotation: annotation.index)


def announce(annotator: Annotator, rows: Iterable[PairItem], say: Callable[[str], object], **options: Any) -> None:
    """Report the estimated cost of a job that costs something or is large, before it begins.

    Raises:
        InputError: even the least cost is more than the budget has left.
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
    """The pair of a row with instruction, maybe input, output_1 and output_2.

    Raises:
        InputError: it is no pair; the message names `where`.
    """
    fields = {key: row[key] for key in PairItem.model_fields if key != "id" and row.get(key) is not None}
    try:
        return PairItem.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{where}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first problem as one sentence, after its place."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {words(first)}" if place else words(first)


def public(row: Row, annotation: Annotation) -> Row:
    """A row of annotations.json in the schema of alpaca_eval 0.6; fields that it lacks keep our names.

    `is_switched_outputs` says whether the judge saw the second answer first: its raw completion speaks of that order,
    the preference of the row's own.
    """
    public_row = {
        **row,
        "annotator": annotation.annotator,
        "preference": annotation.preference,
        "preference_raw_completion": _finite(annotation.raw_completion),
        "preference_price_per_example": annotation.price,
        "preference_time_per_example": annotation.seconds,
    }
    if annotation.raw_completion is not None:
        public_row["is_switched_outputs"] = annotation.switched
    if annotation.reason is not None:
        public_row["preference_reason"] = annotation.reason
    if annotation.consistent is not None:
        public_row["preference_consistent"] = annotation.consistent
    return public_row


def _finite(value: Any) -> Any:
    """A value with null for each number that JSON lacks, such as the log-prob of an impossible token."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def connect(where: str | None, annotator: str = "pool", *, deadline: float = 600.0) -> Annotator:
    """The annotator of a service (`http://...`), of a file (a path), or of the embedded pool (None)."""
    if where is not None and where.startswith(("http://", "https://")):
        return AnnotatorClient(where, annotator, deadline=deadline)
    return LocalAnnotator(None if where is None else Path(where), annotator)
