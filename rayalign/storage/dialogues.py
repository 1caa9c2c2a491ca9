"""An answer in its whole dialogue, as rows of a run's files hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rayalign.dialogues import dialogue_text
from rayalign.types import Candidate, Message, Prompt, Trajectory


def dialogue_fields(prompt: Prompt, answer: Candidate | Trajectory) -> dict[str, Any]:
    """Fields messages, prompt (these as one text), answer, and turns where some stand between prompt and answer."""
    fields: dict[str, Any] = {
        "messages": _rows(prompt.messages),
        "prompt": dialogue_text(prompt.messages),
        "answer": answer.text,
    }
    if answer.turns:
        fields["turns"] = _rows(answer.turns)
    return fields


def question_text(row: Mapping[str, Any]) -> str:
    """Everything before the answer of such a row, as people read it."""
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    return dialogue_text(_messages([*messages, *row.get("turns", ())]))


def answer_text(row: Mapping[str, Any]) -> str:
    """The answer of such a row as people read it, after the turns that led to it."""
    return dialogue_text([*_messages(row.get("turns", ())), Message("assistant", row["answer"])])


def _messages(rows: Iterable[Mapping[str, Any]]) -> list[Message]:
    return [Message(row["role"], row["content"]) for row in rows]


def _rows(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
