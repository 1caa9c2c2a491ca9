"""Bradley-Terry ratings (1952) of several models from verdicts on pairs, on the scale of Elo."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import bootstrap, bounds
from rayalign.statistics.logistic import fit
from rayalign.statistics.winrate import shares

Array = npt.NDArray[np.float64]
_SCALE = 400.0 / math.log(10.0)
"""points of a rating for a unit of log-odds: 400 points are odds of ten to one"""
_ANCHOR = 1000.0


class Rating(NamedTuple):
    """One model's rating with its 95% interval; NaN bounds where too many resamples have no finite rating."""

    name: str
    rating: float
    low: float
    high: float
    n: int
    """verdicts with it"""
    wins: float
    """of them its own, a tie being half and a probability its share"""


def bradley_terry(
    matches: Sequence[tuple[str, str, float | None]],
    clusters: Sequence[Hashable] | None = None,
    *,
    baseline: str | None = None,
    resamples: int = 500,
) -> list[Rating]:
    """Ratings by maximum likelihood, best first.

    Args:
        matches: two names and a preference as `win_rate` takes it (1 the first better, 2 the second); a tie is half a
            win for each.
        clusters: each match's prompt; whole prompts are resampled.
        baseline: whose rating is 1000; None: the mean of all is.

    Raises:
        InputError: no verdict; data that bound no rating, because nothing joins two groups of models or one group never
            loses to the other; a baseline that never plays; a model that plays itself.
    """
    won = shares([preference for _, _, preference in matches])
    kept = np.flatnonzero(~np.isnan(won))
    if not kept.size:
        raise InputError("ratings: no match has a verdict; look at the judge's failures")
    names = sorted({name for i in kept for name in matches[i][:2]})
    if baseline is not None and baseline not in names:
        raise InputError(f"ratings: the baseline {baseline!r} has no verdict; known: {', '.join(names)}")
    number = {name: k for k, name in enumerate(names)}
    first, second = (np.array([number[matches[i][side]] for i in kept]) for side in (0, 1))
    if (first == second).any():
        raise InputError(f"ratings: {names[first[np.argmax(first == second)]]} plays itself; leave such matches out")
    anchor = None if baseline is None else number[baseline]
    share = won[kept]

    def wins(weights_N: Array) -> Array:
        """wins[i, j]: how often i beat j."""
        k = len(names)
        cells = np.bincount(second * k + first, weights_N * share, k * k)
        cells += np.bincount(first * k + second, weights_N * (1.0 - share), k * k)
        return cells.reshape(k, k).astype(np.float64)

    def rated(weights_N: Array) -> Array:
        table = wins(weights_N)
        return np.full(len(names), np.nan) if _stuck(table) else _ratings(table, anchor)

    table = wins(np.ones(len(kept)))
    if group := _stuck(table):
        raise InputError(_explain(table, group, names))
    found = _ratings(table, anchor)
    prompts = kept.tolist() if clusters is None else [clusters[i] for i in kept]
    drawn_RK = bootstrap(rated, prompts, resamples=resamples)
    games = (table + table.T).sum(axis=1)
    rows = [
        Rating(name, float(found[k]), *bounds(drawn_RK[:, k]), round(games[k]), float(table[k].sum()))
        for k, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row.rating)


def _ratings(wins_KK: Array, anchor: int | None) -> Array:
    """A logistic regression of who beat whom; its maximum exists where `_stuck` finds nothing."""
    winner_N, loser_N = np.nonzero(wins_KK)
    one_KK = np.eye(len(wins_KK))
    x_NK = one_KK[winner_N] - one_KK[loser_N]
    # the likelihood does not change when all ratings shift: the last one stands still at 0
    found = fit(x_NK[:, :-1], np.ones(len(x_NK)), wins_KK[winner_N, loser_N], 0.0)
    beta = np.append(found.coefficients, 0.0)
    return _ANCHOR + _SCALE * (beta - (beta.mean() if anchor is None else beta[anchor]))


def _stuck(wins_KK: Array) -> list[int]:
    """A group that won nothing from the others, so that no finite rating fits (Ford 1957); empty for none."""
    for start in range(len(wins_KK)):
        reached, open_ = {start}, [start]
        while open_:
            beaten = np.flatnonzero(wins_KK[open_.pop()] > 0.0)
            new = [int(k) for k in beaten if k not in reached]
            reached.update(new)
            open_.extend(new)
        if len(reached) < len(wins_KK):
            return sorted(reached)
    return []


def _explain(wins_KK: Array, group: list[int], names: list[str]) -> str:
    rest = [k for k in range(len(names)) if k not in group]
    told = ", ".join(names[k] for k in group), ", ".join(names[k] for k in rest)
    if wins_KK[np.ix_(rest, group)].sum() == 0.0:
        return f"ratings: no verdict joins {told[0]} with {told[1]}; rate them apart or compare across"
    return f"ratings: {told[0]} never won from {told[1]}, which leaves the gap unbounded; add verdicts or leave one out"
