"""From a job to its rehearsal: which job each step gets, and what the report is of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayalign.config import LoadedJob, load_job
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.rehearsal import rehearse as steps
from rayalign.rehearsal.events import Event, Outcome
from rayalign.rehearsal.findings import Finding
from rayalign.rehearsal.rehearse import Rehearsal, check_full_size, rehearse
from rayalign.rehearsal.report import rehearsed
from rayalign.rehearsal.running import SmallRun
from rayalign.rehearsal.stand_ins import Standing

JOB = """\
name: study
seed: 3
cluster: {cpus: 2, gpus: 0}
rollout: {engine: local, engines: 3, context: 512}
stages:
  ppo:
    kind: train
    algorithm: {name: rloo}
    model: Qwen/Qwen2.5-0.5B-Instruct
    reward: rules:length
    data: {format: prompts, path: someone/prompts}
    candidates: [{source: live, count: 4}]
    sampling: {max_tokens: 32}
    learner: {minibatch: 8}
    prompts: 8
    iterations: 4
"""


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedJob:
    """A job whose model and rows are out of reach."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return load_job(path, [f"output={tmp_path / 'runs'}"])


def content_of(rehearsal: Rehearsal) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((rehearsal.folder / "rehearsal.json").read_text())
    return content


@pytest.mark.parametrize(("full", "engines"), [(False, 2), (True, 3)])
def test_the_report_is_of_the_job_as_it_is_written(
    loaded: LoadedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool, engines: int
) -> None:
    monkeypatch.setattr(steps, "rehearse_events", lambda run: Outcome())
    rehearsal = rehearse(loaded, full=full, output=tmp_path / "out")
    assert rehearsal.folder == tmp_path / "out"
    assert rehearsal.passed and not rehearsal.events
    assert rehearsed(loaded.job, rehearsal.folder) is None, "not of the job with its stand-ins"
    assert rehearsal.miniature is not None and rehearsal.miniature.rollout.engines == engines
    content = content_of(rehearsal)
    assert content["full"] == full
    kinds = {line.partition(" ")[0] for line in content["diff"]}
    assert {"kept", "shrunk", "substituted"} <= kinds and ("folded" in kinds) == (not full)
    assert any("Qwen/Qwen2.5-0.5B-Instruct: its weights" in line for line in content["diff"])
    small = Path(str(rehearsal.miniature.stages["ppo"].model))
    assert (small / "config.json").is_file()


def test_a_rehearsal_without_the_miniatures_run_does_not_pass(loaded: LoadedJob, tmp_path: Path) -> None:
    rehearsal = rehearse(loaded, output=tmp_path / "out", run=False)
    assert rehearsal.findings == [] and not rehearsal.passed
    assert content_of(rehearsal)["passed"] is False
    assert "did not run the miniature" in str(rehearsed(loaded.job, rehearsal.folder))


@pytest.mark.parametrize("reachable", [True, False], ids=["chosen", "made"])
def test_the_miniature_trains_on_every_row(loaded: LoadedJob, tmp_path: Path, reachable: bool) -> None:
    overrides = [f"output={tmp_path / 'runs'}", "stages.ppo.prompts=32"]
    if reachable:
        rows = [{"prompt": f"{number} words"} for number in range(100)]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides.append(f"stages.ppo.data.path={tmp_path / 'mine'}")
    rehearsal = rehearse(load_job(tmp_path / "job.yaml", overrides), output=tmp_path / "out", run=False)
    assert rehearsal.miniature is not None
    ppo = rehearsal.miniature.stages["ppo"]
    data = load_examples(ppo.data, seed=0, use="prompts")
    assert 12 <= len(data) <= ppo.prompts * ppo.iterations


def test_a_folder_of_other_files_is_refused_before_anything_is_written(loaded: LoadedJob, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not empty and holds no rehearsal"):
        rehearse(loaded, output=tmp_path, run=False)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_what_the_miniatures_run_found_is_in_the_report(
    loaded: LoadedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[SmallRun] = []

    def rehearse_events(run: SmallRun) -> Outcome:
        jobs.append(run)
        return Outcome([Event("checkpoint", True, "3")], [Finding("rehearsal", "policy died")])

    monkeypatch.setattr(steps, "rehearse_events", rehearse_events)
    rehearsal = rehearse(loaded, output=tmp_path / "out")
    content = content_of(rehearsal)
    assert not rehearsal.passed and not content["passed"]
    assert content["events"] == [{"name": "checkpoint", "happened": True, "proof": "3", "due": True}]
    assert [finding["text"] for finding in content["findings"]] == ["policy died"]
    assert "found problems" in str(rehearsed(loaded.job, rehearsal.folder))
    (run,) = jobs
    assert load_job(tmp_path / "out" / "miniature.yaml").job == run.job == rehearsal.miniature


def test_nothing_runs_after_a_finding_at_full_size(
    loaded: LoadedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "check_devices", lambda job: [Finding("cluster", "too few devices")])
    monkeypatch.setattr(steps, "rehearse_events", lambda run: pytest.fail("it ran"))
    monkeypatch.setattr(steps, "ask_vllm", lambda *arguments: pytest.fail("vLLM was asked"))
    rehearsal = rehearse(loaded, output=tmp_path / "out")
    assert [finding.text for finding in rehearsal.findings] == ["too few devices"]
    assert rehearsal.miniature is None and content_of(rehearsal)["passed"] is False


CHECKS = ("check_devices", "check_memory", "check_schedule")


def test_every_check_at_full_size_counts(loaded: LoadedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> Callable[..., list[Finding]]:
        return lambda *arguments: [Finding(name, f"{name} of folder-of-stand-in")]

    for name in CHECKS:
        monkeypatch.setattr(steps, name, found(name))
    monkeypatch.setattr(steps.FullModels, "check", found("models"))
    monkeypatch.setattr(steps.FullRows, "check", found("rows"))
    model: Any = type("Model", (), {"folder": "folder-of-stand-in", "name": "someone/model", "substituted": True})()
    standing = replace(Standing(loaded.job, {}), models={"folder-of-stand-in": model})
    findings: list[Finding] = []
    check_full_size(loaded, standing, findings)
    assert [finding.key for finding in findings] == ["models", "check_devices", "check_memory", "rows", CHECKS[-1]]
    assert {finding.text.partition(" of ")[2] for finding in findings} == {"someone/model"}
