"""How long an offline stage trains, at which rates, and on which rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rayalign.algorithms.base import load
from rayalign.config import LearnerConfig, TrackingConfig, TrainStage
from rayalign.coordinator.offline_data import OfflineData, OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.coordinator.progress import Heartbeat
from rayalign.data.rows import RowFile, split, write_rows
from rayalign.storage.metrics import read_metrics
from tests.coordinator.ranks import make_rows

RATE = 1e-3
LEARNER = LearnerConfig(learning_rate=RATE, schedule="linear", minibatch=10, micro_tokens=400)
STEPS = 3
"""of one epoch: 22 rows"""


def spec_of(model: str, folder: Path, *, seed: int = 3, **stage: Any) -> OfflineSpec:
    """A stage of fine-tuning, its rows written."""
    settings = {"kind": "train", "algorithm": {"name": "sft"}, "model": model, "learner": LEARNER, **stage}
    spec = OfflineSpec(
        stage=TrainStage.model_validate(settings),
        role="policy",
        model=model,
        tracking=TrackingConfig(),
        seed=seed,
        folder=str(folder / "stage"),
        events=str(folder / "events.jsonl"),
        timeout=600.0,
    )
    write_rows(spec.rows_folder, make_rows((1.0, 0.0)))
    return spec


def figures(spec: OfflineSpec, name: str) -> list[float]:
    """One metric, as often as it was reported."""
    rows = [row["metrics"] for row in read_metrics(Path(spec.folder) / "metrics.jsonl")]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize(("length", "steps"), [({"epochs": 2}, 2 * STEPS), ({"steps": 4}, 4), ({"steps": 2}, 2)])
def test_the_rate_falls_to_0_over_all_steps_of_the_stage(
    model: str, tmp_path: Path, length: dict[str, int], steps: int
) -> None:
    spec = spec_of(model, tmp_path, **length)
    train_offline(spec)
    expected = [RATE * (1 - step / steps) for step in range(steps)]
    assert figures(spec, "learner/learning_rate") == pytest.approx(expected)


@pytest.mark.parametrize(("stop_gain", "epochs"), [(0.99, 2), (0.0, 4)])
def test_a_stage_stops_once_an_epoch_gains_too_little(
    model: str, tmp_path: Path, stop_gain: float, epochs: int
) -> None:
    spec = spec_of(model, tmp_path, epochs=4, holdout=0.4, stop_gain=stop_gain)
    train_offline(spec)
    assert figures(spec, "eval/epoch") == list(range(epochs + 1))


def test_so_many_checkpoints_are_kept_beside_the_best(model: str, tmp_path: Path) -> None:
    spec = spec_of(model, tmp_path, epochs=5, keep=3)
    train_offline(spec)
    kept = sorted(path.name for path in (Path(spec.folder) / "checkpoints").glob("iteration-*"))
    assert kept == [f"iteration-{epoch:06d}" for epoch in (1, 3, 4, 5)]


@pytest.mark.parametrize(("name", "singly"), [("sft", True), ("reward", False)])
@pytest.mark.parametrize("seed", [3, 4])
def test_the_seed_draws_the_held_out_prompts_and_rows_of_a_group_stay_together(
    model: str, tmp_path: Path, name: str, singly: bool, seed: int
) -> None:
    spec = spec_of(model, tmp_path, seed=seed, algorithm={"name": name}, holdout=0.4)
    with Heartbeat(spec.ranks_folder, 0, timeout=600.0) as heartbeat:
        data = OfflineData(spec, load({"name": name}), torch.device("cpu"), heartbeat)
    rows = RowFile(spec.rows_folder)
    training, heldout = split(rows, torch.ones(len(rows), dtype=torch.bool), 0.4, seed, singly=singly)
    assert data.heldout.numbers_B.tolist() == heldout.numbers_B.tolist()
    assert data.training.unit_B.tolist() == training.unit_B.tolist()
    assert len(training.unit_B.unique()) == (14 if singly else 7)
