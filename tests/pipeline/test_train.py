"""What follows from the section of a training: which model each role starts from, and by which settings it runs."""

from __future__ import annotations

from typing import Any

import pytest

from rayalign.config import Job, LearnerConfig, RoleConfig
from rayalign.pipeline.kind import Output, kind_of
from rayalign.pipeline.train import TrainKind

ONLINE = {
    "kind": "train",
    "algorithm": {"name": "ppo"},
    "model": "someone/sft",
    "reward": "someone/rm",
    "candidates": [{"source": "live", "count": 2}],
}
OFFLINE = {"kind": "train", "algorithm": {"name": "dpo"}, "model": "someone/sft"}


def job_of(stage: dict[str, Any]) -> Job:
    return Job.model_validate({"name": "study", "stages": {"rl": stage}})


def kind(**changes: Any) -> TrainKind:
    made: Any = kind_of(job_of({**ONLINE, **changes}).stages["rl"])
    assert isinstance(made, TrainKind)
    return made


@pytest.mark.parametrize(
    ("changes", "critic"),
    [
        ({}, "someone/rm"),
        (
            {"reward": [{"source": "rules:numeric"}, {"source": "someone/first"}, {"source": "someone/second"}]},
            "someone/first",
        ),
        ({"reward": "rules:numeric"}, "someone/sft"),
        ({"critic": "someone/critic"}, "someone/critic"),
    ],
)
def test_a_critic_starts_from_its_own_model_else_the_first_reward_else_the_policy(
    changes: dict[str, Any], critic: str
) -> None:
    assert kind(**changes).models()["critic"] == critic


def test_a_reference_is_the_named_model_else_where_the_policy_starts() -> None:
    assert kind().models()["reference"] == "someone/sft"
    assert kind(reference="someone/other").models()["reference"] == "someone/other"


def test_a_policy_with_an_adapter_has_a_reference_only_where_the_job_names_one() -> None:
    adapted = {"lora": {"rank": 2}}
    assert "reference" not in kind(learner=adapted).models()
    assert kind(learner=adapted, reference="someone/other").models()["reference"] == "someone/other"


def test_a_critic_learns_as_the_policy_but_without_its_average_or_by_a_section_of_its_own() -> None:
    policy = {"learning_rate": 1e-3, "ema": 0.99, "zero_stage": 2}
    assert kind(learner=policy).learner("critic") == LearnerConfig(learning_rate=1e-3, zero_stage=2)
    own = {"learning_rate": 5e-3, "ema": 0.9}
    assert kind(learner=policy, critic_learner=own).learner("critic") == LearnerConfig(learning_rate=5e-3, ema=0.9)


def test_each_role_has_its_own_host_and_only_the_critic_its_own_learner() -> None:
    changes = {
        "learner": {"learning_rate": 1e-3},
        "critic_learner": {"learning_rate": 5e-3},
        "roles": {"critic": {"actors": 2}, "reference": {"threads": 3}, "reward": {"cpus": 0.5}},
    }
    stage = {**ONLINE, **changes}
    needs = {need.role: need for need in kind(**changes).roles(job_of(stage))}
    hosts = {role: need.host for role, need in needs.items() if role != "generator"}
    assert hosts == {
        "policy": RoleConfig(),
        "critic": RoleConfig(actors=2),
        "reference": RoleConfig(threads=3),
        "reward": RoleConfig(cpus=0.5),
    }
    rates = {role: need.learner.learning_rate for role, need in needs.items() if role != "generator"}
    assert rates == {"policy": 1e-3, "critic": 5e-3, "reference": 1e-3, "reward": 1e-3}
    assert [role for role, need in needs.items() if need.trained] == ["policy", "critic"]


def test_an_average_and_an_adapter_are_outputs_beside_the_model() -> None:
    names = {"ema": kind(learner={"ema": 0.99}), "adapter": kind(learner={"lora": {"rank": 2}})}
    for name, made in names.items():
        assert made.outputs()[name].path == f"model/{name}"
        assert set(made.outputs()) == {"", "policy", "critic", name}
    assert kind(learner={"ema": 0.99}).outputs()["ema"] == Output(kind().outputs()[""].what, "model/ema")


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({}, False),
        ({"roles": {"reference": {"within": "policy"}}}, True),
        ({"algorithm": {"name": "quark"}}, True),
        ({**OFFLINE, "candidates": []}, True),
    ],
)
def test_where_the_reference_runs(changes: dict[str, Any], within: bool) -> None:
    assert kind(**changes).reference_in_learner is within


@pytest.mark.parametrize(
    ("outputs", "zero_stage", "memory", "spread"),
    [("stored", 0, 0, False), ("live", 0, None, False), ("live", 3, None, True)],
)
def test_a_reference_in_the_learners_ranks_has_their_host_and_lies_as_they_do(
    outputs: str, zero_stage: int, memory: int | None, spread: bool
) -> None:
    stage = {
        **OFFLINE,
        "reference_outputs": outputs,
        "learner": {"zero_stage": zero_stage},
        "roles": {"policy": {"actors": 2, "threads": 3}},
    }
    job = job_of(stage)
    needs = {need.role: need for need in kind_of(job.stages["rl"]).roles(job)}
    reference = needs["reference"]
    assert (reference.within, reference.memory) == ("policy", memory)
    assert (reference.host.actors, reference.host.threads, reference.host.spread) == (2, 3, spread)


def test_a_second_objective_reads_demonstrations_and_its_settings_count_in_the_hash() -> None:
    mix = {"algorithm": {"name": "sft"}, "data": {"limit": 5}}
    ((key, data, use),) = kind(mix=mix).further_data()
    assert (key, data.limit, use) == ("mix.data", 5, "demonstrations")
    assert kind(mix=mix).settings()["mix"] == {"algorithm": {"name": "sft", "revision": 1}}
    assert kind().further_data() == [] and "mix" not in kind().settings()


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("sft", "demonstrations"),
        ("dpo", "comparisons"),
        ("kto", "feedback"),
        ("rrhf", "comparisons"),
        ("reward", "comparisons"),
    ],
)
def test_what_the_rows_of_an_offline_training_serve_as(name: str, use: str) -> None:
    assert kind(**OFFLINE | {"algorithm": {"name": name}, "candidates": []}).data_use == use
