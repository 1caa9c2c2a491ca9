"""What stands for models, rows and services out of reach, and the report of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.config import load_job
from rayalign.pipeline.plan import plan
from rayalign.rehearsal.changes import Change, render
from rayalign.rehearsal.events import Event
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.report import job_hash, rehearsal_folder, rehearsed, write_report
from rayalign.rehearsal.stand_ins import read_models, stand_in

JOBS = Path(__file__).parents[2] / "jobs"


def test_the_models_of_a_job_are_each_named_once(tmp_path: Path) -> None:
    models = {model.name: model.scalar for model in read_models(load_job(JOBS / "eva.yaml").job)}
    assert models == {"google/gemma-2-9b-it": False, "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": True}
    assert read_models(load_job(JOBS / "quickstart.yaml").job) == [], "presets are made, not read"


def test_a_job_of_hub_names_can_be_planned_as_before(tmp_path: Path) -> None:
    job = load_job(JOBS / "hh_rlhf.yaml", [f"output={tmp_path}"]).job
    standing = stand_in(job, tmp_path / "rehearsal")
    before = [(stage.name, stage.device_memory) for stage in plan(job).stages]
    assert [(stage.name, stage.device_memory) for stage in plan(standing.job).stages] == before
    lines = render(standing.changes)
    assert any(
        line.startswith("substituted  Qwen/Qwen2.5-7B-Instruct: configuration from the catalogue") for line in lines
    )
    assert any(line.startswith("substituted  Qwen/Qwen2.5-7B-Instruct: tokenizer and chat template") for line in lines)
    assert any("stages.sft.data: 16 made rows of the format hh in the place of Anthropic/hh-rlhf" in x for x in lines)
    assert standing.made_rows == {"sft.data", "rm.data", "ppo.data", "ppo.mix.data", "rrhf.data", "final.data"}


def test_a_model_that_nobody_knows_is_named_as_such(tmp_path: Path) -> None:
    job = load_job(JOBS / "hh_rlhf.yaml", ["stages.sft.model=someone/unheard-of"]).job
    lines = render(stand_in(job, tmp_path).changes)
    assert any("someone/unheard-of: configuration of a Llama of 7B" in line for line in lines)


def test_a_local_path_is_never_replaced(tmp_path: Path) -> None:
    job = load_job(JOBS / "hh_rlhf.yaml", [f"data.path={tmp_path}"]).job
    assert stand_in(job, tmp_path / "rehearsal").made_rows == frozenset()


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[str]]:
    """A rehearsal that went well, and the overrides of its job."""
    overrides = [f"output={tmp_path}"]
    job = load_job(JOBS / "hh_rlhf.yaml", overrides).job
    write_report(
        rehearsal_folder(job),
        job,
        full=False,
        ran=True,
        changes=[Change("folded", "rollout.engines", "3 -> 2")],
        findings=[Finding("stages.final.data", "odd", "warning")],
        events=[Event("checkpoint", True, "3 committed")],
        seconds={"run": 12.34},
    )
    return rehearsal_folder(job), overrides


def test_the_report_says_what_happened(written: tuple[Path, list[str]]) -> None:
    folder, _ = written
    content = json.loads((folder / "rehearsal.json").read_text())
    assert content["passed"] is True, "a warning is no error"
    assert content["events"] == [{"name": "checkpoint", "happened": True, "proof": "3 committed", "due": True}]
    assert content["seconds"] == {"run": 12.3}
    assert (folder / "rehearsal.diff").read_text() == "folded       rollout.engines: 3 -> 2\n"


def test_a_rehearsal_counts_until_the_job_changes(written: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, overrides = written
    assert rehearsed(load_job(JOBS / "hh_rlhf.yaml", overrides).job) is None
    other = load_job(JOBS / "hh_rlhf.yaml", [*overrides, "rollout.engines=4"]).job
    assert "the job has changed since it was rehearsed" in str(rehearsed(other))
    elsewhere = load_job(JOBS / "hh_rlhf.yaml", [f"output={tmp_path / 'other'}"]).job
    assert "never rehearsed" in str(rehearsed(elsewhere))
    assert rehearsed(elsewhere, written[0]) is None, "where the outputs go changes nothing"


def test_a_rehearsal_that_found_problems_does_not_count(written: tuple[Path, list[str]]) -> None:
    folder, overrides = written
    job = load_job(JOBS / "hh_rlhf.yaml", overrides).job
    arguments = {"full": False, "ran": True, "changes": [], "events": [], "seconds": {}}
    write_report(folder, job, findings=[Finding("stages.ppo", "wrong")], **arguments)
    assert "found problems" in str(rehearsed(job))
    write_report(folder, job, findings=[], **{**arguments, "ran": False})
    assert "did not run the miniature" in str(rehearsed(job))
    (folder / "rehearsal.json").write_text("{")
    assert "cannot be read" in str(rehearsed(job))


def test_the_rehearsal_of_a_job_whose_output_is_a_url_lies_in_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(JOBS / "hh_rlhf.yaml", ["output=s3://bucket/runs"]).job
    monkeypatch.chdir(tmp_path)
    assert rehearsal_folder(job) == Path("runs/hh_rlhf/rehearsal")
    assert "never rehearsed" in str(rehearsed(job))
    write_report(rehearsal_folder(job), job, full=False, ran=True, changes=[], findings=[], events=[], seconds={})
    assert rehearsed(job) is None


def test_metrics_and_names_are_no_part_of_the_hash() -> None:
    path = JOBS / "hh_rlhf.yaml"
    first = job_hash(load_job(path).job)
    assert job_hash(load_job(path, ["tracking.tensorboard=false"]).job) == first
    assert job_hash(load_job(path, ["stages.ppo.learner.learning_rate=1e-5"]).job) != first
