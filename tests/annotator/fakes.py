"""Judges without a model, for tests of what stands around them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rayalign.annotator.verdicts import Pair, Usage, Verdict
from rayalign.types import Prompt, Score


class FakeJudge:
    """Prefers the longer answer, and notes what it was asked; `preference` answers always the same."""

    revision = "fake"
    batch = 4

    def __init__(self, preference: float | None = None, *, seconds: float = 0.0, price: float = 0.0) -> None:
        self.preference = preference
        self.seconds = seconds
        self.price = price
        self.asked: list[Pair] = []

    async def judge(self, pairs: Sequence[Pair], *, seed: int) -> list[Verdict]:
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
