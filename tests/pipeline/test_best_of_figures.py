"""Best-of-n of an evaluation: the rows beside its bounds, and what exceeds them."""

from __future__ import annotations

from typing import Any

import pytest

from rayalign.config import EvaluateStage
from rayalign.pipeline.best_of_figures import best_of_figures
from rayalign.statistics.best_of_n import best_of_n_kl, estimated_kl
from rayalign.types import Candidate, Example, Prompt

PROMPTS = 20


def stage(**models: int) -> EvaluateStage:
    """Models of the same weights, each the best of so many candidates."""
    best_of = {name: {"n": n, "reward": "rules:length"} for name, n in models.items() if n > 1}
    weights = {**dict.fromkeys(models, "stage:sft"), "ppo": "stage:ppo"}
    return EvaluateStage.model_validate({"kind": "evaluate", "models": weights, "best_of": best_of})


def drawn(*scores: float | None) -> list[Example]:
    candidates = tuple(Candidate(str(place), score=score) for place, score in enumerate(scores))
    return [Example(Prompt(str(number), ()), candidates) for number in range(PROMPTS)]


def rate(name: str, metric: str, mean: float, half_width: float = 5.0) -> dict[str, Any]:
    return {"name": name, "metric": metric, "mean": mean, "low": mean - half_width, "high": mean + half_width, "n": 20}


def test_bounds_stand_beside_the_estimate_and_win_rates_against_the_same_weights() -> None:
    rows = best_of_figures(stage(sft=1, best=4), {"best": drawn(1.0, 2.0, 3.0, 3.0)}, [], seed=0)
    by_metric = {row["metric"]: row for row in rows}
    assert set(by_metric) == {"best_of_n_kl", "best_of_n_kl_estimate", "win_rate_bound_against_sft"}
    assert by_metric["best_of_n_kl"]["mean"] == pytest.approx(best_of_n_kl(4))
    assert by_metric["best_of_n_kl_estimate"]["mean"] == pytest.approx(estimated_kl([1, 2, 3, 3], 4))
    assert by_metric["win_rate_bound_against_sft"]["mean"] == 80.0
    assert {row["name"] for row in rows} == {"best"}
    assert {row["n"] for row in rows} == {PROMPTS}


def test_a_win_rate_above_its_bound_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    results = [
        rate("best", "win_rate_against_sft", 84.0),
        rate("best", "win_rate_by_gold_against_sft", 87.5),
        rate("best", "win_rate_against_ppo", 99.0),
        rate("ppo", "win_rate_against_sft", 99.0),
    ]
    best_of_figures(stage(sft=1, best=4), {"best": drawn(1.0, 2.0, 3.0, 4.0)}, results, seed=0)
    (record,) = caplog.records
    assert "best: win_rate_by_gold_against_sft is 87.5 [82.5, 92.5], and best-of-n cannot exceed 80" in record.message


@pytest.mark.parametrize(("n", "scores"), [(1, (2.0,)), (2, (None, None))])
def test_one_candidate_or_no_score_has_its_bound_alone(n: int, scores: tuple[float | None, ...]) -> None:
    section = stage(sft=1, best=2)
    best_of = {"best": section.best_of["best"].model_copy(update={"n": n})}
    rows = best_of_figures(section.model_copy(update={"best_of": best_of}), {"best": drawn(*scores)}, [], seed=0)
    assert [row["metric"] for row in rows] == ["best_of_n_kl"]
