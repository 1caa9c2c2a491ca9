"""Rows that the stages of a run write, in AlpacaEval's columns: so every command that reads files reads them too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rayalign.annotator.judges.prompts import instruction_of
from rayalign.annotator.judges.verdicts import pair_of
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.storage.dialogues import answer_text, question_text
from rayalign.storage.records import decode
from rayalign.types import Candidate, Comparison, Example, Prompt

_MEASURED = frozenset({"model", "prompt_id", "prompt", "answer"})
"""keys of what an `evaluate` stage writes"""
_VALUE = "value"
"""the annotator of a pair that the stage's metric decides"""
_UNNAMED = Candidate("").source


def is_measured(row: Row) -> bool:
    """Whether an `evaluate` stage wrote the row: one model's answer with its value."""
    return row.keys() >= _MEASURED


def pairs_by_value(rows: Sequence[Row], path: Path) -> Iterator[Row]:
    """Verdicts on measured rows: each model's answers against those of the file's first model, the higher value wins.

    A pair without both values has no verdict.

    Raises:
        InputError: the file holds one model alone, or two answers of one model to one prompt.
    """
    answers: dict[str, dict[str, Row]] = {}
    for row in rows:
        own = answers.setdefault(row["model"], {})
        if row["prompt_id"] in own:
            raise InputError(
                f"{path}: holds two answers of {row['model']} to prompt {row['prompt_id']}; keep one run's"
            )
        own[row["prompt_id"]] = row
    baseline, *models = answers
    if not models:
        raise InputError(f"{path}: holds the answers of {baseline} alone; a win rate needs a second model")
    for model in models:
        for prompt_id, answer in answers[model].items():
            if prompt_id in answers[baseline]:
                yield _pair_by_value(answers[baseline][prompt_id], answer)


def _pair_by_value(first: Row, second: Row) -> Row:
    return {
        "instruction": question_text({"prompt": first["prompt"], "messages": first.get("messages")}),
        "output_1": _whole_answer(first),
        "output_2": _whole_answer(second),
        "generator_1": first["model"],
        "generator_2": second["model"],
        "annotator": _VALUE,
        "preference": _preference(first.get("value"), second.get("value")),
    }


def _whole_answer(row: Row) -> str:
    """The answer, after the turns of its own dialogue where there are any."""
    return answer_text(row) if row.get("turns") else str(row["answer"])


def _preference(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    if first == second:
        return 1.5
    return 2.0 if second > first else 1.0


def public_rows(row: Row, where: str) -> list[Row]:
    """The row itself, or what a stage's record says: its verdict, or its answers one by one.

    Raises:
        InputError: a record that no stage wrote.
    """
    if is_measured(row):
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
