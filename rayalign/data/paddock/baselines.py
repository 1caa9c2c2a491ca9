"""Answers without knowledge, which a good measure must rank far below any honest attempt."""

from __future__ import annotations

from rayalign.data.paddock import world
from rayalign.types import Prompt

LIMIT = 48
"""most words of an answer"""


def constant(prompt: Prompt) -> str:
    """The same pleasant words for everyone."""
    return f"{world.POLITE[0]} {world.TONES['warm'][0]} {world.FILLERS[0]}"


def empty(prompt: Prompt) -> str:
    """Nothing."""
    return ""


def copy(prompt: Prompt) -> str:
    """The last message of the prompt."""
    return prompt.messages[-1].content


def longest(prompt: Prompt) -> str:
    """A polite list as long as answers may be."""
    lines = [f"* {line}" for line in (*world.POLITE, *world.TONES["warm"], *world.FILLERS)]
    return " ".join(" ".join(lines).split()[:LIMIT])
