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


def answer_text(row: Mapping[str, Any]) -> str:
    """The answer of such a row as people read it, after the turns that led to it."""
    turns = [Message(turn["role"], turn["content"]) for turn in row.get("turns", ())]
    return dialogue_text((*turns, Message("assistant", row["answer"])))


def _rows(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]
