"""A scorer: the share of polite words that an answer has."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.types import Prompt


def politeness(prompt: Prompt, answer: str, *, words: Sequence[str] = ("please", "thank", "glad")) -> float | None:
    """0 to 1; None, no score, of an empty answer."""
    own = answer.lower().split()
    if not own:
        return None
    return sum(word in own for word in words) / len(words)
