"""Names of the metrics that a Learner reports of each optimizer step; a file of their own, which needs no torch."""

from __future__ import annotations

from collections.abc import Iterable

GRAD_NORM = "learner/grad_norm"
"""before clipping"""
LEARNING_RATE = "learner/learning_rate"
TOKENS = "learner/tokens"
"""real tokens, prompts included"""
PADDING = "learner/padding"
"""share of what the model reads that is no token"""
METRICS = frozenset({GRAD_NORM, LEARNING_RATE, TOKENS, PADDING})
MIXTURE = "mixture"
"""area of what a stage's second objective reports: `loss/sft` becomes `mixture/sft`"""


def renamed(area: str, names: Iterable[str]) -> dict[str, str]:
    """Names of metrics in another area, by the old one."""
    return {f"{area}/{name.rpartition('/')[2]}": name for name in names}
