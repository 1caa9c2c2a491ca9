"""Which machine each role's actors go to, so that the ranks of a role share one where they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Resources = Mapping[str, float]
ROUNDING = 1e-6
"""fractions of devices add up to a little more than one"""


def nodes_of_roles(bundles: Mapping[str, Sequence[Resources]], free: Mapping[str, Resources]) -> dict[str, str]:
    """A node for each role that has all of its bundles there; empty where not every role fits on a node of its own.

    The largest role chooses first, and takes the node on which it leaves the least: smaller roles fill what remains.

    Args:
        bundles: role -> what each of its actors claims.
        free: node -> what nobody claims there.
    """
    remaining = {node: dict(resources) for node, resources in free.items()}
    homes: dict[str, str] = {}
    for role in sorted(bundles, key=lambda role: _size(total(bundles[role])), reverse=True):
        need = total(bundles[role])
        fitting = [node for node, resources in remaining.items() if _fits(need, resources)]
        if not fitting:
            return {}
        home = min(fitting, key=lambda node: _size(remaining[node]))
        homes[role] = home
        for kind, amount in need.items():
            remaining[home][kind] = remaining[home].get(kind, 0.0) - amount
    return homes


def total(bundles: Sequence[Resources]) -> dict[str, float]:
    """The sum of several bundles."""
    sums: dict[str, float] = {}
    for bundle in bundles:
        for kind, amount in bundle.items():
            sums[kind] = sums.get(kind, 0.0) + amount
    return sums


def _fits(need: Resources, free: Resources) -> bool:
    return all(amount <= free.get(kind, 0.0) + ROUNDING for kind, amount in need.items())


def _size(resources: Resources) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)
