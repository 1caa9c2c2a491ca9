"""Two rounds of PPO beside the stages that are finished: the second goes on with the first one's policy and critic."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rayalign.config import load_job
from tests.e2e.runs import Run

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(1800)]

ROUNDS = """\
extends: job.yaml
stages:
  ppo: null
  late: null
  rrhf: null
  rounds:
    rounds: 2
    first: {online: stage:sft, online/critic: null}
    stages:
      online:
        kind: train
        algorithm: {name: ppo, epochs: 1}
        model: stage:online@previous
        critic: stage:online@previous/critic
        reward: stage:rm
        candidates: [{source: live, count: 2}]
        prompts: 8
        iterations: 1
        sampling: {max_tokens: 24}
        learner: {learning_rate: 1e-3, minibatch: 8}
      soup: {kind: merge, models: {stage:online@previous: 0.5, stage:online: 0.5}}
  final: null
"""
FINISHED = ("base", "sft", "answers", "labels", "rm")


@pytest.fixture(scope="module")
def rounds(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of two rounds, in a copy of the finished run's folder."""
    folder = tmp_path_factory.mktemp("rounds")
    shutil.copy(finished.job, folder / "job.yaml")
    (folder / "rounds.yaml").write_text(ROUNDS)
    for stage in FINISHED:
        shutil.copytree(finished.folder / "stages" / stage, folder / "runs" / "tiny" / "stages" / stage)
    run = Run(folder / "runs", folder / "rounds.yaml")
    ending = run.finish()
    assert ending.code == 0, ending.text
    assert ending.stages == ["online@1", "soup@1", "online@2", "soup@2"]
    return run


def weights(run: Run, output: str) -> bytes:
    return (run.folder / "stages" / output / "model.safetensors").read_bytes()


def test_each_round_changes_the_policy_and_the_critic(rounds: Run) -> None:
    policies = [weights(rounds, f"{stage}/model") for stage in ("sft", "online@1", "online@2")]
    critics = [weights(rounds, output) for output in ("rm/model", "online@1/critic", "online@2/critic")]
    assert len(set(policies)) == len(set(critics)) == 3


def test_the_average_of_two_rounds_is_a_model(rounds: Run) -> None:
    one, two, soup = (rounds.folder / "stages" / stage / "model" for stage in ("online@1", "online@2", "soup@2"))
    loaded = [AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (one, two, soup)]
    for name, tensor in loaded[2].items():
        torch.testing.assert_close(tensor, (loaded[0][name] + loaded[1][name]) / 2)


def test_the_resolved_job_is_the_same_run(rounds: Run, tmp_path: Path) -> None:
    resolved = load_job(rounds.folder / "job.yaml").job
    assert resolved.stages == load_job(rounds.job).job.stages
    ending = rounds.finish()
    assert (ending.code, ending.stages) == (0, [])
