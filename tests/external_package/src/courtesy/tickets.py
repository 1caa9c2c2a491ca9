"""A reader: support tickets, each with the reply that was sent and a draft that was not."""

from __future__ import annotations

from typing import Any

from rayalign.data.fields import make_prompt, text_field
from rayalign.types import Candidate, Example, Message


def tickets(row: dict[str, Any], where: str) -> Example | str:
    """`ticket`, `sent` and `draft`; the ticket's `topic` is kept for scorers. Internal tickets are left out."""
    if row.get("internal"):
        return "an internal ticket"
    message = Message("user", text_field(row, "ticket", where))
    prompt = make_prompt((message,), {"topic": str(row.get("topic", "none"))})
    sent = Candidate(text_field(row, "sent", where), score=1.0)
    draft = Candidate(text_field(row, "draft", where), score=0.0)
    return Example(prompt, (sent, draft))
