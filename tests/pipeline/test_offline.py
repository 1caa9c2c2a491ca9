from __future__ import annotations

import pytest

from rayalign.pipeline.offline import heldout_results


def test_the_last_held_out_accuracies_become_results() -> None:
    rows = [
        {"step": 0, "metrics": {"eval/loss": 0.7, "heldout/count": 100.0, "eval/reward/accuracy": 0.4}},
        {"step": 8, "metrics": {"reward/accuracy": 0.9, "heldout/count": 100.0, "eval/reward/accuracy": 0.5}},
        {"step": 9, "metrics": {"loss/reward": 0.5, "reward/accuracy": 1.0}},
    ]
    (found,) = heldout_results("rm", rows)
    assert (found["name"], found["metric"], found["mean"], found["n"]) == ("rm", "reward_accuracy", 0.5, 100)
    assert (found["low"], found["high"]) == pytest.approx((0.40383, 0.59617), abs=1e-5)


def test_without_held_out_rows_there_are_none() -> None:
    assert heldout_results("sft", [{"step": 0, "metrics": {"loss/sft": 1.0}}]) == []


def test_the_interval_counts_prompts_not_their_pairs() -> None:
    figures = {"heldout/count": 16.0, "heldout/prompts": 4.0, "eval/reward/accuracy": 0.25}
    (result,) = heldout_results("rm", [{"step": 8, "metrics": figures}])
    assert result["n"] == 4
    assert result["low"] < 0.05 < 0.5 < result["high"]
