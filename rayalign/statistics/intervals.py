"""95% intervals by the bootstrap, clustered by prompt: answers to one prompt are not independent.

Shapes: N values, C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError

Array = npt.NDArray[np.float64]
_RESAMPLES = 4000
_BLOCK = 1 << 22
"""most draws in memory at a time"""
Z95 = 1.959964
"""97.5% quantile of the standard normal distribution"""
FEWEST = 10
"""clusters below which a bootstrap interval is too narrow to trust"""


class Interval(NamedTuple):
    """A mean with its 95% interval; the bounds are NaN where there is a single cluster."""

    mean: float
    low: float
    high: float
    n: int
    """clusters, or values where there are none"""


def mean_interval(
    values: Sequence[float | None], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Interval:
    """The mean of the values; None and NaN are absent and are left out.

    Args:
        values: one number for each answer.
        clusters: for each value the group that it belongs to, such as its prompt's id; whole clusters are resampled.

    Raises:
        InputError: every value is absent.
    """
    numbers_N = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    present_N = ~np.isnan(numbers_N)
    if not present_N.any():
        raise InputError("interval: every value is absent; look at the scorer's failures")
    names = range(len(numbers_N)) if clusters is None else clusters
    sums_C, counts_C = cluster_sums(numbers_N, present_N, names)
    mean = float(sums_C.sum() / counts_C.sum())
    if len(sums_C) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    means_R = _resampled_means(sums_C, counts_C, np.random.default_rng(seed))
    low, high = np.percentile(means_R, (2.5, 97.5))
    return Interval(mean, float(low), float(high), len(sums_C))


def paired_difference(
    a: Sequence[float | None], b: Sequence[float | None], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Interval:
    """The mean of a - b over the same prompts in the same order; pairs with an absent side are left out.

    Raises:
        InputError: the lengths differ, or no pair has both sides.
    """
    if len(a) != len(b):
        raise InputError(
            f"paired difference: {len(a)} values against {len(b)}; both models must answer the same prompts"
        )
    differences = [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, clusters, seed=seed)


def share_interval(share: float, n: int) -> Interval:
    """A share of `n` independent cases with Wilson's interval (1927), which stays within 0 and 1."""
    squared = Z95 * Z95
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    deviation = math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    half_width = Z95 / (1 + squared / n) * deviation
    return Interval(share, max(0.0, centre - half_width), min(1.0, centre + half_width), n)


def rate_interval(
    values: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    *,
    least: float = 0.0,
    most: float = 1.0,
    seed: int = 0,
) -> Interval:
    """`mean_interval` of values between `least` and `most`; few clusters get Wilson's interval.

    Where all values are equal, the interval allows for the share of different values that a sample of this size can
    miss: ten wins of ten do not make a win rate certain.
    """
    interval = mean_interval(values, clusters, seed=seed)
    mean, n, room = interval.mean, interval.n, most - least
    if not interval.high - interval.low > 1e-9 * room:
        missed = share_interval(0.0, n).high
        return Interval(mean, mean - missed * (mean - least), mean + missed * (most - mean), n)
    if n < FEWEST:
        share = share_interval((mean - least) / room, n)
        return Interval(mean, least + room * share.low, least + room * share.high, n)
    return interval


def bootstrap(
    statistic: Callable[[Array], npt.ArrayLike],
    clusters: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Array:
    """The statistic on resampled data, one row for each resample; NaN where there is a single cluster.

    Args:
        statistic: takes the weight of each value, which is how often its cluster was drawn.
        clusters: for each value the group that it belongs to; whole clusters are resampled.
    """
    cluster_N, n = numbered(clusters)
    if n < 2:
        shape = np.shape(statistic(np.ones(len(cluster_N))))
        return np.full((1, *shape), np.nan)
    rng = np.random.default_rng(seed)
    equal_C = np.full(n, 1 / n)
    rows = []
    for _ in range(resamples):
        counts_C = rng.multinomial(n, equal_C)
        rows.append(statistic(counts_C[cluster_N].astype(np.float64)))
    return np.array(rows)


def bounds(values: Array) -> tuple[float, float]:
    """The middle 95% of resampled values; NaN where more than one in forty of them is undefined."""
    if np.isnan(values).mean() > 0.025:
        return math.nan, math.nan
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def numbered(clusters: Sequence[Hashable]) -> tuple[npt.NDArray[np.int64], int]:
    """Each value's cluster as a number in order of appearance, and the number of clusters."""
    numbers: dict[Hashable, int] = {}
    cluster_N = [numbers.setdefault(name, len(numbers)) for name in clusters]
    return np.array(cluster_N, dtype=np.int64), len(numbers)


def cluster_sums(numbers_N: Array, present_N: npt.NDArray[np.bool_], names: Sequence[Hashable]) -> tuple[Array, Array]:
    """The sum and the count of each cluster's present values, in order of appearance.

    Raises:
        InputError: not one name for each value.
    """
    if len(names) != len(numbers_N):
        raise InputError(f"interval: {len(names)} clusters for {len(numbers_N)} values; name one for each")
    cluster, _ = numbered([name for name, present in zip(names, present_N, strict=True) if present])
    sums_C = np.bincount(cluster, numbers_N[present_N])
    return sums_C.astype(np.float64), np.bincount(cluster).astype(np.float64)


def _resampled_means(sums_C: Array, counts_C: Array, rng: np.random.Generator) -> Array:
    n = len(sums_C)
    block = max(1, min(_RESAMPLES, _BLOCK // n))
    means = []
    for start in range(0, _RESAMPLES, block):
        rows = min(block, _RESAMPLES - start)
        draws_RC = rng.integers(n, size=(rows, n))
        means.append(sums_C[draws_RC].sum(axis=1) / counts_C[draws_RC].sum(axis=1))
    return np.concatenate(means)
