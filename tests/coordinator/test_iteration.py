from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from rayalign.coordinator.iteration import METRICS, PhaseClock, part_metrics, publish_metrics, rollout_metrics
from rayalign.storage.events import EventLog
from rayalign.types import Group, Prompt, Score, ScorePart, Segment, Trajectory


def test_phases_and_the_rest_add_up_to_the_total(tmp_path: Path) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    clock = PhaseClock(events, iteration=4, start=time.perf_counter())
    for name in ("generate", "update", "generate"):
        with clock.phase(name):
            time.sleep(0.002)
    time.sleep(0.002)
    metrics = clock.metrics(time.perf_counter())
    events.close()
    assert metrics.keys() == {f"phase/{name}" for name in ("generate", "update", "unattributed", "total")}
    parts = sum(seconds for name, seconds in metrics.items() if name != "phase/total")
    assert parts == pytest.approx(metrics["phase/total"])
    assert metrics["phase/unattributed"] >= 0.002
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(row["name"], row["iteration"]) for row in rows] == [("generate", 4), ("update", 4), ("generate", 4)]
    assert metrics["phase/generate"] == pytest.approx(rows[0]["seconds"] + rows[2]["seconds"])


def test_a_phase_that_fails_is_counted(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "events.jsonl")) as events:
        clock = PhaseClock(events, iteration=0, start=time.perf_counter())
        with pytest.raises(KeyError), clock.phase("update"):
            raise KeyError
    assert "phase/update" in clock.metrics(time.perf_counter())


def answer(tokens: int, version: int) -> Trajectory:
    ids = tuple(range(tokens + 1))
    segments = (Segment(0, "template"), Segment(1, "policy", version))
    return Trajectory("g", 0, ids, segments, (-0.5,) * tokens, "stop")


def test_rollout_and_publish_metrics_by_hand() -> None:
    prompt = Prompt("p", ())
    groups = [Group("a", prompt, 5, (answer(3, 5), answer(4, 5))), Group("b", prompt, 5, (answer(1, 4),))]
    rollout = rollout_metrics(5, groups, seconds=2.0)
    assert rollout == {
        "rollout/tokens": 8,
        "rollout/tokens_per_second": 4.0,
        "rollout/entropy": 0.5,
        "rollout/staleness": 1,
        "rollout/mixed": 0,
        "rollout/absent": 0,
    }
    publish = publish_metrics(0.5, 100, 1e-6, 3)
    assert publish == {
        "publish/seconds": 0.5,
        "publish/bytes": 100,
        "publish/probe_gap": 1e-6,
        "publish/restarted": 3,
    }
    phases = {name for name in METRICS if name.startswith("phase/")}
    counts = {"rollout/rejected", "rollout/dropped", "rollout/late"}
    assert rollout.keys() | publish.keys() | phases | counts == METRICS


def test_answers_of_several_versions_are_counted_and_lag_by_the_oldest() -> None:
    segments = (Segment(0, "template"), Segment(1, "policy", 4), Segment(2, "policy", 5))
    mixed = Trajectory("g", 0, (1, 2, 3), segments, (-0.5, -0.5), "stop")
    turns = (Segment(0, "template"), Segment(1, "policy", 5), Segment(2, "environment"), Segment(3, "policy", 5))
    two_turns = Trajectory("g", 1, (1, 2, 3, 4), turns, (-0.5, -0.5), "stop")
    metrics = rollout_metrics(6, [Group("a", Prompt("p", ()), 6, (mixed, two_turns))], seconds=1.0)
    assert (metrics["rollout/mixed"], metrics["rollout/staleness"]) == (1, 2)


def test_answers_of_a_data_set_have_no_entropy() -> None:
    written = Trajectory("g", 0, (1, 2), (Segment(0, "template"), Segment(1, "dataset")), (), "stop")
    assert "rollout/entropy" not in rollout_metrics(0, [Group("a", Prompt("p", ()), 0, (written,))], seconds=1.0)


def test_each_part_of_the_scores_is_a_mean_over_the_samples_that_have_it() -> None:
    both = Score(3.0, None, (ScorePart("rm", 2.0), ScorePart("brief", 1.0)))
    one = Score(4.0, None, (ScorePart("rm", 4.0),))
    groups = [Group("a", Prompt("p", ()), 0, (), (both, one)), Group("b", Prompt("q", ()), 0, (), (Score(9.0),))]
    assert part_metrics(groups) == {"reward/rm": 3.0, "reward/brief": 1.0}
