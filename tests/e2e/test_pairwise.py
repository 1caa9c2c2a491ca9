"""A pairwise reward model in every place that it may take: trained, choosing, judging, and as a policy's reward."""

from __future__ import annotations

import json

import pytest

from rayalign.storage.metrics import read_metrics
from tests.e2e.runs import Run, ran, records

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

JOB = """\
name: tiny
cluster: {cpus: 2, object_store: 134217728, call_timeout: 300}
rollout: {engine: local, engines: 1, context: 96, max_sequences: 32}
stages:
  base: {kind: pretrain, data: {limit: 100}}
  answers:
    kind: generate
    model: stage:base
    data: {split: preference, limit: 24}
    count: 3
    sampling: {max_tokens: 12}
  labels: {kind: annotate, examples: stage:answers, pairs: 3}
  pairs:
    kind: train
    algorithm: {name: pairwise_reward}
    model: stage:base
    examples: stage:labels
    holdout: 0.25
    learner: {learning_rate: 1e-3, minibatch: 16, lora: {rank: 4, alpha: 8}}
  verdicts: {kind: annotate, examples: stage:answers, pairwise: stage:pairs, pairs: 3}
  sppo:
    kind: train
    algorithm: {name: sppo, eta: 10}
    model: stage:base
    examples: stage:verdicts
    steps: 1
    learner: {minibatch: 8}
  online:
    kind: train
    algorithm: {name: grpo, kl_coefficient: 0}
    model: stage:sppo
    reward: [stage:pairs, {rules: {kind: length, high: 9}, weight: 0.1}]
    candidates: [{source: live, count: 3}]
    prompts: 4
    iterations: 1
    sampling: {max_tokens: 12}
    learner: {minibatch: 12}
  final:
    kind: evaluate
    models: {base: stage:base, best: stage:base}
    best_of: {best: {n: 3, reward: stage:pairs}}
    data: {limit: 8}
    sampling: {max_tokens: 12}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(JOB, tmp_path_factory.mktemp("pairwise"))


def test_its_accuracy_is_among_the_results_beside_that_of_the_longer_answer(run: Run) -> None:
    summary = json.loads((run.folder / "summary.json").read_text())
    metrics = {row["metric"] for row in summary["results"] if row["name"] == "pairs"}
    assert metrics == {"reward_accuracy", "reward_longer_accuracy"}


def test_its_verdicts_are_probabilities_of_all_pairs(run: Run) -> None:
    people, verdicts = records(run, "labels"), records(run, "verdicts")
    assert [(row["first"], row["second"]) for row in verdicts] == [(row["first"], row["second"]) for row in people]
    preferences = [row["preference"] for row in verdicts]
    assert all(1 < preference < 2 for preference in preferences)
    assert len(set(preferences)) > len(preferences) / 2
    assert {row["annotator"] for row in verdicts} == {"stage:pairs"}


def test_the_best_answer_wins_most_against_the_other_candidates(run: Run) -> None:
    for row in records(run, "final"):
        if row["model"] == "best":
            scores = [candidate["score"] for candidate in row["candidates"]]
            assert sum(scores) == pytest.approx(1.5)  # of three: each pair shares out 1, and a mean is over two
            assert row["answer"] == row["candidates"][scores.index(max(scores))]["answer"]


def test_a_policys_reward_has_it_as_a_part(run: Run) -> None:
    (row,) = read_metrics(run.folder / "stages" / "online" / "metrics.jsonl")
    assert row["metrics"]["reward/pairs"] == pytest.approx(0.5)
