"""Rows as the stages of a run write them: one example a line, with the prompt's id and facts."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Example

_EXAMPLE = TypeAdapter(Example)


def records(row: Row, where: str) -> Example | str:
    """The example of one line of a stage's records.jsonl or drawn.jsonl."""
    try:
        example = _EXAMPLE.validate_python(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{where}: not a row as a stage writes it: {key}: {first['msg']}; choose another `data.format`"
        ) from error
    return example if example.prompt.messages else "a prompt without messages"
