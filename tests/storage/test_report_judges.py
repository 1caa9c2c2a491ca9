from __future__ import annotations

from typing import Any

from rayalign.storage.report_judges import judges_table, shown_metrics


def row(name: str, metric: str, mean: float) -> dict[str, Any]:
    return {"name": name, "metric": metric, "mean": mean, "low": mean - 5, "high": mean + 5, "n": 40}


RESULTS = [
    row("dpo", "win_rate_by_pool_against_sft", 55.0),
    row("ppo", "win_rate_by_pool_against_sft", 65.0),
    row("ppo", "win_rate_by_gold_against_sft", 75.0) | {"note": "2 have no verdict"},
    row("judges", "rank_correlation_of_pool_and_gold_against_sft", 0.5) | {"n": 2},
    row("ppo", "gold_utility", 0.7),
]


def test_a_column_for_each_judge_and_the_best_model_first() -> None:
    text = judges_table(RESULTS)
    assert text.index("<td>ppo</td>") < text.index("<td>dpo</td>")
    assert '<td>ppo</td><td class="n" title="40 prompts">65 <span class="range">(60 to 70)</span></td>' in text
    assert '<td class="n" title="40 prompts; 2 have no verdict">75 <span class="range">(70 to 80)</span></td>' in text
    assert '<span class="range">(50 to 60)</span></td><td class="n">–</td>' in text
    assert '<p class="soft">ppo by gold: 2 have no verdict.</p>' in text and "higher is better" in text
    assert "Rank correlation of pool and gold over 2 models: 0.5" in text


def test_one_judge_needs_no_table_of_its_own() -> None:
    assert judges_table(RESULTS[:2]) == "" == judges_table([])


def test_what_the_table_shows_need_not_be_shown_again() -> None:
    assert shown_metrics(RESULTS) == {row["metric"] for row in RESULTS} - {"gold_utility"}
    assert shown_metrics(RESULTS[:2]) == set()


def test_cut_answers_are_said_beside_the_win_rate() -> None:
    cut = {"name": "ppo", "metric": "answers_cut", "mean": 0.9}
    assert '<td>ppo <span class="note">90% cut</span></td>' in judges_table([*RESULTS, cut])
