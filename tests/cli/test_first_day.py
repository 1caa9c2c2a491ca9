"""The commands of a first day: a starter job, a dialogue with a model, runs side by side, a model to publish."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

import rayalign
from rayalign.cli import app
from rayalign.cli.init import starter
from rayalign.config import LoraConfig
from rayalign.data.chat import train_tokenizer
from rayalign.models.adapter_output import save_adapter
from rayalign.models.load import make_preset
from rayalign.pipeline.checks import devices
from rayalign.pipeline.machine import Machine
from rayalign.pipeline.plan import plan
from rayalign.storage.records import write_jsonl
from rayalign.storage.summary import write_done, write_summary


def call(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    make_preset("nano", train_tokenizer(["the cat sat on the mat ."] * 5, 300), 0, folder)
    return folder


def test_version_and_short_help() -> None:
    assert call("--version").stdout == f"rayalign {rayalign.__version__}\n"
    assert call("-h").exit_code == 0 == call("evaluate", "win-rate", "-h").exit_code
    assert "--install-completion" in call("-h").stdout


ROWS: dict[str, dict[str, Any]] = {
    "demonstrations": {"question": "is it {n} ?", "answer": "yes , it is {n} ."},
    "comparisons": {"prompt": "is it {n} ?", "chosen": "yes {n}", "rejected": "no {n}"},
    "unpaired": {"prompt": "is it {n} ?", "completion": "yes {n}", "label": True},
}


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("own_model", [False, True])
def test_a_starter_job_of_own_data_passes_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, form: str, own_model: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(40):
        rows.append({k: v.format(n=number) if isinstance(v, str) else v for k, v in ROWS[form].items()})
    (tmp_path / "jobs").mkdir()
    write_jsonl(Path("rows.jsonl"), rows)
    options = ["--model", model] if own_model else []
    made = call("init", "rows.jsonl", "--output", "jobs/first.yaml", *options)
    assert made.exit_code == 0, made.output
    text = Path("jobs/first.yaml").read_text()
    assert f"format: {form}" in text and "path: ../rows.jsonl" in text and text.count("#") > 6
    rayalign.check("jobs/first.yaml")
    assert yaml.safe_load(text)["stages"]["samples"]["kind"] == "generate"
    again = call("init", "rows.jsonl", "--output", "jobs/first.yaml")
    assert again.exit_code == 2 and "exists already" in again.stderr


GIB = 1 << 30
LAPTOP = Machine(2.0, 0, 8 * GIB, GIB)
SERVER = Machine(16.0, 0, 64 * GIB, GIB)
ONE_GPU = Machine(16.0, 1, 64 * GIB, GIB)
EIGHT_GPUS = Machine(64.0, 8, 512 * GIB, GIB)
LORA = {"rank": 16}


@pytest.mark.parametrize(
    ("machine", "model", "rollout", "learner", "actors"),
    [
        (LAPTOP, None, {"engines": 1}, {}, None),
        (SERVER, None, {"engines": 4}, {}, None),
        (ONE_GPU, None, {"engines": 1, "gpus": 1}, {}, 1),
        (LAPTOP, "Qwen/Qwen2.5-0.5B", {"engines": 1}, {"lora": LORA, "micro_tokens": 2048}, None),
        (SERVER, "Qwen/Qwen2.5-0.5B", {"engines": 4}, {}, None),
        (ONE_GPU, "Qwen/Qwen2.5-7B", {"engines": 1, "dtype": "bfloat16"}, {"precision": "bf16", "lora": LORA}, 1),
        (EIGHT_GPUS, "Qwen/Qwen2.5-7B", {"engines": 8, "gpus": 1}, {"precision": "bf16", "zero_stage": 3}, 8),
        (EIGHT_GPUS, "meta-llama/Llama-3.1-70B", {"engines": 2, "gpus": 4, "tensor_parallel": 4}, {"lora": LORA}, 8),
    ],
)
def test_a_starter_job_fits_its_machine(
    tmp_path: Path,
    machine: Machine,
    model: str | None,
    rollout: dict[str, Any],
    learner: dict[str, Any],
    actors: int | None,
) -> None:
    job = tmp_path / "job.yaml"
    rows = [{"prompt": f"is it {n} ?", "chosen": "yes", "rejected": "no"} for n in range(40)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    job.write_text(starter(str(tmp_path / "rows.jsonl"), model, job, machine, device_bytes=80 * GIB))
    reason = "one rank, which uses all cores;" if actors is None else "one rank on the GPU;"
    assert f"# {reason if actors != 8 else '8 ranks, one on each GPU;'}" in job.read_text()
    text = yaml.safe_load(job.read_text())
    assert rollout.items() <= text["rollout"].items()
    dpo = text["stages"]["dpo"]
    assert learner.items() <= dpo["learner"].items() and ("lora" in dpo["learner"]) == ("lora" in learner)
    assert dpo.get("roles", {}).get("policy", {}).get("actors") == actors
    planned = plan(rayalign.load_job(job).job, machine)
    assert planned.warnings == [] == list(devices(planned, machine))


def test_a_starter_job_says_where_no_way_of_training_fits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "is it ?", "answer": "yes"}] * 3)
    text = starter(str(tmp_path / "rows.jsonl"), "Qwen/Qwen2.5-7B", tmp_path / "job.yaml", LAPTOP)
    assert "# Its sizes are for 2 cores, 8.0 GiB of memory, no GPU." in text
    assert "main memory has 8.0 GiB: take a smaller model" in text
    unknown = starter(str(tmp_path / "rows.jsonl"), "some/one", tmp_path / "job.yaml", LAPTOP)
    assert "because the model's size is unknown here" in unknown and "lora:" in unknown


def test_a_model_without_a_template_gets_one_and_its_path_is_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, "bare")
    for name in ("chat_template.jinja", "chat_template.json"):
        Path("bare", name).unlink(missing_ok=True)
    settings = json.loads(Path("bare/tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    Path("bare/tokenizer_config.json").write_text(json.dumps(settings))
    Path("jobs").mkdir()
    write_jsonl(Path("rows.jsonl"), [{"question": f"is it {n} ?", "answer": "yes"} for n in range(40)])
    made = call("init", "rows.jsonl", "--output", "jobs/first.yaml", "--model", "bare")
    assert made.exit_code == 0, made.output
    text = Path("jobs/first.yaml").read_text()
    assert "chat_template: alpaca" in text and "model: ../bare" in text
    rayalign.check("jobs/first.yaml")


def test_a_file_of_prompts_is_answered_in_alpaca_evals_columns(tmp_path: Path, model: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "the cat"}, {"prompt": "the mat"}])
    common = ["generate", model, "--prompts", tmp_path / "prompts.jsonl", "--max-tokens", 5, "--count", 2]
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        done = call(*common, "--output", file)
        assert done.exit_code == 0, done.output
    rows = json.loads(files[0].read_text())
    assert [row["instruction"] for row in rows] == ["the cat", "the mat"] * 2
    assert {row["generator"] for row in rows} == {"model"} and rows[0]["output"] != rows[2]["output"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_dialogue_streams_what_the_same_answer_is_whole(model: Path) -> None:
    done = call("chat", model.parent, "--max-tokens", 8, "--temperature", 0, typed="the cat\n/new\nthe cat\n\n")
    assert done.exit_code == 0, done.output
    _, first, second, *_ = done.stdout.split("> ")
    assert first.strip()
    assert done.stdout.count(first.strip()) == 2 and second is not None


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    refused = call("chat", tmp_path, typed="\n")
    assert refused.exit_code == 2 and "holds no model" in refused.stderr


def finished_run(folder: Path, mean: float, values: dict[str, float]) -> Path:
    """A run with one model, as a finished one leaves it."""
    data = {"path": "rows.jsonl", "format": "alpaca"}
    sft = {"kind": "train", "algorithm": {"name": "sft"}, "model": "own/base", "data": data}
    stages = {"sft": sft, "test": {"kind": "evaluate", "models": {"tuned": "stage:sft"}}}
    result = {"name": "tuned", "metric": "reward", "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 3}
    folder.mkdir()
    (folder / "job.yaml").write_text(yaml.safe_dump({"name": folder.name, "stages": stages}))
    write_summary(folder / "summary.json", [result], [], [])
    rows = [{"model": "tuned", "prompt_id": p, "prompt": p, "answer": "a", "value": v} for p, v in values.items()]
    write_jsonl(folder / "stages" / "test" / "records.jsonl", rows)
    for name in ("sft", "test"):
        write_done(folder / "stages" / name, "hash", results=[])
    return folder


def test_runs_stand_side_by_side_with_paired_differences(tmp_path: Path) -> None:
    first = finished_run(tmp_path / "a", 0.5, {"p": 0.2, "q": 0.8, "r": 0.5, "only": 9.0})
    second = finished_run(tmp_path / "b", 0.7, {"p": 0.4, "q": 1.0, "r": 0.7})
    (row,) = [json.loads(line) for line in call("compare", first, second, "--json").stdout.splitlines()]
    assert row["figures"][0]["mean"] == pytest.approx(0.6) and row["figures"][0]["runs"] == 2
    (difference,) = row["differences"]
    assert difference["interval"]["mean"] == pytest.approx(0.2) and difference["interval"]["n"] == 3
    page = tmp_path / "runs.html"
    shown = call("compare", first, second, "--output", page).stdout
    assert f"page: {page}" in shown and "tuned: b − a (3 prompts)" in page.read_text()
    assert "tuned: b - a" in shown and "0.500 to 0.700" in shown
    assert call("compare", tmp_path).exit_code == 2


def test_seeds_are_runs_of_their_own_with_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("name: study\nstages: {base: {kind: pretrain}}\n")
    asked: list[list[str]] = []

    def run_one(job: Path, overrides: list[str]) -> Path:
        asked.append(overrides)
        return finished_run(tmp_path / overrides[-1].removeprefix("name="), 0.1 * len(asked), {})

    monkeypatch.setattr("rayalign.cli._run_one", run_one)
    done = call("run", "job.yaml", "output=out", "--seeds", "0,3")
    assert asked == [["output=out", f"seed={seed}", f"name=study-seed{seed}"] for seed in (0, 3)]
    assert "study over 2 seeds" in done.stdout and "0.150" in done.stdout
    assert "whole numbers" in call("run", "job.yaml", "--seeds", "a").stderr


def test_a_model_is_exported_with_its_card(tmp_path: Path, model: Path) -> None:
    run = finished_run(tmp_path / "study", 0.5, {"p": 0.2})
    (run / "stages" / "sft" / "model").symlink_to(model)
    for number, source in enumerate((run, run / "sft", run / "stages" / "sft")):
        done = call("export", source, "--output", tmp_path / f"published-{number}")
        assert done.exit_code == 0, done.output
    folder = tmp_path / "published-0"
    assert (folder / "model.safetensors").is_file()
    card = (folder / "README.md").read_text()
    for text in ("# study, sft", "`sft`: train by sft, from `own/base`", "`rows.jsonl` (alpaca)", "## Licence"):
        assert text in card
    assert "| tuned | reward | 0.5 | 0.4 to 0.6 | 3 |" in card
    assert "is not empty" in call("export", run, "--output", folder).stderr
    assert "made no adapter" in call("export", run, "--adapter", "--output", tmp_path / "x").stderr
    records = run / "stages" / "test" / "records.jsonl"
    assert call("export", records, "--outputs", "--output", tmp_path / "outputs.json").exit_code == 0
    assert json.loads((tmp_path / "outputs.json").read_text()) == [
        {"instruction": "p", "output": "a", "generator": "tuned"}
    ]


def test_an_adapter_is_exported_alone_and_a_merged_model_without_it(tmp_path: Path, model: Path) -> None:
    run = finished_run(tmp_path / "study", 0.5, {"p": 0.2})
    made = shutil.copytree(model, run / "stages" / "sft" / "model")
    config = LoraConfig(rank=1, targets=("q_proj",))
    factors = {"A": torch.ones(1, 2), "B": torch.ones(2, 1)}
    tensors = {f"base_model.model.q_proj.lora_{key}.weight": factor for key, factor in factors.items()}
    save_adapter(made / "adapter", tensors, config, base="own/base", head="causal")
    alone, merged = tmp_path / "alone", tmp_path / "merged"
    assert call("export", run / "sft", "--adapter", "--output", alone).exit_code == 0
    files = {path.name for path in alone.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    card = (alone / "README.md").read_text()
    assert "library_name: peft" in card and "a low-rank adapter in peft's form" in card
    assert call("export", run / "sft", "--output", merged).exit_code == 0
    assert (merged / "model.safetensors").is_file() and not (merged / "adapter").exists()
    assert "library_name: transformers" in (merged / "README.md").read_text()


def test_checkpoints_of_finished_stages_are_listed_and_then_removed(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", 0.5, {})
    kept = run / "stages" / "open" / "checkpoints"
    for folder in (run / "stages" / "sft" / "checkpoints", kept):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * (1 << 20))
    assert "1.0 MiB  in all" in call("clean", run).stdout and (run / "stages" / "sft" / "checkpoints").is_dir()
    assert "1.0 MiB  removed" in call("clean", run, "--yes").stdout
    assert not (run / "stages" / "sft" / "checkpoints").exists() and kept.is_dir()
