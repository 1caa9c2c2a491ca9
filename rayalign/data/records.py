"""Rows as the stages of a run write them: one example or one verdict a line, with the prompt's id and facts."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from rayalign.data.comparisons import TIE
from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Comparison, Example

_EXAMPLE = TypeAdapter(Example)
_COMPARISON = TypeAdapter(Comparison)


def records(row: Row, where: str) -> Example | str:
    """The example of one line of a stage's records.jsonl or drawn.jsonl."""
    try:
        if "first" in row and "candidates" not in row:
            return _compared(_COMPARISON.validate_python(row))
        example = _EXAMPLE.validate_python(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{where}: not a row as a stage writes it: {key}: {first['msg']}; choose another `data.format`"
        ) from error
    return example if example.prompt.messages else "a prompt without messages"


def _compared(comparison: Comparison) -> Example | str:
    """The two answers of a verdict with the probability that each is the better one."""
    if comparison.preference is None:
        return "no verdict"
    if comparison.preference == 1.5:
        return TIE
    first = replace(comparison.first, score=2.0 - comparison.preference)
    second = replace(comparison.second, score=comparison.preference - 1.0)
    return Example(comparison.prompt, (first, second), preference=2.0 - comparison.preference)
