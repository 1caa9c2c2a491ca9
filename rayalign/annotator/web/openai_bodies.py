"""Request bodies of OpenAI's endpoints, and the form of their errors.

Fields without effect are ignored. A value that would change the meaning of an answer and is not implemented is refused.
No message of ours may hold "rate ": alpaca_eval reads such an error as a rate limit and sends the request ten times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from rayalign.annotator.asking.bodies import MAX_MESSAGES, MAX_ROWS, at_most
from rayalign.annotator.endpoints.parsing import printable
from rayalign.annotator.web.access import refused
from rayalign.config import words
from rayalign.errors import RayalignError

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "functions": ([],), "function_call": ("none",),
    "response_format": ({"type": "text"},), "seed": (0,),
}  # fmt: skip
"""field -> the values, besides null, that change nothing"""


def _encodable(text: str) -> str:
    """The text; half a surrogate pair, which JSON can write and UTF-8 cannot, is a ValueError."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
_ShortText = Annotated[Text, Field(max_length=256)]
_MAX_TOOLS = 128
_MAX_PARTS = 1024
"""of one message"""
_MAX_STOPS = 16
_MAX_OPTIONS = 16


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class Body(_Loose):
    """What both endpoints take."""

    model: _ShortText
    """a name of GET /v1/models"""
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Text | Annotated[list[Text], Field(max_length=_MAX_STOPS, fail_fast=True), at_most(_MAX_STOPS)] | None = None
    stream: bool = False
    stream_options: Annotated[dict[str, bool] | None, at_most(_MAX_OPTIONS)] = None

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens the client requests at each place; None: no log-probs."""
        raise NotImplementedError

    def check(self) -> None:
        """Refuse every field with a value that is not implemented."""
        for name, allowed in NEUTRAL.items():
            value = getattr(self, name, None)
            if value is not None and value not in allowed:
                example = json.dumps(allowed[0])
                raise refusal(400, f"`{name}` is not supported for {self.model!r}: leave it out, or {example}", name)


class Part(_Loose):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class Function(_Loose):
    """What may be called."""

    name: Text


class Tool(_Loose):
    """A function on offer."""

    type: Literal["function"]
    function: Function


class ChatMessage(_Loose):
    """One turn."""

    role: str
    content: Text | Annotated[list[Part], Field(max_length=_MAX_PARTS, fail_fast=True), at_most(_MAX_PARTS)]

    @property
    def text(self) -> str:
        """Its parts together."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Body):
    """POST /v1/chat/completions."""

    messages: Annotated[
        list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True), at_most(MAX_MESSAGES)
    ]
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Annotated[list[Tool] | None, Field(max_length=_MAX_TOOLS, fail_fast=True), at_most(_MAX_TOOLS)] = None

    @property
    def alternatives(self) -> int | None:
        """As `Body.alternatives`."""
        if not self.logprobs:
            return None
        return self.top_logprobs or 0

    @property
    def tool(self) -> str | None:
        """The function to call, where the request names exactly one."""
        if self.tools is None or len(self.tools) != 1:
            return None
        return self.tools[0].function.name


class LegacyRequest(Body):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_ROWS, fail_fast=True), at_most(MAX_ROWS)]
    logprobs: int | None = Field(default=None, ge=0, le=20)

    @property
    def alternatives(self) -> int | None:
        """As `Body.alternatives`."""
        return self.logprobs


class ErrorInfo(BaseModel):
    """What is wrong, where, and the remedy."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """OpenAI's body of an error."""

    error: ErrorInfo


def refusal(status: int, message: str, param: str | None = None, code: str | None = None) -> HTTPException:
    """An error for a route of this router to raise; the router writes it in OpenAI's form."""
    return HTTPException(status, {"message": message, "param": param, "code": code})  # type: ignore[arg-type]


def error_reply(error: Exception) -> tuple[int, ErrorReply]:
    """Status and body for an error of validation, of the package, or an HTTPException (with a `Problem` as detail)."""
    status: int = 500
    info: Mapping[str, Any] = {"message": str(error)}
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        places = () if first["type"] == "json_invalid" else first["loc"][1:]
        named = [str(place) for place in places if "[" not in str(place)]  # without pydantic's names of types
        param = printable(".".join(named)) or None
        status, info = 400, {"message": f"{param or 'body'}: {words(first)}", "param": param}
    elif isinstance(error, HTTPException):
        detail: Any = error.detail
        status = error.status_code
        info = detail if isinstance(detail, dict) else {"message": str(detail)}
    elif isinstance(error, RayalignError):
        refusal_of_error = refused(error)
        status = 400 if refusal_of_error.status == 422 else refusal_of_error.status
        info = refusal_of_error.problem.model_dump()
    message = str(info.get("message")).encode(errors="replace").decode()
    param = info.get("param", info.get("field"))
    return status, ErrorReply(error=ErrorInfo(message=message, type=_kind(status), param=param, code=info.get("code")))


def _kind(status: int) -> str:
    """OpenAI's name for errors of a status."""
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
