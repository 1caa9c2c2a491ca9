"""Rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's correlation of two series of equal length; equal values share their mean rank.

    NaN for fewer than two values, and where all values of a series are equal.
    """
    if len(a) < 2:
        return math.nan
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    deviations_a, deviations_b = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    scale = math.sqrt(float((deviations_a**2).sum() * (deviations_b**2).sum()))
    return float((deviations_a * deviations_b).sum()) / scale if scale else math.nan


def _ranks(values: Sequence[float]) -> npt.NDArray[np.float64]:
    x_N = np.asarray(values, dtype=np.float64)
    lower_N = (x_N[None, :] < x_N[:, None]).sum(axis=1)
    equal_N = (x_N[None, :] == x_N[:, None]).sum(axis=1)
    return np.asarray(lower_N + (equal_N - 1) / 2)
