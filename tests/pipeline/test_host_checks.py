from __future__ import annotations

from collections.abc import Callable

import pytest

from rayalign.config import LoadedJob, RewardSource, RoleConfig
from rayalign.errors import InputError
from rayalign.pipeline.checks import check
from rayalign.pipeline.host_checks import host_problems
from rayalign.pipeline.kind import kind_of

Study = Callable[..., LoadedJob]
SPREAD = RoleConfig(actors=2, spread=True)
WITHIN = RoleConfig(within="policy")
MODEL = RewardSource(source="someone/scorer")
RULES = RewardSource(source="rules:numeric")
UNSPREADABLE = "every actor would request the parts of the reward that are not models; remove these parts, or spread"
ONLINE_ONLY = "only an online stage's reference runs in the ranks of its policy; leave this out"


def refusal(study: Study, *overrides: str) -> str:
    """The one problem of a study, behind the place where it is written."""
    with pytest.raises(InputError) as error:
        check(study(*overrides))
    (line,) = str(error.value).splitlines()
    return line.partition(": ")[2]


def test_a_reward_is_spread_where_its_actors_ask_models_alone() -> None:
    assert list(host_problems({"reward": SPREAD}, runs=["reward"], sources=[MODEL])) == []
    assert list(host_problems({"reward": SPREAD}, runs=["reward"], sources=[MODEL, RULES])) == [
        ("roles.reward.spread", UNSPREADABLE)
    ]
    assert list(host_problems({"reference": SPREAD}, runs=["reference"], sources=[MODEL, RULES])) == []


def test_a_reference_runs_within_the_policy_of_an_online_stage_alone() -> None:
    assert list(host_problems({"reference": WITHIN}, runs=["reference"], online=True)) == []
    assert list(host_problems({"reference": WITHIN}, runs=["reference"])) == [("roles.reference.within", ONLINE_ONLY)]


@pytest.mark.parametrize(
    ("stage", "choice"),
    [
        ("draws", "best_of={n: 4, reward: %s}"),
        ("test", "best_of={rl: {n: 4, reward: %s}}"),
    ],
)
def test_candidates_are_scored_in_parts_by_models_alone(study: Study, stage: str, choice: str) -> None:
    spread = f"stages.{stage}.roles.reward={{actors: 2, spread: true}}"
    several_parts = "[{source: someone/scorer}, {source: '%s'}]"
    for other, is_model in (("someone/other", True), ("annotator:gold", False), ("rules:numeric", False)):
        overrides = (f"stages.{stage}.{choice % several_parts % other}", spread)
        job = study(*overrides).job
        (reward,) = [need for need in kind_of(job.stages[stage]).roles(job) if need.role == "reward"]
        assert reward.only_models == is_model
        if is_model:
            check(study(*overrides))
        else:
            assert refusal(study, *overrides) == f"stages.{stage}.roles.reward.spread: {UNSPREADABLE}"


def test_a_choice_by_rules_leaves_the_actors_of_another_to_their_models(study: Study) -> None:
    by_model, by_rules = "{n: 4, reward: someone/scorer}", "{n: 4, reward: 'rules:numeric'}"
    choices = f"stages.test.best_of={{rl: {by_model}, sft: {by_rules}}}"
    check(study(choices, "stages.test.roles.reward={actors: 2, spread: true}"))


def test_a_choice_among_one_candidate_asks_no_actors(study: Study) -> None:
    parts = "[{source: someone/scorer}, {source: 'rules:numeric'}]"
    spread = "roles.reward={actors: 2, spread: true}"
    check(study(f"stages.draws.best_of={{n: 1, reward: {parts}}}", f"stages.draws.{spread}"))
    check(study(f"stages.test.best_of={{rl: {{n: 1, reward: {parts}}}}}", f"stages.test.{spread}"))


@pytest.mark.parametrize(
    "role",
    ["base.roles.policy", "draws.roles.reward", "verdicts.roles.reward", "rm.roles.reward", "test.roles.reference"],
)
def test_no_other_stage_runs_a_role_within_its_policy(study: Study, role: str) -> None:
    assert refusal(study, f"stages.{role}={{within: policy}}") == f"stages.{role}.within: {ONLINE_ONLY}"


def test_an_offline_reference_within_the_policy_is_one_problem(study: Study) -> None:
    settings = "algorithm: {name: dpo}, model: stage:sft, examples: stage:verdicts"
    roles = "roles: {reference: {within: policy}}"
    problem = refusal(study, f"stages.dpo={{kind: train, {settings}, {roles}}}")
    assert problem.startswith("stages.dpo.roles.reference: an offline stage runs its reference in the ranks")


def test_a_pretrained_policy_lies_in_parts_by_its_learner(study: Study) -> None:
    problem = refusal(study, "stages.base.roles.policy={actors: 2, spread: true}")
    assert problem.startswith(
        "stages.base.roles.policy.spread: a trained role lies in parts by its learner's zero_stage"
    )


@pytest.mark.parametrize(
    ("role", "runs"),
    [
        ("base.roles.critic", "policy"),
        ("draws.roles.policy", "reward"),
        ("verdicts.roles.reference", "reward"),
        ("test.roles.policy", "reward, reference"),
    ],
)
def test_a_stage_hosts_only_the_roles_that_it_may_run(study: Study, role: str, runs: str) -> None:
    name = role.rpartition(".")[2]
    problem = f"stages.{role}: this stage runs no {name}; its roles: {runs}"
    assert refusal(study, f"stages.{role}={{cpus: 1}}") == problem


def test_a_frozen_role_has_all_its_actors(study: Study) -> None:
    problem = refusal(study, "stages.test.roles.reward={actors: 2, min_actors: 1}")
    assert problem.startswith("stages.test.roles.reward.min_actors: only a role trained offline goes on with fewer")
