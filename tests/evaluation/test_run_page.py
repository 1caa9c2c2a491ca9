"""Several runs on one page: seeds make one curve with a range, other jobs a curve of their own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayalign.errors import InputError
from rayalign.evaluation.run_curves import run_curves, seed_groups
from rayalign.evaluation.run_page import write_comparison
from rayalign.evaluation.run_tables import differences, run_names
from rayalign.storage.records import write_jsonl
from rayalign.storage.summary import write_done, write_summary


def make_run(folder: Path, seed: int, rewards: list[float | None], **algorithm: Any) -> Path:
    """A run of one online stage, and of two evaluations of its model."""
    stages = {"ppo": {"kind": "train", "algorithm": {"name": "ppo", **algorithm}}, "late": {"kind": "evaluate"}}
    folder.mkdir(parents=True)
    job = {"name": folder.name, "seed": seed, "output": str(folder.parent), "stages": stages}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    rows = [
        {"step": step, "metrics": {"rollout/eos_rate": 1.0, "reward/mean": value}} for step, value in enumerate(rewards)
    ]
    write_jsonl(folder / "stages" / "ppo" / "metrics.jsonl", rows)
    result = {"name": "tuned", "metric": "gold_utility", "mean": 0.5 + seed / 10, "low": None, "high": None, "n": 2}
    write_summary(folder / "summary.json", [result], [], [])
    for stage, value in (("early", 0.0), ("late", 0.1 * seed)):
        answers = [{"model": "tuned", "prompt_id": prompt, "value": value} for prompt in ("p", "q")]
        write_jsonl(folder / "stages" / stage / "records.jsonl", answers)
    return folder


def three_runs(folder: Path) -> list[Path]:
    """Two seeds of one job, and another job."""
    return [
        make_run(folder / "study-seed0", 0, [1.0, 2.0, 4.0]),
        make_run(folder / "study-seed1", 1, [3.0, 2.0]),
        make_run(folder / "strong", 0, [9.0, 9.0], kl_coefficient=0.5),
    ]


def test_runs_that_differ_in_their_seed_belong_together(tmp_path: Path) -> None:
    runs = three_runs(tmp_path)
    assert seed_groups(runs) == {"study over 2 seeds": runs[:2], "strong": runs[2:]}


def test_a_curve_over_seeds_is_their_mean_within_their_range(tmp_path: Path) -> None:
    curves = run_curves(three_runs(tmp_path))
    rows = curves.metrics["study over 2 seeds: ppo"]
    # the second seed has no third step, where the mean would jump
    assert [(row["step"], row["metrics"]["reward/mean"]) for row in rows] == [(0, 2.0), (1, 2.0)]
    assert curves.ranges["reward/mean"] == {"study over 2 seeds: ppo": [(0, 1.0, 3.0), (1, 2.0, 2.0)]}
    assert [row["metrics"]["reward/mean"] for row in curves.metrics["strong: ppo"]] == [9.0, 9.0]


def test_a_value_that_one_seed_lacks_is_in_no_mean(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "s0", 0, [1.0, None]), make_run(tmp_path / "s1", 1, [3.0, 5.0])]
    [(label, rows)] = run_curves(runs).metrics.items()
    assert label == "s over 2 seeds: ppo"
    assert rows[1]["metrics"] == {"rollout/eos_rate": 1.0}


def test_the_page_overlays_curves_and_names_what_differs(tmp_path: Path) -> None:
    page = write_comparison(three_runs(tmp_path), tmp_path / "pages" / "all.html").read_text()
    (chart,) = re.findall(r"<figure><figcaption><b>reward/mean</b>.*?</figure>", page, re.DOTALL)
    assert chart.count("<polyline") == 2 and chart.count("<polygon") == 1
    assert "study over 2 seeds: ppo: 2 (1 to 3)\nstrong: ppo: 9</title>" in chart
    assert "<td>stages.ppo.algorithm.kl_coefficient</td><td>–</td><td>–</td><td>0.5</td>" in page
    assert "<td>output</td>" not in page
    assert '0.533 <span class="range">(0.500 to 0.600)</span></td><td class="n">0.058</td><td class="n">3</td>' in page


def test_a_model_of_two_evaluations_is_compared_within_each(tmp_path: Path) -> None:
    rows = differences(three_runs(tmp_path)[:2])
    assert [(row.name, round(row.interval.mean, 6)) for row in rows] == [("tuned (early)", 0.0), ("tuned (late)", 0.1)]


def test_runs_of_one_name_go_by_their_paths_and_none_is_named_twice(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "study", 0, [1.0]), make_run(tmp_path / "b" / "study", 0, [1.0])]
    assert list(run_names(runs)) == [str(run) for run in runs]
    with pytest.raises(InputError, match="is named twice"):
        run_names([runs[0], runs[0]])
    (tmp_path / "none").mkdir()
    write_done(tmp_path / "none", "hash")
    with pytest.raises(InputError, match=r"none: there is no job\.yaml of a run"):
        write_comparison([tmp_path / "none"], tmp_path / "page.html")
