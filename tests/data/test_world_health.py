"""The gates of the embedded world on what its fine-tuned models wrote; benchmarks/world_health.py measures that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RUNS = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "world_health.json").read_text())["runs"]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"seed{run['seed']}")
def test_the_fine_tuned_model_leaves_room_to_rise(run: dict[str, Any]) -> None:
    assert 0.35 <= run["sft_gold"] <= 0.55
    assert run["oracle_gold"] > 0.97


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"seed{run['seed']}")
def test_answers_to_one_prompt_differ(run: dict[str, Any]) -> None:
    assert run["spread_share"] >= 0.9
    assert run["distinct_of_16"] >= 8


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"seed{run['seed']}")
def test_the_fine_tuned_model_writes_as_its_demonstrations_do(run: dict[str, Any]) -> None:
    apart = {name: abs(rate - run["data_rates"][name]) for name, rate in run["sft_rates"].items()}
    assert max(apart.values()) <= 0.05, apart
