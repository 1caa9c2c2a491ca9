"""Arena-Hard (Li et al. 2024, arXiv 2406.11939), v0.1 and v2.0: leaderboards of judgments.

    judgment -> label of each game -> rows of the public files -> `scores` -> `leaderboard`, `style_controlled`

Shapes: N scores, M models, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayalign.evaluation.arena_games import BASELINES as BASELINES
from rayalign.evaluation.arena_games import LABELS as LABELS
from rayalign.evaluation.arena_games import ROUNDS, baseline_of, best_first, count_nulls, in_categories
from rayalign.evaluation.arena_games import Battle as Battle
from rayalign.evaluation.arena_games import Row as Row
from rayalign.evaluation.arena_games import Rules as Rules
from rayalign.evaluation.arena_games import Standing as Standing
from rayalign.evaluation.arena_games import battles as battles
from rayalign.evaluation.arena_games import label as label
from rayalign.evaluation.arena_games import scores as scores
from rayalign.evaluation.arena_style import style_controlled as style_controlled
from rayalign.evaluation.arena_style import style_features as style_features
from rayalign.statistics.intervals import Interval, rate_interval

Array = npt.NDArray[np.float64]
Estimate = tuple[float, float, float, float | None]
"""score, lower and upper bound in percent, and the rating"""
_SCALE, _ANCHOR = 400.0, 1000.0
_SURE = 1e-12
"""keeps the rating of a model that won or lost all games finite"""


def leaderboard(
    rows: Sequence[Row],
    *,
    rules: Rules = "v2.0",
    categories: Sequence[str] | None = None,
    weight: int = 3,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, list[Standing]]:
    """The standings of each category, best first, with the baseline at 50; several judges are pooled.

    v2.0: the mean over bootstraps of a model's scores. v0.1: Bradley-Terry ratings by logistic regression as win rates.

    Args:
        rows: judgments in either public schema, of one baseline in each category.
        categories: None: all of them, in order of appearance.

    Raises:
        InputError: a category without a judgment, or with several baselines.
    """
    standings = {}
    for category, judgments in in_categories(rows, categories).items():
        baseline = baseline_of(judgments)
        judgments = [row for row in judgments if row["model"] != baseline]
        names = sorted({str(row["model"]) for row in judgments})
        scored = battles(judgments, rules=rules, weight=weight)
        estimates = _ratings(names, scored, rounds, seed) if rules == "v0.1" else _means(names, scored, rounds, seed)
        entries = [Standing(baseline, 50.0, 50.0, 50.0, None, 0, 0, _ANCHOR if rules == "v0.1" else None)]
        for name, estimate in zip(names, estimates, strict=True):
            counted, null = count_nulls(judgments, name, rules)
            by_prompt = prompt_interval([battle for battle in scored if battle.model == name])
            entries.append(Standing(name, *estimate[:3], by_prompt, counted, null, estimate[3]))
        standings[category] = best_first(entries)
    return standings


def prompt_interval(fought: Sequence[Battle]) -> Interval | None:
    """The mean score in percent with its 95% interval by prompt; None without a score."""
    if not fought:
        return None
    percents = [100.0 * battle.score for battle in fought]
    return rate_interval(percents, [battle.prompt for battle in fought], most=100.0)


def _means(names: Sequence[str], scored: Sequence[Battle], rounds: int, seed: int) -> list[Estimate]:
    """The mean of a model's resampled means, with the 5th and 95th percentile."""
    estimates: list[Estimate] = []
    for name in names:
        scores_N = np.array([battle.score for battle in scored if battle.model == name])
        if not scores_N.size:
            estimates.append((math.nan, math.nan, math.nan, None))
            continue
        rng = np.random.default_rng([seed, *name.encode()])  # the other models of a call change no figure
        draws_RN = rng.integers(scores_N.size, size=(rounds, scores_N.size))
        means_R = 100.0 * scores_N[draws_RN].mean(axis=1)
        lower, upper = np.percentile(means_R, (5.0, 95.0))
        estimates.append((float(means_R.mean()), float(lower), float(upper), None))
    return estimates


def _ratings(names: Sequence[str], scored: Sequence[Battle], rounds: int, seed: int) -> list[Estimate]:
    """Ratings by maximum likelihood with the 2.5th and 97.5th percentile of resampled ones, and their win rates.

    Every game is against the baseline, so the logistic regression has one coefficient for each model and its maximum is
    the log-odds of the model's mean score. All battles are resampled together.
    """
    number = {name: index for index, name in enumerate(names)}
    model_N = np.array([number[battle.model] for battle in scored], dtype=np.int64)
    scores_N = np.array([battle.score for battle in scored])
    point_M = _elo(model_N, scores_N, np.ones(len(scored)), len(names))
    rng = np.random.default_rng(seed)
    ratings_R = []
    for _ in range(rounds if scored else 0):
        counts_N = rng.multinomial(len(scored), np.full(len(scored), 1.0 / len(scored)))
        ratings_R.append(_elo(model_N, scores_N, counts_N.astype(np.float64), len(names)))
    ratings_RM = np.array(ratings_R).reshape(-1, len(names))
    estimates: list[Estimate] = []
    for index, rating in enumerate(point_M):
        present_R = ratings_RM[~np.isnan(ratings_RM[:, index]), index]
        lower, upper = np.percentile(present_R, (2.5, 97.5)) if present_R.size else (math.nan, math.nan)
        estimates.append((_win_rate(rating), _win_rate(lower), _win_rate(upper), float(rating)))
    return estimates


def _elo(model_N: npt.NDArray[np.int64], scores_N: Array, weights_N: Array, models: int) -> Array:
    """The rating of each model; NaN without a battle."""
    wins_M = np.bincount(model_N, weights_N * scores_N, models)
    games_M = np.bincount(model_N, weights_N, models)
    share_M = np.divide(wins_M, games_M, out=np.full(models, np.nan), where=games_M > 0.0)
    sure_M = np.clip(share_M, _SURE, 1.0 - _SURE)
    return np.asarray(_ANCHOR + _SCALE * np.log10(sure_M / (1.0 - sure_M)))


def _win_rate(rating: float) -> float:
    """Percent of wins against the baseline."""
    return float(100.0 / (1.0 + 10.0 ** ((_ANCHOR - rating) / _SCALE)))
