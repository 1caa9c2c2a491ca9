from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from rayalign.config import LoadedJob, PretrainStage, TrainStage, load_job
from rayalign.config.section import Section
from rayalign.config.stages import WrittenJob
from rayalign.errors import InputError

BASE = """\
name: study
data: {format: hh, path: rows.jsonl}
stages:
  base: {kind: pretrain, learner: {minibatch: 8}}
  sft:
    kind: train
    algorithm: {name: sft}
    model: stage:base
    learner: {learning_rate: 1e-4, minibatch: 16}
    guards: [{metric: loss/policy, above: 9}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, holding base.yaml, so that origins are short."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    return tmp_path


def load(text: str, *overrides: str) -> LoadedJob:
    Path("job.yaml").write_text(text)
    return load_job("job.yaml", overrides)


def refusal(text: str, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as error:
        load(text, *overrides)
    return str(error.value).splitlines()


def train(loaded: LoadedJob, name: str = "sft") -> TrainStage:
    stage = loaded.job.stages[name]
    assert isinstance(stage, TrainStage)
    return stage


def test_extending_merges_mappings_and_replaces_lists(folder: Path) -> None:
    loaded = load("extends: base.yaml\nstages:\n  sft:\n    learner: {minibatch: 4}\n    guards: []\n")
    stage = train(loaded)
    assert (stage.learner.learning_rate, stage.learner.minibatch, stage.guards) == (1e-4, 4, ())
    assert loaded.origins["stages.sft.learner.learning_rate"] == "base.yaml:9"
    assert loaded.origins["stages.sft.learner.minibatch"] == "job.yaml:4"
    assert loaded.origins["seed"] == "default"
    assert not [key for key in loaded.origins if key.startswith("stages.sft.guards.")]


def test_null_removes_an_inherited_stage_only(folder: Path) -> None:
    assert list(load("extends: base.yaml\nstages: {base: null}\n").job.stages) == ["sft"]
    assert list(load(BASE, "stages.base=null").job.stages) == ["sft"]
    assert refusal("extends: base.yaml\nstages: {gone: null}\n") == [
        "job.yaml:2: stages.gone is null, but no stage of that name is inherited"
    ]


def test_overrides_are_yaml_and_win(folder: Path) -> None:
    loaded = load(BASE, "seed=3", "stages.sft.learner={clip_norm: 2}", "stages.sft.candidates=[{source: live}]")
    stage = train(loaded)
    assert (loaded.job.seed, stage.learner.clip_norm, stage.learner.minibatch) == (3, 2.0, 16)
    assert stage.online
    assert loaded.origins["stages.sft.candidates.0.source"] == "command line"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.pth=x", "command line: data.pth is not known; did you mean data.path?"),
        ("seed", "command line: 'seed' is not an override; write section.key=value"),
        ("a..b=1", "command line: 'a..b=1' is not an override; write section.key=value"),
        ("seed=[", "command line: seed is not valid YAML: expected the node content, but found '<stream end>'"),
        ("stages.x.kind=generate", "command line: stages.x.model is missing"),
        (
            "stages.sft.learner.lora.targets=[]",
            "command line: stages.sft.learner.lora.targets is []; expected at least 1 of them",
        ),
        ("stages.sft.prompts=0", "command line: stages.sft.prompts is 0; expected a number greater than 0"),
    ],
)
def test_wrong_overrides_name_the_command_line(folder: Path, override: str, message: str) -> None:
    assert refusal(BASE, override) == [message]


def test_stages_inherit_the_data_they_do_not_set(folder: Path) -> None:
    text = BASE + "  test: {kind: evaluate, models: {sft: stage:sft}, data: {path: other.jsonl}}\n"
    loaded = load(text)
    data = [(s.data.format, s.data.path, s.data.split) for s in loaded.job.stages.values()]  # type: ignore[union-attr]
    assert data == [("hh", "rows.jsonl", "corpus"), ("hh", "rows.jsonl", "train"), ("hh", "other.jsonl", "test")]
    assert loaded.origins["stages.sft.data.path"] == "job.yaml:2"
    given: Any = load(text, "data.split=validation").job.stages["test"]
    assert given.data.split == "validation"


def test_a_data_set_of_its_own_takes_the_place_of_an_inherited_blend(folder: Path) -> None:
    blend = "data.blend=[{format: hh, path: a.jsonl}, {format: hh, path: b.jsonl}]"
    loaded = load(BASE, blend, "stages.sft.data={format: gsm8k, path: sums.jsonl}")
    assert loaded.job.stages["sft"].data.blend is None  # type: ignore[union-attr]
    assert load(BASE, blend, "stages.sft.data={limit: 3}").job.stages["sft"].data.blend is not None  # type: ignore[union-attr]


def test_a_second_objective_inherits_the_data_too(folder: Path) -> None:
    loaded = load(BASE, "stages.sft.mix={algorithm: {name: sft}, data: {split: other}}")
    mix = loaded.job.stages["sft"].mix  # type: ignore[union-attr]
    assert (mix.data.format, mix.data.path, mix.data.split) == ("hh", "rows.jsonl", "other")
    assert loaded.origins["stages.sft.mix.data.path"] == "job.yaml:2"


def test_a_section_given_in_part_keeps_its_parents_default(folder: Path) -> None:
    stage = load(BASE).job.stages["base"]
    assert isinstance(stage, PretrainStage)
    assert (stage.learner.minibatch, stage.learner.learning_rate, stage.learner.schedule) == (8, 1e-3, "linear")


@pytest.mark.parametrize("name", ["../../../victim", "/tmp/victim", "..", "a/b", "a b", ".hidden"])
def test_a_stage_whose_name_is_no_folder_of_its_own_is_refused(folder: Path, name: str) -> None:
    (line,) = refusal(f"{BASE}  {name!r}: {{kind: generate, model: stage:sft}}\n")
    assert line.startswith(f"job.yaml:11: stages.{name} is {name!r}; expected string should match pattern")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: ../x\nstages:\n  a: {kind: pretrain}\n", "name is '../x'"),
        ("name: j\nstages:\n  l: {rounds: 2, stages: {../x: {kind: pretrain}}}\n", "stages.l.stages.../x is '../x'"),
        ("name: j\nstages:\n  a: {kind: pretrain, roles: {../x: {actors: 1}}}\n", "stages.a.roles.../x is '../x'"),
    ],
)
def test_every_name_that_becomes_a_path_is_one_folder(folder: Path, text: str, place: str) -> None:
    (line,) = refusal(text)
    assert place in line


FREE_KEYS = {
    "ClusterConfig.environment",  # variables
    "DataConfig.columns", "SourceConfig.columns",  # of the rows
    "EvaluateStage.models", "EvaluateStage.by_profile", "EvaluateStage.best_of",  # rows of a table
    "LoopConfig.first",  # references, which have to exist
}  # fmt: skip
"""mappings of a job whose keys are any text, since none of them becomes a path"""


def free_keys(annotation: Any, place: str, seen: set[type[Section]]) -> Iterator[str]:
    """The places of mappings whose keys are any text, in a type and the sections in it."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        if annotation not in seen:
            seen.add(annotation)
            for name, field in annotation.model_fields.items():
                yield from free_keys(field.annotation, f"{annotation.__name__}.{name}", seen)
        return
    arguments = get_args(annotation)
    if get_origin(annotation) is dict and arguments[0] is str and arguments[1] is not Any:
        yield place
    for argument in arguments:
        yield from free_keys(argument, place, seen)


def test_keys_that_are_any_text_become_no_path() -> None:
    assert set(free_keys(WrittenJob, "", set())) == FREE_KEYS


def test_all_problems_of_a_file_are_told_at_once(folder: Path) -> None:
    text = "name: a b\nname: c d\nseed: -1\nlearning_rate: 3\nstages:\n  x: {kind: trian}\n  y: 3\n"
    assert refusal(text) == [
        "job.yaml:2: name is given twice; first at job.yaml:1",
        "job.yaml:2: name is 'c d'; expected string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'",
        "job.yaml:3: seed is -1; expected a number greater than or equal to 0",
        "job.yaml:6: stages.x.kind is 'trian'; did you mean train?",
        "job.yaml:7: stages.y is 3; expected a mapping of keys to values",
        "job.yaml:4: learning_rate is not known; known: name, seed, output, chat_template, data, cluster, rollout, "
        "tracking, annotator, stages",
    ]


def test_a_wrong_inherited_value_is_told_once_where_it_stands(folder: Path) -> None:
    assert refusal("extends: base.yaml\ndata: {limit: 0}\n") == [
        "job.yaml:2: data.limit is 0; expected a number greater than 0"
    ]


def test_circles_and_missing_files_are_refused(folder: Path) -> None:
    Path("other.yaml").write_text("extends: job.yaml\n")
    assert refusal("extends: other.yaml\n") == [
        "other.yaml:1: extends goes round in a circle: job.yaml -> other.yaml -> job.yaml"
    ]
    assert refusal("extends: none.yaml\n") == ["job.yaml:1: extends none.yaml, but there is no file none.yaml"]
    assert refusal("extends: [a]\n") == ["job.yaml:1: extends is ['a']; expected the path of one other job file"]
    with pytest.raises(InputError, match="none.yaml: the job cannot be read: there is no such file"):
        load_job("none.yaml")


def test_a_reward_of_one_part_needs_no_list(folder: Path) -> None:
    text = BASE + "  rl: {kind: train, algorithm: {name: ppo}, model: stage:sft, reward: REWARD}\n"
    part = "{rules: {kind: numeric}}"
    alone, listed = (load(text.replace("REWARD", written)).job for written in (part, f"[{part}]"))
    assert alone == listed


@pytest.mark.parametrize("text", ["", "- 1\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(folder: Path, text: str) -> None:
    assert refusal(text) == ["job.yaml: expected a mapping of keys to values at the top"]


def test_broken_yaml_names_its_line(folder: Path) -> None:
    assert refusal("name: a\nseed: [1\nb: 2\n")[0].startswith("job.yaml:3: not valid YAML")


def test_keys_are_taken_as_written(folder: Path) -> None:
    text = BASE + "  1: {kind: evaluate, models: {on: stage:sft, no: stage:base}}\n"
    stage: Any = load(text).job.stages["1"]
    assert list(stage.models) == ["on", "no"]


def test_the_resolved_job_loads_to_the_same_job(folder: Path) -> None:
    loaded = load(BASE + "  1: {kind: evaluate, models: {on: stage:sft}}\n", "seed=7")
    resolved = loaded.resolved()
    assert "seed: 7  # command line\n" in resolved
    assert "    model: stage:base  # job.yaml:8\n" in resolved
    assert "output: runs  # default\n" in resolved
    assert load(resolved).job == loaded.job


def test_a_role_within_another_survives_being_written_out(folder: Path) -> None:
    stage = "  1:\n    kind: train\n    algorithm: {name: grpo}\n    model: stage:base\n    reward: stage:sft\n"
    loaded = load(BASE + stage + "    roles: {reference: {within: policy}}\n    iterations: 1\n")
    assert load(loaded.resolved()).job == loaded.job


def test_origin_falls_back_to_the_section_around_it(folder: Path) -> None:
    loaded = load(BASE)
    assert loaded.origin("stages.sft.learner.precision") == "job.yaml:9"
    assert loaded.origin("cluster.gpus") == "job.yaml"
