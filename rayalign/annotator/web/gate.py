"""The ASGI layer before every route: it checks names, tokens and sizes on the path that the application sees."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayalign.annotator.web.access import CLIENT, Access, Refused
from rayalign.annotator.web.openai_bodies import error_reply
from rayalign.annotator.web.page import FILES

PUBLIC = frozenset({*FILES, "/favicon.ico", "/openapi.json", "/healthz", "/readyz"})
"""paths that need no token, since they show no verdict and no data"""
OPENAI = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models"})
"""paths whose errors have OpenAI's form"""


class Gate:
    """Refuses requests with a wrong Host, without a token or too large; notes the client of the others."""

    def __init__(self, app: ASGIApp, access: Access, max_body: int) -> None:
        self._app = app
        self._access = access
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        path = _path(scope)
        try:
            self._access.addressed(_text(headers.get(b"host")))
            if path not in PUBLIC:
                CLIENT.set(self._access.client(_text(headers.get(b"authorization"))))
            if (size := int(headers.get(b"content-length") or 0)) > self._max_body:
                most = f"at most {self._max_body}: send less at once"
                raise Refused(413, "too_large", f"a body of {size} bytes; {most}")
            await self._app(scope, self._counted(receive), send)
        except Refused as refused:
            await refusal(refused, scope)(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_body:  # FastAPI passes no other error of a body on
                raise HTTPException(413, f"the body is longer than {self._max_body} bytes; send less at once")
            return message

        return counted


class Stream(StreamingResponse):
    """The rest of a generator that has begun; closed also when the client goes, so that it frees its room."""

    def __init__(self, rest: AsyncGenerator[str, None], media_type: str) -> None:
        super().__init__(rest, media_type=media_type)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)


def refusal(refused: Refused, scope: Scope | None = None) -> JSONResponse:
    """The reply to a refused request; in OpenAI's form where the scope is one of their endpoints."""
    if scope is not None and _path(scope) in OPENAI:
        status, reply = error_reply(refused)
        return JSONResponse(reply.model_dump(), status, refused.headers)
    body: dict[str, Any] = refused.problem.model_dump()
    return JSONResponse({"error": body}, status_code=refused.status, headers=refused.headers)


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
