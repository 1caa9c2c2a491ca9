"""The command `rehearse`: what it refuses, prints and returns."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.config import LoadedJob
from rayalign.rehearsal import rehearse as steps
from rayalign.rehearsal.events import Event
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.rehearse import Rehearsal

JOB = "name: small\nstages:\n  base: {kind: pretrain}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a job."""
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    return tmp_path


def test_a_url_as_output_is_refused_in_one_sentence(folder: Path) -> None:
    result = CliRunner().invoke(app, ["rehearse", "job.yaml", "--output", "s3://bucket/rehearsal"])
    assert result.exit_code == 2
    assert "s3://bucket/rehearsal is a URL" in result.stderr and "name a local folder" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["job.yaml"]


def test_the_working_folder_is_no_folder_of_a_rehearsal(folder: Path) -> None:
    result = CliRunner().invoke(app, ["rehearse", "job.yaml", "--output", "."])
    assert result.exit_code == 2
    assert "is not empty and holds no rehearsal" in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize(("level", "code"), [("warning", 0), ("error", 1)])
def test_events_and_findings_are_printed_and_an_error_ends_in_code_one(
    monkeypatch: pytest.MonkeyPatch, level: str, code: int
) -> None:
    def rehearse(loaded: LoadedJob, *, full: bool, output: Path | None) -> Rehearsal:
        events = [Event("checkpoint", True, "3"), Event("reward outage", False, "no stage scores", due=False)]
        findings = [Finding("rehearsal", "odd", level)]  # type: ignore[arg-type]
        return Rehearsal(Path("out"), events=events, findings=findings, ran=True)

    monkeypatch.setattr(steps, "rehearse", rehearse)
    result = CliRunner().invoke(app, ["rehearse", "job.yaml", "--output", "out"])
    assert result.exit_code == code, result.stderr
    assert "yes          checkpoint: 3\nnot covered  reward outage: no stage scores\n" in result.stdout
    assert f"{level}: rehearsal: odd\n" in result.stdout


def test_a_full_disk_is_one_sentence_with_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rehearse(loaded: LoadedJob, *, full: bool, output: Path | None) -> Rehearsal:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(steps, "rehearse", rehearse)
    result = CliRunner().invoke(app, ["rehearse", "job.yaml"])
    assert result.exit_code == 1
    place = folder / "runs" / "small" / "rehearsal"
    assert result.stderr.startswith(f"rayalign: no space left on {place}; free space, or name another place")
    assert result.stderr.count("\n") == 1
