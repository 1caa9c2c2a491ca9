"""RRHF's rows: a query, several responses, and a score for each; read and written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from rayalign.data.fields import hh_dialogue, make_prompt, text_field
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Rankings(NamedTuple):
    """Examples as rows of RRHF."""

    rows: list[dict[str, Any]]
    """each with `query`, `responses` and `scores`"""
    absent: Counter[str]
    """responses that are left out, by reason"""
    skipped: Counter[str]
    """examples that are left out, by reason"""


def rankings(row: Row, where: str) -> Example | str:
    """RRHF: `query` with `responses` and their `scores`; the query may be a dialogue in the notation of HH."""
    query, responses, scores = text_field(row, "query", where), row.get("responses"), row.get("scores")
    if not isinstance(responses, list) or not isinstance(scores, list) or len(responses) != len(scores):
        raise InputError(f"{where}: `responses` and `scores` must be two lists of the same length")
    numbers = all(isinstance(score, int | float) and math.isfinite(score) for score in scores)
    if not numbers or not all(isinstance(response, str) for response in responses):
        raise InputError(f"{where}: `responses` must be texts and `scores` finite numbers")
    pairs = zip(responses, scores, strict=True)
    candidates = tuple(Candidate(text, score=float(score)) for text, score in pairs if text.strip())
    return (
        Example(make_prompt(_messages(query, where)), candidates) if len(candidates) > 1 else "fewer than two answers"
    )


def as_rankings(examples: Iterable[Example]) -> Rankings:
    """The rows that `rankings` reads as the same prompts with the same scored answers.

    A prompt of one turn is the query itself, any other a dialogue in the notation of HH, which trims each turn.
    """
    result = Rankings([], Counter(), Counter())
    for example in examples:
        query = _query(example.prompt)
        scored = [candidate for candidate in example.candidates if _is_present(candidate, result.absent)]
        if query is None:
            result.skipped["a prompt that the notation of HH cannot hold"] += 1
        elif len(scored) < 2:
            result.skipped["fewer than two scored answers"] += 1
        else:
            responses, scores = [c.text for c in scored], [c.score for c in scored]
            result.rows.append({"query": query, "responses": responses, "scores": scores})
    return result


def _messages(query: str, where: str) -> tuple[Message, ...]:
    if not query.startswith(_HUMAN):
        return (Message("user", query),)
    return hh_dialogue(query.removesuffix(_ASSISTANT), where)


def _query(prompt: Prompt) -> str | None:
    """The prompt as a query; None where no query is read as its turns."""
    turns = prompt.messages
    if len(turns) == 1 and turns[0].role == "user" and not turns[0].content.startswith(_HUMAN):
        return turns[0].content
    if not turns or any(turn.role == "system" for turn in turns):
        return None
    marks = {"user": _HUMAN, "assistant": _ASSISTANT}
    query = "".join(f"{marks[turn.role]} {turn.content.strip()}" for turn in turns) + _ASSISTANT
    trimmed = tuple(Message(turn.role, turn.content.strip()) for turn in turns)
    readable = turns[0].role == "user" and turns[-1].role == "user"
    return query if readable and _messages(query, "a query") == trimmed else None


def _is_present(candidate: Candidate, absent: Counter[str]) -> bool:
    """Whether a row can hold the answer; the reason why not is counted."""
    if candidate.score is None:
        absent["no score"] += 1
    elif candidate.turns:
        absent["several turns"] += 1
    elif not candidate.text.strip():
        absent["an empty answer"] += 1
    else:
        return True
    return False
