"""The HTTP server's connections: deadlines for requests that do not arrive, and an orderly end.

    open connection --HEAD seconds--> its headers --WHOLE seconds--> its body --> the application
    drain           new requests get 503; those in progress are finished, or cut at the deadline

Ray Serve's proxy imports `server_middlewares` by its name before it starts its server (RAY_SERVE_HTTP_PROXY_CALLBACK_
IMPORT_PATH). Nothing here needs Ray.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from asyncio import Transport
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

import uvicorn.config
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayalign.annotator.asking.api import Problem

logger = logging.getLogger(__name__)
HEAD = 15.0
"""seconds from the opening of a connection, or the first byte of a further request, to the end of its headers"""
WHOLE = 120.0
"""seconds from there to the end of the body"""
MAX_HEAD = 64 << 10
"""bytes of a request line with its headers"""
DRAIN_PATH = "/-/drain"
DRAIN_HEADER = b"x-rayalign-drain"
DRAIN_SECRET = "RAYALIGN_DRAIN_SECRET"
"""the environment variable with the secret that a request to drain carries; without it nothing drains"""

_LAST_BYTES = 0.2
"""seconds in which the server sends the rest of the last reply"""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP connection, closed where a request is not whole in time; uvicorn itself waits for ever."""

    head, whole, max_head = HEAD, WHOLE, MAX_HEAD

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the headers of the first request."""
        super().connection_made(transport)
        self._await(self.head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._await(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Close a connection whose headers do not end."""
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > self.max_head:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Wait for the headers."""
        super().on_message_begin()
        self._in_head = True
        self._await(self.head)

    def on_headers_complete(self) -> None:
        """Wait for the body."""
        self._in_head = False
        self._await(self.whole)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole; what follows has uvicorn's keep-alive time."""
        self._await(None)
        super().on_message_complete()

    def _await(self, seconds: float | None) -> None:
        """Close the connection after so long; None: never."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.close)


class Drain:
    """The ASGI layer that counts requests in progress, and ends the service in order.

    A request to `DRAIN_PATH` with the secret is answered once no other request is in progress; from its beginning on
    all others are refused with 503.
    """

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app = app
        self._secret = secret.encode()
        self._in_progress = 0
        self._draining = False
        self._idle = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == DRAIN_PATH and self._is_allowed(scope):
            await self._drained()
            await JSONResponse({"in_progress": self._in_progress})(scope, receive, send)
        elif self._draining:
            await _going_away()(scope, receive, send)
        else:
            await self._counted(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(DRAIN_HEADER, b"")
        return bool(self._secret) and hmac.compare_digest(sent, self._secret)

    async def _drained(self) -> None:
        self._draining = True
        if self._in_progress:
            await self._idle.wait()

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._in_progress += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_progress -= 1
            if self._draining and not self._in_progress:
                self._idle.set()


def server_middlewares() -> list[Middleware]:
    """What Serve's proxy lays around its application; also gives its server the connections with deadlines."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
    return [Middleware(Drain, secret=os.environ.get(DRAIN_SECRET, ""))]


def drain(url: str, seconds: float) -> None:
    """Have the service at the URL, on this machine, finish its requests; at most for so long."""
    request = Request(url + DRAIN_PATH, headers={DRAIN_HEADER.decode(): os.environ.get(DRAIN_SECRET, "")})
    try:
        with urlopen(request, timeout=seconds) as reply:
            reply.read()
        time.sleep(_LAST_BYTES)
    except (OSError, HTTPException) as error:
        logger.warning("the service ends although it may have requests in progress: %s", error)


def _going_away() -> JSONResponse:
    problem = Problem(code="unavailable", message="the service is stopping; send the request again in a while")
    headers = {"Retry-After": "1", "Connection": "close"}
    return JSONResponse({"error": problem.model_dump()}, status_code=503, headers=headers)
