"""The page of personalised soups, on a made run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.personalized import AXES, CRITERIA, WEIGHTS, cost, figures, seed_of
from benchmarks.personalized_page import write_page
from benchmarks.personalized_wins import by_criteria, by_judges, read_helpfulness, win_matrix
from rayalign.data import paddock
from rayalign.data.paddock import personal
from rayalign.evaluation.baselines import ANSWERS, gold_utility
from rayalign.storage.records import write_jsonl

METHODS = {"prompted": 0.4, "traditional": 0.5, "psoups": 0.6, "psoups_unprompted": 0.55}
PROFILES = ("P1A+P2A+P3A", "P1B+P2A+P3A")
[PROMPT] = [prompt for prompt in paddock.prompts(0, "test", 20) if '"style":{}' in prompt.meta["task"]][:1]
HELPFUL = ANSWERS["oracle"](PROMPT)
"""the best answer to the prompt without a profile"""
FORMAL = personal.styled_task(PROMPT.meta["task"], {"tone": "formal"})


def made_results(shift: float) -> list[dict[str, Any]]:
    """A row of each metric; along the axis of expertise the level rises with the weight."""
    results: list[dict[str, Any]] = [
        {"name": name, "metric": "win_rate_average", "mean": 50.0, "low": 40.0, "high": 60.0, "n": 4}
        for name in METHODS
    ]
    for judge, mean in (("criterion", 70.0), ("pool", 60.0)):
        for metric in (f"win_rate_by_{judge}_against_prompted", f"win_rate_by_{judge}_against_prompted@{PROFILES[1]}"):
            own_mean = mean + 100 * shift
            row = {"name": "psoups", "metric": metric, "mean": own_mean, "low": own_mean - 5, "high": own_mean + 5}
            results.append(row)
        on_level = {"metric": f"win_rate_by_{judge}_on_P1A_against_prompted", "criterion": "P1A"}
        results.append({"name": "psoups", **on_level, "mean": mean + 10, "low": mean, "high": mean + 15})
    for name in ["base", *(f"{axis}_{weight}" for axis in AXES for weight in WEIGHTS)]:
        for metric in CRITERIA:
            axis, _, weight = name.partition("_")
            rises = metric == "asked_level" and axis == "expertise"
            mean = (int(weight) / 100 if rises else 0.5) + shift
            results.append({"name": name, "metric": metric, "mean": mean, "low": mean - 0.1, "high": mean + 0.1})
    return results


def made_run(folder: Path, seed: int, shift: float = 0.0) -> Path:
    (folder / "stages" / "profiles").mkdir(parents=True)
    (folder / "job.yaml").write_text(f"name: made\nseed: {seed}\n")
    stages = [{"name": f"soup_{pole}", "seconds": 60.0} for poles in AXES.values() for pole in poles]
    stages += [{"name": "merged_AAA", "seconds": 0.5}, {"name": "merged_AAB", "seconds": 1.5}]
    stages += [{"name": "pmorl", "seconds": 90.0}]
    summary = {"results": made_results(shift), "comparisons": [], "stages": stages, "peak_memory_bytes": 1 << 30}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = []
    for number in range(20):
        for profile in PROFILES:
            for name, value in METHODS.items():
                noise = 0.02 if number % 2 else -0.02
                more = noise * (1 if name == "psoups" else -1)
                row = {"model": name, "prompt_id": f"prompt {number}~{profile}", "value": value + more}
                rows.append({**row, "answer": HELPFUL, "meta": {"task": FORMAL}})
    write_jsonl(folder / "stages" / "profiles" / "records.jsonl", rows)
    return folder


def test_gains_count_a_prompt_once_however_many_profiles_it_has(tmp_path: Path) -> None:
    results = figures({0: made_run(tmp_path / "run", 0)})
    assert results["prompts"] == 20
    rows = {row["model"]: row for row in results["methods"]}
    assert list(rows) == ["psoups", "psoups_unprompted", "traditional", "prompted"]
    gain = rows["prompted"]["psoups_less"]
    assert gain["mean"] == pytest.approx(0.2) and gain["n"] == 20 and gain["shown"]
    assert "psoups_less" not in rows["psoups"] and rows["prompted"]["psoups_unprompted_less"]["mean"] > 0
    assert [row["profile"] for row in results["profiles"]] == list(PROFILES)
    assert results["profiles"][0]["means"]["psoups"] == pytest.approx(0.6)


def test_a_method_meets_every_other_and_a_draw_is_half_a_win() -> None:
    values = {}
    for number in range(20):
        values[0, f"{number}~one"] = {"a": 0.6, "b": 0.5, "c": 0.6}
        values[0, f"{number}~two"] = {"a": 0.6, "b": 0.7}
    rates = {(row["model"], row["against"]): row for row in win_matrix(values, lambda key: key[1].partition("~")[0])}
    assert len(rates) == 6
    assert rates["a", "b"]["mean"] == 50.0 and rates["a", "b"]["n"] == 20  # a prompt counts once
    assert rates["a", "c"]["mean"] == 50.0 and rates["c", "b"]["mean"] == 100.0 and rates["b", "c"]["mean"] == 0.0


def test_each_judge_has_its_win_rates_in_all_and_under_each_profile(tmp_path: Path) -> None:
    summaries = {}
    for seed in (0, 1):
        folder = made_run(tmp_path / str(seed), seed, shift=0.1 * seed)
        summaries[seed] = json.loads((folder / "summary.json").read_text())
    rows = {(row["judge"], row["profile"]): row for row in by_judges(summaries)}
    assert set(rows) == {(judge, profile) for judge in ("criterion", "pool") for profile in ("all", PROFILES[1])}
    criterion = rows["criterion", PROFILES[1]]
    assert (criterion["model"], criterion["against"], criterion["mean"]) == ("psoups", "prompted", 75.0)
    assert (criterion["low"], criterion["high"]) == (65.0, 85.0)


def test_each_judge_has_its_win_rates_by_single_criteria(tmp_path: Path) -> None:
    summaries = {0: json.loads((made_run(tmp_path / "run", 0) / "summary.json").read_text())}
    rows = {row.pop("judge"): row for row in by_criteria(summaries)}
    identity = {"against": "prompted", "model": "psoups", "criterion": "P1A"}
    assert rows["criterion"] == {**identity, "mean": 80.0, "low": 70.0, "high": 85.0}
    assert rows["pool"]["mean"] == 70.0


def test_helpfulness_ignores_what_the_profile_asks(tmp_path: Path) -> None:
    helpfulness = read_helpfulness("profiles", {0: made_run(tmp_path / "run", 0)})
    assert gold_utility(replace(PROMPT, meta={"task": FORMAL}), HELPFUL) < 1.0
    assert {value for row in helpfulness.values() for value in row.values()} == {1.0}


def test_an_axis_has_the_mean_of_the_seeds_within_all_their_intervals(tmp_path: Path) -> None:
    runs = {seed: made_run(tmp_path / str(seed), seed, shift=0.1 * seed) for seed in (0, 1)}
    assert {seed_of(folder) for folder in runs.values()} == {0, 1}
    base, expertise, *_ = figures(runs)["axes"]
    assert base["axis"] == "base" and expertise["poles"] == ("P1A", "P1B")
    levels = [point["shares"]["asked_level"] for point in expertise["points"]]
    assert [level["mean"] for level in levels] == pytest.approx([0.05, 0.3, 0.55, 0.8, 1.05])
    assert (levels[0]["low"], levels[0]["high"]) == pytest.approx((-0.1, 0.2))


def test_cost_grows_with_preferences_and_the_rival_with_profiles(tmp_path: Path) -> None:
    summary = json.loads((made_run(tmp_path / "run", 0) / "summary.json").read_text())
    own = cost({0: summary})
    assert (own["policy_seconds"], own["merge_seconds"], own["pmorl_seconds"]) == (60.0, 1.0, 90.0)
    third = own["dimensions"][2]
    assert (third["preferences"], third["profiles"]) == (6, 8)
    assert (third["soups_seconds"], third["separate_seconds"]) == (360.0, 480.0)


def test_a_run_of_another_job_is_refused(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "run", 0)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"stages": []}))
    with pytest.raises(SystemExit, match="no run has the stage soup_P1A"):
        figures({0: folder})


def test_the_page_has_its_tables_and_plots(tmp_path: Path) -> None:
    write_page(figures({0: made_run(tmp_path / "run", 0)}), CRITERIA, tmp_path / "docs")
    page = (tmp_path / "docs" / "personalized_soups.md").read_text()
    assert "| `prompted` | 0.400 [" in page and "] | 1.000 [1.000, 1.000] | 50.0 |" in page and "**0.200 [" in page
    assert "| P1A 0.75, P1B 0.25 | 0.250 [0.150, 0.350]" in page
    assert "| 6 | 8 | 6.0 | 8.0 |" in page
    assert "| win rate of [%] | criterion: against `prompted` | pool: against `prompted` |" in page
    assert "| `psoups` | 70 [65, 75] | 60 [55, 65] |" in page
    assert "| criterion: against `prompted` | 70 [65, 75] |" in page
    assert "| criterion: win rate against `prompted` on [%] | P1A |" in page
    assert "| `psoups` | 80 [70, 85] |" in page
    for name in ("personalized_soups", "personalized_soups_axes", "personalized_soups_cost"):
        assert f"({name}.svg)" in page
        ET.parse(tmp_path / "docs" / f"{name}.svg")
