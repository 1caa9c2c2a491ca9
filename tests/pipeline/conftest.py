"""A study with every kind of stage, for the tests of what is known before a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import LoadedJob, load_job

STUDY = """\
name: study
cluster: {cpus: 4, gpus: 0}
stages:
  base: {kind: pretrain}
  sft: {kind: train, algorithm: {name: sft}, model: stage:base}
  draws: {kind: generate, model: stage:sft}
  verdicts: {kind: annotate, examples: stage:draws}
  rm: {kind: train, algorithm: {name: reward}, model: stage:sft, examples: stage:verdicts, learner: {minibatch: 60}}
  rl:
    kind: train
    algorithm: {name: ppo, kl_coefficient: 0.1}
    model: stage:sft
    reward: stage:rm
    candidates: [{source: live, count: 4}]
    prompts: 32
    iterations: 10
    learner: {minibatch: 64}
  test: {kind: evaluate, models: {sft: stage:sft, rl: stage:rl}, baselines: [oracle]}
"""
ROUNDS = """\
name: study
cluster: {cpus: 4, gpus: 0}
stages:
  sft: {kind: train, algorithm: {name: sft}, model: someone/model}
  rounds:
    rounds: 2
    first: {ppo: stage:sft, ppo/critic: null}
    stages:
      ppo:
        kind: train
        algorithm: {name: ppo}
        model: stage:ppo@previous
        critic: stage:ppo@previous/critic
        reward: someone/scorer
        candidates: [{source: live, count: 4}]
  test: {kind: evaluate, models: {sft: stage:sft, rl: stage:ppo}}
"""
"""a study of two rounds, each of which goes on with the policy and the critic of the one before"""


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., LoadedJob]:
    """Loads the study with overrides, its outputs under the test's folder; pairs in `renamed` replace its text."""

    def load(*overrides: str, renamed: tuple[tuple[str, str], ...] = (), text: str = STUDY) -> LoadedJob:
        for old, new in renamed:
            text = text.replace(old, new)
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return load_job(path, [f"output={tmp_path / 'runs'}", *overrides])

    return load
