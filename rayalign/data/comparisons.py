"""Rows of two answers of which one is better, in the common forms and in those of single data sets."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rayalign.data.dialogue import described, dialogue
from rayalign.data.fields import (
    dialogue_prompt,
    first_present,
    instruction_prompt,
    make_prompt,
    number_field,
    question_prompt,
    text_field,
)
from rayalign.data.files import Row
from rayalign.data.left_out import Reduced
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt

EMPTY = "an empty answer"
TIE = "a tie"
DIFFERENT = "the two differ before the last answer"


def comparisons(row: Row, where: str) -> Example | str:
    """`chosen` and `rejected` answers to a prompt, or AlpacaFarm's `output_1`, `output_2` and `preference`.

    The answers of the first form are texts, or as TRL and the Hub have them, lists of messages, which may hold the
    prompt too.
    """
    return _numbered_answers(row, where) if "output_1" in row else _chosen_and_rejected(row, where)


def shp(row: Row, where: str) -> Example | str:
    """Stanford Human Preferences: `history` is the post, `labels` is 1 where `human_ref_A` is better, else 0."""
    prompt = make_prompt((Message("user", text_field(row, "history", where)),))
    first, second = text_field(row, "human_ref_A", where), text_field(row, "human_ref_B", where)
    label = number_field(row, "labels", where)
    if label not in (0, 1):
        raise InputError(f"{where}: `labels` must be 1 (the first answer is better) or 0, this is {label:g}")
    return _ordered(prompt, (first, label), (second, 1.0 - label))


def webgpt(row: Row, where: str) -> Example | str:
    """OpenAI's WebGPT comparisons: `question`, `answer_0`, `answer_1` and their scores; equal scores are a tie."""
    question = row.get("question")
    text = question.get("full_text") if isinstance(question, dict) else question
    if not isinstance(text, str):
        raise InputError(f"{where}: `question` must be a text or hold one as `full_text`, but it is {described(text)}")
    scored = [(text_field(row, f"answer_{n}", where), number_field(row, f"score_{n}", where)) for n in (0, 1)]
    return _ordered(make_prompt((Message("user", text),)), *scored)


def ultrafeedback(row: Row, where: str) -> Example | Reduced | str:
    """UltraFeedback: `instruction` and `completions`, each with `response` and `overall_score`."""
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(entry, dict) for entry in completions):
        raise InputError(f"{where}: `completions` must be a list of objects, but it is {described(completions)}")
    candidates: list[Candidate] = []
    absent: Counter[str] = Counter()
    for number, entry in enumerate(completions, start=1):
        place = f"{where}: completion {number}"
        text = text_field(entry, "response", place)
        if not text.strip():
            absent[EMPTY] += 1
        elif entry.get("overall_score") is None:
            absent["no score"] += 1
        else:
            source = str(entry.get("model") or "dataset")
            candidates.append(Candidate(text, source, score=number_field(entry, "overall_score", place)))
    if len(candidates) < 2:
        return "fewer than two scored answers"
    example = Example(instruction_prompt(row, where), tuple(candidates))
    return Reduced(example, absent) if absent else example


def _numbered_answers(row: Row, where: str) -> Example | str:
    first, second = (text_field(row, key, where) for key in ("output_1", "output_2"))
    if "preference" not in row:
        raise InputError(f"{where}: `preference` is missing; a pair without a verdict has null")
    if row["preference"] is None:
        return "no verdict"
    preference = number_field(row, "preference", where)
    if not (preference == 0 or 1 <= preference <= 2):
        raise InputError(
            f"{where}: `preference` must be between 1 (first) and 2 (second), or 0 for a tie: {preference!r}"
        )
    if preference in (0, 1.5):
        return TIE
    candidates = (Candidate(first, score=2.0 - preference), Candidate(second, score=preference - 1.0))
    return Example(instruction_prompt(row, where), candidates, preference=2.0 - preference)


def _chosen_and_rejected(row: Row, where: str) -> Example | str:
    turns, chosen = _answer(row, "chosen", where)
    turns_of_rejected, rejected = _answer(row, "rejected", where)
    if turns != turns_of_rejected:
        return DIFFERENT
    if not chosen.strip() or not rejected.strip():
        return EMPTY
    candidates = (Candidate(chosen, score=1.0), Candidate(rejected, score=0.0))
    return Example(_prompt_before(row, turns, where), candidates)


def _answer(row: Row, key: str, where: str) -> tuple[tuple[Message, ...], str]:
    """The turns before an answer, none where it stands alone, and its text."""
    value: Any = row.get(key)
    if not isinstance(value, list | dict):
        return (), text_field(row, key, where)
    turns = dialogue([value] if isinstance(value, dict) else value, key, where)
    if turns[-1].role != "assistant":
        raise InputError(
            f"{where}: `{key}` must end with the assistant's turn, but it ends with the {turns[-1].role}'s"
        )
    return turns[:-1], turns[-1].content


def _prompt_before(row: Row, turns: tuple[Message, ...], where: str) -> Prompt:
    """The prompt of a row whose answers begin with these turns: they are all of it, or follow the row's `prompt`."""
    if not turns:
        return question_prompt(row, where)
    if turns[0].role == "assistant":
        return dialogue_prompt({}, (*question_prompt(row, where).messages, *turns), where)
    key = first_present(row, ("prompt",))
    if key and not _agrees(row, key, turns, where):
        raise InputError(f"{where}: `prompt` is not what `chosen` begins with; leave one of the two out")
    return dialogue_prompt(row, turns, where)


def _agrees(row: Row, key: str, turns: tuple[Message, ...], where: str) -> bool:
    """Whether the row's prompt is said in these turns too."""
    if isinstance(row[key], list):
        stated = dialogue(row[key], key, where)
        return stated == turns[: len(stated)]
    text = text_field(row, key, where).strip()
    return any(turn.content.strip() == text for turn in turns)


def _ordered(prompt: Prompt, first: tuple[str, float], second: tuple[str, float]) -> Example | str:
    """Two answers with their scores; the better one gets 1 and the other one 0."""
    if first[1] == second[1]:
        return TIE
    if not first[0].strip() or not second[0].strip():
        return EMPTY
    better, worse = (first, second) if first[1] > second[1] else (second, first)
    return Example(prompt, (Candidate(better[0], score=1.0), Candidate(worse[0], score=0.0)))
