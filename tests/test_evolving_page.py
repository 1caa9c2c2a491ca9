"""The page of evolving prompts, on made runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evolving import figures
from benchmarks.evolving_page import write_page
from rayalign.storage.records import write_jsonl

HARD = {"start": 0.3, "fixed": 0.4, "random": 0.5, "eva": 0.55, "oracle": 1.0}
USUAL = {"start": 0.6, "fixed": 0.7, "random": 0.7, "eva": 0.7, "oracle": 1.0}
METRICS = {"start": 0.3, "uniform": 0.4, "gap": 0.45, "oracle": 1.0}


def made_round(after: float) -> dict[str, Any]:
    """What an evolve stage leaves in done.json."""
    return {
        "selected": 200,
        "evolved": 180,
        "refused": {"near duplicate": 15, "in a benchmark": 5},
        "difficulty": {"before": 1.5, "after": after},
        "by_difficulty": {
            "1": {"prompts": 400, "informativeness": 0.0025, "gap": 0.5, "selected": 50},
            "2": {"prompts": 400, "informativeness": None, "gap": None, "selected": 150},
        },
    }


def made_run(folder: Path, evaluations: dict[str, dict[str, float]], seconds: float) -> Path:
    for stage, means in evaluations.items():
        (folder / "stages" / stage).mkdir(parents=True)
        rows = []
        for number in range(20):
            noise = 0.02 if number % 2 else -0.02
            for model, mean in means.items():
                value = mean + (noise if model in ("eva", "gap") else 0.0)
                rows.append({"model": model, "prompt_id": f"prompt {number}", "value": value})
        write_jsonl(folder / "stages" / stage / "records.jsonl", rows)
    (folder / "job.yaml").write_text("name: made\nseed: 0\n")
    summary = {"stages": [{"name": "eva", "seconds": seconds}], "peak_memory_bytes": 1 << 30}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def made_results(folder: Path) -> dict[str, Any]:
    run = made_run(folder / "eva", {"hard": HARD, "usual": USUAL}, seconds=1200.0)
    for arm, afters in {"random": (1.7, 1.9, 2.1), "eva": (1.8, 2.1, 2.4)}.items():
        for number, after in enumerate(afters, start=1):
            stage = run / "stages" / f"{arm}_prompts@{number}"
            stage.mkdir()
            (stage / "done.json").write_text(json.dumps(made_round(after)))
    return figures({0: run}, {0: made_run(folder / "metrics", {"comparison": METRICS}, seconds=600.0)})


def test_what_eva_gains_stands_beside_every_other_arm(tmp_path: Path) -> None:
    results = made_results(tmp_path)
    rows = {row["model"]: row for row in results["arms"]["hard"]}
    assert list(rows) == ["oracle", "eva", "random", "fixed", "start"]
    assert rows["random"]["eva_less"]["mean"] == pytest.approx(0.05) and rows["random"]["eva_less"]["shown"]
    assert "eva_less" not in rows["eva"]
    usual = {row["model"]: row for row in results["arms"]["usual"]}
    assert not usual["fixed"]["eva_less"]["shown"]


def test_rounds_and_measures_have_their_figures(tmp_path: Path) -> None:
    results = made_results(tmp_path)
    assert [(row["arm"], row["round"], row["after"]) for row in results["rounds"]][3:] == [
        ("eva", 1, 1.8),
        ("eva", 2, 2.1),
        ("eva", 3, 2.4),
    ]
    assert results["rounds"][0]["refused"] == 20
    gains = {row["model"]: row.get("over_uniform") for row in results["metrics"]["models"]}
    assert gains["gap"]["mean"] == pytest.approx(0.05) and gains["uniform"] is None and gains["oracle"] is None


def test_the_page_has_a_table_of_each_question(tmp_path: Path) -> None:
    write_page(made_results(tmp_path), tmp_path)
    page = (tmp_path / "evolving.md").read_text()
    assert "| `random` | 0.500 [0.500, 0.500] | **0.050 [" in page
    assert "| `eva` | 3 | 180 | 20 | 1.50 to 2.40 | 0.50 (50 of 400) |  |" in page
    assert "| `gap` | 0.450 [" in page and "20 minutes" in page and "10 minutes" in page
    assert (tmp_path / "evolving.svg").read_text().count("<circle") >= 3
    plot = (tmp_path / "evolving_difficulty.svg").read_text()
    assert "eva: gap" in plot and "round 3" in plot and "(evolving_difficulty.svg)" in page


def test_the_page_counts_what_each_arm_selected_and_kept(tmp_path: Path) -> None:
    results = made_results(tmp_path)
    for row in results["rounds"]:
        row["evolved"] = 170 + row["round"] if row["arm"] == "eva" else 190 + row["round"]
    write_page(results, tmp_path)
    page = (tmp_path / "evolving.md").read_text()
    assert "equally many prompts were selected in each arm, 600. After the gates 576 (`random`) against 516 (" in page
    results["rounds"][0]["selected"] = 190
    write_page(results, tmp_path)
    page = (tmp_path / "evolving.md").read_text()
    assert "In all rounds together 590 (`random`) against 600 (`eva`) prompts were selected. After" in page


def test_a_study_without_the_ablation_has_no_table_of_measures(tmp_path: Path) -> None:
    results = made_results(tmp_path)
    write_page({**results, "metrics": None}, tmp_path)
    assert "Which measure" not in (tmp_path / "evolving.md").read_text()
