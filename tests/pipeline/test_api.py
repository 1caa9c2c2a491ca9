"""A job in any form, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import rayalign
from rayalign.errors import InputError
from rayalign.storage.summary import write_summary

JOB: dict[str, Any] = {
    "name": "first",
    "stages": {
        "base": {"kind": "pretrain"},
        "sft": {"kind": "train", "algorithm": {"name": "sft"}, "model": "stage:base"},
    },
}


def test_a_job_is_a_mapping_a_path_or_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(yaml.safe_dump(JOB))
    loaded = rayalign.load_job("job.yaml")
    plans = [rayalign.plan(form) for form in (JOB, "job.yaml", Path("job.yaml"), loaded, loaded.job)]
    assert [stage.name for stage in plans[0].stages] == ["base", "sft"]
    assert all(plan == plans[0] for plan in plans)
    for form in (JOB, "job.yaml", loaded):
        rayalign.check(form)


def test_the_report_of_a_run_is_written_by_its_job_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(yaml.safe_dump(JOB))
    folder = Path("runs/first")
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    write_summary(folder / "summary.json", [], [], [])
    report = folder / "report.html"
    for form in (JOB, "job.yaml", Path("job.yaml"), rayalign.load_job("job.yaml"), "runs/first", folder):
        report.unlink(missing_ok=True)
        assert rayalign.write_report(form).resolve() == report.resolve() and report.is_file()
    with pytest.raises(InputError, match="a job is a LoadedJob, the path of a job file, or a mapping, not int"):
        rayalign.write_report(3)  # type: ignore[arg-type]


def test_a_wrong_job_says_so() -> None:
    with pytest.raises(InputError, match=r"^the job: stages\.sft\.model: .*there is no stage 'bse'; did you mean base"):
        rayalign.check({**JOB, "stages": {**JOB["stages"], "sft": {**JOB["stages"]["sft"], "model": "stage:bse"}}})
    with pytest.raises(InputError, match="the job: .*holds what no job file could"):
        rayalign.check({"name": object()})
    with pytest.raises(InputError, match="a job is a LoadedJob, the path of a job file, or a mapping, not int"):
        rayalign.run(3)  # type: ignore[arg-type]


def test_the_package_explains_itself() -> None:
    guide = rayalign.__doc__ or ""
    assert all(f"{name}" in guide for name in ("check", "plan", "run", "write_report", "load_job", "docs/jobs.md"))
