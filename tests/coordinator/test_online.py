from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rayalign.config import TrackingConfig, TrainStage
from rayalign.coordinator.online import OnlineTrainer, Parts, _raise_first
from rayalign.errors import ActorError, DeadlineError


def test_what_failed_first_is_raised_out_of_its_groups() -> None:
    inner = ActorError("the engine died")
    group = ExceptionGroup("tasks", [ExceptionGroup("more tasks", [inner])])
    with pytest.raises(ActorError) as caught:
        _raise_first([asyncio.CancelledError(), group, DeadlineError("later")])
    assert caught.value is inner


def test_cancelled_tasks_and_results_are_not_failures() -> None:
    _raise_first([None, asyncio.CancelledError()])


class WaitingStore:
    """Checkpoints whose commit lasts until the event loop has done other work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.loop_went_on = threading.Event()
        self.committed = False

    def begin(self, iteration: int) -> Path:
        return self._folder

    def commit(self, path: Path, manifest: dict[str, Any]) -> None:
        self.committed = self.loop_went_on.wait(timeout=30.0)


def test_the_rollout_loop_goes_on_while_a_checkpoint_is_hashed(tmp_path: Path) -> None:
    store = WaitingStore(tmp_path)
    parts = SimpleNamespace(
        algorithm=SimpleNamespace(trains=()),
        journal=SimpleNamespace(sync=lambda: None, position=0),
        checkpoints=store,
    )
    stage = TrainStage(kind="train", algorithm={"name": "sft"}, model="stage:base", checkpoint_every=1)
    trainer = OnlineTrainer(stage, TrackingConfig(), cast("Parts", parts), seed=0, pad_id=0)

    async def rollouts() -> None:
        store.loop_went_on.set()

    async def both() -> None:
        await asyncio.gather(trainer._checkpoint(1, {}), rollouts())

    asyncio.run(both())
    assert store.committed
