"""What a prompted judge needs of its language model, wherever that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rayalign.errors import RayalignError

ChatMessage = Mapping[str, str]
"""one turn as OpenAI's schema has it: role, content, sometimes name"""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a language model and what it cost."""

    text: str
    """what it wrote; where it called a tool, that call's arguments"""
    choice: Mapping[str, Any] = field(default_factory=dict)
    """the whole choice in OpenAI's schema; `logprobs` is None or missing where the endpoint returned none"""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    price: float = 0.0
    """US dollars"""
    seconds: float = 0.0


class UpstreamError(RayalignError):
    """The model gave no answer, after every retry; the message says why, without secrets."""


class Completer(Protocol):
    """A language model, behind an endpoint or in this application. It bounds its own concurrency and retries."""

    async def complete(self, prompt: str | Sequence[ChatMessage], arguments: Mapping[str, Any]) -> Completion:
        """One answer to a dialogue, or to a text that a legacy endpoint continues.

        Args:
            arguments: of the request besides model and prompt: max_tokens, temperature, logprobs, tools ...

        Raises:
            UpstreamError: no answer within the deadline.
        """
