"""The win rate as AlpacaEval publishes it (github.com/tatsu-lab/alpaca_eval, leaderboards 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rayalign.errors import InputError


class WinRate(NamedTuple):
    """A model against a baseline; the three rates in percent."""

    win_rate: float
    standard_error: float
    """NaN for a single verdict"""
    discrete_win_rate: float
    """a preference counts as won, drawn (a half) or lost"""
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int


def win_rate(preferences: Iterable[float | None]) -> WinRate:
    """The win rate of the second answers over the first.

    Args:
        preferences: 1 the baseline, 2 the model is better, between them a probability; 1.5 or 0 a draw; None or NaN: no
            verdict, left out of every count.

    Raises:
        InputError: no verdict at all, or a number outside the convention.
    """
    given = np.array([np.nan if p is None else p for p in preferences], dtype=np.float64)
    verdicts = given[~np.isnan(given)]
    verdicts = np.where(verdicts == 0.0, 1.5, verdicts)
    if not verdicts.size:
        raise InputError("win rate: no preference has a verdict; look at the judge's failures")
    if verdicts.min() < 1.0 or verdicts.max() > 2.0:
        raise InputError("win rate: a preference must be between 1 (baseline) and 2 (model), or 0 for a draw")
    n = verdicts.size
    wins, draws = int((verdicts > 1.5).sum()), int((verdicts == 1.5).sum())
    error = verdicts.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return WinRate(
        win_rate=float(100.0 * (verdicts - 1.0).mean()),
        standard_error=float(100.0 * error),
        discrete_win_rate=100.0 * (wins + 0.5 * draws) / n,
        n_wins=wins,
        n_wins_base=n - wins - draws,
        n_draws=draws,
        n_total=n,
    )
