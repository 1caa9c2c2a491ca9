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
    return " ".join(text.replace(key, "***").split())[:300]
