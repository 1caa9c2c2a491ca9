"""Roles on shared devices: the order in which they load, and what they hold against what they see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from rayalign.actors.hosted import LOGICAL_VARIABLE, own_devices
from rayalign.actors.place import Place
from rayalign.cluster.devices import reserve_devices
from rayalign.cluster.ledger import DeviceLedger
from rayalign.cluster.placement import Claim, Placement, Slot
from rayalign.cluster.sharing import Share, SharedRoles
from rayalign.cluster.turns import AFTER_ROLLOUT, PRESENCE, DeviceTurns
from rayalign.config import RoleConfig
from rayalign.errors import ActorError, CapacityError
from rayalign.storage.events import EventLog

SLOT = Slot("node", ("logical:0",), {})


def shared(events: EventLog, capacity: int = 100, **shares: Share) -> SharedRoles:
    turns = DeviceTurns(DeviceLedger({"logical:0": capacity}), events)
    return SharedRoles(turns, {role: [SLOT] for role in shares}, shares)


def group(role: str, *devices: str) -> Any:
    place = Place(1, "127.0.0.1", 0, devices)

    async def call_all(call: object) -> None:
        raise AssertionError("nothing leaves in these tests")

    return SimpleNamespace(role=role, actors=["actor"], places={"actor": place}, pid=lambda actor: 1, all=call_all)


@pytest.fixture
def log(tmp_path: Path) -> Any:
    events = EventLog(tmp_path / "events.jsonl")
    yield events
    events.close()


def learner(resident: bool = False) -> Share:
    return Share({"weights": 10, "training": 30}, PRESENCE["policy"], resident)


def reward(resident: bool = False) -> Share:
    return Share({"weights": 5}, PRESENCE["reward"], resident)


def test_a_reward_that_takes_turns_loads_before_the_learners(log: EventLog) -> None:
    roles = shared(log, policy=learner(), reward=reward())
    assert roles.waves(["policy", "reward", "reference"]) == [["reward"], ["policy", "reference"]]


def test_a_resident_reward_loads_with_them(log: EventLog) -> None:
    assert shared(log, policy=learner(), reward=reward(True)).waves(["policy", "reward"]) == [["policy", "reward"]]


def test_a_model_of_an_evaluation_loads_while_the_engines_sleep(log: EventLog) -> None:
    assert Share({"weights": 5}, AFTER_ROLLOUT).first_turn == "training"


def test_roles_that_do_not_fit_are_refused_before_they_load(log: EventLog) -> None:
    roles = shared(log, capacity=60, policy=learner(), critic=learner())
    with pytest.raises(CapacityError, match="critic training"):
        asyncio.run(roles.admit([group("policy"), group("critic")]))
    roles.leave()
    asyncio.run(roles.admit([group("critic")]))


def test_a_process_on_another_device_is_refused(log: EventLog) -> None:
    roles = shared(log, policy=learner())
    roles.verify([group("policy", "logical:0"), group("reference")])
    with pytest.raises(ActorError, match="policy .pid 1. uses GPU-x in the place of logical:0"):
        roles.verify([group("policy", "GPU-x")])


def test_a_process_knows_its_logical_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_devices() == ()
    monkeypatch.setenv(LOGICAL_VARIABLE, "logical:0,logical:3")
    assert own_devices() == ("logical:0", "logical:3")


def test_a_process_knows_its_gpus_by_their_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = [SimpleNamespace(uuid=uuid) for uuid in ("1b2c", "3d4e")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    assert own_devices() == ("1b2c", "3d4e")


@pytest.mark.ray
def test_actors_of_one_device_are_placed_beside_each_other_and_see_it_alone(ray_session: None) -> None:
    devices = reserve_devices(2, together=1, logical=True, timeout=60.0)
    hosts = {"policy": RoleConfig(actors=2, gpus=1.0), "generator": RoleConfig(gpus=1.0), "reward": RoleConfig()}
    claims = {name: Claim(0.2, host.gpus, 1) for name, host in hosts.items()}
    slots = {"policy": [devices.slot([0]), devices.slot([1])], "generator": [devices.slot([0, 1])]}
    placement = Placement(hosts, claims, timeout=60.0, slots=slots)
    look = ray.remote(lambda: own_devices())
    names = []
    try:
        for name, host in hosts.items():
            for _ in range(host.actors):
                names.append(ray.get(look.options(**placement.options(claims[name], {})).remote(), timeout=60))
        assert names == [("logical:0",), ("logical:1",), ("logical:0", "logical:1"), ()]
        assert ray.available_resources().get("GPU", 0.0) == 0.0
    finally:
        placement.remove()
        devices.release()
