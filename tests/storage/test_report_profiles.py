"""The heat maps: methods by profiles, and methods by criteria."""

from __future__ import annotations

from rayalign.storage.report_judges import judges_table
from rayalign.storage.report_profiles import (
    at_profile,
    criteria_section,
    criterion_metric,
    has_heat_map,
    profiles_section,
)
from rayalign.storage.report_results import results_section


def row(name: str, metric: str, mean: float) -> dict[str, object]:
    return {"name": name, "metric": metric, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 7}


RESULTS = [
    row("soup", "gold", 0.6),
    row("soup", at_profile("gold", "P1A"), 0.5),
    row("soup", at_profile("gold", "P1B"), 0.7),
    row("<base>", at_profile("gold", "P1A"), 0.3),
]


def test_a_table_has_a_row_for_each_method_and_a_column_for_each_profile() -> None:
    page = profiles_section(RESULTS)
    assert page.count("<tr>") == 3
    assert ">P1A</th>" in page and ">P1B</th>" in page and ">all</th>" in page
    assert "&lt;base&gt;" in page and "<base>" not in page
    best, least = 'accent) 55%, transparent)" title="0.600 to 0.800, 7 prompts">0.700', "accent) 0%, transparent)"
    assert best in page and page.count(least) == 1


def test_a_method_without_a_profile_has_a_dash() -> None:
    assert profiles_section(RESULTS).count('<td class="n">–</td>') == 2


def test_without_profiles_there_is_no_section() -> None:
    assert profiles_section([row("sft", "gold", 0.5)]) == ""
    assert [has_heat_map(result) for result in RESULTS] == [False, True, True, True]


def criterion_row(name: str, criterion: str, mean: float) -> dict[str, object]:
    return {**row(name, criterion_metric("judge", criterion, "base"), mean), "criterion": criterion}


JUDGED = [
    row("soup", "win_rate_by_judge_against_base", 70.0),
    row("soup", "win_rate_by_other_against_base", 60.0),
    criterion_row("soup", "P1A", 80.0),
    criterion_row("soup", "helpfulness", 40.0),
    criterion_row("plain", "P1A", 50.0),
]


def test_criteria_have_a_heat_map_of_their_own_for_each_judge() -> None:
    page = criteria_section(JUDGED)
    assert "<h2>Methods by criteria</h2><h3>win_rate_by_judge_against_base</h3>" in page
    assert page.count("<h3>") == 1 and page.count("<tr>") == 3
    assert ">P1A</th>" in page and ">helpfulness</th>" in page and ">whole profile</th>" in page
    assert ">80</td>" in page and ">40</td>" in page and ">70</td>" in page
    assert criteria_section(RESULTS) == ""


def test_win_rates_by_one_criterion_stand_in_their_heat_map_alone() -> None:
    assert profiles_section(JUDGED) == ""
    assert "_on_" not in judges_table(JUDGED) and "judge" in judges_table(JUDGED)
    assert results_section(JUDGED, []) == ""  # the table by judge has the others
