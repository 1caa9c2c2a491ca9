"""What an evaluation reports of the models whose answers are the best of n: their distance, and both bounds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayalign.config import EvaluateStage
from rayalign.statistics.best_of_n import best_of_n_kl, best_of_n_win_rate, estimated_kl, exceeds
from rayalign.statistics.intervals import Interval, mean_interval
from rayalign.types import Example

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]


def best_of_figures(
    stage: EvaluateStage, drawn: Mapping[str, Sequence[Example]], results: Sequence[Row], *, seed: int
) -> list[dict[str, Any]]:
    """Rows of the results: the bound of the KL and its estimate, and the bound of each win rate against the reference.

    The reference is a model of the stage that has the same weights and one answer of its own. A figure above its bound,
    beyond its interval, is a warning.

    Args:
        drawn: all candidates of each such model, with their scores.
        results: rows of the same stage; their win rates are compared with the bounds.
    """
    rows = []
    for name, examples in drawn.items():
        n = stage.best_of[name].n
        prompts = len(examples)
        rows.append(_bound(name, "best_of_n_kl", best_of_n_kl(n), prompts))
        scores_PN = groups_of_scores(examples)
        if n == 1 or not scores_PN:
            continue
        kl = kl_interval(scores_PN, n, seed=seed)
        rows.append({"name": name, "metric": "best_of_n_kl_estimate", **kl._asdict()})
        _warn(name, "best_of_n_kl_estimate", kl, best_of_n_kl(n))
        for reference in _references(stage, name):
            bound = 100 * best_of_n_win_rate(n)
            rows.append(_bound(name, f"win_rate_bound_against_{reference}", bound, prompts))
            for row in _win_rates(results, name, reference):
                _warn(name, row["metric"], Interval(row["mean"], row["low"], row["high"], row["n"]), bound)
    return rows


def groups_of_scores(examples: Sequence[Example]) -> list[list[float]]:
    """The scores that each prompt's candidates have."""
    groups = []
    for example in examples:
        groups.append([candidate.score for candidate in example.candidates if candidate.score is not None])
    return [scores for scores in groups if scores]


def kl_interval(scores_PN: Sequence[Sequence[float]], n: int, *, seed: int) -> Interval:
    """The estimated KL of best-of-n [nats], over prompts whose candidates have scores."""
    return mean_interval([estimated_kl(scores_N, n) for scores_N in scores_PN], seed=seed)


def _references(stage: EvaluateStage, name: str) -> Iterator[str]:
    """Models of the stage with the same weights and one answer of their own."""
    for reference, model in stage.models.items():
        choice = stage.best_of.get(reference)
        if reference != name and model == stage.models[name] and (choice is None or choice.n == 1):
            yield reference


def _win_rates(results: Sequence[Row], name: str, reference: str) -> list[Row]:
    """The rows with this model's win rates against its reference, by whatever judges them."""
    ending = f"_against_{reference}"
    return [row for row in results if row["name"] == name and row["metric"].endswith(ending)]


def _bound(name: str, metric: str, value: float, prompts: int) -> dict[str, Any]:
    return {"name": name, "metric": metric, "mean": value, "low": None, "high": None, "n": prompts}


def _warn(name: str, metric: str, figure: Interval, bound: float) -> None:
    if exceeds(figure, bound):
        logger.warning(
            "%s: %s is %.4g [%.4g, %.4g], and best-of-n cannot exceed %.4g: its draws or its judge are not independent",
            name,
            metric,
            figure.mean,
            figure.low,
            figure.high,
            bound,
        )
