from __future__ import annotations

import re
from typing import Any

from rayalign.storage.report_results import results_section


def row(name: str, metric: str, mean: float | None, **fields: Any) -> dict[str, Any]:
    return {"name": name, "metric": metric, "mean": mean, "low": None, "high": None, "n": 40, **fields}


def gap(a: str, b: str, **fields: Any) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "metric": "gold_utility",
        "mean_difference": 0.1,
        "low": 0.0,
        "high": 0.2,
        "n": 40,
        **fields,
    }


def names(table: str) -> list[str]:
    return re.findall("<tr><td>([a-z]+)", table)


def test_a_table_for_each_metric_the_best_first_with_unit_and_direction() -> None:
    results = [
        row("sft", "gold_utility", 0.5),
        row("ppo", "gold_utility", 0.7),
        row("sft", "perplexity", 3.0),
        row("ppo", "perplexity", 4.0),
        row("sft", "answer_tokens", 17.0),
        row("ppo", "answer_tokens", 18.0),
    ]
    gold, perplexity, tokens = results_section(results, []).split("</details>")[:3]
    assert "0 to 1, higher is better" in gold and names(gold) == ["ppo", "sft"]
    assert "lower is better" in perplexity and names(perplexity) == ["sft", "ppo"]
    assert "is better" not in tokens and names(tokens) == ["sft", "ppo"]
    assert results_section([], []) == ""


def test_many_rows_are_folded_but_for_the_first_metric() -> None:
    results = [row(f"m{place}", metric, 0.5) for metric in ("gold_utility", "reward") for place in range(40)]
    assert results_section(results, []).count("<details open>") == 1
    assert results_section(results[30:50], []).count("<details open>") == 2


def test_it_says_why_n_is_smaller_and_what_is_wrong_with_the_answers() -> None:
    results = [
        row("sft", "win_rate_by_pool_against_ppo", 40.0, n=38, note="2 of 40 prompts have no verdict"),
        row("sft", "answers_cut", 0.8),
    ]
    page = results_section(results, [])
    assert "sft: 2 of 40 prompts have no verdict." in page
    assert '<td>sft <span class="note">80% cut</span></td><td class="n">40</td>' in page


def test_each_difference_is_shown_once() -> None:
    page = results_section([], [gap("ppo", "sft"), gap("sft", "ppo"), gap("ppo", "dpo", n=39, note="1 of 40 lack it")])
    assert page.count("ppo − sft") == 1 and "sft − ppo" not in page
    assert page.count("ppo − dpo") == 1 and "1 of 40 lack it." in page
