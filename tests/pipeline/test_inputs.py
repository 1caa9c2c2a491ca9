"""What is proven of tokenizers, rows and prompts before Ray starts, and what of it the stages take over."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import LoadedJob
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.pipeline.checks import check
from rayalign.pipeline.hashing import stage_hashes
from rayalign.pipeline.inputs import Inputs
from rayalign.storage.records import write_jsonl
from rayalign.storage.summary import write_done
from rayalign.types import Candidate, Example, Message, Prompt

Study = Callable[..., LoadedJob]
REAL = """\
name: real
data: {format: demonstrations, path: PATH}
stages:
  base: {kind: pretrain, vocabulary: 300}
  sft: {kind: train, algorithm: {name: sft}, model: stage:base}
  draws: {kind: generate, model: stage:sft, sampling: {max_tokens: 8}}
"""


@pytest.fixture
def real(study: Study, tmp_path: Path) -> Callable[..., LoadedJob]:
    """A job on rows of its own, of which the last prompt is `words` words long."""

    def load(*overrides: str, words: int = 2) -> LoadedJob:
        rows = [{"prompt": prompt, "answer": "yes"} for prompt in ("may I ?", "shall I ?", "one " * words)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return study(*overrides, text=REAL.replace("PATH", str(tmp_path / "data")))

    return load


def finish(loaded: LoadedJob, *names: str) -> None:
    for name in names:
        folder = Path(loaded.job.output) / loaded.job.name / "stages" / name
        write_done(folder, stage_hashes(loaded.job)[name], seconds=1.0, fixed_seconds=1.0)
        build_tokenizer().save_pretrained(folder / "model")


def test_a_prompt_too_long_for_a_tokenizer_that_is_still_to_be_trained_is_refused(real: Study) -> None:
    Inputs(real(words=40)).check()
    with pytest.raises(InputError, match=r"stages\.draws\.data: 1 of 3 prompts leave no room for 8 new tokens in a"):
        Inputs(real(words=200)).check()
    inputs = Inputs(real("data.too_long=skip", words=200))
    inputs.check()
    assert len(inputs.fitting("draws", "stage:sft")) == 2


@pytest.mark.ray
def test_a_refused_run_leaves_nothing_behind(real: Study, tmp_path: Path) -> None:
    loaded = real(words=200)
    check(loaded)
    command = [Path(sys.executable).with_name("rayalign"), "run", tmp_path / "job.yaml", f"output={loaded.job.output}"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2
    assert "leave no room" in refused.stderr
    assert not Path(loaded.job.output).exists()


def test_the_world_brings_its_own_tokenizer_and_each_stage_is_held_to_its_own_answer(study: Study) -> None:
    Inputs(study("stages.test.data.limit=50")).check()
    with pytest.raises(InputError, match=r"stages\.rl\.data: .* no room for 120 new tokens in a .* 128"):
        Inputs(study("stages.rl.sampling={max_tokens: 120}", "stages.rl.data.limit=50")).check()


def test_the_tokenizer_of_a_finished_stage_is_the_one_that_it_left(real: Study) -> None:
    loaded = real()
    finish(loaded, "base")
    words = Inputs(loaded).tokenizer("stage:sft").get_vocab()
    assert words == build_tokenizer().get_vocab() != Inputs(real("seed=1")).tokenizer("stage:sft").get_vocab()


def test_what_is_finished_is_not_read_again(real: Study, tmp_path: Path) -> None:
    loaded = real()
    finish(loaded, "base", "sft", "draws")
    inputs = Inputs(loaded)
    (tmp_path / "data" / "train.jsonl").write_text("no row")
    inputs.check()


def test_a_bad_row_far_down_is_found_before_a_run(real: Study, tmp_path: Path) -> None:
    loaded = real()
    rows = [*(json.dumps({"prompt": f"p{i}", "answer": "a"}) for i in range(200)), '{"prompt": 3}']
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows))
    check(loaded)
    with pytest.raises(InputError, match=r"stages\.base\.data: .*train\.jsonl:201"):
        Inputs(loaded).check()


def test_a_hub_name_out_of_reach_is_found_before_a_run(study: Study) -> None:
    pytest.importorskip("datasets")
    loaded = study("stages.sft.data={format: demonstrations, path: nobody/nothing}")
    check(loaded)
    with pytest.raises(InputError, match=r"stages\.sft\.data: nobody/nothing: no such local path, nor"):
        Inputs(loaded).check()


@pytest.mark.parametrize("key", ["stages.rl.reward", "stages.test.reward", "stages.test.perplexity"])
def test_what_reads_the_answers_has_a_tokenizer_too(study: Study, tmp_path: Path, key: str) -> None:
    less = [f"stages.{name}.data.limit=50" for name in ("sft", "draws", "rl", "test")]
    Inputs(study(*less, "stages.rl.reward=annotator:gold")).check()
    with pytest.raises(InputError, match=rf"{key}: model {tmp_path}: no tokenizer"):
        Inputs(study(*less, f"{key}={tmp_path}")).check()


def test_the_template_of_a_reward_model_renders_the_stages_dialogues(study: Study, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": role, "content": "yes"} for role in ("system", "user")]}]
    (tmp_path / "train.jsonl").write_text(json.dumps(rows[0]) + "\n")
    tokenizer = build_tokenizer()
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    tokenizer.chat_template = refusal + tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "scorer")
    less = [f"stages.{name}.data.limit=50" for name in ("sft", "draws", "rl", "test")]
    scorer = f"stages.rl.reward={tmp_path / 'scorer'}"
    Inputs(study(*less, scorer)).check()
    dialogues = f"stages.rl.data={{format: prompts, path: {tmp_path / 'train.jsonl'}}}"
    with pytest.raises(
        InputError,
        match=r"stages\.rl\.reward: .*train\.jsonl:1: chat template: refuses the dialogue of roles system, user",
    ):
        Inputs(study(*less, scorer, dialogues)).check()


def test_prompts_of_an_earlier_stage_are_proven_once_it_has_finished(study: Study, tmp_path: Path) -> None:
    less = ("stages.sft.data.limit=50", "stages.draws.data.limit=50", "stages.test.data.limit=50")
    loaded = study(*less, "stages.rl.data.path=stage:draws", "stages.rl.reward=annotator:gold")
    Inputs(loaded).check()
    finish(loaded, "base", "sft", "draws")
    prompt = Prompt("p", (Message("user", "sort these words : oak elm ."),), {"task": "t"})
    folder = tmp_path / "runs" / "study" / "stages" / "draws"
    write_jsonl(folder / "records.jsonl", [Example(prompt, (Candidate("elm oak"),)), Example(prompt, ())])
    inputs = Inputs(loaded)
    inputs.check()
    assert [example.prompt for example in inputs.prompts("rl")] == [prompt]
    long = Prompt("p", (Message("user", "oak " * 200),))
    write_jsonl(folder / "records.jsonl", [Example(long, ())])
    with pytest.raises(InputError, match=r"stages\.rl\.data: 1 of 1 prompts leave no room"):
        Inputs(loaded).check()


@pytest.mark.parametrize("role", ["critic", "reference"])
def test_what_reads_the_policys_tokens_has_its_vocabulary(study: Study, tmp_path: Path, role: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(tmp_path)
    less = [f"stages.{name}.data.limit=50" for name in ("sft", "draws", "rl", "test")]
    with pytest.raises(InputError, match=rf"stages\.rl\.{role}: {tmp_path} has another vocabulary than the policy"):
        Inputs(study(*less, f"stages.rl.{role}={tmp_path}")).check()


@pytest.mark.parametrize(
    ("outside", "said"),
    [
        ("pad", r"cannot be loaded .*[Pp]adding_idx"),
        ("zebra", r"'zebra' with id \d+, but the model has embeddings for"),
    ],
)
def test_ids_outside_the_embeddings_are_refused_before_a_run(
    study: Study, tmp_path: Path, outside: str, said: str
) -> None:
    model, tokenizer = tmp_path / "model", build_tokenizer()
    make_preset("nano", tokenizer, 0, model)
    less = [f"stages.{name}.data.limit=50" for name in ("sft", "draws", "rl", "test")]
    Inputs(study(*less, f"stages.sft.model={model}")).check()
    if outside == "pad":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"pad_token_id": config["vocab_size"]}))
    else:
        tokenizer.add_tokens([outside])
        tokenizer.save_pretrained(model)
    with pytest.raises(InputError, match=rf"stages\.sft\.model: .*{said}"):
        Inputs(study(*less, f"stages.sft.model={model}")).check()


def test_rows_are_read_once_and_a_corpus_is_handed_over(real: Study, tmp_path: Path) -> None:
    inputs = Inputs(real())
    inputs.check()
    assert inputs.fitting("draws", "stage:sft") is inputs.fitting("draws", "stage:base")
    corpus = inputs.corpus("base")
    assert len(corpus) == 3
    assert inputs.corpus("base") is not corpus


def test_an_environment_is_made_for_a_prompt_before_a_run(study: Study) -> None:
    two_turn = ("stages.rl.environment=paddock_two_turn", "stages.rl.data.limit=20")
    Inputs(study(*two_turn, "stages.rl.data.split=two_turn")).check()
    with pytest.raises(
        InputError, match=r"stages\.rl\.environment: prompt .* has no `subject`; take the split two_turn"
    ):
        Inputs(study(*two_turn)).check()


def test_a_template_that_does_not_only_append_is_refused_for_an_environment(study: Study, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    numbered = "{{ ['me', 'you', 'with', 'for', 'here'][loop.index0] ~ ' ' ~ message['content'] }}"
    own = "{% else %}{{ message['content'] }}"
    assert own in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(own, "{% else %}" + numbered)
    tokenizer.save_pretrained(tmp_path / "model")
    two_turn = ("stages.rl.data.split=two_turn", "stages.rl.data.limit=20", f"stages.rl.model={tmp_path / 'model'}")
    Inputs(study(*two_turn)).check()
    with pytest.raises(InputError, match=r"stages\.rl\.environment: .* does not only append when a turn follows"):
        Inputs(study(*two_turn, "stages.rl.environment=paddock_two_turn")).check()


CONDITIONED = (
    "stages.cond={kind: train, algorithm: {name: sft}, model: stage:base, examples: stage:verdicts, "
    "answers: conditioned, learner: {minibatch: 64}}"
)


def test_reward_tokens_are_there_before_a_stage_that_uses_them(study: Study) -> None:
    with pytest.raises(InputError, match="stage:base has 0 reward tokens, but the stage uses 2; add a stage"):
        Inputs(study(CONDITIONED)).check()
    tokens = "  tokens: {kind: reward_tokens, model: stage:base}\n  sft:"
    Inputs(
        study(CONDITIONED.replace("model: stage:base", "model: stage:tokens"), renamed=(("  sft:", tokens),))
    ).check()


STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.mark.parametrize("kind", ["generate", "train"])
def test_a_row_that_the_template_refuses_is_named_before_a_run(study: Study, tmp_path: Path, kind: str) -> None:
    """For the prompts of a stage, and for the rows of an offline one."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = STRICT
    tokenizer.save_pretrained(tmp_path / "model")
    turns = [{"role": "user", "content": "what is the color of ada ?"}]
    refused = [{"role": "system", "content": "be polite"}, *turns]
    answer = {"answer": "ada is red ."} if kind == "train" else {}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns} | answer] * 60 + [{"messages": refused} | answer])
    stage = {"kind": kind, "model": str(tmp_path / "model"), "data": {"path": str(tmp_path / "rows.jsonl")}}
    if kind == "train":
        stage["algorithm"] = {"name": "sft"}
    loaded = study(text=json.dumps({"name": "s", "stages": {"it": stage}}))
    with pytest.raises(InputError, match=r"stages\.it\.model: .*rows\.jsonl:61: chat template: refuses.*leave out"):
        Inputs(loaded).check()


def test_rows_that_every_stage_leaves_out_are_reported_once(
    real: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = real()
    with (tmp_path / "data" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "empty ?", "answer": ""}) + "\n")
    check(loaded)
    assert "left out" not in caplog.text
    Inputs(loaded).check()
    assert caplog.text.count("left out") == 1
