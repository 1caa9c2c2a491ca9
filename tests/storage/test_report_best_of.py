from __future__ import annotations

from typing import Any

from rayalign.storage.report_best_of import best_of_table, bounded_rates


def row(metric: str, mean: float, half_width: float | None = None) -> dict[str, Any]:
    ends = {"low": None, "high": None} if half_width is None else {"low": mean - half_width, "high": mean + half_width}
    return {"name": "best", "metric": metric, "mean": mean, **ends, "n": 40}


RESULTS = [
    row("best_of_n_kl", 0.636),
    row("best_of_n_kl_estimate", 0.5, 0.01),
    row("win_rate_bound_against_sft", 80.0),
    row("win_rate_against_sft", 75.0, 3.0),
    row("win_rate_by_gold_against_sft", 90.0, 3.0),
    row("win_rate_against_ppo", 99.0, 0.5),
]


def test_each_figure_stands_beside_the_most_that_it_can_be() -> None:
    text = best_of_table(RESULTS)
    within = '<td class="n">75 (72 to 78)</td><td class="n">80</td><td>within</td>'
    above = '<td class="n">90 (87 to 93)</td><td class="n">80</td><td>above its bound</td>'
    assert f"<td>win_rate_against_sft [%]</td>{within}" in text
    assert f"<td>win_rate_by_gold_against_sft [%]</td>{above}" in text
    assert '<td class="n">0.500 (0.490 to 0.510)</td><td class="n">0.636</td><td>by construction</td>' in text
    assert text.count("Such an estimate cannot exceed its bound") == 1
    assert "ppo" not in text


def test_without_an_estimate_there_is_no_table() -> None:
    assert best_of_table(RESULTS[:1]) == "" == best_of_table(RESULTS[3:])


def test_win_rates_alone_say_nothing_of_an_estimate() -> None:
    text = best_of_table(RESULTS[2:])
    assert "win_rate_against_sft" in text and "estimate" not in text


def test_only_win_rates_against_the_reference_have_a_bound() -> None:
    rates = [(row["metric"], bound) for row, bound in bounded_rates(RESULTS)]
    assert rates == [("win_rate_against_sft", 80.0), ("win_rate_by_gold_against_sft", 80.0)]
