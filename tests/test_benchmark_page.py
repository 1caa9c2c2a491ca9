"""The benchmark page: its tables are those of the committed results, and a figure that misses its limit is in bold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.page import PAGE, PLOTS, TABLES, section, write_page
from benchmarks.page_cells import at_least, at_most, number
from benchmarks.record import RESULTS
from benchmarks.staleness import SETTINGS

MACHINE = {"cores": 2, "processor": "x86_64", "load_at_end": 0.5, "versions": {"torch": "2.13.0"}}
PHASES = {"phase/generate": 1.0, "phase/update": 2.0, "phase/publish": 0.5, "phase/total": 4.0}
MEANS = dict.fromkeys(
    ("seconds", "reward", "gold_utility", "rollout/staleness", "rollout/mixed", "rollout/dropped"), 0.25
)
STEPS = {
    "update_zero3": {"passed": True, "seconds": 9.0, "tokens_per_second": 2e4, "mfu": 0.4},
    "device_turns": {"passed": True, "seconds": 7.0, "turn_seconds": {"training": 1.5, "publish_and_rollout": 2.0}},
    "transfer_ipc": {"passed": False, "seconds": 3.0, "reason": "WeightError: no peer access\nmore"},
}
MADE: dict[str, dict[str, Any]] = {
    "step": {
        "limits": {"sync_share_of_ideal": 0.75, "overlap_speed": 1.3},
        "generation_share": 0.5,
        "overlap_speed": 1.2,
        "sync_shares": [0.6, 0.7, 0.8],
        "sync_shares_at_once": [0.7, 0.8, 0.9],
        "bare_core_seconds": {"generate": 0.5, "score": 0.25, "update": 1.0},
        "bare_core_seconds_at_once": {"generate": 0.75, "score": 0.25, "update": 1.1},
        "placements": {
            "sync": PHASES | {"share_of_ideal": 0.7, "share_at_once": 0.8},
            "overlapped": PHASES | {"share_of_ideal": 0.7, "share_at_once": 0.8, "phase/evaluate": 0.1},
        },
        "larger": {
            "sync_shares": [0.8],
            "sync_shares_at_once": [0.9],
            "placements": {"sync": PHASES | {"share_of_ideal": 0.8, "share_at_once": 0.9}},
        },
    },
    "latency": {
        "limit_ratio": 1.1,
        "seconds": [{"generate_and_score": 1.0, "update": 2.0, "staleness_1": 2.1, "ratio": 1.05}],
    },
    "staleness": {"means": dict.fromkeys(SETTINGS, MEANS), "runs": [{"seed": 0}, {"seed": 1}]},
    "scale": {
        "candidates_per_group": 16,
        "groups_per_second": 60.0,
        "most_against_least": 1.5,
        "busy_groups_per_second": 600.0,
        "busy_most_against_least": 1.1,
        "busy_runs": [{"engines": 64, "coordinator_microseconds": 70.0, "coordinator_share_of_a_core": 0.7}],
        "runs": [
            {"engines": 1, "coordinator_microseconds": 40.0, "coordinator_share_of_a_core": 0.04},
            {"engines": 64, "coordinator_microseconds": 60.0, "coordinator_share_of_a_core": 0.06},
        ],
        "ranks": [{"ranks": 64, "coordinator_microseconds": 5.0, "seconds_of_an_iteration": 0.02}],
    },
    "gpu_smoke": {"devices": ["H100"], "parameters": 63e7, "seconds": 300.0, "steps": STEPS},
    "served_profiles": {
        "profiles": 16,
        "profiles_against_one_adapter": 0.9,
        "profiles_against_base": 0.5,
        "arms": {"one_adapter": {"tokens_per_second": 800.0, "requests_per_second": 12.0}},
    },
}
"""results that may not have been measured yet"""
LINES = {
    "step": [
        "| `sync` | 4 | 1 |  | 2 | 0.5 | **0.7** | 0.8 |",
        "| `overlapped` | 4 | 1 | 0.1 | 2 | 0.5 | 0.7 | 0.8 |",
        "| `sync`, 27M | 4 | 1 |  | 2 | 0.5 | 0.8 | 0.9 |",
        "The goal for `sync` is 0.75 of the ideal. "
        "Its rounds reached 0.6, 0.7, 0.8 (0.7, 0.8, 0.9 of the loops at once). "
        "With models of 27M parameters they reached 0.8 (0.9 of the loops at once). "
        "Overlap makes an iteration **1.2** times as fast (at least 1.3); "
        "generating and scoring are 50% of the work. On every core at once, the loops take 1.5 times (generate), "
        "1 times (score), 1.1 times (update) as long as alone.",
    ],
    "latency": ["| 1 | 2 | 2.1 | 1.05 |"],
    "staleness": ["| `1 tail later` | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 |", "Seeds: 0, 1."],
    "scale": [
        "| 64 | **60** | 6% | 62.5 |",
        "Engines that write at most 600 groups a second in all:",
        "| 64 | **70** | 70% | 625 |",
        "The most is **1.5** times the least (at most 1.2).",
        "| 64 | 5 | 20 |",
    ],
    "gpu_smoke": [
        "| `update_zero3` | yes | 9 | 20,000 | 0.4 |  |",
        "0.63B parameters on H100, 300 s in all. On one device, putting the engine to sleep and waking the learner "
        "takes 1.5 s, the way back with its transfer 2 s.",
        "| `transfer_ipc` | WeightError: no peer access | 3 |  |  |  |",
    ],
    "served_profiles": ["| one adapter | 800 | 12 |", "16 profiles: 0.9 of one adapter, 0.5 of the base."],
}


def test_the_page_and_its_plots_are_those_of_the_committed_results(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    shutil.copy(PAGE, page)
    write_page(page)
    assert page.read_text() == PAGE.read_text(), "python -m benchmarks.page writes it anew"
    for plot in (tmp_path / "images").iterdir():
        assert plot.read_text() == (PAGE.parent / "images" / plot.name).read_text()


def test_every_result_has_its_table_or_a_page_of_its_own() -> None:
    text = PAGE.read_text()
    for path in RESULTS.glob("*.json"):
        assert path.stem in TABLES or f"`{path.stem}`" in text, path.name


@pytest.mark.parametrize("name", MADE)
def test_a_result_becomes_a_table_with_its_origin_and_its_plot(name: str) -> None:
    content = MADE[name] | {"time": "2026-11-30T01:02:03Z", "machine": MACHINE}
    written = section(name, content).splitlines()
    for line in LINES[name]:
        assert line in written
    assert written[-1] == f"`results/{name}.json`, 2026-11-30: 2 cores (x86_64), load 0.5 at the end; torch 2.13.0."
    if name in PLOTS:
        assert f"![{name}](images/{name}.svg)" in written
        drawing = ElementTree.fromstring(PLOTS[name](content))
        assert drawing.tag.endswith("svg")


def test_a_result_that_is_missing_is_named() -> None:
    assert section("step", None) == "`results/step.json` has not been measured yet."


def test_a_figure_that_misses_its_limit_is_in_bold() -> None:
    assert [at_most(1.1, 1.1), at_most(1.2, 1.1), at_least(0.9, 0.9), at_least(0.8, 0.9)] == [
        "1.1", "**1.2**", "0.9", "**0.8**",
    ]  # fmt: skip


def test_numbers_have_three_digits_that_count() -> None:
    written = [number(value) for value in (0.012345, 1.5, 99.94, 100.4, 12345.6, None)]
    assert written == ["0.0123", "1.5", "99.9", "100", "12,346", ""]
