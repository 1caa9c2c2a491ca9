"""Names of the metrics that a Learner reports of each optimizer step; a file of their own, which needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

GRAD_NORM = "learner/grad_norm"
"""before clipping"""
LEARNING_RATE = "learner/learning_rate"
TOKENS = "learner/tokens"
"""real tokens, prompts included"""
PADDING = "learner/padding"
"""share of what the model reads that is no token"""
METRICS = frozenset({GRAD_NORM, LEARNING_RATE, TOKENS, PADDING})
V = TypeVar("V")
MIXTURE = "mixture"
"""area of what a stage's second objective reports: `loss/sft` becomes `mixture/sft`"""


def renamed(area: str, names: Iterable[str]) -> dict[str, str]:
    """Names of metrics in another area, by the old one."""
    return {f"{area}/{name.rpartition('/')[2]}": name for name in names}


def of_role(role: str, trained: Sequence[str], metrics: Mapping[str, V]) -> dict[str, V]:
    """A role's metrics; those of the Learner of a further trained role have its area, such as `critic/grad_norm`."""
    if role == trained[0]:
        return dict(metrics)
    names = {old: new for new, old in renamed(role, METRICS).items()}
    return {names.get(name, name): value for name, value in metrics.items()}


def of_roles(trained: Sequence[str]) -> frozenset[str]:
    """The names of all that the Learners of a stage report."""
    names = set(METRICS)
    for role in trained[1:]:
        names |= renamed(role, METRICS).keys()
    return frozenset(names)
