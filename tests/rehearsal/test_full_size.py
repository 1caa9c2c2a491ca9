"""Mistakes that only the full size shows, found without a device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import LoadedJob, load_job
from rayalign.data.chat import train_tokenizer
from rayalign.data.templates import DEFAULT_TEMPLATE
from rayalign.models.miniature import catalogue_config, shrunk, write_miniature
from rayalign.pipeline.checks import check
from rayalign.pipeline.kind import kinds_of
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.full_schedule import check_schedule
from rayalign.rehearsal.made_rows import RowMaker, texts
from rayalign.rehearsal.rehearse import check_full_size
from rayalign.rehearsal.stand_ins import stand_in

JOB = """\
name: study
cluster: {cpus: 2, gpus: 8}
rollout: {engine: vllm, engines: 1, gpus: 1, context: 400, dtype: bfloat16}
data: {format: comparisons, path: ROWS}
stages:
  sft:
    kind: train
    algorithm: {name: sft}
    model: MODEL
    learner: {minibatch: 4, lora: {rank: 4}}
    roles: {policy: {actors: 2, gpus: 1}}
  rm:
    kind: train
    algorithm: {name: reward}
    model: stage:sft
    learner: {minibatch: 4}
  ppo:
    kind: train
    algorithm: {name: ppo}
    model: stage:sft
    reward: stage:rm
    candidates: [{source: live, count: 4}]
    sampling: {max_tokens: 32}
    learner: {minibatch: 8}
    prompts: 8
    iterations: 20
  test:
    kind: evaluate
    models: {sft: stage:sft, ppo: stage:ppo}
    metric: reward
    reward: stage:rm
    data: {split: test}
    sampling: {max_tokens: 32}
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and rows, from which each test starts."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = train_tokenizer(iter(texts()), 400)
    small = shrunk(catalogue_config("Qwen/Qwen2.5-7B"), len(tokenizer))
    write_miniature(small, tokenizer, folder / "model", scalar=False)
    (folder / "rows").mkdir()
    for number, split in enumerate(("train", "test")):
        rows = RowMaker(number, room=160).rows("comparisons")
        write_rows(folder / "rows" / f"{split}.jsonl", rows)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def findings(parts: Path, tmp_path: Path) -> Callable[..., list[Finding]]:
    """The findings of the job with overrides, which has passed `check`."""

    def find(*overrides: str, model: Path | None = None, rows: Path | None = None) -> list[Finding]:
        text = JOB.replace("MODEL", str(model or parts / "model")).replace("ROWS", str(rows or parts / "rows"))
        (tmp_path / "job.yaml").write_text(text)
        loaded = load_job(tmp_path / "job.yaml", [f"output={tmp_path / 'runs'}", *overrides])
        check(loaded)
        standing = stand_in(loaded.job, tmp_path / "rehearsal")
        problems: list[Finding] = []
        check_full_size(LoadedJob(standing.job, loaded.origins, loaded.path), standing, problems)
        return problems

    return find


def test_a_sound_job_has_no_findings(findings: Callable[..., list[Finding]]) -> None:
    assert findings() == []


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        (
            "stages.sft.learner.lora={targets: [query_key_value]}",
            "stages.sft.learner.lora.targets",
            "no linear layer of",
        ),
        ("stages.sft.learner.lora={targets: [lm_head]}", "stages.sft.learner.lora.targets", "lm_head is the head of"),
        ("rollout.tensor_parallel=4", "rollout.tensor_parallel", "4 does not divide the 14 attention heads of"),
        ("rollout.context=40000", "stages.sft.model", "has positions for 32768 tokens, but rollout.context is 40000"),
        ("cluster.gpu_memory=20000000", "stages.sft.roles", "gpu:0 must hold"),
        ("stages.ppo.checkpoint_every=50", "stages.ppo.checkpoint_every", "every 50 iterations, but there are 20"),
        ("stages.ppo.learner.warmup_steps=500", "stages.ppo.learner.warmup_steps", "warms up for 500 steps, but the"),
        ("stages.sft.learner.minibatch=128", "stages.sft.learner.minibatch", "128 samples, but there are"),
        ("stages.ppo.prompts=64", "stages.ppo.prompts", "an iteration has 64 prompts, but the data have"),
        ("stages.test.data.split=train", "stages.test.data", "the same rows as those that stage sft trains on"),
        (
            "stages.ppo.guards=[{metric: kl/reference, above: 9, patience: 30}]",
            "stages.ppo.guards.0.patience",
            "30 iterations in a row never come",
        ),
    ],
)
def test_a_mistake_is_found_where_it_was_made(
    findings: Callable[..., list[Finding]], override: str, key: str, text: str
) -> None:
    matching = [finding for finding in findings(override) if finding.key == key]
    assert matching and text in matching[0].text


def test_a_job_whose_data_are_a_blend_is_checked_too() -> None:
    job = load_job(Path(__file__).parents[2] / "jobs/small/personalized_soups.yaml")
    assert any(kind.data and kind.data.blend for kind in kinds_of(job.job).values())
    assert list(check_schedule(job, {})) == []


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_template_that_drops_the_system_turn_is_found(
    findings: Callable[..., list[Finding]], parts: Path, tmp_path: Path
) -> None:
    model = copied(parts / "model", tmp_path / "model")
    template = "{% for message in messages if message.role != 'system' %}" + DEFAULT_TEMPLATE.partition("%}")[2]
    (model / "chat_template.jinja").write_text(template)
    rows = RowMaker(7, room=160).rows("comparisons")
    for number, row in enumerate(rows):
        row["prompt"].insert(0, {"role": "system", "content": f"be kind {number}"})
    (tmp_path / "rows").mkdir()
    for split in ("train", "test"):
        write_rows(tmp_path / "rows" / f"{split}.jsonl", rows)
    dropped = [f for f in findings(model=model, rows=tmp_path / "rows") if "drops the system turn" in f.text]
    assert dropped and dropped[0].key == "stages.sft.data"


def test_rows_that_only_the_template_makes_too_long_are_counted(
    findings: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"{number} " + "zq" * 200, "chosen": "yes", "rejected": "no"} for number in range(20)
    ]  # 403 characters, and more tokens than the 400 of the context
    (tmp_path / "rows").mkdir()
    for split in ("train", "test"):
        write_rows(tmp_path / "rows" / f"{split}.jsonl", rows)
    problems = findings("data.too_long=skip", rows=tmp_path / "rows")
    assert problems and "no room" in problems[0].text or "too long" in problems[0].text


def test_weights_that_are_missing_from_a_folder_are_named(
    findings: Callable[..., list[Finding]], parts: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = copied(parts / "model", tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors")
    assert "lack model.layers.1.mlp.up_proj.weight" in findings(model=model)[0].text


def test_a_shape_that_the_configuration_does_not_say_is_named(
    findings: Callable[..., list[Finding]], parts: Path, tmp_path: Path
) -> None:
    model = copied(parts / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "intermediate_size": 512}))
    assert "by its config.json; correct the latter" in findings(model=model)[0].text


@pytest.fixture(scope="module")
def tied(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the model of `parts`, with one matrix of embeddings."""
    from rayalign.data.chat import load_tokenizer

    tokenizer = load_tokenizer(str(parts / "model"), dialogue=False)
    small = shrunk(catalogue_config("Qwen/Qwen2.5-0.5B"), len(tokenizer))
    folder = tmp_path_factory.mktemp("tied") / "model"
    write_miniature(small, tokenizer, folder, scalar=False)
    return folder


def test_models_of_other_shapes_are_not_merged(findings: Callable[..., list[Finding]], tied: Path) -> None:
    (finding,) = findings(f"stages.soup={{kind: merge, models: [stage:sft, {tied}]}}")
    assert finding.key == "stages.soup.models.1"
    assert f"{tied} and stage:sft have other parameters" in finding.text


@pytest.mark.parametrize(("scale", "stored"), [(1.0, "again"), (2.0, "differs from the embeddings")])
def test_a_stored_head_beside_tied_embeddings_is_found(
    findings: Callable[..., list[Finding]], tied: Path, tmp_path: Path, scale: float, stored: str
) -> None:
    from safetensors.torch import load_file, save_file

    overrides = [f"stages.ppo.model={tied}", f"stages.sft.model={tied}"]
    assert not findings(*overrides)
    model = copied(tied, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    head = scale * weights["model.embed_tokens.weight"]
    save_file(weights | {"lm_head.weight": head}, model / "model.safetensors", metadata={"format": "pt"})
    (problem,) = findings(f"stages.ppo.model={model}", f"stages.sft.model={model}")
    assert stored in problem.text
    assert (problem.key, problem.level) == {
        1.0: ("stages.ppo.model", "error"),
        2.0: (str(model), "warning"),
    }[scale]
