"""Judges without a model and clients that go away, for tests of what stands around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from rayalign.annotator.judges.verdicts import Bill, Pair, Paying, Usage, Verdict
from rayalign.annotator.store.budget import BudgetError
from rayalign.types import Prompt, Score


class Ledger:
    """Lets `attempts` requests be sent, and keeps what each could cost and what it cost."""

    def __init__(self, attempts: int = 1 << 30) -> None:
        self.attempts = attempts
        self.most: list[Usage] = []
        self.bills: list[Bill] = []

    @property
    def cost(self) -> Usage:
        return sum((bill.cost for bill in self.bills), Usage())

    @asynccontextmanager
    async def paying(self, most: Usage, wait: float, lease: float) -> AsyncIterator[Bill]:
        if len(self.bills) == self.attempts:
            raise BudgetError("the budget is spent")
        self.most.append(most)
        self.bills.append(bill := Bill())
        yield bill


class FakeJudge:
    """Prefers the longer answer, and notes what it was asked; `preference` answers always the same."""

    revision = "fake"
    batch = 4

    def __init__(self, preference: float | None = None, *, seconds: float = 0.0, price: float = 0.0) -> None:
        self.preference = preference
        self.seconds = seconds
        self.price = price
        self.asked: list[Pair] = []

    async def judge(self, pairs: Sequence[Pair], *, seed: int, paying: Paying) -> list[Verdict]:
        if not self.price:
            return await self._judged(pairs)
        cost = Usage(10 * len(pairs), len(pairs), self.price * len(pairs))
        try:
            async with paying(cost, 0.0, 60.0) as bill:
                bill.cost = cost
                return await self._judged(pairs)
        except BudgetError as error:
            return [Verdict(None, str(error)) for _ in pairs]

    async def _judged(self, pairs: Sequence[Pair]) -> list[Verdict]:
        self.asked += pairs
        await asyncio.sleep(self.seconds)
        return [self._verdict(*pair) for pair in pairs]

    async def scores(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(float(len(answer))) if answer else Score(None, "empty") for _, answer in items]

    def _verdict(self, prompt: Prompt, first: str, second: str) -> Verdict:
        if "broken" in prompt.messages[-1].content:
            return Verdict(None, "the judge broke", usage=Usage(10, 1, self.price))
        gap = len(second) - len(first)
        longer = 1.5 if gap == 0 else 1.0 + (gap > 0)
        return Verdict(longer if self.preference is None else self.preference, usage=Usage(10, 1, self.price))


async def status_after_a_drop(app: ASGIApp, path: str, body: dict[str, Any]) -> int:
    """Of a request like one whose client went away before the reply, while that one's error is still held."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps({**body, "stream": True}).encode()}

    async def send(message: Any) -> None:
        raise OSError("the client is gone")

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "POST", "path": path, "headers": headers}
    with pytest.raises(ClientDisconnect) as held:
        await app({**scope, "query_string": b""}, receive, send)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as again:
        status = (await again.post(path, json=body)).status_code
    assert held.tb is not None
    return status
