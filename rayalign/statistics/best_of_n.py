"""How far best-of-n can go from its reference, and how far it went.

Best-of-n draws n answers of a reference and takes the best-scored one. Whatever scores them, KL(best-of-n || reference)
is at most log n - (n-1)/n (Hilton, in Stiennon 2020, arXiv 2009.01325, G.3; Beirami 2024, arXiv 2401.01879, theorem 1),
and its answer beats a fresh one of the reference in at most n/(n+1) of the cases (Beirami 2024; a tie is half a win).
Both are reached where no two answers tie. A win rate above its bound, beyond its interval, says that draws were not
independent, or that the answer was chosen by the very verdict that judges it now. The KL is estimated from the
candidates' own scores, for which the bound holds too: it cannot exceed the bound. Without ties it depends on n and the
number of candidates alone. It shows what ties cost and tests nothing; the win rate is the test.

Shapes: P prompts, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rayalign.errors import InputError
from rayalign.statistics.intervals import Interval, mean_interval
from rayalign.statistics.winrate import win_rate_interval

_ROUNDING = 1e-9


class BestOfN(NamedTuple):
    """The figures of a best-of-n run beside their bounds."""

    n: int
    kl: Interval
    """estimated by `estimated_kl`, over prompts [nats]"""
    kl_bound: float
    win_rate: Interval | None
    """against the reference, a tie counted half [%]; None without verdicts"""
    win_rate_bound: float
    """[%]"""

    @property
    def is_suspect(self) -> bool:
        """Whether the whole interval of the win rate lies above its bound."""
        return self.win_rate is not None and exceeds(self.win_rate, self.win_rate_bound)


def best_of_n_report(
    n: int, scores_PN: Sequence[Sequence[float | None]], preferences: Sequence[float | None] | None = None
) -> BestOfN:
    """Both figures of a best-of-n run and their bounds.

    Args:
        scores_PN: for each prompt the scores of the candidates that were drawn; None and NaN are absent.
        preferences: for each prompt the verdict on the chosen answer against a fresh one of the reference, as
            `win_rate` takes it: 2 where the chosen one is better, 1 where the reference's is.

    Raises:
        InputError: n below 1, or no prompt with a score.
    """
    kl = mean_interval([estimated_kl(scores_N, n) for scores_N in scores_PN])
    rate = None if preferences is None else win_rate_interval(preferences)
    return BestOfN(n, kl, best_of_n_kl(n), rate, 100 * best_of_n_win_rate(n))


def best_of_n_kl(n: int) -> float:
    """log n - (n-1)/n [nats]: how far best-of-n goes from its reference at most."""
    return math.log(_checked(n)) - (n - 1) / n


def best_of_n_win_rate(n: int) -> float:
    """n/(n+1): in what share of the cases best-of-n beats a fresh answer of its reference at most."""
    return _checked(n) / (n + 1)


def estimated_kl(scores_N: Sequence[float | None], n: int) -> float:
    """The KL of best-of-n to the distribution of a prompt's candidates, as drawn [nats]; NaN without a score.

    Best-of-n changes nothing but how likely each score is: a score of probability p, and F below or at it, is chosen
    with probability q = F^n - (F - p)^n. The estimate is the sum of q log(q / p), with the shares of the drawn scores
    for their probabilities. With few candidates it is too low, since answers not yet drawn are missing. Scores that
    all differ have the same estimate whatever they are.
    """
    numbers_N = np.array([np.nan if score is None else score for score in scores_N], dtype=np.float64)
    present_N = numbers_N[~np.isnan(numbers_N)]
    if not present_N.size:
        return math.nan
    _, counts_S = np.unique(present_N, return_counts=True)
    shares_S: npt.NDArray[np.float64] = counts_S / counts_S.sum()
    upper_S = shares_S.cumsum()
    chosen_S = upper_S ** _checked(n) - (upper_S - shares_S).clip(min=0.0) ** n
    ratios_S = np.log(chosen_S / shares_S, where=chosen_S > 0, out=np.zeros_like(chosen_S))
    return float((chosen_S * ratios_S).sum())


def exceeds(figure: Interval, bound: float) -> bool:
    """Whether even the lower end of a figure's interval lies above its bound."""
    lowest = figure.mean if math.isnan(figure.low) else figure.low
    return lowest > bound + _ROUNDING


def _checked(n: int) -> int:
    if n < 1:
        raise InputError(f"best-of-n: n must be 1 or more, not {n}")
    return n
