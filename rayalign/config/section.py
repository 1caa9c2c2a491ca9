"""The base of every section."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Base of every section."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_own_defaults(cls, given: Any) -> Any:
        """A section given in part keeps what its parent's default sets: pretraining's learning rate, say."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Section) and isinstance(given.get(name), dict):
                filled[name] = {**field.default.model_dump(exclude_unset=True), **given[name]}
        return filled
