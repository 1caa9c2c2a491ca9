"""The sections that say where the rows of a job come from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from rayalign.config.preferences import PreferenceUse
from rayalign.config.section import Section

AUTO = "auto"
"""the format of data that is recognised from their rows"""
MADE_HERE = ("paddock", "arithmetic")
"""formats without files"""


class SourceConfig(Section):
    """One of several data sets that are blended."""

    format: str = AUTO
    """as of `data`"""
    path: str | None = None
    """as of `data`"""
    columns: dict[str, str] = {}
    """as of `data`"""
    split: str = "train"
    """as of `data`"""
    limit: PositiveInt | None = None
    """as of `data`"""
    preferences: PreferenceUse | None = None
    """as of `data`"""
    share: PositiveFloat = 1.0
    """how often its rows come while all sources last"""


class DataConfig(Section):
    """Where rows come from. A stage's own values override the job's `data`, key by key."""

    format: str = "paddock"
    """a reader's name: paddock, hh, alpaca, prompts, demonstrations, comparisons, rankings, gsm8k, records, ...

    auto: recognised from the first row, and printed; so it is where `path` is given alone.
    package.module:function: your own reader
    """
    path: str | None = None
    """file, folder, or the name of a `datasets` data set; paddock and arithmetic need none.

    `stage:NAME`: the prompts that an earlier stage wrote, whatever `format` says
    """
    columns: dict[str, str] = {}
    """a key of the format -> the name that the rows have for it, such as {prompt: question, answer: reply}"""
    split: str = "train"
    """the part of the data set, as its files are named: train, test, validation, ..."""
    limit: PositiveInt | None = None
    """rows kept, the first ones after the reader's own order"""
    too_long: Literal["refuse", "skip"] = "refuse"
    """what becomes of a prompt that leaves no room for an answer"""
    blend: tuple[SourceConfig, ...] | None = None
    """several data sets in the place of `format`, `path` and `split`; `limit` counts the rows of all"""
    phases: tuple[PositiveFloat, ...] | None = None
    """proportions in which the phases of a study share the prompts, such as [2, 4, 4]"""
    phase: PositiveInt | None = None
    """which of them this is, from 1"""
    preferences: PreferenceUse | None = None
    """each prompt stands under some profiles of preferences; `limit` counts prompts before that

    In the embedded world demonstrations may have them too: their answers are written for the profile.
    """

    @model_validator(mode="before")
    @classmethod
    def _recognise_rows(cls, given: Any) -> Any:
        """Rows of a file whose format is not named are recognised; they are never those of the embedded world."""
        if isinstance(given, dict) and given.get("path") is not None:
            return {"format": AUTO, **given}
        return given

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # the generated one takes no mapping

    @property
    def embedded(self) -> bool:
        """True where all rows come from the embedded world."""
        return self.format == "paddock" and self.blend is None
