"""Fields of rows, and prompts made from them: what readers share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

_TURN = re.compile(r"\n\n(Human|Assistant):")


def prompt_id(messages: Sequence[Message]) -> str:
    """An id made from the content alone."""
    text = json.dumps([[m.role, m.content] for m in messages])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def make_prompt(messages: Sequence[Message], meta: Mapping[str, str] | None = None) -> Prompt:
    """The dialogue as a prompt, its id made from its content."""
    return Prompt(prompt_id(messages), tuple(messages), meta or {})


def text_field(row: Row, key: str, where: str) -> str:
    """A text that the row must have."""
    value = row.get(key)
    if not isinstance(value, str):
        raise InputError(f"{where}: needs a text {key!r}; the row has {', '.join(map(str, row)) or 'nothing'}")
    return value


def instruction_prompt(row: Row, where: str) -> Prompt:
    """The prompt of a row with `instruction` and perhaps `input`."""
    instruction, extra = text_field(row, "instruction", where), row.get("input") or ""
    return make_prompt((Message("user", f"{instruction}\n\n{extra}" if extra else instruction),))


def row_prompt(row: Row, where: str) -> Prompt:
    """The prompt of a row with `prompt` or `messages`, and perhaps `meta`."""
    meta = _meta(row, where)
    if "messages" not in row:
        return make_prompt((Message("user", text_field(row, "prompt", where)),), meta)
    messages = messages_field(row, where)
    if messages[-1].role != "user":
        raise InputError(f"{where}: `messages` of a prompt must end with the user's turn")
    return make_prompt(messages, meta)


def _meta(row: Row, where: str) -> dict[str, str]:
    """Facts that a scorer reads and no model sees."""
    meta = row.get("meta") or {}
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise InputError(f"{where}: `meta` must be an object of texts, this is {meta!r}")
    return meta


def messages_field(row: Row, where: str) -> tuple[Message, ...]:
    """The turns of a row's `messages`."""
    turns = row["messages"]
    if not isinstance(turns, list) or not turns or not all(isinstance(t, dict) for t in turns):
        raise InputError(f"{where}: `messages` must be a list of objects with role and content")
    for turn in turns:
        if turn.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"{where}: the role of a message is system, user or assistant, not {turn.get('role')!r}")
    return tuple(Message(turn["role"], text_field(turn, "content", where)) for turn in turns)


def hh_dialogue(text: str, where: str) -> tuple[Message, ...]:
    """A dialogue in the notation of HH; neighbouring turns of one speaker become one turn."""
    lead, *parts = _TURN.split(text)
    if lead.strip() or not parts or parts[0] != "Human":
        raise InputError(
            f"{where}: a dialogue must open with '\\n\\nHuman:' and have '\\n\\nAssistant:' before each answer"
        )
    turns: list[Message] = []
    for speaker, body in zip(parts[::2], parts[1::2], strict=True):
        role: Literal["user", "assistant"] = "user" if speaker == "Human" else "assistant"
        if turns and turns[-1].role == role:
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n\n{body.strip()}")
        else:
            turns.append(Message(role, body.strip()))
    return tuple(turns)
