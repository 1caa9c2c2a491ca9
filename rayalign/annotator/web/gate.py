"""The ASGI layer before every route: it checks names, tokens and sizes on the path that the application sees."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayalign.annotator.web.access import CLIENT, Access, Refused
from rayalign.annotator.web.body_limits import check_values
from rayalign.annotator.web.openai_bodies import error_reply
from rayalign.annotator.web.page import FILES

PUBLIC = frozenset({*FILES, "/favicon.ico", "/openapi.json", "/healthz", "/readyz"})
"""paths that need no token, since they show no verdict and no data"""
OPENAI = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models"})
"""paths whose errors have OpenAI's form"""
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
"""methods whose body no route reads"""


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
            if scope["method"] not in _WITHOUT_BODY:
                body = await self._body(headers, receive)
                if body is None:
                    return
                check_values(body)
                receive = _replayed(body, receive)
            await self._app(scope, receive, send)
        except Refused as refused:
            await refusal(refused, scope)(scope, receive, send)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The whole body; None: the client went before its end.

        Raises:
            Refused: 413 as soon as it is known to be longer than allowed.
        """
        announced = headers.get(b"content-length") or b""
        self._check_size(int(announced) if announced.isdigit() else 0)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check_size(len(body))
            if not message.get("more_body", False):
                return bytes(body)

    def _check_size(self, size: int) -> None:
        if size > self._max_body:
            message = f"a body of more than {self._max_body} bytes; send less at once"
            raise Refused(413, "too_large", message)


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


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body that was read, then whatever comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
