"""What a rehearsal finds wrong with a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]
"""an error would end the run, or make its result worthless; a warning is worth a look"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem."""

    key: str
    """dotted, in the job; or `rehearsal` for what only happened while the miniature ran"""
    text: str
    """what, where, and the remedy"""
    level: Level = "error"

    def __str__(self) -> str:
        return f"{self.level}: {self.key}: {self.text}"
