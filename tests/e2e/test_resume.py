"""Interruptions of every kind, one after another in one run; the same command goes on each time."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl
from tests.e2e.runs import ITERATIONS, PROMPTS, STAGES, Ending, Run, accounts

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1800)]


@dataclass
class Story:
    """A run with three stages to do, each interrupted."""

    run: Run
    paused: Ending
    """Ctrl-C, in rm"""
    killed: Ending
    """the driver, in ppo"""
    crashed: Ending
    """the policy, in late, without restarts"""
    stopped: Ending
    """a scheduler's SIGTERM, in late"""
    last: Ending
    """the policy again, in late, with restarts"""


@pytest.fixture(scope="module")
def story(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Goes on from a copy of the finished run in which three stages were never done."""
    run = Run(tmp_path_factory.mktemp("interrupted"), finished.job)
    shutil.copytree(finished.folder, run.folder, symlinks=True)
    for stage in ("rm", "ppo", "late"):
        shutil.rmtree(run.folder / "stages" / stage)
    return Story(
        run,
        run.strike(signal.SIGINT, "driver", "rm", 1),
        run.strike(signal.SIGKILL, "driver", "ppo", 3),
        run.strike(signal.SIGKILL, "policy", "late", 4, "cluster.restarts=0"),
        run.strike(signal.SIGTERM, "driver", "late", 4),
        run.strike(signal.SIGKILL, "policy", "late", 8),
    )


def test_only_what_was_not_done_runs_and_the_last_start_finishes(story: Story) -> None:
    endings = (story.paused, story.killed, story.crashed, story.stopped, story.last)
    assert [ending.stages for ending in endings] == [["rm"], ["rm", "ppo"], ["ppo", "late"], ["late"], ["late"]]
    assert story.last.code == 0, story.last.text
    assert [s for s in STAGES if f"{s}: finished before" in story.last.text] == [s for s in STAGES if s != "late"]


def test_nothing_of_a_killed_run_stays_behind(story: Story) -> None:
    assert story.killed.code == -signal.SIGKILL
    assert story.killed.left_over == []


def test_the_death_of_an_actor_is_told_by_its_role(story: Story) -> None:
    assert story.crashed.code == 1
    assert f"rayalign: policy (pid {story.crashed.struck}) died: " in story.crashed.text
    assert "Traceback" not in story.crashed.text
    assert story.crashed.left_over == []


def test_a_stage_that_lost_its_policy_goes_on_by_itself(story: Story) -> None:
    (restart,) = [row for row in story.run.events("stage_restarted") if row["stage"] == "late"]
    assert restart["reason"].startswith(f"policy (pid {story.last.struck}) died: ")
    assert "late goes on from its last checkpoint; 2 more restarts may follow" in story.last.text
    assert story.last.left_over == []


@pytest.mark.parametrize("name", ["paused", "stopped"])
def test_ctrl_c_and_sigterm_end_everything_and_say_how_to_go_on(story: Story, name: str) -> None:
    ending = getattr(story, name)
    assert ending.code == 130, ending.text
    assert "the same command goes on where this one stopped" in ending.text
    assert "Traceback" not in ending.text
    assert ending.left_over == []


@pytest.mark.parametrize("stage", ["ppo", "late"])
def test_nothing_is_lost_or_doubled(story: Story, stage: str) -> None:
    account = accounts(story.run, stage)
    account.check(ended=True)
    places = sorted(group.split(".")[0] for group in account.consumed)
    assert places == [f"{i:05d}-{slot:04d}" for i in range(ITERATIONS[stage]) for slot in range(PROMPTS)]
    assert set(account.drops) <= {"lost at an interruption"}
    rows = read_metrics(story.run.folder / "stages" / stage / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(ITERATIONS[stage]))
    rewinds = [e for e in read_jsonl(story.run.folder / "journal" / f"{stage}.jsonl") if e["kind"] == "rewound"]
    assert len(rewinds) == {"ppo": 1, "late": 3}[stage]


def test_a_deterministic_stage_ends_with_the_same_bits(story: Story, finished: Run) -> None:
    one, other = (run.folder / "stages" / "ppo" for run in (story.run, finished))
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()
    assert _learning(one) == _learning(other)


def _learning(folder: Path) -> list[dict[str, float]]:
    """The metrics of each iteration that are no times."""
    timed = ("phase/", "publish/seconds", "rollout/tokens_per_second")
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row["metrics"].items() if not k.startswith(timed)} for row in rows]
