"""Parsing the replies of OpenAI-compatible endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

_THOUGHT_START, _THOUGHT_END = "<think>", "</think>"


def text_of(choice: Mapping[str, Any]) -> str:
    """The text of a chat or a legacy choice; of parts those that are texts; of a tool call its arguments.

    Raises:
        TypeError, KeyError, IndexError, AttributeError: it is no choice, or its content is no text.
    """
    text = choice["text"] if "text" in choice else choice["message"].get("content")
    if isinstance(text, list):
        text = "".join(part["text"] for part in text if part["type"] == "text")
    if not text and (calls := (choice.get("message") or {}).get("tool_calls")):
        text = calls[0]["function"]["arguments"]
    if text is not None and not isinstance(text, str):
        raise TypeError("the answer is no text")
    return text or ""


def refusal_in(reply: Mapping[str, Any]) -> str | None:
    """What a reply says that holds an error in the place of an answer, though its status is 200."""
    error = reply.get("error")
    if not error or reply.get("choices"):
        return None
    message = error.get("message") if isinstance(error, Mapping) else error
    return str(message or error)


def after_thoughts(text: str) -> str:
    """What follows the block in which a reasoning model thought; empty where the block never ends."""
    if _THOUGHT_END in text:
        return text.rpartition(_THOUGHT_END)[2].lstrip()
    return "" if text.lstrip().startswith(_THOUGHT_START) else text


def counted(usage: Any, name: str, most: int) -> int:
    """The number of tokens in a reply's `usage`; the most that it can be, where that is no such number."""
    count = usage.get(name) if isinstance(usage, Mapping) else None
    return count if type(count) is int and 0 <= count < 2**31 else most


def encodable(value: Any, depth: int = 64) -> Any:
    """A value of JSON with `?` for each half of a surrogate pair, which UTF-8 cannot hold: an emoji cut in two.

    Raises:
        RecursionError: nested more deeply than any reply that is parsed.
    """
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if not depth:
        raise RecursionError
    if isinstance(value, Mapping):
        return {encodable(key): encodable(inner, depth - 1) for key, inner in value.items()}
    return [encodable(inner, depth - 1) for inner in value] if isinstance(value, list) else value


def retry_after(header: str | None, now: float) -> float:
    """Seconds from now (unix seconds); 0 where the header is missing or makes no sense (RFC 9110, 10.2.3)."""
    if not header:
        return 0.0
    try:
        if header.strip().replace(".", "", 1).isdigit():
            return float(header)
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError, TypeError, LookupError):
        return 0.0


def plain(text: str, key: str) -> str:
    """The start of an endpoint's message, on one line, without the key."""
    return str(encodable(" ".join(text.replace(key, "***").split())[:300]))
