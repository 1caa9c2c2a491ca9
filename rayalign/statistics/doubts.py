"""What speaks against a reward model, in words, from its figures on held-out pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CHANCE = 0.5


def reward_doubts(results: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Sentences on each reward model whose figures give no reason to trust it, by name.

    Args:
        results: rows {name, metric, mean, low, high, n} of a summary; `reward_accuracy` is the share of held-out pairs
            that the model orders as they were annotated, `reward_longer_accuracy` the share in which the longer answer
            is the better one.
    """
    shares = {(row["name"], row["metric"]): row for row in results}
    doubts: dict[str, list[str]] = {}
    for (name, metric), row in shares.items():
        if metric == "reward_accuracy" and row["mean"] is not None:
            sentences = list(_doubts(row, shares.get((name, "reward_longer_accuracy"))))
            if sentences:
                doubts[name] = sentences
    return doubts


def _doubts(own: Mapping[str, Any], longer: Mapping[str, Any] | None) -> Iterator[str]:
    name, mean, low, high = own["name"], own["mean"], own["low"], own["high"]
    if low is not None and low <= CHANCE:
        verdict = "which is worse than chance" if high < CHANCE else "which may be chance"
        yield f"{name} orders {mean:.0%} of the held-out pairs as annotated ({low:.0%} to {high:.0%}), {verdict}."
    if longer is not None and longer["mean"] is not None and mean <= longer["mean"]:
        yield (
            f"{name} orders {mean:.0%} of the held-out pairs correctly; "
            f"always preferring the longer answer orders {longer['mean']:.0%}."
        )
