"""People's labels over HTTP: queues of pairs, blind and resumable; agreement and leaderboard of the labels."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from rayalign.annotator.asking.api import Annotation, PairItem
from rayalign.annotator.asking.bodies import MAX_ROWS, AnnotatorName, Model, at_most
from rayalign.annotator.asking.label_api import AgreementReply, Rank
from rayalign.annotator.store.labels import Kind, Label, LabelStore
from rayalign.annotator.web.access import Refused
from rayalign.errors import InputError

Annotate = Callable[[Sequence[PairItem], str], Awaitable[list[Annotation]]]
"""pairs and the name of an annotator -> an annotation for each"""
Name = Annotated[str, Field(pattern=r"^[\w.@+-][\w .@+-]{0,63}$")]
PairId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Reply = TypeVar("Reply")
_ROUND = 64
"""pairs that an annotator judges in one request"""
_PAGE = 64
"""labels of an export in memory at once"""


def _choice(value: float | None) -> float | None:
    if value not in (1.0, 1.5, 2.0, None):
        raise ValueError("must be 1 (the first shown is better), 2 (the second), 1.5 (a tie) or null (skipped)")
    return value


class Upload(Model):
    """Pairs for a queue; `meta.generator_1` and `meta.generator_2` name the models that wrote the answers."""

    queue: Name = "default"
    pairs: Annotated[tuple[PairItem, ...], Field(min_length=1, max_length=MAX_ROWS, fail_fast=True), at_most(MAX_ROWS)]


class Uploaded(Model):
    """The number of pairs that are new to the queue."""

    queue: str
    added: int
    pairs: int
    """in the queue"""


class Shown(Model):
    """A pair as one labeller sees it, without the origin of the answers."""

    queue: str
    pair: str
    instruction: str
    answers: tuple[str, str]
    labelled: int
    """by this labeller"""
    pairs: int
    """in the queue"""


class Undo(Model):
    """Takes back the labeller's latest verdict."""

    queue: Name = "default"
    labeller: Name


class VerdictRequest(Undo):
    """A person's verdict on a pair, in the order that was shown to them."""

    pair: PairId
    preference: Annotated[float | None, Field(strict=True), AfterValidator(_choice)]


class AskAnnotator(Model):
    """Has an annotator judge the queue's next pairs behind a position; 0 for the first."""

    queue: Name = "default"
    annotator: AnnotatorName
    after: int = Field(default=0, ge=0, lt=2**31)


class Asked(Model):
    """The result. Repeat with `after = next`, until there is none."""

    verdicts: int
    absent: int
    reason: str | None
    """of the first absent one"""
    next: int | None


class QueueProgress(Model):
    """One queue, and the number of its pairs that each labeller has labelled."""

    queue: str
    pairs: int
    humans: dict[str, int]
    annotators: dict[str, int]


class Figures(Protocol):
    """Figures of labels; `rayalign.annotator.store.label_figures` is one."""

    def agreement(self, queue: str, labels: Sequence[Label]) -> AgreementReply:
        """Everyone against everyone."""

    def leaderboard(self, labels: Sequence[Label]) -> list[Rank]:
        """Win rates of the generators."""


class _Labelling:
    def __init__(
        self, labels: LabelStore, annotate: Annotate, names: Callable[[], list[str]], figures: Figures
    ) -> None:
        self._labels, self._annotate, self._names, self._figures = labels, annotate, names, figures
        self._computing = asyncio.Semaphore(1)

    def upload(self, body: Upload) -> Uploaded:
        """Append pairs to a queue; pairs that it holds already stay."""
        try:
            added = self._labels.add(body.queue, body.pairs)
        except InputError as error:
            raise Refused(413, "too_large", str(error), "pairs") from None
        return Uploaded(queue=body.queue, added=added, pairs=self._labels.size(body.queue))

    def next(self, labeller: Annotated[Name, Query()], queue: Annotated[Name, Query()] = "default") -> Shown | Response:
        """The labeller's next pair, in an order of their own that is the same after a break; 204 when all are done."""
        left = self._labels.unseen(queue, labeller)
        if left:
            pair = min(left, key=lambda pair: _draw(labeller, pair))
            return self._shown(queue, pair, labeller, len(left))
        if not self._labels.size(queue):
            raise _no_queue(queue)
        return Response(status_code=204)

    def verdict(self, body: VerdictRequest) -> QueueProgress:
        """Append a verdict; a later one on the same pair replaces it. A skipped pair does not come back."""
        if body.labeller in self._names():
            message = f"{body.labeller} is the name of an annotator; label under another name"
            raise Refused(409, "invalid_request", message, "labeller")
        if self._labels.pair(body.queue, body.pair) is None:
            raise Refused(404, "unknown_pair", f"queue {body.queue} holds no such pair; ask for the next one", "pair")
        preference = body.preference
        if preference is not None and _switched(body.labeller, body.pair):
            preference = 3.0 - preference
        self._labels.record(body.queue, "human", body.labeller, [(body.pair, preference)])
        return next(progress for progress in self.progress() if progress.queue == body.queue)

    def undo(self, body: Undo) -> Shown | Response:
        """Take back the labeller's latest verdict and show its pair again; 204 when there is none."""
        pair = self._labels.withdraw(body.queue, body.labeller)
        if pair is None:
            return Response(status_code=204)
        return self._shown(body.queue, pair, body.labeller, len(self._labels.unseen(body.queue, body.labeller)))

    def progress(self) -> list[QueueProgress]:
        """All queues."""
        return [_progress(queue, *counts) for queue, counts in sorted(self._labels.progress().items())]

    async def ask(self, body: AskAnnotator) -> Asked:
        """Store an annotator's verdicts beside the people's; a failed one is absent and can be requested again."""
        if body.annotator not in self._names():
            message = f"no annotator {body.annotator!r}; there are {', '.join(self._names())}"
            raise Refused(404, "unknown_annotator", message, "annotator")
        rows = await run_in_threadpool(self._labels.after, body.queue, body.after, _ROUND)
        # Without their own ids, which different pairs of a queue may share and one request must not repeat.
        items = [item.model_copy(update={"id": None}) for _, _, item in rows]
        annotations = await self._annotate(items, body.annotator) if items else []
        verdicts: list[tuple[str, float | None]] = []
        reasons: list[str | None] = []
        for annotation in annotations:
            if annotation.preference is None:
                reasons.append(annotation.reason)
            else:
                verdicts.append((rows[annotation.index][1], annotation.preference))
        await run_in_threadpool(self._labels.record, body.queue, "annotator", body.annotator, verdicts)
        following = rows[-1][0] if len(rows) == _ROUND else None
        reason = reasons[0] if reasons else None
        return Asked(verdicts=len(verdicts), absent=len(reasons), reason=reason, next=following)

    def export(self, queue: Annotated[Name, Query()] = "default") -> StreamingResponse:
        """The standing verdicts as AlpacaFarm's rows, the answers in the order of the upload; skipped: null."""
        labels = self._labels.standing(queue)
        return StreamingResponse(self._exported(queue, labels), media_type="application/json")

    def _exported(self, queue: str, labels: Sequence[Label]) -> Iterator[str]:
        """A JSON list in parts, so that few rows are in memory at a time."""
        before = "["
        for start in range(0, len(labels), _PAGE):
            page = labels[start : start + _PAGE]
            items = self._labels.items(queue, {label.pair for label in page})
            rows = [json.dumps(_exported_row(label, items[label.pair])) for label in page]
            yield before + ",\n".join(rows)
            before = ",\n"
        yield "]" if labels else "[]"

    async def agreement(self, queue: Annotated[Name, Query()] = "default") -> AgreementReply:
        """Everyone against everyone, people and simulated annotators alike."""
        return await self._figured(queue, partial(self._figures.agreement, queue))

    async def leaderboard(self, queue: Annotated[Name, Query()] = "default") -> list[Rank]:
        """Win rates of the generators that the queue's pairs name."""
        return await self._figured(queue, self._figures.leaderboard)

    async def _figured(self, queue: str, figures: Callable[[Sequence[Label]], Reply]) -> Reply:
        """Figures of a queue's labels, beside the event loop; one request at a time has the cores."""

        def compute() -> Reply:
            return figures(self._labels.standing(queue))

        async with self._computing:
            return await run_in_threadpool(compute)

    def _shown(self, queue: str, pair: str, labeller: str, left: int) -> Shown:
        item, size = self._labels.pair(queue, pair), self._labels.size(queue)
        if item is None:
            raise _no_queue(queue)
        answers = (item.output_1, item.output_2)
        if _switched(labeller, pair):
            answers = (item.output_2, item.output_1)
        return Shown(queue=queue, pair=pair, instruction=item.text, answers=answers, labelled=size - left, pairs=size)


def labelling_router(
    labels: LabelStore, annotate: Annotate, names: Callable[[], list[str]], figures: Figures
) -> APIRouter:
    """The routes of queues, labels, agreement and leaderboard.

    Args:
        annotate: has one annotator judge pairs, such as through the service's cache.
        names: of the annotators.
        figures: computes agreement and leaderboard.
    """
    routes = _Labelling(labels, annotate, names, figures)
    router = APIRouter(tags=["labels"])
    empty: dict[int | str, dict[str, Any]] = {204: {"description": "nothing is left"}}
    add = router.add_api_route
    add("/v1/label/pairs", routes.upload, methods=["POST"], response_model=Uploaded)
    add("/v1/label/next", routes.next, response_model=Shown, responses=empty)
    add("/v1/label/verdicts", routes.verdict, methods=["POST"], response_model=QueueProgress)
    add("/v1/label/undo", routes.undo, methods=["POST"], response_model=Shown, responses=empty)
    add("/v1/label/annotate", routes.ask, methods=["POST"], response_model=Asked)
    add("/v1/label/progress", routes.progress, response_model=list[QueueProgress])
    add("/v1/label/export", routes.export, response_model=list[dict[str, Any]])
    add("/v1/agreement", routes.agreement, response_model=AgreementReply)
    add("/v1/leaderboard", routes.leaderboard, response_model=list[Rank])
    return router


def _progress(queue: str, pairs: int, counts: Mapping[tuple[Kind, str], int]) -> QueueProgress:
    humans = {name: count for (kind, name), count in counts.items() if kind == "human"}
    annotators = {name: count for (kind, name), count in counts.items() if kind == "annotator"}
    return QueueProgress(queue=queue, pairs=pairs, humans=humans, annotators=annotators)


def _draw(labeller: str, pair: str) -> bytes:
    return hashlib.sha256(f"{labeller}\0{pair}".encode()).digest()


def _switched(labeller: str, pair: str) -> bool:
    """Whether the labeller sees the second answer first; by the last bit, since the first ones order the queue."""
    return bool(_draw(labeller, pair)[-1] & 1)


def _exported_row(label: Label, item: PairItem) -> dict[str, Any]:
    verdict = {"annotator": label.labeller, "annotator_kind": label.kind, "preference": label.preference}
    return {**_alpaca(item), **verdict}


def _alpaca(item: PairItem) -> dict[str, Any]:
    inputs = {"instruction": item.text if item.messages else item.instruction, "input": item.input}
    return {**item.meta, "id": item.id, **inputs, "output_1": item.output_1, "output_2": item.output_2}


def _no_queue(queue: str) -> Refused:
    return Refused(404, "unknown_queue", f"there are no pairs in queue {queue}; upload some first", "queue")
