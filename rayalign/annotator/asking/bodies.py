"""The base of all bodies over HTTP, and their limits.

A wrong body is refused at its first wrong row, and a long list before its first row is read: pydantic would otherwise
build an error for every wrong row, of which one is shown.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

MAX_ROWS = 4096
"""of one request"""
MAX_LISTS = MAX_ROWS // 4
"""of one ranking"""
MAX_TEXT = 200_000
"""characters of one text"""
MAX_MESSAGES = 256
"""of one dialogue"""
MAX_META = 256
"""further facts of one row"""
_SPARE_KEYS = 16
"""unknown keys that are refused by name; of an object with more of them only their number is reported"""
Text = Annotated[str, Field(max_length=MAX_TEXT)]
AnnotatorName = Annotated[str, Field(max_length=256)]


def at_most(most: int) -> BeforeValidator:
    """Refuses a longer list or mapping before any of its entries is read."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple | dict) and len(value) > most:
            kind = "Dictionary" if isinstance(value, dict) else "List"
            raise PydanticKnownError("too_long", {"field_type": kind, "max_length": most, "actual_length": len(value)})
        return value

    return BeforeValidator(check)


class Model(BaseModel):
    """Base of all bodies; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and len(fields) > len(cls.model_fields) + _SPARE_KEYS:
            raise ValueError(f"an object with {len(fields)} keys; it takes only {', '.join(cls.model_fields)}")
        return fields
