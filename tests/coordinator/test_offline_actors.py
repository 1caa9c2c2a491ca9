"""Offline stages one after another in the same worker processes."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from rayalign.cluster.workers import Workers
from rayalign.config import ClusterConfig, LearnerConfig, RoleConfig, TrackingConfig, TrainStage
from rayalign.coordinator.offline_actors import train_on_workers
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.data.collate import EncodedRow
from rayalign.data.rows import write_rows
from rayalign.storage.events import EventLog
from rayalign.storage.records import read_jsonl

CLUSTER = ClusterConfig(start_timeout=280.0)
TWO_RANKS = RoleConfig(actors=2, threads=1)
ROWS = [EncodedRow((10 + g, 5, 6 + k), (False, True, True), g, float(k), str(g)) for g in range(8) for k in range(2)]


def spec_of(folder: Path, model: str, algorithm: str, learner: LearnerConfig) -> OfflineSpec:
    role = "policy" if algorithm == "sft" else "reward"
    return OfflineSpec(
        stage=TrainStage(kind="train", algorithm={"name": algorithm}, model=model, learner=learner, epochs=2),
        role=role,  # type: ignore[arg-type]
        model=model,
        tracking=TrackingConfig(),
        seed=0,
        folder=str(folder),
        events=str(folder / "events.jsonl"),
        timeout=280.0,
    )


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_stage_is_the_same_whatever_its_processes_did_before(ray_session: None, model: str, tmp_path: Path) -> None:
    shards = LearnerConfig(learning_rate=1e-3, minibatch=8, micro_tokens=256, zero_stage=3, zero_live_parameters=0)
    halves = LearnerConfig(learning_rate=1e-3, minibatch=8, micro_tokens=256, zero_stage=2, precision="bf16")
    stages = (("first", "sft", shards), ("between", "reward", halves), ("again", "sft", shards))
    workers = Workers(CLUSTER)
    weights: dict[str, bytes] = {}
    processes: list[set[int]] = []
    for name, algorithm, learner in stages:
        folder = tmp_path / name
        folder.mkdir()
        spec = spec_of(folder, model, algorithm, learner)
        write_rows(spec.rows_folder, ROWS)
        with closing(EventLog(Path(spec.events))) as events:
            asyncio.run(train_on_workers(spec, TWO_RANKS, workers, CLUSTER, events))
        weights[name] = (folder / "model" / "model.safetensors").read_bytes()
        rows = read_jsonl(Path(spec.events))
        processes.append({row["actor_pid"] for row in rows if row["event"] == "actor_started"})
    workers.stop()
    assert weights["again"] == weights["first"]
    assert processes[0] == processes[1] == processes[2]
    assert len(processes[0]) == 2
