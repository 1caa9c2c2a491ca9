"""Reading what an OpenAI-compatible endpoint says."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any


def text_of(choice: Mapping[str, Any]) -> str:
    """What was said, of a chat or a legacy choice; where a tool was called, that call's arguments.

    Raises:
        TypeError, KeyError, IndexError, AttributeError: it is no choice, or says no text.
    """
    said = choice["text"] if "text" in choice else choice["message"].get("content")
    if not said and (calls := (choice.get("message") or {}).get("tool_calls")):
        said = calls[0]["function"]["arguments"]
    if said is not None and not isinstance(said, str):
        raise TypeError("the answer is no text")
    return said or ""


def counted(usage: Any, name: str, most: int) -> int:
    """How many tokens a reply says that it took; the most that it can have, where what it says is no such number."""
    told = usage.get(name) if isinstance(usage, Mapping) else None
    return told if type(told) is int and 0 <= told < 2**31 else most


def encodable(value: Any, depth: int = 64) -> Any:
    """A value of JSON with `?` for each half of a surrogate pair, which UTF-8 cannot hold: an emoji cut in two.

    Raises:
        RecursionError: nested more deeply than anything that is read, and than can be told on.
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
    except ValueError:
        return 0.0


def plain(text: str, key: str) -> str:
    """The start of a message of others, on one line, without the key."""
    return str(encodable(" ".join(text.replace(key, "***").split())[:300]))
