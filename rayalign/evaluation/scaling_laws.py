"""How reward and truth move with the distance from the first policy (Gao 2022, arXiv 2210.10760, section 3.1).

The distance is d = sqrt(KL(policy || first policy)) [nats^(1/2)]. Shapes: S sizes or checkpoints, P prompts, N
candidates of a prompt. An absent value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, bootstrap, bounds

Array = npt.NDArray[np.float64]
Form = Literal["best_of_n", "rl"]
FEWEST_POINTS = 3
"""distances above 0: two parameters and one to judge them by"""


class Law(NamedTuple):
    """gain(d) = d (alpha - beta d) for best-of-n, d (alpha - beta log d) for reinforcement learning."""

    form: Form
    alpha: Interval
    """what the first step gains"""
    beta: Interval
    """how soon the gain falls behind; above 0 the curve bends down"""
    r_squared: float
    """share of the means' variance that the law explains"""

    def gain(self, distance: float) -> float:
        """What the law expects at a distance."""
        return distance * (self.alpha.mean - self.beta.mean * _bend(self.form, np.array([distance]))[0])


def best_of_n_values(proxy_PN: npt.ArrayLike, values_PN: npt.ArrayLike, sizes: Sequence[int]) -> Array:
    """The expected value of the candidate with the highest proxy among n drawn without repetition, for each n: [S, P].

    This uses all candidates for every n (Nakano 2021, arXiv 2112.09332, appendix I): the candidate of rank i from below
    is the best of n with probability C(i - 1, n - 1) / C(N, n).

    Raises:
        InputError: tables of unlike shapes, an absent value, or a size that is not between 1 and N.
    """
    proxy = np.asarray(proxy_PN, dtype=np.float64)
    values = np.asarray(values_PN, dtype=np.float64)
    if proxy.shape != values.shape or proxy.ndim != 2:
        raise InputError("best of n: needs two tables of the same prompts and candidates")
    if np.isnan(proxy).any() or np.isnan(values).any():
        raise InputError("best of n: a candidate has no score; leave its prompt out")
    most = proxy.shape[1]
    if any(not 1 <= n <= most for n in sizes):
        raise InputError(f"best of n: sizes go from 1 to the {most} candidates of a prompt; got {list(sizes)}")
    order_PN = np.argsort(proxy, axis=1, kind="stable")
    sorted_PN = np.take_along_axis(values, order_PN, axis=1)
    return np.array([sorted_PN @ _win_chances(most, n) for n in sizes])


def _win_chances(most: int, n: int) -> Array:
    """For each rank from below, the chance that the candidate of that rank is the best of n."""
    subsets = math.comb(most, n)
    return np.array([math.comb(rank, n - 1) / subsets for rank in range(most)])


def fit(form: Form, distances: Sequence[float], gains_SP: npt.ArrayLike, *, seed: int = 0) -> Law:
    """Least squares over the means at each distance, with bootstrap intervals over prompts.

    Args:
        distances: d of each row, 0 or more; a row at 0 says nothing about the law and is left out.
        gains_SP: value less that of the first policy, a row for each distance and a column for each prompt.

    Raises:
        InputError: fewer than three distances above 0, or another number of rows than distances.
    """
    gains = np.asarray(gains_SP, dtype=np.float64)
    d_S = np.asarray(distances, dtype=np.float64)
    if gains.ndim != 2 or len(gains) != len(d_S):
        raise InputError("scaling law: needs one row of gains for each distance")
    apart_S = d_S > 0
    if apart_S.sum() < FEWEST_POINTS:
        raise InputError(f"scaling law: needs {FEWEST_POINTS} distances above 0, got {int(apart_S.sum())}")
    d_S, gains = d_S[apart_S], gains[apart_S]
    present_SP = ~np.isnan(gains)
    filled_SP = np.where(present_SP, gains, 0.0)

    def parameters(weights_P: Array) -> Array:
        means_S = (filled_SP @ weights_P) / (present_SP @ weights_P)
        return _least_squares(form, d_S, means_S)

    means_S = np.nanmean(gains, axis=1)
    alpha, beta = _least_squares(form, d_S, means_S)
    resampled_R2 = bootstrap(parameters, range(gains.shape[1]), seed=seed)
    intervals = []
    for value, column_R in zip((alpha, beta), resampled_R2.T, strict=True):
        low, high = bounds(column_R)
        intervals.append(Interval(float(value), low, high, gains.shape[1]))
    expected_S = d_S * (alpha - beta * _bend(form, d_S))
    return Law(form, intervals[0], intervals[1], _r_squared(means_S, expected_S))


def _bend(form: Form, d_S: Array) -> Array:
    """What beta multiplies, beside d."""
    return d_S if form == "best_of_n" else np.log(d_S)


def _least_squares(form: Form, d_S: Array, means_S: Array) -> Array:
    """alpha and beta."""
    columns_S2 = np.stack([d_S, -d_S * _bend(form, d_S)], axis=1)
    solution, *_ = np.linalg.lstsq(columns_S2, means_S, rcond=None)
    return np.asarray(solution)


def _r_squared(means_S: Array, expected_S: Array) -> float:
    """NaN where all means are equal."""
    spread = float(((means_S - means_S.mean()) ** 2).sum())
    return 1 - float(((means_S - expected_S) ** 2).sum()) / spread if spread else math.nan
