"""Judges without a model, for tests of what stands around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rayalign.annotator.budget import BudgetError
from rayalign.annotator.verdicts import Bill, Pair, Paying, Usage, Verdict
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
