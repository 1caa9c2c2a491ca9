"""Requests and replies of the served policy, in OpenAI's form with one field more: `weights`."""

from __future__ import annotations

import json
import time
import uuid
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import Field

from rayalign.annotator.web.openai_bodies import NEUTRAL, ChatRequest, Text, refusal
from rayalign.config import Profile
from rayalign.rollout.chat import Answer
from rayalign.serving.profiles import BASE

Json = dict[str, Any]
_OWN = ("weights",)
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    **{name: values for name, values in NEUTRAL.items() if name != "seed"},
    "tools": ([],),
    "logprobs": (False,),
    "logit_bias": ({},),
}
"""field -> the values, besides null, that change nothing"""
_SAMPLING = ("temperature", "top_p", "top_k", "seed", "stop", "presence_penalty", "frequency_penalty")
"""fields that the engine takes under the same name"""


class PolicyRequest(ChatRequest):
    """POST /v1/chat/completions."""

    weights: dict[Text, float] | None = None
    """id of a preference -> its weight in the merge, with the model `base`"""
    top_k: int | None = Field(default=None, ge=0)
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    stop: (
        Annotated[Text, Field(min_length=1)]
        | Annotated[list[Annotated[Text, Field(min_length=1)]], Field(max_length=16)]
        | None
    ) = None

    @property
    def turns(self) -> list[dict[str, str]]:
        """The dialogue."""
        return [{"role": message.role, "content": message.text} for message in self.messages]

    @property
    def sampling(self) -> dict[str, Any]:
        """The engine's settings; what is not set is the engine's default."""
        settings = {name: getattr(self, name) for name in _SAMPLING}
        settings["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return (self.stream_options or {}).get("include_usage", False)

    def check(self) -> None:
        """Refuse every field with a value that is not implemented, and a misspelt field of ours."""
        for name, neutral in _UNSUPPORTED.items():
            value = getattr(self, name, None)
            if value is not None and value not in neutral:
                example = json.dumps(neutral[0])
                raise refusal(400, f"`{name}` is not supported by a served policy: leave it out, or {example}", name)
        for name in self.model_extra or {}:
            near = get_close_matches(name, _OWN, n=1, cutoff=0.7)
            if near:
                raise refusal(400, f"there is no field `{name}`; did you mean {near[0]}?", name)


class Reply:
    """The reply to one request, whole or as the events of a stream."""

    def __init__(self, profile: Profile) -> None:
        self._head: Json = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": str(profile) or BASE,
        }

    def whole(self, answer: Answer) -> Json:
        """The reply to a request without `stream`."""
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(answer)}

    def first(self) -> str:
        """The event that opens a stream."""
        return self._event([_delta({"role": "assistant", "content": ""}, None)])

    def piece(self, text: str) -> str:
        """The event of a piece of text."""
        return self._event([_delta({"content": text}, None)])

    def last(self, answer: Answer, *, with_usage: bool) -> str:
        """The events that close a stream."""
        events = self._event([_delta({}, answer.finish_reason)])
        if with_usage:
            events += self._event([], usage=_usage(answer))
        return f"{events}data: [DONE]\n\n"

    def _event(self, choices: list[Json], **more: Any) -> str:
        body = {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(body)}\n\n"


def error_event(body: Json) -> str:
    """The last event of a stream that failed."""
    return f"data: {json.dumps(body)}\n\n"


def _delta(delta: Json, finish_reason: str | None) -> Json:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _usage(answer: Answer) -> Json:
    total = answer.prompt_tokens + answer.completion_tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": total,
    }
