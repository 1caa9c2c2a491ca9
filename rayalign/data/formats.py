"""The readers of rows with one answer or none, and of HH's dialogues."""

from __future__ import annotations

from rayalign.data.comparisons import DIFFERENT, EMPTY
from rayalign.data.dialogue import dialogue
from rayalign.data.fields import (
    ANSWERS,
    DIALOGUES,
    answer_field,
    dialogue_prompt,
    first_present,
    hh_dialogue,
    instruction_prompt,
    make_prompt,
    optional_text,
    row_prompt,
    text_field,
)
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Prompt


def hh(row: Row, where: str) -> Example | str:
    """Anthropic HH-RLHF: `chosen` and `rejected` are whole dialogues that share all but the last answer."""
    before, _, chosen = text_field(row, "chosen", where).rpartition("\n\nAssistant:")
    before_rejected, _, rejected = text_field(row, "rejected", where).rpartition("\n\nAssistant:")
    if before != before_rejected:
        return DIFFERENT
    if not chosen.strip() or not rejected.strip():
        return EMPTY
    messages = hh_dialogue(before, where)
    if messages[-1].role != "user":
        return "the last turn is not the user's"
    candidates = (Candidate(chosen.strip(), score=1.0), Candidate(rejected.strip(), score=0.0))
    return Example(make_prompt(messages), candidates)


def alpaca(row: Row, where: str) -> Example | str:
    """Stanford Alpaca: `instruction`, perhaps `input`, `system` and `history`, and `output`; without one, a prompt."""
    answer = optional_text(row, "output", where).strip()
    return Example(instruction_prompt(row, where), (Candidate(answer),) if answer else ())


def prompts(row: Row, where: str) -> Example | str:
    """`prompt` or `question` (one user turn or a list of turns), or `messages` or `conversations`."""
    return Example(row_prompt(row, where), ())


def demonstrations(row: Row, where: str) -> Example | str:
    """A prompt with `answer`, `response`, `completion` or `output`, or a dialogue that ends with the answer."""
    key = first_present(row, ANSWERS)
    if key is None:
        prompt, answer = _last_answer(row, where)
    else:
        prompt, answer = row_prompt(row, where), answer_field(row, key, where)
    return Example(prompt, (Candidate(answer),)) if answer.strip() else EMPTY


def _last_answer(row: Row, where: str) -> tuple[Prompt, str]:
    key = first_present(row, DIALOGUES)
    if key is None:
        return row_prompt(row, where), text_field(row, ANSWERS[0], where)
    messages = dialogue(row[key], key, where)
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise InputError(f"{where}: `{key}` must end with the assistant's turn where there is no `answer`")
    return dialogue_prompt(row, messages[:-1], where), messages[-1].content
