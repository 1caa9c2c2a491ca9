"""Reward against KL, and where a proxy's rise no longer helps (Gao et al. 2022, arXiv 2210.10760).

Shapes: S checkpoints (or runs), P prompts. An absent value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
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
    kl, rewards = _table(kl_SP, len(names), "kl"), _table(rewards_SP, len(names), "rewards")
    kls = [mean_interval(row.tolist(), clusters, seed=seed) for row in kl]
    heights = [mean_interval(row.tolist(), clusters, seed=seed) for row in rewards]
    means = [(k.mean, r.mean) for k, r in zip(kls, heights, strict=True)]
    best = [not any(k <= x and r >= y and (k, r) != (x, y) for k, r in means) for x, y in means]
    points = [FrontierPoint(*point) for point in zip(names, kls, heights, best, strict=True)]
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
    if len(x) < 2 or any(b <= a for a, b in zip(x, x[1:], strict=False)):
        raise InputError("over-optimisation: `x` needs two or more checkpoints in rising order")
    proxy, gold = _table(proxy_SP, len(x), "proxy"), _table(gold_SP, len(x), "gold")
    judge = None if judge_SP is None else _table(judge_SP, len(x), "judge")
    names = range(gold.shape[1]) if clusters is None else clusters

    def curve(values_SP: Array) -> tuple[Interval, ...]:
        return tuple(mean_interval(row.tolist(), names, seed=seed) for row in values_SP)

    return OverOptimisation(
        tuple(x),
        curve(proxy),
        curve(gold),
        () if judge is None else curve(judge),
        _turn(proxy, gold, names, seed),
        None if judge is None else _turn(proxy, judge, names, seed),
    )


def _turn(proxy_SP: Array, gold_SP: Array, names: Sequence[Hashable], seed: int) -> Turn:
    """The drop is the largest of many, so it is held against the largest of resampled, centred drops (White 2000)."""
    means_S = _means(gold_SP, np.ones(gold_SP.shape[1]))
    drops_S = means_S - means_S[-1]
    peak = int(np.argmax(drops_S))
    drop = float(drops_S[peak])
    centred_RS = bootstrap(lambda w: _means(gold_SP, w), names, seed=seed)
    chance_R = np.fmax.reduce(centred_RS - centred_RS[:, -1:] - drops_S, axis=1)
    rise = mean_interval((proxy_SP[-1] - proxy_SP[peak]).tolist(), names, seed=seed)
    low = drop - float(np.quantile(chance_R, 0.95))
    p_value = math.nan if math.isnan(low) else float((1 + (chance_R >= drop).sum()) / (1 + len(chance_R)))
    return Turn(peak, drop, low, p_value, rise, bool(drop > 0.0 and low > 0.0 and rise.low > 0.0))


def _means(values_SP: Array, weights_P: Array) -> Array:
    present = ~np.isnan(values_SP)
    total = present @ weights_P
    return np.where(total > 0.0, np.where(present, values_SP, 0.0) @ weights_P / np.maximum(total, 1e-300), np.nan)


def _table(values: npt.ArrayLike, rows: int, name: str) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or len(found) != rows:
        raise InputError(f"{name}: needs one row for each of the {rows} points and a column for each prompt")
    if np.isnan(found).all(axis=1).any():
        raise InputError(f"{name}: row {int(np.isnan(found).all(axis=1).argmax())} has no value at all")
    return found
