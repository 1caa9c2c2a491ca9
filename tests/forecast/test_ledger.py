"""The device memory of a forecast against the ledger that holds a run's claims."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.turns import PRESENCE, TURNS, DeviceTurns, Part, Sharer
from rayalign.config import Job
from rayalign.forecast.calibration import Calibration
from rayalign.forecast.splits import Split, splits
from rayalign.pipeline.plan import RolePlan
from rayalign.storage.events import EventLog
from tests.forecast.conftest import JobOf, Machines

CAPACITY = 1 << 40


async def moved(parts: Sequence[Part]) -> None:
    """Nothing is loaded here: the claims alone count."""


def sharer_of(role: RolePlan) -> Sharer:
    devices = [f"gpu:{number}" for number in role.device_numbers]
    return Sharer(role.role, devices, role.parts or {}, role.presence or PRESENCE[role.role], moved, moved)


def shared_split(job: Job, machines: Machines) -> Split:
    return next(split for split in splits(job, machines(8), Calibration([])) if split.shared)


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-3B"])
def test_claims_in_every_turn_are_those_of_the_forecast(
    job_of: JobOf, machines: Machines, tmp_path: Path, model: str
) -> None:
    (stage,) = shared_split(job_of(f"stages.rl.model={model}"), machines).forecast.plan.stages
    ledger = DeviceLedger(dict.fromkeys(stage.device_memory, CAPACITY))
    turns = DeviceTurns(ledger, EventLog(tmp_path / "events.jsonl"))
    for role in stage.roles:
        turns.add(sharer_of(role), "rollout")
    largest = dict.fromkeys(stage.device_memory, 0)
    for turn in TURNS:
        asyncio.run(turns.enter(turn))
        for device in largest:
            claimed = CAPACITY - ledger.free(device)
            assert claimed == stage.turn_memory(turn).get(device, 0), (turn, device)
            largest[device] = max(largest[device], claimed)
    assert largest == stage.device_memory
    assert min(largest.values()) > 0
