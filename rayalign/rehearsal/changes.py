"""What a rehearsal does otherwise than the job: the lines of rehearsal.diff."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

ChangeKind = Literal["kept", "folded", "shrunk", "substituted", "not covered"]
KINDS: tuple[ChangeKind, ...] = get_args(ChangeKind)


@dataclass(frozen=True, slots=True)
class Change:
    """One line."""

    kind: ChangeKind
    key: str
    """dotted, in the job"""
    text: str

    def __str__(self) -> str:
        return f"{self.kind:<11}  {self.key}: {self.text}"


def render(changes: Iterable[Change]) -> list[str]:
    """All lines, those of a kind together, each once."""
    distinct = dict.fromkeys(changes)
    order = sorted(distinct, key=lambda change: KINDS.index(change.kind))
    return [str(change) for change in order]
