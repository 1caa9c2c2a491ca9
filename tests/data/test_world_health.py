"""The gates of the embedded world on what its fine-tuned models write: the committed runs', and one trained here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.world_health import health

ROOT = Path(__file__).parents[2]
COMMITTED = {r["seed"]: r for r in json.loads((ROOT / "benchmarks/results/world_health.json").read_text())["runs"]}


@pytest.fixture(
    scope="module",
    params=[*COMMITTED, pytest.param("trained", marks=[pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1200)])],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a seed's run; `trained`: the quickstart's first two stages, run now."""
    if request.param in COMMITTED:
        return COMMITTED[request.param]
    folder = tmp_path_factory.mktemp("world")
    job = yaml.safe_load((ROOT / "jobs" / "quickstart.yaml").read_text())
    job |= {"output": str(folder), "stages": {name: job["stages"][name] for name in ("base", "sft")}}
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    command = [str(Path(sys.executable).with_name("rayalign")), "run", str(folder / "job.yaml")]
    subprocess.run(command, check=True, timeout=900)
    return health(folder / job["name"], job["seed"])


def test_the_fine_tuned_model_leaves_room_to_rise(run: dict[str, Any]) -> None:
    assert 0.35 <= run["sft_gold"] <= 0.55
    assert run["oracle_gold"] > 0.97


def test_answers_to_one_prompt_differ(run: dict[str, Any]) -> None:
    assert run["spread_share"] >= 0.9
    assert run["distinct_of_16"] >= 8


def test_the_fine_tuned_model_writes_as_its_demonstrations_do(run: dict[str, Any]) -> None:
    apart = {name: abs(rate - run["data_rates"][name]) for name, rate in run["sft_rates"].items()}
    assert max(apart.values()) <= 0.05, apart
