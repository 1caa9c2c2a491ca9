"""A small job of personalised soups: from answers under single preferences to heat maps of methods by profiles."""

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
  base: {kind: pretrain, data: {limit: 200}}
  answers:
    kind: generate
    model: stage:base
    data: {split: preference, limit: 60, preferences: {profiles: single, per_prompt: 1}}
    count: 3
    sampling: {max_tokens: 8}
  verdicts: {kind: annotate, examples: stage:answers, annotator: criterion, pairs: 3}
  rm:
    kind: train
    algorithm: {name: reward}
    model: stage:base
    examples: stage:verdicts
    near_duplicates: 0.5
    holdout: 0.25
    learner: {learning_rate: 1e-3, minibatch: 16}
  soup_P1A:
    kind: train
    algorithm: {name: grpo, kl_coefficient: 0}
    model: stage:base
    reward: [{source: stage:rm, preference: P1A}]
    data: {limit: 20, preferences: {profiles: [P1A]}}
    candidates: [{source: live, count: 3}]
    prompts: 4
    iterations: 1
    sampling: {max_tokens: 8}
    learner: {learning_rate: 0.05, minibatch: 12, lora: {rank: 4, alpha: 8}}
  merged: {kind: merge, base: stage:base, mode: delta, models: {stage:soup_P1A/adapter: 1}}
  final:
    kind: evaluate
    models: {prompted: stage:base, plain: stage:base}
    unprompted: [plain]
    by_profile: {soup: {P1A+P2A: stage:merged, P1A+P2B: stage:base}}
    annotator: criterion
    by_criterion: [criterion]
    data: {limit: 12, preferences: {profiles: [P1A+P2A, P1A+P2B]}}
    sampling: {max_tokens: 12, temperature: 0}
"""
PROFILES = ("P1A+P2A", "P1A+P2B")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(JOB, tmp_path_factory.mktemp("personalized"))


def greedy_answers(run: Run) -> dict[tuple[str, str], dict[str, str]]:
    """Model and profile -> prompt without preferences -> answer; equal models answer equal texts alike."""
    answers: dict[tuple[str, str], dict[str, str]] = {}
    for row in records(run, "final"):
        meta = row["meta"]
        answers.setdefault((row["model"], meta["profile"]), {})[meta["base_prompt"]] = row["answer"]
    return answers


def test_each_pair_is_compared_by_the_criterion_of_one_preference(run: Run) -> None:
    metas = [row["prompt"]["meta"] for row in records(run, "verdicts")]
    assert len({meta["profile"] for meta in metas}) > 3
    assert all(meta["profile"] == meta["objectives"] and "; and " not in meta["criterion"] for meta in metas)


def test_the_reward_model_counts_its_duplicates_and_leaks(run: Run) -> None:
    done = json.loads((run.folder / "stages" / "rm" / "done.json").read_text())
    assert set(done["duplicates"]) == {"exact", "near"}
    leaks = dict(done["leaks"])
    assert leaks.pop("rows") > 0 and set(leaks.values()) == {0}


def test_the_soups_reward_is_the_part_of_its_preference(run: Run) -> None:
    (row,) = read_metrics(run.folder / "stages" / "soup_P1A" / "metrics.jsonl")
    assert row["metrics"]["reward/P1A"] == pytest.approx(row["metrics"]["reward/mean"])


def test_the_prompts_of_an_unprompted_model_do_not_name_the_profile(run: Run) -> None:
    answers = greedy_answers(run)
    first, second = (answers["plain", profile] for profile in PROFILES)
    assert first == second and len(first) > 5
    assert answers["prompted", PROFILES[0]] != answers["prompted", PROFILES[1]]
    assert all(answers["plain", profile] != answers["prompted", profile] for profile in PROFILES)


def test_each_profile_is_answered_by_its_own_model(run: Run) -> None:
    answers = greedy_answers(run)
    assert answers["soup", PROFILES[0]] != answers["prompted", PROFILES[0]]
    assert answers["soup", PROFILES[1]] == answers["prompted", PROFILES[1]]


def test_every_model_has_figures_of_each_profile_by_gold_and_by_the_annotator(run: Run) -> None:
    results = json.loads((run.folder / "summary.json").read_text())["results"]
    rates = {(row["name"], row["metric"]) for row in results}
    for profile in PROFILES:
        assert {(name, f"gold_utility@{profile}") for name in ("prompted", "plain", "soup")} <= rates
        judged = f"win_rate_by_criterion_against_prompted@{profile}"
        assert {("plain", judged), ("soup", judged)} <= rates


def test_the_annotator_also_compares_by_single_criteria(run: Run) -> None:
    results = json.loads((run.folder / "summary.json").read_text())["results"]
    criteria: dict[str, set[str]] = {}
    for row in results:
        if "criterion" in row:
            assert row["metric"] == f"win_rate_by_criterion_on_{row['criterion']}_against_prompted"
            criteria.setdefault(row["name"], set()).add(row["criterion"])
    assert criteria == dict.fromkeys(("plain", "soup"), {"P1A", "P2A", "P2B", "helpfulness"})


def test_the_report_has_heat_maps_of_methods_by_profiles_and_by_criteria(run: Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert "<h2>Methods by profiles</h2>" in page and "<h3>gold_utility</h3>" in page
    assert all(f">{profile}</th>" in page for profile in PROFILES)
    assert "<h2>Methods by criteria</h2>" in page and ">helpfulness</th>" in page
