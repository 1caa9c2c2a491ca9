"""A run that goes on with fewer ranks and at another ZeRO stage, and that a guard sends back once.

Its reference lies in parts on two actors.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl
from rayalign.storage.report import write_report
from tests.e2e.runs import Ending, Run, accounts

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1200)]
# The learning rate rises in each iteration: the guard fires in iteration 4 and, at half of the rate, never again.
JOB = """\
name: tiny
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engine: local, engines: 1, context: 96, max_sequences: 32}
stages:
  base: {kind: pretrain, data: {limit: 100}}
  rl:
    kind: train
    algorithm: {name: ppo, epochs: 1}
    model: stage:base
    reward: {rules: {kind: length, high: 3, margin: 20}}
    candidates: [{source: live, count: 2}]
    prompts: 4
    iterations: 6
    checkpoint_every: 1
    sampling: {max_tokens: 8}
    learner: {learning_rate: 1e-3, warmup_steps: 9, minibatch: 8, zero_stage: 2, ema: 0.5}
    roles: {policy: {actors: 2}, reference: {actors: 2, spread: true}}
    guards:
      - {metric: learner/learning_rate, above: 4.5e-4, action: rollback, rate: 0.5}
      - {metric: learner/learning_rate, below: 1.5e-4, action: warn}
      - {metric: learner/learning_rate, above: 1.0, action: stop}
"""
ITERATIONS = 6


STOP = "stages.rl.guards=[{metric: learner/learning_rate, above: 1.5e-4, action: stop}]"


@dataclass
class Story:
    """A run that was killed with two ranks, and went on with one."""

    run: Run
    killed: Ending
    last: Ending

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return read_metrics(self.run.folder / "stages" / "rl" / "metrics.jsonl")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("restored")
    (folder / "job.yaml").write_text(JOB)
    run = Run(folder / "runs", folder / "job.yaml")
    killed = run.strike(signal.SIGKILL, "driver", "rl", 3)
    return Story(run, killed, run.finish("stages.rl.roles.policy.actors=1", "stages.rl.learner.zero_stage=3"))


def test_a_checkpoint_of_two_ranks_goes_on_with_one(story: Story) -> None:
    assert story.last.code == 0, story.last.text
    assert story.last.stages == ["rl"]
    loads = [row["actor_pid"] for row in story.run.events("actor_started") if row["role"] == "policy"]
    assert len(loads) == 4, "two ranks, then one before the guard fired and one after it"
    parts = [row for row in story.run.events("actor_started") if row["role"] == "reference"]
    assert len(parts) == 6
    rates = [row["metrics"]["learner/learning_rate"] for row in story.metrics]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 2.5e-4, 3e-4])
    (folder,) = (story.run.folder / "stages" / "rl").glob("model/ema")
    assert (folder / "model.safetensors").is_file()


def test_a_guard_sends_the_stage_back_once_and_it_comes_to_its_end(story: Story) -> None:
    (event,) = story.run.events("rolled_back")
    assert (event["stage"], event["to"], event["left"]) == ("rl", 4, 2)
    assert "iteration 4: learner/learning_rate is 0.0005, above 0.00045; the stage goes back" in story.last.text
    assert [row["step"] for row in story.metrics if "guard/rollbacks" in row["metrics"]] == [4]
    assert not story.run.events("stage_restarted")
    page = write_report(story.run.folder).read_text(encoding="utf-8")
    assert "went back to 4, with other samples, learning rate times 0.5" in page


def test_a_guard_that_warns_ends_nothing_and_one_that_stops_stays_quiet(story: Story) -> None:
    assert "iteration 0: learner/learning_rate is 0.0001, below 0.00015" in story.killed.text
    assert "above 1" not in story.last.text


def test_it_goes_on_with_other_prompts_and_loses_no_group(story: Story) -> None:
    account = accounts(story.run, "rl")
    account.check(ended=True)
    assert len(account.consumed) == ITERATIONS * 4
    prompts: dict[str, list[str]] = {}
    for entry in read_jsonl(Path(story.run.folder) / "journal" / "rl.jsonl"):
        if entry["kind"] == "submitted" and entry["iteration"] == 4:
            prompts.setdefault(entry["group"].split(".")[1], []).append(entry["prompt"])
    first, second = (set(texts) for texts in prompts.values())
    assert first != second


def test_a_guard_that_stops_ends_the_run_where_it_fires(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    run = Run(tmp_path / "runs", tmp_path / "job.yaml")
    stopped = run.finish(STOP, "stages.rl.roles.policy.actors=1")
    assert stopped.code == 1, stopped.text
    assert "iteration 1: learner/learning_rate is 0.0002, above 0.00015; the run stops here" in stopped.text
    assert "Traceback" not in stopped.text
    rows = read_metrics(run.folder / "stages" / "rl" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
