"""Where a prompt comes from: kept in its `meta` from stage to stage, and in full beside the prompts of each stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rayalign.evolve.gates import last_turn
from rayalign.types import Prompt

GENERATION, ANCESTOR, OPERATOR, PARENT = "generation", "ancestor", "operator", "parent"
"""keys of `Prompt.meta`"""
BREADTH = "breadth"
"""the operator whose prompts begin a line of their own"""


@dataclass(frozen=True, slots=True)
class Lineage:
    """One prompt that a stage wrote."""

    id: str
    parent: str | None
    """None: a prompt of the data"""
    operator: str | None
    generation: int
    """evolutions since the data"""
    selected: str | None = None
    """the prompt of this stage that the evolutions began with; None: unchanged"""
    metric: str | None = None
    value: float | None = None
    """of that prompt by the metric"""
    weight: float | None = None
    """with which it was drawn"""
    rewards: tuple[float | None, ...] = ()
    """of its candidates at that time"""


def generation(prompt: Prompt) -> int:
    """Evolutions since the data."""
    return int(prompt.meta.get(GENERATION, "0"))


def ancestor(prompt: Prompt) -> str:
    """The last turn of the first prompt of its line."""
    return prompt.meta.get(ANCESTOR, last_turn(prompt))


def descended(child: Prompt, parent: Prompt, operator: str) -> Prompt:
    """The child with what is to be remembered of its line."""
    begins = operator == BREADTH
    own = {
        PARENT: parent.id,
        OPERATOR: operator,
        GENERATION: str(generation(parent) + 1),
        ANCESTOR: last_turn(child) if begins else ancestor(parent),
    }
    return replace(child, meta={**child.meta, **own})
