"""What a language model says piece by piece, and how OpenAI's schema writes it: chat and legacy, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rayalign.annotator.verdicts import Usage

Json = dict[str, Any]
FLOOR = -9999.0
"""what OpenAI writes for the log-probability of an impossible token"""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token."""

    text: str
    logprob: float
    """-inf for an impossible one"""
    top: Mapping[str, float] = field(default_factory=dict)
    """the likeliest tokens at its place -> log-probability"""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer."""

    text: str = ""
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    """set on the last piece"""
    tokens: tuple[Token, ...] = ()
    """of this piece, where log-probs were asked for"""
    tool: tuple[str, str] | None = None
    """name and JSON arguments of a called function, in the place of text"""
    usage: Usage | None = None
    """of the whole answer, on the last piece"""


def joined(pieces: Sequence[Delta]) -> Delta:
    """The whole answer."""
    last = pieces[-1]
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    return Delta("".join(piece.text for piece in pieces), last.finish_reason, tokens, last.tool, last.usage)


class Envelope:
    """What surrounds the choices of one reply: its id, time and model."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        self._kind = "chat.completion" if chat else "text_completion"
        self._head = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}", "created": int(time.time())}
        self._model = model

    def whole(self, answers: Sequence[Delta]) -> Json:
        """The reply to a request that is not streamed."""
        choices = [self._choice(index, answer, "message") for index, answer in enumerate(answers)]
        return self._wrap(self._kind, choices) | {"usage": total(answers)}

    def chunk(self, index: int, piece: Delta, *, first: bool) -> Json:
        """One event of a stream; the first of each choice names the role."""
        choice = self._choice(index, piece, "delta")
        if self._chat and not first:
            del choice["delta"]["role"]
        return self._wrap(self._kind + (".chunk" if self._chat else ""), [choice])

    def closing(self, answers: Sequence[Delta]) -> Json:
        """The event after the last choice, with the usage alone."""
        return self._wrap(self._kind + (".chunk" if self._chat else ""), []) | {"usage": total(answers)}

    def _wrap(self, kind: str, choices: list[Json]) -> Json:
        return self._head | {"object": kind, "model": self._model, "choices": choices}

    def _choice(self, index: int, answer: Delta, slot: str) -> Json:
        choice: Json = {"index": index, "finish_reason": answer.finish_reason, "logprobs": None}
        if answer.tokens:
            choice["logprobs"] = _chat_logprobs(answer.tokens) | ({} if self._chat else _legacy_logprobs(answer.tokens))
        return choice | ({slot: _message(answer)} if self._chat else {"text": answer.text})


def total(answers: Sequence[Delta]) -> Json:
    """The `usage` of a reply."""
    used = [answer.usage for answer in answers if answer.usage is not None]
    prompt, completion = sum(u.prompt_tokens for u in used), sum(u.completion_tokens for u in used)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _message(answer: Delta) -> Json:
    if answer.tool is None:
        return {"role": "assistant", "content": answer.text}
    name, arguments = answer.tool
    call = {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function"}
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [call | {"function": function}]}


def _chat_logprobs(tokens: Sequence[Token]) -> Json:
    def entry(text: str, logprob: float) -> Json:
        return {"token": text, "logprob": max(logprob, FLOOR), "bytes": list(text.encode())}

    return {
        "content": [
            entry(t.text, t.logprob) | {"top_logprobs": [entry(text, logprob) for text, logprob in t.top.items()]}
            for t in tokens
        ]
    }


def _legacy_logprobs(tokens: Sequence[Token]) -> Json:
    """Added to the chat form, which alpaca_eval's log-prob parser reads whichever endpoint it asked."""
    offsets = [sum(len(t.text) for t in tokens[:i]) for i in range(len(tokens))]
    return {
        "tokens": [t.text for t in tokens],
        "token_logprobs": [max(t.logprob, FLOOR) for t in tokens],
        "top_logprobs": [{text: max(logprob, FLOOR) for text, logprob in t.top.items()} for t in tokens],
        "text_offset": offsets,
    }
