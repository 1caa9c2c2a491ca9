"""The contract of a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rayalign.types import Group, Score


class Scorer(Protocol):
    """One score for each candidate; a failure is absent with its reason, never zero."""

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """Scores in the order of groups and candidates."""
