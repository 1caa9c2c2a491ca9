"""RRHF's rows: a query, several responses, and a score for each; read and written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from rayalign.data.comparisons import EMPTY
from rayalign.data.fields import (
    ANSWERS,
    QUESTIONS,
    dialogue_prompt,
    first_present,
    hh_dialogue,
    number_field,
    question_prompt,
    text_field,
)
from rayalign.data.files import Row
from rayalign.data.left_out import Reduced
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

ANSWER_LISTS = ("responses", "answers", "completions", "outputs", "candidates")
"""keys of a row that hold several answers"""
SCORE_LISTS = ("scores", "rewards", "ratings")
_HUMAN, _ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Rankings(NamedTuple):
    """Examples as rows of RRHF."""

    rows: list[dict[str, Any]]
    """each with `query`, `responses` and `scores`"""
    absent: Counter[str]
    """responses that are left out, by reason"""
    skipped: Counter[str]
    """examples that are left out, by reason"""


def rankings(row: Row, where: str) -> Example | Reduced | str:
    """RRHF: `query` with `responses` and their `scores`; the query may be a dialogue in the notation of HH.

    The three may have other usual names, and the answers may be objects that hold their own score or rank.
    """
    answers = _scored_answers(row, where)
    candidates = tuple(answer for answer in answers if answer.text.strip())
    if len(candidates) < 2:
        return "fewer than two answers"
    example = Example(_prompt(row, where), candidates)
    empty = len(answers) - len(candidates)
    return Reduced(example, Counter({EMPTY: empty})) if empty else example


def _prompt(row: Row, where: str) -> Prompt:
    key = first_present(row, QUESTIONS)
    if key is None or not isinstance(row[key], str):
        return question_prompt(row, where)
    return dialogue_prompt(row, _messages(row[key], where), where)


def _scored_answers(row: Row, where: str) -> list[Candidate]:
    key = first_present(row, ANSWER_LISTS) or ANSWER_LISTS[0]
    answers = row.get(key)
    if isinstance(answers, list) and answers and all(isinstance(entry, dict) for entry in answers):
        return [_scored_entry(entry, f"{where}: `{key}`, answer {n}") for n, entry in enumerate(answers, start=1)]
    score_key = first_present(row, SCORE_LISTS) or SCORE_LISTS[0]
    scores = row.get(score_key)
    if not isinstance(answers, list) or not isinstance(scores, list) or len(answers) != len(scores):
        raise InputError(f"{where}: `{key}` and `{score_key}` must be two lists of the same length")
    if not all(map(_is_number, scores)) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: `{key}` must be texts and `{score_key}` finite numbers")
    return [Candidate(text, score=float(score)) for text, score in zip(answers, scores, strict=True)]


def _scored_entry(entry: Row, where: str) -> Candidate:
    text = text_field(entry, first_present(entry, (*ANSWERS, "text", "content")) or ANSWERS[0], where)
    rank = entry.get("score") is None and entry.get("rank") is not None
    score = number_field(entry, "rank" if rank else "score", where)
    if not math.isfinite(score):
        raise InputError(f"{where}: its score must be a finite number, this is {score}")
    return Candidate(text, str(entry.get("model") or "dataset"), score=-score if rank else score)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


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
        absent[EMPTY] += 1
    else:
        return True
    return False
