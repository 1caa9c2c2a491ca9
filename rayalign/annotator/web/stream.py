"""A reply that is sent while it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Stream(StreamingResponse):
    """The rest of a generator that has begun; closed also when the client goes, so that it holds nothing longer."""

    def __init__(self, rest: AsyncGenerator[str, None], media_type: str) -> None:
        super().__init__(rest, media_type=media_type)
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            await super().__call__(scope, receive, send)
