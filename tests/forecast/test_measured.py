from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.config import load_job
from rayalign.errors import InputError
from rayalign.forecast.calibrate import records_of
from rayalign.forecast.calibration import Calibration
from rayalign.forecast.forecast import forecast
from rayalign.forecast.hardware import Hardware
from rayalign.forecast.measured import measured_run
from rayalign.pipeline.machine import Machine

JOB = """\
name: measured
rollout: {engines: 2, context: 96}
stages:
  base: {kind: pretrain, data: {limit: 320}}
  ppo:
    kind: train
    algorithm: {name: ppo, epochs: 1}
    model: stage:base
    reward: rules:length
    candidates: [{source: live, count: 4}]
    learner: {minibatch: 64, micro_tokens: 1024}
    prompts: 32
    iterations: 8
"""
SECONDS = {"generate": 1.0, "evaluate": 0.4, "update": 1.2, "publish": 0.2, "collate": 0.1, "prepare": 0.1}
HARDWARE = Hardware("test", Machine(2, 0, 1 << 34, 1 << 30), "test CPU", None, 0, 25.0, 1.0, None, "USD")


def write_run(folder: Path, iterations: int = 8, job: str = JOB) -> Path:
    """A run whose iterations take 3 s, but for the first two, whose samples have 10 + 20 tokens."""
    stage = folder / "stages" / "ppo"
    stage.mkdir(parents=True)
    (folder / "job.yaml").write_text(job)
    rows = []
    for step in range(iterations):
        factor = 5 if step < 2 else 1
        phases = {f"phase/{name}": value * factor for name, value in SECONDS.items()}
        total = sum(phases.values()) + 7.0
        # 128 samples, read by policy and critic
        tokens = {"rollout/tokens": 128 * 20, "learner/tokens": 128 * 30, "critic/tokens": 128 * 30}
        metrics = {**phases, "phase/checkpoint": 7.0, "phase/total": total, **tokens}
        rows.append(json.dumps({"step": step, "time": 0.0, "metrics": metrics}))
    (stage / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "summary.json").write_text(json.dumps({"peak_memory_bytes": 123}))
    return folder


def test_medians_leave_out_the_warm_up_and_checkpoints(tmp_path: Path) -> None:
    run = measured_run(write_run(tmp_path / "run"))
    (stage,) = run.stages
    assert stage.iteration == pytest.approx(3.0)
    assert stage.seconds["update"] == 1.2
    assert stage.seconds["other"] == pytest.approx(0.2)
    assert (stage.lengths.prompt, stage.lengths.answer) == (10, 20)
    assert (stage.iterations, run.peak_memory) == (6, 123)


def test_a_run_predicts_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    records = records_of(folder, HARDWARE)
    assert {record.phase for record in records} == {"generate", "evaluate", "update", "publish", "other"}
    assert all(record.source.startswith("measured/ppo, 6 iterations, 20") for record in records)
    outcome = forecast(load_job(folder / "job.yaml").job, HARDWARE, Calibration(records))
    (stage,) = [stage for stage in outcome.stages if stage.name == "ppo"]
    assert stage.seconds.middle == pytest.approx(3.0)
    assert stage.phases["update"].share.measured


def test_overlapped_engines_have_no_record_of_writing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", job=JOB + "    max_staleness: 1\n")
    assert "generate" not in {record.phase for record in records_of(folder, HARDWARE)}


def test_a_run_with_too_few_iterations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no online training in it has 5 iterations or more"):
        measured_run(write_run(tmp_path / "run", iterations=4))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no job.yaml, so this is no run"):
        measured_run(tmp_path)
