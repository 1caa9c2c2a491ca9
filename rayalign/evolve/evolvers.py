"""Who evolves prompts: the embedded world, or a language model by instruction."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rayalign.data.fields import prompt_id
from rayalign.data.paddock import evolve as paddock
from rayalign.evolve.wordings import OPERATORS, instruction, reply_text
from rayalign.types import Message, Prompt


@dataclass(frozen=True, slots=True)
class Request:
    """One new prompt to be made."""

    parent: Prompt
    operator: str
    seed: int


class Evolver(Protocol):
    """Makes new prompts of old ones."""

    def applicable(self, prompt: Prompt) -> Sequence[str]:
        """The operators that may be drawn for a prompt, in a fixed order."""

    async def evolve(self, requests: Sequence[Request]) -> Sequence[Prompt | None]:
        """A new prompt for each request; None where there is none."""


class EmbeddedEvolver:
    """The embedded world's own operators, with a true difficulty."""

    def __init__(self, operators: Sequence[str], pool: Sequence[Prompt]) -> None:
        self._operators = operators or paddock.OPERATORS
        self._pool = paddock.Frequencies.of(pool)

    def applicable(self, prompt: Prompt) -> Sequence[str]:
        """Those of the stage that the prompt has room for."""
        return [operator for operator in paddock.applicable(prompt) if operator in self._operators]

    async def evolve(self, requests: Sequence[Request]) -> Sequence[Prompt | None]:
        """New prompts with their tasks."""
        return [paddock.evolve(r.parent, r.operator, random.Random(r.seed), self._pool) for r in requests]


Complete = Callable[[Sequence[Prompt], Sequence[int]], Awaitable[Sequence[str | None]]]
"""prompts and a seed for each -> the answers of a language model, None where there is none"""


class WrittenEvolver:
    """A language model that rewrites prompts by instruction."""

    def __init__(self, operators: Sequence[str], complete: Complete, topic: str) -> None:
        """
        Args:
            topic: fact of a prompt that its descendants share; all others are lost, since they may no longer hold.
        """
        self._operators = operators or tuple(OPERATORS)
        self._complete = complete
        self._topic = topic

    def applicable(self, prompt: Prompt) -> Sequence[str]:
        """All of the stage."""
        return self._operators

    async def evolve(self, requests: Sequence[Request]) -> Sequence[Prompt | None]:
        """New prompts as the model wrote them."""
        instructions = [instruction(request.parent, request.operator) for request in requests]
        replies = await self._complete(instructions, [request.seed for request in requests])
        return [self._child(request.parent, reply) for request, reply in zip(requests, replies, strict=True)]

    def _child(self, parent: Prompt, reply: str | None) -> Prompt | None:
        if reply is None:
            return None
        messages = (*parent.messages[:-1], Message("user", reply_text(reply)))
        meta = {self._topic: parent.meta[self._topic]} if self._topic in parent.meta else {}
        return Prompt(prompt_id(messages), messages, meta)
