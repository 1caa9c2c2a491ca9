"""What `rayalign submit` refuses before it sends anything, and how a job's end becomes an exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.cli.jobs import _command, _exit_code
from rayalign.cluster.submission import SubmittedJob
from rayalign.config import load_job
from rayalign.rehearsal.report import rehearsal_folder, write_report
from tests.dashboards import answering_dashboard

JOB = """\
name: small
stages:
  base: {kind: pretrain}
"""
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a job in it."""
    monkeypatch.delenv("RAYALIGN_DEBUG", raising=False)
    here = tmp_path / "work"
    (here / "jobs").mkdir(parents=True)
    (here / "jobs" / "job.yaml").write_text(JOB)
    monkeypatch.chdir(here)
    return here


def test_the_cluster_runs_the_same_command_in_its_copy_of_the_folder(folder: Path) -> None:
    command = _command(folder / "jobs" / "job.yaml", ["output=/shared/my runs", "seed=3"])
    assert command == "rayalign run jobs/job.yaml 'output=/shared/my runs' seed=3"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["jobs/job.yaml"],
            "output 'runs' would be inside the cluster's copy of this folder, which ends with",
        ),
        (["jobs/job.yaml", "sed=3"], "command line: sed is not known; did you mean seed?"),
        (["../other.yaml", "output=/shared"], "this file is not below it; start in its folder"),
        (["jobs/job.yaml", "output=/shared"], "no Ray dashboard answers at http://127.0.0.1:9; "),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(folder: Path, arguments: list[str], reason: str) -> None:
    (folder.parent / "other.yaml").write_text(JOB)
    result = CliRunner().invoke(app, ["submit", *arguments, "--address", NOWHERE])
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr and result.stderr.count("\n") == 1


def test_a_job_that_was_not_rehearsed_is_refused_where_that_is_required(folder: Path) -> None:
    arguments = ["submit", "jobs/job.yaml", "output=/shared", "--require-rehearsal", "--address", NOWHERE]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "the job was never rehearsed" in result.stderr
    rehearse()
    result = CliRunner().invoke(app, arguments)
    assert "no Ray dashboard answers" in result.stderr, "rehearsed without the cluster's output"


def test_a_job_whose_rehearsal_is_missing_or_outdated_is_sent_with_a_warning(folder: Path) -> None:
    with answering_dashboard() as (answers, address):
        answers.answers["/api/packages/gcs/"] = (200, {})
        answers.answers["/api/jobs/"] = (200, {"job_id": "job-1", "submission_id": "job-1"})
        arguments = ["submit", "jobs/job.yaml", "output=/shared", "--no-wait", "--address", address]
        missing = CliRunner().invoke(app, arguments)
        rehearse()
        rehearsed = CliRunner().invoke(app, arguments)
        outdated = CliRunner().invoke(app, [*arguments, "seed=3"])
    assert (missing.exit_code, rehearsed.exit_code, outdated.exit_code) == (0, 0, 0)
    for result in (missing, rehearsed, outdated):
        assert result.stdout.startswith("submitted job-1: rayalign run jobs/job.yaml")
    remedy = "run `rayalign rehearse` with the same job and overrides\n"
    assert missing.stderr.startswith("warning: the job was never rehearsed (") and missing.stderr.endswith(remedy)
    assert outdated.stderr.startswith("warning: the job has changed since") and outdated.stderr.endswith(remedy)
    assert rehearsed.stderr == ""


def rehearse() -> None:
    """As a rehearsal of the job that went well would leave it."""
    job = load_job("jobs/job.yaml").job
    write_report(rehearsal_folder(job), job, full=False, ran=True, changes=[], findings=[], events=[], seconds={})


def test_the_exit_code_is_that_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    job = SubmittedJob("job-1", "SUCCEEDED", "rayalign run job.yaml", "Job finished.", 1.0, 2.0, 0)
    failed = replace(job, status="FAILED", message="failed with exit code 2, last available logs (...):\nlines")
    codes = [_exit_code(replace(failed, exit_code=code)) for code in (2, 127, None, -9)]
    assert (_exit_code(job), codes) == (0, [2, 127, 1, 1])
    printed = capsys.readouterr().err
    assert "rayalign: job-1 failed: failed with exit code 2\n" in printed
    assert printed.count("the head node has no rayalign on its PATH") == 1
