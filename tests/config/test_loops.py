"""A loop of stages, unrolled while its job is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import EvaluateStage, LoadedJob, MergeStage, TrainStage, load_job
from rayalign.errors import InputError

LOOPED = """\
name: looped
stages:
  sft: {kind: train, algorithm: {name: sft}, model: hub/model}
  rm: {kind: train, algorithm: {name: reward}, model: stage:sft}
  rounds:
    kind: loop
    rounds: 3
    first: {ppo: stage:sft, ppo/critic: null}
    stages:
      answers: {kind: generate, model: stage:ppo@previous}
      labels: {kind: annotate, examples: stage:answers}
      ppo:
        kind: train
        algorithm: {name: ppo, teachers: [stage:labels]}
        model: stage:ppo@previous
        critic: stage:ppo@previous/critic
        reward: stage:rm
        iterations: 4
  test:
    kind: evaluate
    models: {one: stage:ppo@1, last: stage:ppo}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, so that origins are short."""
    monkeypatch.chdir(tmp_path)


def load(*overrides: str, text: str = LOOPED) -> LoadedJob:
    Path("job.yaml").write_text(text)
    return load_job("job.yaml", overrides)


def refusal(*overrides: str, text: str = LOOPED) -> list[str]:
    with pytest.raises(InputError) as error:
        load(*overrides, text=text)
    return str(error.value).splitlines()


def ppo(loaded: LoadedJob, number: int) -> TrainStage:
    stage = loaded.job.stages[f"ppo@{number}"]
    assert isinstance(stage, TrainStage)
    return stage


def test_the_rounds_follow_each_other_in_the_place_of_the_loop() -> None:
    rounds = [f"{name}@{number}" for number in (1, 2, 3) for name in ("answers", "labels", "ppo")]
    assert list(load().job.stages) == ["sft", "rm", *rounds, "test"]


def test_the_kind_of_a_loop_need_not_be_written() -> None:
    assert load(text=LOOPED.replace("    kind: loop\n", "")).job == load().job


def test_a_reference_means_the_same_round_or_the_one_before() -> None:
    stages = load().job.stages
    assert [str(ref) for _, ref in stages["labels@2"].references()] == ["stage:answers@2"]
    assert {key: str(ref) for key, ref in stages["ppo@3"].references()} == {
        "algorithm.teachers.0": "stage:labels@3",
        "model": "stage:ppo@2",
        "critic": "stage:ppo@2/critic",
        "reward": "stage:rm",
    }


def test_the_first_round_starts_from_what_the_loop_says() -> None:
    first = ppo(load(), 1)
    assert (first.model, first.critic) == ("stage:sft", None)
    assert ppo(load("stages.rounds.first.ppo/critic=stage:rm"), 1).critic == "stage:rm"
    assert ppo(load("stages.rounds.first.ppo=hub/other"), 1).model == "hub/other"


def test_a_reference_may_be_the_key_of_a_mapping() -> None:
    soup = "stages.rounds.stages.soup={kind: merge, models: {stage:ppo@previous: 0.7, stage:ppo: 0.3}}"
    stages = load(soup).job.stages
    assert [str(ref) for _, ref in stages["soup@1"].references()] == ["stage:sft", "stage:ppo@1"]
    assert [str(ref) for _, ref in stages["soup@2"].references()] == ["stage:ppo@1", "stage:ppo@2"]


def test_models_that_become_one_add_their_weights() -> None:
    soup = "stages.rounds.stages.soup={kind: merge, models: {stage:ppo@previous: 0.5, stage:rm: 1, stage:sft: 0.25}}"
    stages = load(soup).job.stages
    first, second = stages["soup@1"], stages["soup@2"]
    assert isinstance(first, MergeStage) and isinstance(second, MergeStage)
    assert (first.models, first.weights) == (("stage:sft", "stage:rm"), (0.75, 1.0))
    assert (second.models, second.weights) == (("stage:ppo@1", "stage:rm", "stage:sft"), (0.5, 1.0, 0.25))


def test_a_change_of_one_round_is_named_where_it_is_wrong() -> None:
    assert refusal(text=LOOPED + "  ppo@1: {critic: stage:ppo@previous/judge}\n") == [
        "job.yaml:22: stages.ppo@1.critic is 'stage:ppo@previous/judge', but there is no round before the first; say "
        "in stages.rounds.first what ppo/judge is then"
    ]


@pytest.mark.parametrize("rounds", ["'3'", "3.0"])
def test_the_number_of_rounds_is_read_as_any_number(rounds: str) -> None:
    assert load(f"stages.rounds.rounds={rounds}").job == load().job


def test_outside_the_loop_the_last_round_is_meant() -> None:
    test = load().job.stages["test"]
    assert isinstance(test, EvaluateStage)
    assert test.models == {"one": "stage:ppo@1", "last": "stage:ppo@3"}


def test_a_later_loop_starts_from_the_last_round_of_an_earlier_one() -> None:
    later = "  more: {rounds: 1, first: {dpo: stage:ppo}, stages: {dpo: {kind: generate, model: stage:dpo@previous}}}\n"
    assert [str(ref) for _, ref in load(text=LOOPED + later).job.stages["dpo@1"].references()] == ["stage:ppo@3"]


def test_every_value_knows_where_it_was_written() -> None:
    loaded = load("stages.rounds.stages.ppo.iterations=5", "stages.ppo@2.iterations=6")
    assert [ppo(loaded, number).iterations for number in (1, 2, 3)] == [5, 6, 5]
    assert loaded.origin("stages.ppo@1.model") == "job.yaml:8"
    assert loaded.origin("stages.ppo@2.model") == "job.yaml:15"
    assert loaded.origin("stages.ppo@2.algorithm.name") == "job.yaml:14"
    assert loaded.origin("stages.ppo@2.iterations") == "command line"
    assert loaded.origin("stages.ppo@3.iterations") == "command line"


def test_a_round_can_be_changed_beside_its_loop() -> None:
    changed = load(text=LOOPED + "  ppo@1: {critic: stage:rm, prompts: 8}\n")
    assert (ppo(changed, 1).critic, ppo(changed, 1).prompts, ppo(changed, 2).prompts) == ("stage:rm", 8, 32)
    assert changed.origin("stages.ppo@1.prompts") == "job.yaml:22"


def test_null_removes_a_stage_of_an_inherited_loop_and_the_loop() -> None:
    Path("base.yaml").write_text(LOOPED)
    text = "extends: base.yaml\nstages: {rounds: {rounds: 1, stages: {labels: null}}}\n"
    loaded = load("stages.rounds.stages.ppo.algorithm.teachers=[]", text=text)
    assert list(loaded.job.stages) == ["sft", "rm", "answers@1", "ppo@1", "test"]
    assert list(load("stages.test=null", text="extends: base.yaml\nstages: {rounds: null}\n").job.stages) == [
        "sft",
        "rm",
    ]


def test_the_resolved_job_loads_to_the_same_job() -> None:
    loaded = load("stages.ppo@2.iterations=6")
    assert load(text=loaded.resolved()).job == loaded.job


def test_the_jobs_data_hold_for_the_stages_of_a_loop() -> None:
    loaded = load("data.limit=7")
    assert ppo(loaded, 2).data.limit == 7
    assert loaded.origin("stages.ppo@2.data.limit") == "command line"


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("stages.rounds.rounds=0", ["command line: stages.rounds.rounds is 0; expected a number greater than 0"]),
        (
            "stages.rounds.stages.ppo.iterations=0",
            ["command line: stages.rounds.stages.ppo.iterations is 0; expected a number greater than 0"],
        ),
        (
            "stages.rounds.stage={}",
            ["command line: stages.rounds.stage is not known; did you mean stages.rounds.stages?"],
        ),
        (
            "stages.rounds.first={ppoo: stage:sft}",
            ["command line: stages.rounds.first.ppoo names no stage of the loop; did you mean ppo?"],
        ),
        (
            "stages.rounds.stages.labels.examples=stage:answers@previous",
            [
                "command line: stages.rounds.stages.labels.examples is 'stage:answers@previous', but there is no round "
                "before the first; say in stages.rounds.first what answers is then"
            ],
        ),
        (
            "stages.test.models.last=stage:ppo@previous",
            [
                "command line: stages.test.models.last is 'stage:ppo@previous', but @previous stands only for a stage "
                "of the same loop"
            ],
        ),
        (
            "stages.rounds.stages.sft={kind: generate, model: hub/model}",
            ["command line: stages.rounds.stages.sft has the name of another stage; rename one of them"],
        ),
        (
            "stages.ppo@4={prompts: 1}",
            ["command line: stages.ppo@4: there is no such round; the last one is ppo@3"],
        ),
        (
            "stages.rounds.stages.soup={kind: merge, models: {stage:ppo@previous/critic: 0.5, stage:rm: 0.5}}",
            [
                "command line: stages.rounds.stages.soup.models.stage:ppo@previous/critic has a value, so its key "
                "cannot be left out of the first round; name a stage or a model in the loop's first, not null"
            ],
        ),
        (
            "stages.rounds.stages.soup={kind: merge, models: {stage:ppo@previous: '0.5', stage:sft: 0.5}}",
            [
                "command line: stages.rounds.stages.soup.models.stage:sft and another key both become stage:sft; write "
                "one of them, or numbers as their values"
            ],
        ),
        (
            "stages.rounds.stages.inner={kind: loop, rounds: 2, stages: {}}",
            [
                "command line: stages.rounds.stages.inner.kind is 'loop'; expected one of pretrain, train, generate, "
                "annotate, evaluate, merge, reward_tokens, evolve"
            ],
        ),
        (
            "stages.rounds.stages={../x: {kind: generate, model: hub/model}}",
            [
                "command line: stages.rounds.stages.../x is '../x'; expected string should match pattern "
                "'^[A-Za-z0-9][A-Za-z0-9._-]*$'"
            ],
        ),
    ],
)
def test_a_wrong_loop_is_refused_in_one_line(override: str, lines: list[str]) -> None:
    assert refusal(override) == lines
