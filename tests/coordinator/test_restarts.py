from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayalign.coordinator.restarts import Restarts
from rayalign.errors import ActorError, LostError
from rayalign.storage.events import EventLog
from rayalign.storage.records import read_jsonl

LOST, BROKEN = LostError("rank 1 died: its machine is gone"), ActorError("rank 0 failed: ValueError: no\n  File x")


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


def test_a_stage_restarts_after_each_loss_as_often_as_allowed(tmp_path: Path, events: EventLog) -> None:
    restarts = Restarts("base", "policy", 2, events)
    restarts.after(LOST)
    restarts.after(LOST)
    with pytest.raises(ActorError, match="^train:policy failed, and again after a restart: rank 1 died"):
        restarts.after(LOST)
    written = [(row["stage"], row["reason"], row["left"]) for row in read_jsonl(tmp_path / "events.jsonl")]
    assert written == [("base", str(LOST), 1), ("base", str(LOST), 0)]


def test_a_stage_that_fails_by_itself_restarts_once(tmp_path: Path, events: EventLog) -> None:
    restarts = Restarts("base", "policy", 5, events)
    restarts.after(BROKEN)
    restarts.after(LOST)
    with pytest.raises(ActorError, match="again after a restart: rank 0 failed: ValueError: no"):
        restarts.after(BROKEN)
    reasons = [row["reason"] for row in read_jsonl(tmp_path / "events.jsonl")]
    assert reasons == ["rank 0 failed: ValueError: no", str(LOST)]


def test_a_stage_without_restarts_ends_with_the_failure_itself(events: EventLog) -> None:
    with pytest.raises(LostError) as caught:
        Restarts("base", "policy", 0, events).after(LOST)
    assert caught.value is LOST
