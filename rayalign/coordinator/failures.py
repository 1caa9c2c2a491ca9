"""What to raise where several tasks ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rayalign.errors import ActorError


def raise_first(outcomes: Sequence[object]) -> None:
    """Raise the first failure, out of any exception group; cancelled tasks are not failures."""
    for outcome in outcomes:
        while isinstance(outcome, BaseExceptionGroup):
            outcome = outcome.exceptions[0]
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


def explain_restart(role: str, text: str) -> ActorError:
    """The error of an offline stage that failed twice; the last line of the text names the cause of the second time."""
    lines = text.strip().splitlines()
    tail = "\n".join(lines[-15:-1])
    return ActorError(f"train:{role} failed, and again after a restart: {lines[-1]}\n{tail}")
