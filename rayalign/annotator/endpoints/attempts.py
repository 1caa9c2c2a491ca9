"""One request to an endpoint, the bills of its attempts, and their failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rayalign.annotator.endpoints.language_model import ChatMessage
from rayalign.annotator.judges.verdicts import Bill, Paying, Usage

Messages = str | Sequence[ChatMessage]
"""a text to continue, or a dialogue"""


class AttemptError(Exception):
    """An attempt failed; another may succeed unless this one is final."""

    def __init__(self, reason: str, retry_after: float = 0.0, *, final: bool = False) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.final = final


@dataclass(slots=True)
class Call:
    """One request and the bills of its attempts."""

    path: str
    body: dict[str, Any]
    most: Usage
    """the most that one attempt can cost"""
    paying: Paying
    started: float
    deadline: float
    attempts: int = 0
    bills: list[Bill] = field(default_factory=list)

    @property
    def cost(self) -> Usage:
        return sum((bill.cost for bill in self.bills), Usage())
