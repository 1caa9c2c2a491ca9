"""Several waits at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def together(*waits: Awaitable[T]) -> list[T]:
    """All answers, once every call has ended. Raises the first failure; later ones mostly follow from it."""
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    answers: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        answers.append(outcome)
    return answers
