"""The contract of a prompted judge's language model, wherever that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rayalign.annotator.judges.verdicts import Paying, Usage
from rayalign.errors import RayalignError

ChatMessage = Mapping[str, str]
"""one turn as OpenAI's schema has it: role, content, sometimes name"""
_TURN = 8
"""tokens around a turn"""
_PROMPTED = ("tools", "functions", "response_format")
"""arguments that become part of the prompt"""
_LIMITS = ("max_tokens", "max_completion_tokens")

_NOTHING = Usage()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a language model and what it cost."""

    text: str
    """the answer; of a tool call its arguments"""
    choice: Mapping[str, Any] = field(default_factory=dict)
    """the whole choice in OpenAI's schema; `logprobs` is None or missing where the endpoint returned none"""
    usage: Usage = _NOTHING
    """of all attempts, and the seconds until the answer"""


class CompletionError(RayalignError):
    """The model gave no answer, after every retry; the message says why, without secrets.

    Args:
        usage: the cost of the attempts.
    """

    def __init__(self, message: str, usage: Usage = _NOTHING) -> None:
        super().__init__(message)
        self.usage = usage


class LanguageModel(Protocol):
    """A language model, behind an endpoint or in this application. It bounds its own concurrency and retries."""

    @property
    def origin(self) -> Mapping[str, str]:
        """Resolved settings of the judge: its endpoint's address, its model with the state of its files."""

    async def complete(
        self, prompt: str | Sequence[ChatMessage], arguments: Mapping[str, Any], paying: Paying
    ) -> Completion:
        """One answer to a dialogue, or to a text that a legacy endpoint continues.

        Args:
            arguments: of the request besides model and prompt: max_tokens, temperature, logprobs, tools ...
            paying: around every attempt.

        Raises:
            CompletionError: no answer within the deadline, or no budget for it.
        """


def limited(arguments: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """The arguments with a limit to the answer: where they have none, or null, that of the config."""
    present = {name: value for name, value in arguments.items() if value is not None or name not in _LIMITS}
    if "max_completion_tokens" in present:
        return present
    return {"max_tokens": max_tokens, **present}


def bound(
    prompt: str | Sequence[ChatMessage], arguments: Mapping[str, Any], bytes_per_token: int = 1
) -> tuple[int, int]:
    """The most tokens that a prompt and its answers can take, whatever the script: a token is at least one byte."""
    texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    sizes = [sum(len(text.encode("utf-8", "replace")) + _TURN for text in texts)]
    sizes += [len(json.dumps(arguments[key]).encode()) for key in _PROMPTED if arguments.get(key)]
    longest = int(arguments.get("max_completion_tokens") or arguments["max_tokens"])
    answers = max(int(arguments.get(name) or 1) for name in ("n", "best_of"))
    return sum(-(-size // bytes_per_token) for size in sizes), longest * answers
