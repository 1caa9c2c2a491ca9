"""Device turns over a ledger, with roles that only log how their parts come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.turns import PRESENCE, DeviceTurns, Part, Sharer, Sizes
from rayalign.errors import CapacityError
from rayalign.storage.events import EventLog

DEVICE = "logical:0"
ENGINE: Sizes = {"weights": 10, "cache": 60}
LEARNER: Sizes = {"weights": 10, "training": 30}
Log = list[str]


class Bench:
    """One device of 100 bytes with the roles of PPO; every move is logged."""

    def __init__(self, events: EventLog, capacity: int = 100, *, resident: Sequence[str] = ()) -> None:
        self.ledger = DeviceLedger({DEVICE: capacity})
        self.turns = DeviceTurns(self.ledger, events)
        self.log: Log = []
        self.resident = resident
        self.sharers: dict[str, Sharer] = {}

    def sharer(self, role: str, sizes: Sizes, devices: Sequence[str] = (DEVICE,)) -> Sharer:
        sharer = Sharer(
            role,
            devices,
            sizes,
            PRESENCE[role],
            offload=self._move(role, "-"),
            reload=self._move(role, "+"),
            resident=role in self.resident,
        )
        self.sharers[role] = sharer
        return sharer

    def _move(self, role: str, sign: str) -> Callable[[Sequence[Part]], Any]:
        async def move(parts: Sequence[Part]) -> None:
            self.log += [f"{sign}{role} {part}" for part in parts]

        return move

    def train(self) -> None:
        """As at the start of a stage: the engine sleeps, and the trained roles have loaded."""
        self.turns.add(self.sharer("generator", ENGINE), "rollout")
        self.enter("training")
        self.turns.add(self.sharer("policy", LEARNER), "training")
        self.turns.add(self.sharer("critic", LEARNER), "training")
        self.log.clear()

    def enter(self, turn: Any) -> Log:
        self.log.clear()
        asyncio.run(self.turns.enter(turn))
        return list(self.log)


@pytest.fixture
def events(tmp_path: Path) -> Iterator[EventLog]:
    log = EventLog(tmp_path / "events.jsonl")
    yield log
    log.close()


def test_an_iteration_moves_each_part_once(events: EventLog) -> None:
    bench = Bench(events)
    bench.train()
    assert bench.ledger.free(DEVICE) == 100 - 80
    assert bench.enter("publish") == ["-policy training", "-critic weights", "-critic training", "+generator weights"]
    assert bench.ledger.free(DEVICE) == 100 - 10 - 10
    assert bench.enter("rollout") == ["-policy weights", "+generator cache"]
    assert bench.ledger.free(DEVICE) == 100 - 70
    assert bench.enter("training")[:2] == ["-generator weights", "-generator cache"]
    assert bench.log[2:] == [f"+{role} {part}" for role in ("policy", "critic") for part in ("weights", "training")]
    assert bench.enter("training") == []


def test_a_wake_before_the_learners_have_left_fails_and_loads_nothing(events: EventLog) -> None:
    bench = Bench(events)
    bench.train()
    with pytest.raises(CapacityError, match=r"generator cache needs .* of logical:0.*policy weights.*critic training"):
        asyncio.run(bench.turns.reload("generator", ("weights", "cache")))
    assert bench.log == []
    assert bench.ledger.free(DEVICE) == 20
    bench.enter("publish")
    bench.enter("rollout")
    assert bench.sharers["generator"].present == {"weights", "cache"}


def test_a_role_that_does_not_fit_is_refused_before_it_loads(events: EventLog) -> None:
    bench = Bench(events, capacity=75)
    bench.turns.add(bench.sharer("generator", ENGINE), "rollout")
    bench.enter("training")
    bench.turns.add(bench.sharer("policy", LEARNER), "training")
    with pytest.raises(CapacityError, match="critic training needs"):
        bench.turns.add(bench.sharer("critic", LEARNER), "training")
    assert bench.ledger.free(DEVICE) == 75 - 40


def test_a_resident_role_keeps_its_claim_in_every_turn(events: EventLog) -> None:
    bench = Bench(events, resident=["reward"])
    bench.train()
    bench.turns.add(bench.sharer("reward", {"weights": 5}), "training")
    for turn, free in (("training", 15), ("publish", 75), ("rollout", 25)):
        assert not [move for move in bench.enter(turn) if "reward" in move]
        assert bench.ledger.free(DEVICE) == free


def test_a_reward_that_takes_turns_is_there_while_engines_write(events: EventLog) -> None:
    bench = Bench(events)
    bench.turns.add(bench.sharer("generator", ENGINE), "rollout")
    bench.turns.add(bench.sharer("reward", {"weights": 5}), "rollout")
    assert "-reward weights" in bench.enter("training")
    assert "+reward weights" in bench.enter("rollout")


def test_ranks_claim_their_own_devices_and_an_engine_all_of_its(events: EventLog) -> None:
    ledger = DeviceLedger({"gpu-a": 100, "gpu-b": 100})
    bench = Bench(events)
    turns = DeviceTurns(ledger, events)
    turns.add(bench.sharer("policy", LEARNER, ["gpu-a", "gpu-b"]), "training")
    assert (ledger.free("gpu-a"), ledger.free("gpu-b")) == (60, 60)
    turns.remove("policy")
    turns.add(bench.sharer("generator", {"weights": 5, "cache": 20}, ["gpu-a", "gpu-a", "gpu-b"]), "rollout")
    assert (ledger.free("gpu-a"), ledger.free("gpu-b")) == (50, 75)


def test_a_stage_that_ends_leaves_no_claim(events: EventLog) -> None:
    bench = Bench(events)
    bench.train()
    for role in ("policy", "critic", "generator"):
        bench.turns.remove(role)
    bench.turns.remove("reward")
    assert bench.ledger.free(DEVICE) == 100
    assert not bench.turns.shared


def test_turns_are_events_and_without_sharers_there_are_none(events: EventLog, tmp_path: Path) -> None:
    bench = Bench(events)
    bench.enter("training")
    bench.train()
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(row["event"], row["name"]) for row in rows] == [("turn", "training")]
