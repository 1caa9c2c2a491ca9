"""The contract of a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rayalign.types import Group, Score

ALONE = "there is no other answer to compare it with"
"""why a scorer that compares has no score for an only answer"""


class Scorer(Protocol):
    """One score for each candidate; a failure is absent with its reason, never zero."""

    def score(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """Scores in the order of groups and candidates."""
