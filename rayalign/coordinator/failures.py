"""What to raise where several tasks ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence


def raise_first(outcomes: Sequence[object]) -> None:
    """Raise the first failure, out of any exception group; cancelled tasks are not failures."""
    for outcome in outcomes:
        while isinstance(outcome, BaseExceptionGroup):
            outcome = outcome.exceptions[0]
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
