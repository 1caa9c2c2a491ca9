"""What an evaluation reports of the models whose answers are the best of n: their distance, and their bounds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayalign.config import EvaluateStage
from rayalign.data.preferences import base_id
from rayalign.statistics.best_of_n import best_of_n_kl, best_of_n_win_rate, estimated_kl, exceeds
from rayalign.statistics.intervals import Interval, mean_interval
from rayalign.storage.report_best_of import KL, KL_BOUND
from rayalign.types import Example

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]


def best_of_figures(
    stage: EvaluateStage, drawn: Mapping[str, Sequence[Example]], results: Sequence[Row], *, seed: int
) -> list[dict[str, Any]]:
    """Rows of the results: the bound of the KL and its estimate, and the bound of each win rate against the reference.

    The reference is a model of the stage that has the same weights, reads the same prompts and has one answer of its
    own. A win rate above its bound, beyond its interval, is a warning.

    Args:
        drawn: all candidates of each such model, with their scores.
        results: rows of the same stage; their win rates are compared with the bounds.
    """
    rows = []
    for name, examples in drawn.items():
        n = stage.best_of[name].n
        prompts = len(examples)
        rows.append(_bound(name, KL_BOUND, best_of_n_kl(n), prompts))
        kl = kl_interval(examples, n, seed=seed)
        if n == 1 or kl is None:
            continue
        rows.append({"name": name, "metric": KL, **kl._asdict()})
        for reference in _references(stage, name):
            bound = 100 * best_of_n_win_rate(n)
            rows.append(_bound(name, f"win_rate_bound_against_{reference}", bound, prompts))
            for row in _win_rates(results, name, reference):
                _warn(name, row["metric"], Interval(row["mean"], row["low"], row["high"], row["n"]), bound)
    return rows


def kl_interval(examples: Sequence[Example], n: int, *, seed: int) -> Interval | None:
    """The estimated KL of best-of-n [nats], clustered by prompt; None where no candidate has a score."""
    estimates, prompts = [], []
    for example in examples:
        scores = scores_of(example)
        if scores:
            estimates.append(estimated_kl(scores, n))
            prompts.append(base_id(example.prompt))
    return mean_interval(estimates, prompts, seed=seed) if estimates else None


def scores_of(example: Example) -> list[float]:
    """Those that a prompt's candidates have."""
    return [candidate.score for candidate in example.candidates if candidate.score is not None]


def _references(stage: EvaluateStage, name: str) -> Iterator[str]:
    """Models of the stage with the same weights and prompts, and one answer of their own."""
    plain = set(stage.unprompted or ())
    for reference, model in stage.models.items():
        choice = stage.best_of.get(reference)
        same_policy = model == stage.models[name] and (reference in plain) == (name in plain)
        if reference != name and same_policy and (choice is None or choice.n == 1):
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
