"""Bradley-Terry ratings (1952) of several models from verdicts on pairs, on the scale of Elo.

Shapes: N matches with a verdict, K models, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import bootstrap, bounds
from rayalign.statistics.logistic import fit
from rayalign.statistics.winrate import shares

Array = npt.NDArray[np.float64]
Match = tuple[str, str, float | None]
_SCALE = 400.0 / math.log(10.0)
"""points of a rating for a unit of log-odds: 400 points are odds of ten to one"""
_ANCHOR = 1000.0


class Rating(NamedTuple):
    """One model's rating with its 95% interval; the bounds are NaN where too many resamples have no finite rating."""

    name: str
    rating: float
    low: float
    high: float
    n: int
    """verdicts with this model"""
    wins: float
    """of them its own; a tie counts as half and a probability as its share"""


def bradley_terry(
    matches: Sequence[Match],
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
        baseline: the model whose rating is 1000; None: the mean of all ratings is.
        resamples: of the prompts, for the intervals; 0: no intervals.

    Raises:
        InputError: no verdict; data that bound no rating, because nothing joins two groups of models or one group never
            loses to the other; a baseline that never plays; a model that plays itself.
    """
    games = _games(matches)
    if baseline is not None and baseline not in games.names:
        names = ", ".join(games.names)
        raise InputError(f"ratings: the baseline {baseline!r} has no verdict; known: {names}")
    anchor = None if baseline is None else games.names.index(baseline)
    wins_KK = games.wins(np.ones(len(games.rows)))
    if group := _unbounded(wins_KK):
        raise InputError(_explain(wins_KK, group, games.names))
    ratings_K = _ratings(wins_KK, anchor)

    def rated(weights_N: Array) -> Array:
        resampled_KK = games.wins(weights_N)
        if _unbounded(resampled_KK):
            return np.full(len(games.names), np.nan)
        return _ratings(resampled_KK, anchor)

    prompts = games.rows if clusters is None else [clusters[row] for row in games.rows]
    ratings_RK = np.full((1, len(games.names)), np.nan)
    if resamples:
        ratings_RK = bootstrap(rated, prompts, resamples=resamples)
    verdicts_K = (wins_KK + wins_KK.T).sum(axis=1)
    ratings = []
    for k, name in enumerate(games.names):
        low, high = bounds(ratings_RK[:, k])
        wins = float(wins_KK[k].sum())
        ratings.append(Rating(name, float(ratings_K[k]), low, high, round(verdicts_K[k]), wins))
    return sorted(ratings, key=lambda rating: -rating.rating)


@dataclass(frozen=True, slots=True)
class _Games:
    """The matches with a verdict, models as numbers."""

    names: list[str]
    rows: list[int]
    """index of each match"""
    first_N: npt.NDArray[np.int64]
    second_N: npt.NDArray[np.int64]
    share_N: Array
    """the second model's share of the win"""

    def wins(self, weights_N: Array) -> Array:
        """wins[i, j]: how often i beat j."""
        k = len(self.names)
        cells = np.bincount(self.second_N * k + self.first_N, weights_N * self.share_N, k * k)
        cells += np.bincount(self.first_N * k + self.second_N, weights_N * (1.0 - self.share_N), k * k)
        return cells.reshape(k, k).astype(np.float64)


def _games(matches: Sequence[Match]) -> _Games:
    shares_M = shares([preference for _, _, preference in matches])
    rows = np.flatnonzero(~np.isnan(shares_M))
    if not rows.size:
        raise InputError("ratings: no match has a verdict; look at the judge's failures")
    firsts = [matches[row][0] for row in rows]
    seconds = [matches[row][1] for row in rows]
    names = sorted({*firsts, *seconds})
    number = {name: k for k, name in enumerate(names)}
    first_N = np.array([number[name] for name in firsts])
    second_N = np.array([number[name] for name in seconds])
    same = first_N == second_N
    if same.any():
        raise InputError(f"ratings: {firsts[np.argmax(same)]} plays itself; leave such matches out")
    return _Games(names, rows.tolist(), first_N, second_N, shares_M[rows])


def _ratings(wins_KK: Array, anchor: int | None) -> Array:
    """A logistic regression of who beat whom; its maximum exists where `_unbounded` returns no group."""
    winner_N, loser_N = np.nonzero(wins_KK)
    identity_KK = np.eye(len(wins_KK))
    x_NK = identity_KK[winner_N] - identity_KK[loser_N]
    # the likelihood does not change when all ratings shift, so the last one is fixed at 0
    wins_N = wins_KK[winner_N, loser_N]
    free = fit(x_NK[:, :-1], np.ones(len(x_NK)), wins_N, 0.0).coefficients
    beta_K = np.append(free, 0.0)
    origin = beta_K.mean() if anchor is None else beta_K[anchor]
    return _ANCHOR + _SCALE * (beta_K - origin)


def _unbounded(wins_KK: Array) -> list[int]:
    """A group that won nothing from the others, so that no finite rating fits (Ford 1957); empty for none."""
    for start in range(len(wins_KK)):
        reached, queue = {start}, [start]
        while queue:
            beaten = np.flatnonzero(wins_KK[queue.pop()] > 0.0)
            new = [int(k) for k in beaten if k not in reached]
            reached.update(new)
            queue.extend(new)
        if len(reached) < len(wins_KK):
            return sorted(reached)
    return []


def _explain(wins_KK: Array, group: list[int], names: list[str]) -> str:
    rest = [k for k in range(len(names)) if k not in group]
    losers, winners = ", ".join(names[k] for k in group), ", ".join(names[k] for k in rest)
    if wins_KK[np.ix_(rest, group)].sum() == 0.0:
        return f"ratings: no verdict joins {losers} with {winners}; rate them apart or compare across"
    return f"ratings: {losers} never won from {winners}, which leaves the gap unbounded; add verdicts or leave one out"
