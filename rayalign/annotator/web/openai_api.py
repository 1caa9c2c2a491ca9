"""OpenAI's endpoints for simulated annotators; `alpaca_prompts` reads the judge prompts and writes the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from starlette.responses import StreamingResponse

from rayalign.annotator import alpaca_prompts
from rayalign.annotator.api import Annotation, PairItem
from rayalign.annotator.completions import Answer, Envelope, Json
from rayalign.annotator.web.errors import OpenAIRoute
from rayalign.annotator.web.openai_bodies import (
    Body,
    ChatRequest,
    ErrorReply,
    LegacyRequest,
    refusal,
)

Annotate = Callable[[Sequence[PairItem], str], Awaitable[list[Annotation]]]
"""pairs and an annotator's name -> one annotation for each pair, in their order"""


def openai_router(annotate: Annotate, names: Collection[str]) -> APIRouter:
    """POST /v1/chat/completions and /v1/completions, streamed too, and GET /v1/models.

    Args:
        annotate: has an annotator judge pairs.
        names: of the annotators, and of the pool.
    """
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorReply} for status in (400, 401, 402, 403, 404, 413, 429, 503)
    }
    router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=OpenAIRoute, responses=responses)

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatRequest) -> Response:
        """Judge the pair in a dialogue."""
        _check(body, names)
        texts = [message.text for message in body.messages]
        pair = next((text for text in texts if alpaca_prompts.is_pair(text)), texts[-1])
        answers = await _answers(annotate, body, [pair], body.tool)
        return _reply(body, answers, Envelope(body.model, chat=True))

    @router.post("/completions", response_model=None)
    async def completions(body: LegacyRequest) -> Response:
        """Judge the pair in each text."""
        _check(body, names)
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        answers = await _answers(annotate, body, prompts, None)
        return _reply(body, answers, Envelope(body.model, chat=False))

    @router.get("/models")
    async def models() -> Json:
        """Names that `model` takes."""
        entry = {"object": "model", "created": 0, "owned_by": "rayalign"}
        return {"object": "list", "data": [entry | {"id": name} for name in names]}

    return router


def _check(body: Body, names: Collection[str]) -> None:
    """Refuse an unknown model, and every field whose value is not implemented."""
    if body.model not in names:
        message = f"no model named {body.model!r}: GET /v1/models lists the annotators, and a model that answers "
        raise refusal(404, message + "freely is served by `vllm serve`", "model", "model_not_found")
    body.check()


async def _answers(annotate: Annotate, body: Body, texts: Sequence[str], tool: str | None) -> list[Answer]:
    """The replies that the stock client reads, one for each judge prompt."""
    prompts = [alpaca_prompts.read_pair(text) for text in texts]
    for form, _ in prompts:
        if form == "weighted" and (body.alternatives or 0) < 2:
            raise refusal(400, "the form weighted is read from log-probs of two tokens: ask for them", "logprobs")
        if form == "tool" and tool is None:
            raise refusal(400, "the form tool is a function call: name one function in tools", "tools")
    pairs = [pair for _, pair in prompts if not isinstance(pair, str)]
    annotations = iter(await annotate(pairs, body.model) if pairs else [])
    answers: list[Answer] = []
    for form, pair in prompts:
        if isinstance(pair, str):
            answers.append(alpaca_prompts.compose(form, None, pair))
        else:
            annotation = next(annotations)
            answers.append(alpaca_prompts.compose(form, annotation.preference, annotation.reason, tool=tool or ""))
    return answers


def _reply(body: Body, answers: Sequence[Answer], envelope: Envelope) -> Response:
    if not body.stream:
        return JSONResponse(envelope.whole(answers))
    with_usage = (body.stream_options or {}).get("include_usage", False)
    return StreamingResponse(_events(answers, envelope, with_usage), media_type="text/event-stream")


async def _events(answers: Sequence[Answer], envelope: Envelope, with_usage: bool) -> AsyncGenerator[str, None]:
    """Server-sent events, one for each answer."""
    for index, answer in enumerate(answers):
        yield _event(envelope.chunk(index, answer))
    if with_usage:
        yield _event(envelope.closing())
    yield "data: [DONE]\n\n"


def _event(body: Json) -> str:
    return f"data: {json.dumps(body)}\n\n"
