"""Fields of rows, and prompts made from them: what readers share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rayalign.data.dialogue import described, dialogue
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

_TURN = re.compile(r"\n\n(Human|Assistant):")
DIALOGUES = ("messages", "conversations", "conversation")
"""keys of a row that hold a whole dialogue"""
QUESTIONS = ("prompt", "question", "query")
"""keys of a row that hold what is asked"""
ANSWERS = ("answer", "response", "completion", "output")
"""keys of a row that hold one answer"""
_SYSTEM = ("system", "system_prompt")
_UNREAD = ("images", "image", "videos", "audios", "audio", "tools", "functions")
"""keys that change what a row means, and that no text model trained here reads"""


def prompt_id(messages: Sequence[Message]) -> str:
    """An id made from the content alone."""
    text = json.dumps([[m.role, m.content] for m in messages])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def make_prompt(messages: Sequence[Message], meta: Mapping[str, str] | None = None) -> Prompt:
    """The dialogue as a prompt, its id made from its content."""
    return Prompt(prompt_id(messages), tuple(messages), meta or {})


def first_present(row: Row, keys: Sequence[str]) -> str | None:
    """The first of these keys that the row has a value for."""
    return next((key for key in keys if row.get(key) is not None), None)


def text_field(row: Row, key: str, where: str) -> str:
    """A text that the row must have."""
    if key not in row:
        raise InputError(f"{where}: needs a text {key!r}; the row has {', '.join(map(str, row)) or 'nothing'}")
    value = row[key]
    if not isinstance(value, str):
        raise InputError(f"{where}: needs a text {key!r}, but there it is {described(value)}")
    return value


def answer_field(row: Row, key: str, where: str) -> str:
    """An answer that the row must have: a text, or a list of one turn of the assistant."""
    if not isinstance(row.get(key), list):
        return text_field(row, key, where)
    turns = dialogue(row[key], key, where)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise InputError(f"{where}: `{key}` must be one turn of the assistant; put several turns into `messages`")
    return turns[0].content


def optional_text(row: Row, key: str, where: str) -> str:
    """A text that the row may have; empty where it is absent."""
    return "" if row.get(key) is None else text_field(row, key, where)


def number_field(row: Row, key: str, where: str) -> float:
    """A number that the row must have; a table has it as a text."""
    value = row.get(key)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float):
        what = repr(value) if isinstance(value, str) else described(value)
        raise InputError(f"{where}: needs a number {key!r}, but there it is {what}")
    return float(value)


def instruction_prompt(row: Row, where: str) -> Prompt:
    """The prompt of a row with `instruction` and perhaps `input`, `system` and `history`."""
    instruction, extra = text_field(row, "instruction", where), optional_text(row, "input", where)
    return dialogue_prompt(row, (Message("user", f"{instruction}\n\n{extra}" if extra else instruction),), where)


def row_prompt(row: Row, where: str) -> Prompt:
    """The prompt of a row with a dialogue or a question, and perhaps `system`, `history` and `meta`."""
    key = first_present(row, DIALOGUES)
    if key is None:
        return question_prompt(row, where)
    messages = dialogue(row[key], key, where)
    if messages[-1].role != "user":
        raise InputError(
            f"{where}: `{key}` of a prompt must end with the user's turn; one that ends with the answer is the format "
            "`demonstrations`"
        )
    return dialogue_prompt(row, messages, where)


def question_prompt(row: Row, where: str) -> Prompt:
    """The prompt of a row with a question, which is one user turn or a list of turns."""
    key = first_present(row, QUESTIONS)
    if key is None and "instruction" in row:
        return instruction_prompt(row, where)
    key = key or QUESTIONS[0]
    if isinstance(row.get(key), list):
        return dialogue_prompt(row, dialogue(row[key], key, where), where)
    return dialogue_prompt(row, (Message("user", text_field(row, key, where)),), where)


def dialogue_prompt(row: Row, turns: Sequence[Message], where: str) -> Prompt:
    """The prompt of these turns, behind the row's `system` and `history`.

    Raises:
        InputError: the row has images, tools or a second system turn.
    """
    for key in _UNREAD:
        if row.get(key) and row[key] != "[]":
            raise InputError(
                f"{where}: has {key!r}, which no model here reads; leave such rows out, or remove the key where the "
                "texts mean the same without it"
            )
    system, history = _system(row, where), _history(row, where)
    if system and turns and turns[0] == system[0]:
        system = ()
    if system and turns and turns[0].role == "system":
        raise InputError(f"{where}: has two system turns, one as `system` and another in its dialogue; keep one")
    return make_prompt((*system, *history, *turns), _meta(row, where))


def _system(row: Row, where: str) -> tuple[Message, ...]:
    key = first_present(row, _SYSTEM)
    text = optional_text(row, key, where) if key else ""
    return (Message("system", text),) if text else ()


def _history(row: Row, where: str) -> tuple[Message, ...]:
    """Earlier turns: a list of turns, or as LLaMA-Factory has them, a list of pairs of question and answer."""
    history = row.get("history")
    if not history:
        return ()
    if isinstance(history, list) and isinstance(history[0], dict):
        return dialogue(history, "history", where)
    turns: list[Message] = []
    for pair in history if isinstance(history, list) else [history]:
        two_texts = isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        if not two_texts:
            raise InputError(f"{where}: `history` must be a list of [question, answer], but it holds {described(pair)}")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return tuple(turns)


def _meta(row: Row, where: str) -> dict[str, str]:
    """Facts that a scorer reads and no model sees."""
    meta: Any = row.get("meta") or {}
    if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
        raise InputError(f"{where}: `meta` must be an object of texts, this is {meta!r}")
    return meta


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
