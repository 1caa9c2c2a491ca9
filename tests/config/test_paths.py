"""Paths in a job are relative to its file, those on the command line to where the command starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import load_job

JOB = """\
name: job
chat_template: own.jinja
data: {path: rows.jsonl}
stages:
  sft: {kind: train, algorithm: {name: sft}, model: base}
  ppo: {kind: train, algorithm: {name: ppo}, model: stage:sft, reward: [{source: scorer}], critic: owner/name}
  test: {kind: evaluate, models: {base: base, other: preset/other}}
"""


def test_a_path_is_looked_for_beside_the_file_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, started = tmp_path / "jobs", tmp_path / "started"
    for folder in (jobs / "base", jobs / "scorer", started):
        folder.mkdir(parents=True)
    for file in (jobs / "rows.jsonl", jobs / "own.jinja", started / "rows.jsonl"):
        file.touch()
    (jobs / "job.yaml").write_text(JOB)
    (tmp_path / "above.yaml").write_text("extends: jobs/job.yaml\nname: above\n")
    monkeypatch.chdir(started)
    for file in ("../jobs/job.yaml", tmp_path / "above.yaml"):
        job = load_job(file).job
        stages = {name: stage.model_dump() for name, stage in job.stages.items()}
        assert (job.chat_template, job.output) == ("../jobs/own.jinja", "runs")
        assert stages["sft"]["model"] == "../jobs/base" == stages["test"]["models"]["base"]
        assert stages["sft"]["data"]["path"] == "../jobs/rows.jsonl"
        assert stages["ppo"]["reward"][0]["source"] == "../jobs/scorer"
        assert (stages["ppo"]["model"], stages["ppo"]["critic"]) == ("stage:sft", "owner/name")
    assert load_job("../jobs/job.yaml", ["data.path=rows.jsonl"]).job.data.path == "rows.jsonl"


def test_the_job_that_a_run_leaves_loads_to_the_same_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    loaded = load_job("job.yaml")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "job.yaml").write_text(loaded.resolved())
    assert load_job("runs/job.yaml").job == loaded.job
