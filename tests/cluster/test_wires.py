"""The coordinator's ends of wires, to objects of this process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from typing import Any

import pytest

from rayalign.actors.wire import Door, WireEnd
from rayalign.cluster.wires import CallError, ClosedError, Wires, are_allowed
from rayalign.errors import CapacityError


class Desk:
    def __init__(self) -> None:
        self.open = threading.Event()

    def double(self, value: Any) -> Any:
        return value * 2

    def wait(self) -> str:
        assert self.open.wait(30.0)
        return "opened"

    def refuse(self) -> None:
        raise CapacityError("the desk is full")


async def wired(desk: Desk) -> Wires:
    wires = Wires()
    await wires.connect(desk, WireEnd(desk, "127.0.0.1", 4).door, "desk")
    return wires


def test_a_wire_is_called_as_an_actor_is() -> None:
    async def work() -> list[Any]:
        desk = Desk()
        wires = await wired(desk)
        answers = [wires.to(desk).double.remote(number) for number in range(50)]
        return [await answer.future() for answer in answers]

    assert asyncio.run(work()) == [2 * number for number in range(50)]


def test_an_actor_without_a_wire_is_called_itself() -> None:
    desk = Desk()
    assert Wires().to(desk) is desk


def test_megabytes_travel_both_ways() -> None:
    async def work() -> bytes:
        desk = Desk()
        wires = await wired(desk)
        answer: bytes = await wires.to(desk).double.remote(os.urandom(1) * (8 << 20)).future()
        return answer

    assert len(asyncio.run(work())) == 16 << 20


def test_an_error_of_the_actor_comes_with_its_cause() -> None:
    async def work() -> None:
        desk = Desk()
        wires = await wired(desk)
        await wires.to(desk).refuse.remote().future()

    with pytest.raises(CallError, match="the desk is full") as caught:
        asyncio.run(work())
    assert isinstance(caught.value.cause, CapacityError)


def test_an_answer_outlives_the_event_loop_that_asked() -> None:
    desk = Desk()

    async def ask() -> tuple[Wires, Any]:
        wires = await wired(desk)
        answer = wires.to(desk).wait.remote()
        await asyncio.wait({answer.future()}, timeout=0.05)
        return wires, answer

    async def take(answer: Any) -> list[Any]:
        return [await answer.future(), await answer.future()]

    wires, answer = asyncio.run(ask())
    desk.open.set()
    assert asyncio.run(take(answer)) == ["opened", "opened"]
    wires.close()


def test_an_answer_that_nobody_waits_for_any_more_disturbs_none() -> None:
    async def work() -> int:
        desk = Desk()
        wires = await wired(desk)
        given_up = wires.to(desk).wait.remote().future()
        given_up.cancel()
        desk.open.set()
        later: int = await wires.to(desk).double.remote(4).future()
        return later

    assert asyncio.run(work()) == 8


@pytest.mark.parametrize("how", ["drop", "close"])
def test_a_closed_wire_tells_those_who_wait_and_those_who_call_later(how: str) -> None:
    async def work() -> None:
        desk = Desk()
        wires = await wired(desk)
        wire = wires.to(desk)
        waiting = wire.wait.remote().future()
        wires.drop(desk) if how == "drop" else wires.close()
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await wire.double.remote(1).future()
        assert wires.to(desk) is desk
        desk.open.set()

    asyncio.run(work())


def test_the_end_of_the_process_at_the_other_end_is_noticed_at_once() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    door = Door("127.0.0.1", listener.getsockname()[1], bytes(32))

    async def work() -> None:
        wires = Wires()
        await wires.connect("actor", door, "actor")
        waiting = wires.to("actor").collect.remote(10.0).future()
        other_end, _ = listener.accept()
        other_end.close()
        with pytest.raises(ClosedError):
            await asyncio.wait_for(waiting, 5.0)

    with listener:
        asyncio.run(work())


def test_an_actor_that_reads_nothing_does_not_hold_up_the_coordinator() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    door = Door("127.0.0.1", listener.getsockname()[1], bytes(32))

    async def work() -> None:
        wires = Wires()
        await wires.connect("actor", door, "actor")
        begin = time.monotonic()
        for _ in range(4):
            wires.to("actor").submit.remote(bytes(16 << 20))
        assert time.monotonic() - begin < 5.0
        wires.close()

    with listener:
        asyncio.run(work())


def test_where_no_connection_is_possible_the_actor_itself_is_called(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Door("127.0.0.1", listener.getsockname()[1], bytes(32))

    async def work() -> Wires:
        wires = Wires()
        await wires.connect("actor", door, "generator rank 0 (pid 7)")
        return wires

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(work()).to("actor") == "actor"
    assert f"no connection with generator rank 0 (pid 7) at 127.0.0.1:{door.port}" in caplog.text


def test_nothing_travels_beside_a_ray_that_encrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert are_allowed()
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert not are_allowed()
