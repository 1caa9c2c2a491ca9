from __future__ import annotations

from rayalign.storage.report_methods import method_cells, method_columns, methods_table

ROWS = [
    {"name": "sft", "reward": 1.0, "perplexity": 4.0, "models": 1, "training": 20.0},
    {"name": "d<p", "reward": 2.0, "perplexity": 3.0, "samples_maximum": 2.5, "drawing": None},
    {"name": "ppo", "reward": 3.0, "samples_maximum": 2.75},
    {"name": "ip", "reward": 4.0, "samples_maximum": 2.6},
]


def test_columns_are_those_that_have_a_value_in_the_papers_order() -> None:
    columns = method_columns(ROWS)
    assert list(columns) == ["perplexity", "reward", "samples_maximum", "models", "training"]
    assert method_cells(ROWS[1], columns) == ["d<p", "3", "2", "2.50", "–", "–"]


def test_the_section_has_a_row_for_each_method_and_the_papers_law() -> None:
    text = methods_table(ROWS)
    assert "<td>d&lt;p</td>" in text
    assert '<td>sft</td><td class="n">4</td><td class="n">1</td><td class="n">–</td>' in text
    assert "Rank correlation of the samples&#x27; maximum and the reward over 3 methods: 0.5" in text
    assert "Rank correlation" not in methods_table(ROWS[:2])


def test_a_job_that_trains_nothing_has_no_such_table() -> None:
    assert methods_table([{"name": "a", "reward": 1.0}]) == "" == methods_table([])
