"""Rows that the stages of a run write, in AlpacaEval's columns: so every command that reads files reads them too."""

from __future__ import annotations

from rayalign.annotator.prompts import instruction_of
from rayalign.annotator.verdicts import pair_of
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.storage.dialogues import question_text
from rayalign.storage.records import decode
from rayalign.types import Candidate, Comparison, Example, Prompt

_MEASURED = frozenset({"model", "prompt_id", "prompt", "answer"})
"""keys of what an `evaluate` stage writes"""
_UNNAMED = Candidate("").source


def public_rows(row: Row, where: str) -> list[Row]:
    """The row itself, or what a stage's record says: its verdict, or its answers one by one.

    Raises:
        InputError: a record that no stage wrote.
    """
    if row.keys() >= _MEASURED:
        return [{"instruction": question_text(row), "output": row["answer"], "generator": row["model"]}]
    prompt = row.get("prompt")
    if not isinstance(prompt, dict) or "messages" not in prompt:
        return [row]
    if "first" in row:
        return [_verdict(decode(Comparison, row, where))]
    if "candidates" in row:
        return output_rows_of(decode(Example, row, where))
    raise InputError(f"{where}: has a prompt with messages, but neither candidates nor two answers; name other records")


def output_rows_of(example: Example) -> list[Row]:
    """Each answer as a row of outputs."""
    return [
        {"instruction": instruction_of(_asked(example.prompt, answer)), "output": answer.text, **_generator(answer, "")}
        for answer in example.candidates
    ]


def _verdict(record: Comparison) -> Row:
    prompt, first, second = pair_of(record.prompt, record.first, record.second)
    texts = {"instruction": instruction_of(prompt), "output_1": first, "output_2": second}
    names = _generator(record.first, "_1") | _generator(record.second, "_2")
    return {**texts, **names, "annotator": record.annotator, "preference": record.preference}


def _asked(prompt: Prompt, answer: Candidate) -> Prompt:
    """What an answer follows: the prompt, and of a dialogue of several turns those before the last."""
    return Prompt(prompt.id, (*prompt.messages, *answer.turns))


def _generator(answer: Candidate, side: str) -> Row:
    return {} if answer.source == _UNNAMED else {f"generator{side}": answer.source}
