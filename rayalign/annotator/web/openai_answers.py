"""An annotator's answer in OpenAI's schema: chat and legacy, whole and as events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
FLOOR = -9999.0
"""what OpenAI writes for the log-probability of an impossible token"""
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
"""the `usage` of an annotator's answers: the budget counts what its judge spends"""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer."""

    text: str
    logprob: float
    """-inf for an impossible one"""
    top: Mapping[str, float] = field(default_factory=dict)
    """the likeliest tokens at its place -> log-probability"""


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of a reply."""

    text: str = ""
    finish_reason: Literal["stop", "tool_calls"] = "stop"
    tokens: tuple[Token, ...] = ()
    """the tokens, where their log-probs carry the verdict"""
    tool: tuple[str, str] | None = None
    """name and JSON arguments of a called function, in the place of text"""


class Envelope:
    """What surrounds the choices of one reply: its id, time and model."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        self._kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", "created": int(time.time())}
        self._model = model

    def whole(self, answers: Sequence[Answer]) -> Json:
        """The reply to a request without `stream`."""
        choices = [self._choice(index, answer, "message") for index, answer in enumerate(answers)]
        return self._wrap(self._kind, choices) | {"usage": NO_USAGE}

    def chunk(self, index: int, answer: Answer) -> Json:
        """The event of a stream that holds one answer."""
        return self._event([self._choice(index, answer, "delta")])

    def closing(self) -> Json:
        """The event after the last choice, with the usage alone."""
        return self._event([]) | {"usage": NO_USAGE}

    def _event(self, choices: list[Json]) -> Json:
        suffix = ".chunk" if self._chat else ""
        return self._wrap(self._kind + suffix, choices)

    def _wrap(self, kind: str, choices: list[Json]) -> Json:
        return self._head | {"object": kind, "model": self._model, "choices": choices}

    def _choice(self, index: int, answer: Answer, slot: str) -> Json:
        choice: Json = {"index": index, "finish_reason": answer.finish_reason, "logprobs": None}
        if answer.tokens:
            choice["logprobs"] = _chat_logprobs(answer.tokens)
            if not self._chat:
                choice["logprobs"] |= _legacy_logprobs(answer.tokens)
        if self._chat:
            return choice | {slot: _message(answer)}
        return choice | {"text": answer.text}


def _message(answer: Answer) -> Json:
    if answer.tool is None:
        return {"role": "assistant", "content": answer.text}
    name, arguments = answer.tool
    call = {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function"}
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [call | {"function": function}]}


def _chat_logprobs(tokens: Sequence[Token]) -> Json:
    content: list[Json] = []
    for token in tokens:
        top = [_logprob_entry(text, logprob) for text, logprob in token.top.items()]
        content.append(_logprob_entry(token.text, token.logprob) | {"top_logprobs": top})
    return {"content": content}


def _logprob_entry(text: str, logprob: float) -> Json:
    return {"token": text, "logprob": max(logprob, FLOOR), "bytes": list(text.encode())}


def _legacy_logprobs(tokens: Sequence[Token]) -> Json:
    """Fields added to the chat form, which alpaca_eval's log-prob parser reads on either endpoint."""
    top_logprobs: list[dict[str, float]] = []
    offsets: list[int] = []
    offset = 0
    for token in tokens:
        top_logprobs.append({text: max(logprob, FLOOR) for text, logprob in token.top.items()})
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [max(token.logprob, FLOOR) for token in tokens],
        "top_logprobs": top_logprobs,
        "text_offset": offsets,
    }
