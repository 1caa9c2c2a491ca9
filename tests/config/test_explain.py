from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError, model_validator

from rayalign.config import Job, Section, explain

STAGE: dict[str, Any] = {"kind": "train", "algorithm": {"name": "ppo"}, "model": "preset:nano"}


def told(stage: dict[str, Any], **origins: str) -> str:
    with pytest.raises(ValidationError) as error:
        Job.model_validate({"name": "x", "stages": {"rl": {**STAGE, **stage}}})
    return explain(error.value, Job, "job.yaml", {k.replace("__", "."): v for k, v in origins.items()})


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"learner": {"learning_rte": 1}}, "stages.rl.learner.learning_rte is not known; "
         "did you mean stages.rl.learner.learning_rate?"),
        ({"learning_rate": 1}, "stages.rl.learning_rate is not known; did you mean stages.rl.learner.learning_rate?"),
        ({"learner": {"precision": "fp23"}}, "stages.rl.learner.precision is 'fp23'; did you mean fp32?"),
        ({"learner": {"precision": 8}}, "stages.rl.learner.precision is 8; expected one of fp32, bf16"),
        ({"learner": {"minibatch": "many"}}, "stages.rl.learner.minibatch is 'many'; expected a valid integer"),
        ({"candidates": 3}, "stages.rl.candidates is 3; expected a list"),
        ({"candidates": [{"source": "life"}]}, "stages.rl.candidates.0.source is 'life'; did you mean live?"),
        ({"guards": [{"above": 1}]}, "stages.rl.guards.0.metric is missing"),
        ({"reward": "rules:numerc"}, "stages.rl.reward is 'rules:numerc': there is no rule 'numerc'; "
         "expected one of exact, numeric, regex, length, format, majority"),
        ({"reward": ["stage:rm", {"source": "a/b", "weigth": 2}]}, "stages.rl.reward.1.weigth is not known; "
         "did you mean stages.rl.reward.1.weight?"),
        ({"reward": [{"rules": {"kind": "numerc"}}]}, "stages.rl.reward.0.rules.kind is 'numerc'; "
         "did you mean numeric?"),
        ({"reward": {"rules": {"kind": "numerc"}}}, "stages.rl.reward.0.rules.kind is 'numerc'; "
         "did you mean numeric?"),
        ({"reward": []}, "stages.rl.reward is []: the reward has no parts; name one, or leave the key out"),
        ({"reward": ["stage:rm", "folder/rm"]}, "stages.rl.reward is ['stage:rm', 'folder/rm']: "
         "2 parts are named rm; give each a name of its own"),
        ({"combine": "max"}, "stages.rl.combine is 'max'; expected one of mean, weighted, min, chebyshev"),
        ({"roles": {"polcy": {}}}, "stages.rl.roles.polcy is 'polcy'; did you mean policy?"),
        ({"roles": {"policy": {"gpu": 1}}}, "stages.rl.roles.policy.gpu is not known; "
         "did you mean stages.rl.roles.policy.gpus?"),
        ({"kind": "x"}, "stages.rl.kind is 'x'; "
         "expected one of pretrain, train, generate, annotate, evaluate, merge, reward_tokens, evolve"),
    ],
)  # fmt: skip
def test_each_problem_is_one_sentence_with_the_users_own_key(stage: dict[str, Any], message: str) -> None:
    assert told(stage) == f"job.yaml: {message}"


def test_a_missing_kind_names_the_kinds() -> None:
    with pytest.raises(ValidationError) as error:
        Job.model_validate({"name": "x", "stages": {"rl": {"model": "a"}}})
    assert explain(error.value, Job, "job.yaml") == (
        "job.yaml: stages.rl.kind is missing; "
        "expected one of pretrain, train, generate, annotate, evaluate, merge, reward_tokens, evolve"
    )


def test_the_origin_of_the_key_or_its_section_stands_first() -> None:
    assert told({"prompts": 0}, stages__rl__prompts="a.yaml:3").startswith("a.yaml:3: stages.rl.prompts is 0;")
    assert told({"prompts": 0}, stages__rl="a.yaml:2").startswith("a.yaml:2: stages.rl.prompts is 0;")


def test_a_sections_own_refusal_is_kept() -> None:
    class Pair(Section):
        low: int
        high: int

        @model_validator(mode="after")
        def _ordered(self) -> Pair:
            if self.low > self.high:
                raise ValueError("low must not be above high")
            return self

    with pytest.raises(ValidationError) as error:
        Pair.model_validate({"low": 2, "high": 1})
    assert explain(error.value, Pair, "algorithm x") == "algorithm x: low must not be above high"
    with pytest.raises(ValidationError) as error:
        TypeAdapter(dict[str, Pair]).validate_python({"a": {"low": 2, "high": 1}})
    assert explain(error.value, Pair, "job") == "job: a is refused: low must not be above high"


def test_an_unknown_mixture_of_sources_is_answered_with_the_nearest() -> None:
    stage = {"kind": "generate", "model": "m", "sources": "DPP"}
    with pytest.raises(ValidationError) as error:
        Job.model_validate({"name": "x", "stages": {"a": stage}})
    assert explain(error.value, Job, "job.yaml") == "job.yaml: stages.a.sources is 'DPP'; did you mean DP?"
