"""OpenAI's endpoints, for hosted language models and, through `rayalign.annotator.stock`, for simulated annotators."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from rayalign.annotator import stock
from rayalign.annotator.api import Annotation, PairItem
from rayalign.annotator.completions import Delta, Envelope, Json, joined
from rayalign.annotator.web.gate import Stream
from rayalign.annotator.web.openai_bodies import (
    NEUTRAL_ANNOTATOR,
    NEUTRAL_HOSTED,
    Body,
    ChatRequest,
    ErrorReply,
    LegacyRequest,
    error_reply,
    refusal,
)
from rayalign.errors import RayalignError

logger = logging.getLogger(__name__)
Annotate = Callable[[Sequence[PairItem], str], Awaitable[list[Annotation]]]
"""pairs and an annotator's name -> one annotation for each pair, in their order"""
Room = Callable[[int], AbstractContextManager[None]]
"""holds room for so many answers while it is entered, or refuses"""
Pieces = AsyncGenerator[Delta, None]
"""an answer on its way; at least one piece, the last with the finish reason"""


class Hosted(Protocol):
    """A language model served inside the application."""

    def complete(self, messages: list[dict[str, str]] | str, arguments: Mapping[str, Any]) -> Pieces:
        """The answer piece by piece; closed early when the client of a stream goes away.

        Args:
            messages: a dialogue of `role` and `content`, or (legacy) a plain text to go on with.
            arguments: those given of max_tokens, temperature, top_p, seed, stop (a list of texts) and logprobs (how
                many likeliest tokens to tell beside each token's own log-prob).

        Raises:
            InputError: the prompt or an argument cannot be honoured.
            DeadlineError: the model did not answer in time.
        """


class _Route(APIRoute):
    """Tells every error in OpenAI's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except (RequestValidationError, HTTPException, RayalignError) as error:
                status, reply = error_reply(error)
                return JSONResponse(reply.model_dump(), status, getattr(error, "headers", None))

        return handler


def openai_router(
    annotate: Annotate, hosted: Mapping[str, Hosted], names: Collection[str], room: Room = lambda _: nullcontext()
) -> APIRouter:
    """POST /v1/chat/completions and /v1/completions, streamed too, and GET /v1/models.

    Args:
        annotate: asks an annotator.
        hosted: language models by name.
        names: those of the annotators, and of the pool; they go before `hosted`.
        room: for the answers of hosted models; `annotate` sees to its own.
    """
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply} for status in (400, 401, 402, 403, 404, 413, 429, 503)
    }
    router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=_Route, responses=responses)

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatRequest) -> Response:
        """Answer a dialogue, or judge the pair in it."""
        if body.model in names:
            texts = [message.text for message in body.messages]
            pair = next((text for text in texts if stock.is_pair(text)), texts[-1])
            answers, held = await _verdicts(annotate, body, [pair], body.tool), room(0)
        else:
            answers, held = [_model(hosted, body).complete(body.dialogue, body.arguments)], room(1)
        return await _reply(body, answers, Envelope(body.model, chat=True), held)

    @router.post("/completions", response_model=None)
    async def completions(body: LegacyRequest) -> Response:
        """Go on with each text, or judge the pair in each."""
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if body.model in names:
            answers, held = await _verdicts(annotate, body, prompts, None), room(0)
        else:
            model = _model(hosted, body)
            answers, held = [model.complete(prompt, body.arguments) for prompt in prompts], room(len(prompts))
        return await _reply(body, answers, Envelope(body.model, chat=False), held)

    @router.get("/models")
    async def models() -> Json:
        """Names that `model` takes."""
        entry = {"object": "model", "created": 0, "owned_by": "rayalign"}
        return {"object": "list", "data": [entry | {"id": name} for name in dict.fromkeys((*names, *hosted))]}

    return router


def _model(hosted: Mapping[str, Hosted], body: Body) -> Hosted:
    if body.model not in hosted:
        raise refusal(404, f"no model named {body.model!r}; GET /v1/models lists them", "model", "model_not_found")
    body.check(NEUTRAL_HOSTED)
    return hosted[body.model]


async def _verdicts(annotate: Annotate, body: Body, texts: Sequence[str], tool: str | None) -> list[Pieces]:
    """The stock client's replies of an annotator, one for each judge prompt."""
    body.check(NEUTRAL_ANNOTATOR)
    asked = [stock.read_pair(text) for text in texts]
    for form, _ in asked:
        if form == "weighted" and (body.alternatives or 0) < 2:
            raise refusal(400, "the form weighted is read from log-probs of two tokens: ask for them", "logprobs")
        if form == "tool" and tool is None:
            raise refusal(400, "the form tool is a function call: name one function in tools", "tools")
    pairs = [pair for _, pair in asked if not isinstance(pair, str)]
    found = iter(await annotate(pairs, body.model) if pairs else [])
    answers = []
    for form, pair in asked:
        if isinstance(pair, str):
            answers.append(stock.compose(form, None, pair))
        else:
            verdict = next(found)
            answers.append(stock.compose(form, verdict.preference, verdict.reason, tool=tool or ""))
    return [_one(answer) for answer in answers]


async def _one(answer: Delta) -> Pieces:
    yield answer


async def _reply(
    body: Body, answers: Sequence[Pieces], envelope: Envelope, held: AbstractContextManager[None]
) -> Response:
    if not body.stream:
        with held:
            return JSONResponse(envelope.whole(await _gathered(answers)))
    events = _events(answers, envelope, (body.stream_options or {}).get("include_usage", False), held)
    told = _told(events)
    await anext(told)
    return Stream(told, media_type="text/event-stream")


async def _gathered(answers: Sequence[Pieces]) -> list[Delta]:
    """All answers whole, written side by side; the first failure ends the others."""

    async def whole(pieces: Pieces) -> Delta:
        return joined([piece async for piece in pieces])

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(whole(pieces)) for pieces in answers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _events(
    answers: Sequence[Pieces], envelope: Envelope, with_usage: bool, held: AbstractContextManager[None]
) -> AsyncGenerator[str, None]:
    """Server-sent events, one choice after the other."""
    ends = []
    with held:
        for index, pieces in enumerate(answers):
            written: list[Delta] = []
            async with aclosing(pieces):
                async for piece in pieces:
                    yield _event(envelope.chunk(index, piece, first=not written))
                    written = [piece]
            ends += written
    if with_usage:
        yield _event(envelope.closing(ends))
    yield "data: [DONE]\n\n"


async def _told(events: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """The events; a failure on the way is the last one."""
    async with aclosing(events):
        first = await anext(events)
        yield ""  # before the status is sent, so that what cannot be answered at all is a plain error
        yield first
        try:
            async for event in events:
                yield event
        except RayalignError as error:
            logger.warning("a stream broke off: %s", error)
            yield _event(error_reply(error)[1].model_dump())


def _event(body: Json) -> str:
    return f"data: {json.dumps(body)}\n\n"
