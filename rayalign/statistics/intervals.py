"""95% intervals by the bootstrap, clustered by prompt: answers to one prompt are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError

_RESAMPLES = 4000
_BLOCK = 1 << 22
"""draws held at once"""
FEWEST = 10
"""clusters below which a bootstrap pretends to know something"""


class Interval(NamedTuple):
    """A mean with its 95% interval; NaN bounds where a single cluster tells nothing of the spread."""

    mean: float
    low: float
    high: float
    n: int
    """clusters, or values where there are none"""


def mean_interval(
    values: Sequence[float | None], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Interval:
    """The mean of the values; None and NaN are absent and left out.

    Args:
        values: one number for each answer.
        clusters: for each value what it shares its chance with, such as its prompt's id; whole clusters are resampled.

    Raises:
        InputError: no value at all.
    """
    numbers = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    present = ~np.isnan(numbers)
    if not present.any():
        raise InputError("interval: every value is absent; look at the scorer's failures")
    names = range(len(numbers)) if clusters is None else clusters
    sums_C, counts_C = cluster_sums(numbers, present, names)
    means = _resampled_means(sums_C, counts_C, np.random.default_rng(seed))
    low, high = np.percentile(means, (2.5, 97.5)) if len(sums_C) > 1 else (np.nan, np.nan)
    return Interval(float(sums_C.sum() / counts_C.sum()), float(low), float(high), len(sums_C))


def paired_difference(
    a: Sequence[float | None], b: Sequence[float | None], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
) -> Interval:
    """The mean of a - b over the same answers' prompts, in the same order; a pair with an absent side is left out.

    Raises:
        InputError: different lengths, or no whole pair.
    """
    if len(a) != len(b):
        raise InputError(
            f"paired difference: {len(a)} values against {len(b)}; both models must answer the same prompts"
        )
    differences = [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]
    return mean_interval(differences, clusters, seed=seed)


def share_interval(share: float, n: int) -> Interval:
    """A share of `n` independent cases with Wilson's interval (1927), which stays within 0 and 1."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n)


def rate_interval(
    values: Sequence[float | None],
    clusters: Sequence[Hashable] | None = None,
    *,
    least: float = 0.0,
    most: float = 1.0,
    seed: int = 0,
) -> Interval:
    """`mean_interval` of values between `least` and `most`; of few clusters Wilson's.

    Where all say the same, it allows for the share of others that as many cases can hide: ten wins of ten do not make a
    win rate certain.
    """
    mean, low, high, n = mean_interval(values, clusters, seed=seed)
    if not high - low > 1e-9 * (most - least):
        hidden = share_interval(0.0, n).high
        return Interval(mean, mean - hidden * (mean - least), mean + hidden * (most - mean), n)
    if n < FEWEST:
        low, high = (least + (most - least) * x for x in share_interval((mean - least) / (most - least), n)[1:3])
    return Interval(mean, low, high, n)


def bootstrap(
    statistic: Callable[[npt.NDArray[np.float64]], npt.ArrayLike],
    clusters: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """The statistic on resampled data, one row for each resample; NaN where a single cluster tells nothing.

    Args:
        statistic: given how often each value was drawn (its cluster's count), what is computed of them.
        clusters: for each value what it shares its chance with; whole clusters are resampled.
    """
    numbers, n = numbered(clusters)
    if n < 2:
        return np.full((1, *np.shape(statistic(np.ones(len(numbers))))), np.nan)
    rng = np.random.default_rng(seed)
    return np.array(
        [statistic(rng.multinomial(n, np.full(n, 1 / n))[numbers].astype(np.float64)) for _ in range(resamples)]
    )


def bounds(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95% of resampled values; NaN where more than one in forty of them is undefined."""
    if np.isnan(values).mean() > 0.025:
        return math.nan, math.nan
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def numbered(clusters: Sequence[Hashable]) -> tuple[npt.NDArray[np.int64], int]:
    """Each value's cluster as a number in order of appearance, and how many clusters there are."""
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(name, len(index)) for name in clusters], dtype=np.int64), len(index)


def cluster_sums(
    numbers: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], names: Sequence[Hashable]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The sum and the count of each cluster's values, in order of appearance."""
    if len(names) != len(numbers):
        raise InputError(f"interval: {len(names)} clusters for {len(numbers)} values; name one for each")
    kept, _ = numbered([name for name, here in zip(names, present, strict=True) if here])
    return np.bincount(kept, numbers[present]).astype(np.float64), np.bincount(kept).astype(np.float64)


def _resampled_means(
    sums_C: npt.NDArray[np.float64], counts_C: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    n = len(sums_C)
    block = max(1, min(_RESAMPLES, _BLOCK // n))
    means = []
    for start in range(0, _RESAMPLES, block):
        drawn = rng.integers(n, size=(min(block, _RESAMPLES - start), n))
        means.append(sums_C[drawn].sum(axis=1) / counts_C[drawn].sum(axis=1))
    return np.concatenate(means)
