from __future__ import annotations

import json
import math
from pathlib import Path

from rayalign.storage.summary import of_all_stages, read_done, write_done, write_summary


def test_summary_is_plain_json(tmp_path: Path) -> None:
    result = {"name": "sft", "metric": "gold_utility", "mean": 0.5, "low": math.nan, "high": math.nan, "n": 1}
    stage = {"name": "sft", "status": "finished", "seconds": 1.5}
    write_summary(tmp_path / "summary.json", [result], [], [stage], 1 << 30)
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "results": [{**result, "low": None, "high": None}],
        "comparisons": [],
        "methods": [],
        "stages": [stage],
        "peak_memory_bytes": 1 << 30,
    }


def test_done_is_read_back(tmp_path: Path) -> None:
    assert read_done(tmp_path) is None
    write_done(tmp_path, "abc", model="model", rows=3)
    done = read_done(tmp_path)
    assert done is not None and done.pop("time") > 0
    assert done == {"hash": "abc", "model": "model", "rows": 3}


def test_a_figure_of_two_stages_carries_the_stage() -> None:
    row = {"name": "grpo", "metric": "reward", "mean": 0.4}
    stages = {"seen": [row, {**row, "metric": "perplexity"}], "unseen": [{**row, "mean": 0.3}]}
    rows = of_all_stages(stages, ["name"])
    assert [(row["name"], row["metric"], row["mean"]) for row in rows] == [
        ("grpo (seen)", "reward", 0.4),
        ("grpo", "perplexity", 0.4),
        ("grpo (unseen)", "reward", 0.3),
    ]
