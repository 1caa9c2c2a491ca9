"""The win rate as AlpacaEval publishes it (github.com/tatsu-lab/alpaca_eval, leaderboards 1 and 2), and its error."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, cluster_sums, rate_interval

Array = npt.NDArray[np.float64]
_FLIPS = 10_000


class WinRate(NamedTuple):
    """A model against a baseline; the three rates are in percent."""

    win_rate: float
    standard_error: float
    """NaN for a single verdict"""
    discrete_win_rate: float
    """a preference counts as won, drawn (a half) or lost"""
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int


class PairedTest(NamedTuple):
    """Two models against one baseline on the same prompts."""

    difference: Interval
    """of the win rates, first less second, in percent points"""
    p_value: float
    """two-sided, by sign flips of whole clusters: the probability that chance alone makes a difference this large"""
    deviation: float
    """standard deviation of a prompt's difference, in percent points; the first argument of `minimum_prompts`"""


def win_rate(preferences: Iterable[float | None]) -> WinRate:
    """The win rate of the second answers over the first.

    Args:
        preferences: 1 the baseline is better, 2 the model is better, between them a probability; 1.5 or 0 a draw; None
            or NaN no verdict, which is left out of every count.

    Raises:
        InputError: no verdict at all, or a number outside the convention.
    """
    shares_N = shares(preferences)
    won = shares_N[~np.isnan(shares_N)]
    if not won.size:
        raise InputError("win rate: no preference has a verdict; look at the judge's failures")
    n = won.size
    wins, draws = int((won > 0.5).sum()), int((won == 0.5).sum())
    error = won.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return WinRate(
        win_rate=float(100.0 * won.mean()),
        standard_error=float(100.0 * error),
        discrete_win_rate=100.0 * (wins + 0.5 * draws) / n,
        n_wins=wins,
        n_wins_base=n - wins - draws,
        n_draws=draws,
        n_total=n,
    )


def shares(preferences: Iterable[float | None]) -> Array:
    """Preferences as the second answer's share of a win, in [0, 1]; NaN where there is no verdict.

    Raises:
        InputError: a number outside the convention.
    """
    numbers = np.array([np.nan if p is None else p for p in preferences], dtype=np.float64)
    numbers = np.where(numbers == 0.0, 1.5, numbers)
    if ((numbers < 1.0) | (numbers > 2.0)).any():
        raise InputError("win rate: a preference must be between 1 (baseline) and 2 (model), or 0 for a draw")
    return numbers - 1.0


def win_rate_interval(preferences: Iterable[float | None], clusters: Sequence[Hashable] | None = None) -> Interval:
    """The win rate in percent with its 95% interval; `clusters` names each preference's prompt."""
    percents = 100.0 * shares(preferences)
    return rate_interval(percents.tolist(), clusters, most=100.0)


def compare_win_rates(
    a: Sequence[float | None], b: Sequence[float | None], clusters: Sequence[Hashable] | None = None
) -> PairedTest:
    """Test whether two models differ against one baseline, from their preferences on the same prompts in order.

    Raises:
        InputError: the lengths differ, no prompt has verdicts on both, or a number is outside the convention.
    """
    rates_a, rates_b = 100.0 * shares(a), 100.0 * shares(b)
    if len(rates_a) != len(rates_b):
        raise InputError(
            f"paired test: {len(rates_a)} preferences against {len(rates_b)}; both are on the same prompts"
        )
    gaps = rates_a - rates_b
    present = ~np.isnan(gaps)
    if not present.any():
        raise InputError("paired test: there is no prompt on which both models have a verdict")
    difference = rate_interval(gaps.tolist(), clusters, least=-100.0, most=100.0)
    names = range(len(gaps)) if clusters is None else clusters
    sums_C, _ = cluster_sums(gaps, present, names)
    deviation = float(gaps[present].std(ddof=1)) if present.sum() > 1 else math.nan
    return PairedTest(difference, _sign_flip_p(sums_C), deviation)


def minimum_prompts(deviation: float, difference: float) -> int:
    """How many prompts show a true difference at the 5% level with a power of 80%.

    Args:
        deviation: of one prompt's value: a paired difference's, or sqrt(n) times a win rate's standard error.
        difference: the difference to detect, in the same unit.

    Raises:
        InputError: a difference that is not positive.
    """
    if not difference > 0.0:
        raise InputError(f"minimum sample: a difference must be more than 0, not {difference}")
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    return max(2, math.ceil((z * deviation / difference) ** 2))


def _sign_flip_p(sums_C: Array) -> float:
    """Tries every pattern of signs where there are few, else a sample that includes the observed pattern."""
    n = len(sums_C)
    observed = abs(sums_C.sum()) * (1.0 - 1e-12)
    if 2**n <= _FLIPS:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        signs = 1.0 - 2.0 * bits
        return float((np.abs(signs @ sums_C) >= observed).mean())
    rng = np.random.default_rng(0)
    extreme = 0
    for _ in range(_FLIPS):
        signs = rng.choice((-1.0, 1.0), size=n)
        extreme += abs(signs @ sums_C) >= observed
    return float((1 + extreme) / (1 + _FLIPS))
