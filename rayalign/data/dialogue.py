"""Turns of a dialogue as published data sets write them: `role` and `content`, or ShareGPT's `from` and `value`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from rayalign.errors import InputError
from rayalign.types import Message

Role = Literal["system", "user", "assistant"]
ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "human": "user",
        "prompter": "user",
        "assistant": "assistant",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "model": "assistant",
        "bot": "assistant",
    }
)
"""what public data sets call a speaker"""


def described(value: Any) -> str:
    """What a value of a row is, for people."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "a text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def dialogue(value: Any, name: str, where: str) -> tuple[Message, ...]:
    """The turns of a list.

    Args:
        name: of the field that holds it, for the message of an error.

    Raises:
        InputError: it is no list of turns with texts.
    """
    if not isinstance(value, list):
        raise InputError(
            f"{where}: `{name}` must be a list of objects with role and content, but it is {described(value)}"
        )
    if not value:
        raise InputError(f"{where}: `{name}` must be a list of objects with role and content, but it is empty")
    return tuple(_turn(turn, f"{where}: `{name}`, turn {number}") for number, turn in enumerate(value, start=1))


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise InputError(f"{where}: a turn must be an object with role and content, but it is {described(turn)}")
    role = turn.get("role", turn.get("from"))
    known_role = ROLES.get(role) if isinstance(role, str) else None
    if known_role is None:
        raise InputError(f"{where}: the role of a message is system, user or assistant, not {role!r}")
    if turn.get("tool_calls"):
        raise InputError(f"{where}: calls a tool, and no tools are trained; leave such rows out")
    key = "content" if "content" in turn or "value" not in turn else "value"
    return Message(known_role, _content(turn.get(key), key, where))


def _content(value: Any, key: str, where: str) -> str:
    """A text, also where it comes in parts, as for models that read images too."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InputError(f"{where}: its {key} must be a text, but it is {described(value)}")
    texts: list[str] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else part
        if kind not in (None, "text") or not isinstance(text, str):
            raise InputError(
                f"{where}: its {key} has a part of type {kind or described(part)}; only texts are read, so leave such "
                "rows out"
            )
        texts.append(text)
    return "".join(texts)
