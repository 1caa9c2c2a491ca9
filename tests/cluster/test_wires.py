"""The coordinator's ends of wires, to objects of this process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from rayalign.actors.wire import Door, WireEnd
from rayalign.cluster import wires as wires_module
from rayalign.cluster.wires import CallError, ClosedError, Wires, are_allowed
from rayalign.errors import CapacityError


class OddError(Exception):
    """Cannot be read from a pickle."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second)


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

    def odd(self) -> Any:
        return ["a row", OddError(1, 2)]


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


def test_an_answer_that_cannot_be_read_is_an_error_and_the_next_one_comes() -> None:
    async def work() -> int:
        desk = Desk()
        wires = await wired(desk)
        with pytest.raises(CallError, match="its answer cannot be read: TypeError: .*second"):
            await asyncio.wait_for(wires.to(desk).odd.remote().future(), 10.0)
        later: int = await wires.to(desk).double.remote(4).future()
        return later

    assert asyncio.run(work()) == 8


@contextmanager
def actor_by_hand(reply: bytes | None) -> Iterator[tuple[Door, Callable[[], socket.socket]]]:
    """The door of an actor that sends a reply, or nothing, and the connection once the coordinator has come."""
    listener = socket.create_server(("127.0.0.1", 0))
    door = Door("127.0.0.1", listener.getsockname()[1], bytes(32), bytes(range(32)))
    come: Future[socket.socket] = Future()

    def open_door() -> None:
        connection, _ = listener.accept()
        if reply is not None:
            connection.sendall(reply)
        come.set_result(connection)

    threading.Thread(target=open_door, daemon=True).start()
    with listener:
        yield door, lambda: come.result(10.0)


RIGHT = bytes(range(32))


def test_the_end_of_the_process_at_the_other_end_is_noticed_at_once() -> None:
    async def work(door: Door, other_end: Callable[[], socket.socket]) -> None:
        wires = Wires()
        await wires.connect("actor", door, "actor")
        waiting = wires.to("actor").collect.remote(10.0).future()
        other_end().close()
        with pytest.raises(ClosedError):
            await asyncio.wait_for(waiting, 5.0)

    with actor_by_hand(RIGHT) as (door, other_end):
        asyncio.run(work(door, other_end))


def test_an_actor_that_reads_nothing_does_not_hold_up_the_coordinator() -> None:
    async def work(door: Door) -> None:
        wires = Wires()
        await wires.connect("actor", door, "actor")
        begin = time.monotonic()
        for _ in range(4):
            wires.to("actor").submit.remote(bytes(16 << 20))
        assert time.monotonic() - begin < 5.0
        wires.close()

    with actor_by_hand(RIGHT) as (door, other_end):
        asyncio.run(work(door))
        other_end().close()


@pytest.mark.parametrize(
    ("reply", "words"), [(bytes(32), "the other side did not send the actor's reply"), (None, "timed out")]
)
def test_where_somebody_else_answers_or_nobody_the_actor_itself_is_called(
    reply: bytes | None, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wires_module, "CONNECT_SECONDS", 0.3)

    async def work(door: Door) -> Wires:
        wires = Wires()
        await wires.connect("actor", door, "generator rank 0 (pid 7)")
        return wires

    with actor_by_hand(reply) as (door, other_end), caplog.at_level(logging.WARNING):
        assert asyncio.run(work(door)).to("actor") == "actor"
        other_end().close()
    assert f"no connection with generator rank 0 (pid 7) at 127.0.0.1:{door.port}: {words}" in caplog.text


def test_where_no_door_is_open_any_more_the_actor_itself_is_called(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Door("127.0.0.1", listener.getsockname()[1], bytes(32), RIGHT)

    async def work() -> Wires:
        wires = Wires()
        await wires.connect("actor", door, "generator rank 0 (pid 7)")
        return wires

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(work()).to("actor") == "actor"
    assert "Connection refused; Ray carries its calls" in caplog.text


def test_a_second_wire_takes_the_place_of_the_first() -> None:
    async def work() -> None:
        desk = Desk()
        wires = await wired(desk)
        first = wires.to(desk)
        await wires.connect(desk, WireEnd(desk, "127.0.0.1", 1).door, "desk")
        with pytest.raises(ClosedError):
            await first.double.remote(1).future()
        assert await wires.to(desk).double.remote(1).future() == 2

    asyncio.run(work())


@pytest.mark.parametrize(("value", "allowed"), [("0", True), ("1", False), ("true", False), ("True", False)])
def test_nothing_travels_beside_a_ray_that_encrypts(value: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    assert are_allowed()
    monkeypatch.setenv("RAY_USE_TLS", value)
    assert are_allowed() == allowed
