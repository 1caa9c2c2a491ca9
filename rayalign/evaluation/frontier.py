"""Reward against KL, and where a proxy's rise no longer helps (Gao et al. 2022, arXiv 2210.10760).

Shapes: S checkpoints (or runs), P prompts. An absent value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, bootstrap, mean_interval

Array = npt.NDArray[np.float64]


class FrontierPoint(NamedTuple):
    """One checkpoint or run."""

    name: str
    kl: Interval
    reward: Interval
    best: bool
    """no other point has as little KL and as much reward, and more of one (Pareto)"""


class Turn(NamedTuple):
    """Whether a curve ends under its own height."""

    peak: int
    """index of the highest mean"""
    drop: float
    """from there to the last checkpoint"""
    drop_low: float
    """one-sided 95% bound of it, which allows for the height having been picked from the same data"""
    p_value: float
    """how often resampling alone, without any true drop, makes one this large"""
    proxy_rise: Interval
    """of the proxy from that checkpoint to the last"""
    real: bool
    """the drop's bound and the proxy's rise both exclude 0: the proxy was over-optimised"""


class OverOptimisation(NamedTuple):
    """Curves over KL or steps with 95% intervals, and where gold and the judge turn down."""

    x: tuple[float, ...]
    proxy: tuple[Interval, ...]
    gold: tuple[Interval, ...]
    judge: tuple[Interval, ...]
    """empty without one"""
    gold_turn: Turn
    judge_turn: Turn | None


def frontier(
    names: Sequence[str],
    kl_SP: npt.ArrayLike,
    rewards_SP: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> list[FrontierPoint]:
    """Points in order of KL, with intervals clustered by prompt.

    Raises:
        InputError: arrays of other shapes than [names, prompts], or a point without any value.
    """
    kl_intervals = _curve(_table(kl_SP, len(names), "kl"), clusters, seed)
    reward_intervals = _curve(_table(rewards_SP, len(names), "rewards"), clusters, seed)
    means = [(kl.mean, reward.mean) for kl, reward in zip(kl_intervals, reward_intervals, strict=True)]
    points = []
    for name, kl, reward in zip(names, kl_intervals, reward_intervals, strict=True):
        points.append(FrontierPoint(name, kl, reward, _is_best(kl.mean, reward.mean, means)))
    return sorted(points, key=lambda point: point.kl.mean)


def overoptimisation(
    x: Sequence[float],
    proxy_SP: npt.ArrayLike,
    gold_SP: npt.ArrayLike,
    judge_SP: npt.ArrayLike | None = None,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
) -> OverOptimisation:
    """Proxy, gold and a judge over checkpoints in order of `x` (KL or steps), on the same prompts throughout.

    Raises:
        InputError: fewer than two checkpoints, an `x` that does not rise, or arrays of other shapes than [x, prompts].
    """
    if len(x) < 2 or any(later <= earlier for earlier, later in pairwise(x)):
        raise InputError("over-optimisation: `x` needs two or more checkpoints in rising order")
    proxy, gold = _table(proxy_SP, len(x), "proxy"), _table(gold_SP, len(x), "gold")
    names = range(gold.shape[1]) if clusters is None else clusters
    judge_curve: tuple[Interval, ...] = ()
    judge_turn = None
    if judge_SP is not None:
        judge = _table(judge_SP, len(x), "judge")
        judge_curve, judge_turn = _curve(judge, names, seed), _turn(proxy, judge, names, seed)
    return OverOptimisation(
        tuple(x),
        _curve(proxy, names, seed),
        _curve(gold, names, seed),
        judge_curve,
        _turn(proxy, gold, names, seed),
        judge_turn,
    )


def _curve(values_SP: Array, clusters: Sequence[Hashable] | None, seed: int) -> tuple[Interval, ...]:
    return tuple(mean_interval(row.tolist(), clusters, seed=seed) for row in values_SP)


def _is_best(kl: float, reward: float, means: Sequence[tuple[float, float]]) -> bool:
    """Whether no other point is at least as good in both and better in one."""
    for other_kl, other_reward in means:
        better = other_kl < kl or other_reward > reward
        if better and other_kl <= kl and other_reward >= reward:
            return False
    return True


def _turn(proxy_SP: Array, gold_SP: Array, names: Sequence[Hashable], seed: int) -> Turn:
    """Compares the drop, the largest of many, with the largest of resampled, centred drops (White 2000)."""
    means_S = _means(gold_SP, np.ones(gold_SP.shape[1]))
    drops_S = means_S - means_S[-1]
    peak = int(np.argmax(drops_S))
    drop = float(drops_S[peak])
    resampled_RS = bootstrap(lambda weights_P: _means(gold_SP, weights_P), names, seed=seed)
    resampled_drops_RS = resampled_RS - resampled_RS[:, -1:]
    chance_R = np.fmax.reduce(resampled_drops_RS - drops_S, axis=1)
    low = drop - float(np.quantile(chance_R, 0.95))
    p_value = math.nan
    if not math.isnan(low):
        p_value = float((1 + (chance_R >= drop).sum()) / (1 + len(chance_R)))
    rise = mean_interval((proxy_SP[-1] - proxy_SP[peak]).tolist(), names, seed=seed)
    real = drop > 0.0 and low > 0.0 and rise.low > 0.0
    return Turn(peak, drop, low, p_value, rise, bool(real))


def _means(values_SP: Array, weights_P: Array) -> Array:
    present_SP = ~np.isnan(values_SP)
    weights_S = present_SP @ weights_P
    sums_S = np.where(present_SP, values_SP, 0.0) @ weights_P
    return np.where(weights_S > 0.0, sums_S / np.maximum(weights_S, 1e-300), np.nan)


def _table(values: npt.ArrayLike, rows: int, name: str) -> Array:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or len(table) != rows:
        raise InputError(f"{name}: needs one row for each of the {rows} points and a column for each prompt")
    empty = np.isnan(table).all(axis=1)
    if empty.any():
        raise InputError(f"{name}: row {int(empty.argmax())} has no value at all")
    return table
