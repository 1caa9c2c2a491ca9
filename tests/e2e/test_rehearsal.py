"""A rehearsal through real actors: a job of GPUs and hub names with every role, by the command as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayalign.config import load_job
from rayalign.rehearsal.report import rehearsed
from rayalign.storage.records import read_jsonl

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1800)]
JOB = """\
extends: BASE
name: small_hh
rollout: {engine: local, engines: 1}
stages:
  sft: {model: Qwen/Qwen2.5-0.5B-Instruct, roles: {policy: {actors: 1, gpus: 1}}, learner: {zero_stage: 0}}
  rm: {roles: {reward: {actors: 1, gpus: 1}}, learner: {zero_stage: 0}}
  ppo: {learner: {zero_stage: 0}, critic_learner: {zero_stage: 0}}
  rrhf: null
  final: {perplexity: null, models: {rrhf: "stage:ppo"}}
"""
"""jobs/hh_rlhf.yaml with a smaller model, fewer ranks, one local engine and no second method"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """The job, the rehearsal's folder, and the command that has ended."""
    folder = tmp_path_factory.mktemp("rehearsal")
    base = Path(__file__).parents[2] / "jobs" / "hh_rlhf.yaml"
    job = folder / "job.yaml"
    job.write_text(JOB.replace("BASE", str(base)))
    command = [str(Path(sys.executable).with_name("rayalign")), "rehearse", str(job), f"output={folder / 'runs'}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=1700)
    return job, folder / "runs" / "small_hh" / "rehearsal", process


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "rehearsal.json").read_text())
    return content


def test_the_rehearsal_of_a_sound_job_passes(
    ended: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    job, folder, process = ended
    assert process.returncode == 0, process.stdout + process.stderr
    content = report(folder)
    assert content["passed"] and content["findings"] == []
    assert rehearsed(load_job(job, [f"output={folder.parents[1]}"]).job) is None


def test_every_scheduled_event_happened(ended: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    _, folder, _ = ended
    events = {event["name"]: event for event in report(folder)["events"]}
    assert {name for name, event in events.items() if not event["happened"]} == set()
    assert set(events) == {
        "weight transfer with probe",
        "evaluation",
        "checkpoint",
        "kill and resume",
        "reward outage",
        "last partial batch",
        "end of the schedule",
        "stage hand-off",
        "final export: transformers",
    }
    assert "SIGKILL to the driver after the first checkpoint of ppo" in events["kill and resume"]["proof"]


def test_the_run_really_had_the_roles_of_the_job(ended: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    _, folder, _ = ended
    rows = list(read_jsonl(folder / "miniature" / "events.jsonl"))
    roles = {row["role"] for row in rows if row["event"] == "actor_started"}
    assert {"policy", "critic", "reference", "reward", "generator", "train:policy", "train:reward"} <= roles
    published = [row["version"] for row in rows if row["event"] == "published"]
    assert max(published) == 4
    small = yaml.safe_load((folder / "miniature.yaml").read_text())
    assert small["cluster"]["logical_devices"]["count"] == 6


def test_the_lines_of_the_diff_name_what_stands_for_what(
    ended: tuple[Path, Path, subprocess.CompletedProcess[str]],
) -> None:
    _, folder, process = ended
    lines = (folder / "rehearsal.diff").read_text().splitlines()
    assert lines and all(line in process.stdout for line in lines)
    assert "substituted  collectives: NCCL by gloo" in lines
    assert any(line.startswith("folded       stages.ppo.candidates") for line in lines)
    assert any(line.startswith("not covered  Qwen/Qwen2.5-0.5B-Instruct: its weights") for line in lines)
