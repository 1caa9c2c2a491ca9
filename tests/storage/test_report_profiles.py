"""The heat maps: methods by profiles."""

from __future__ import annotations

from rayalign.storage.report_profiles import at_profile, is_of_profile, profiles_section


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
    assert [is_of_profile(result) for result in RESULTS] == [False, True, True, True]
