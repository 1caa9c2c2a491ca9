"""The actor's end of a wire, called by hand."""

from __future__ import annotations

import gc
import logging
import pickle
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import pytest

from rayalign.actors import hosted, wire
from rayalign.actors.hosted import HostedActor
from rayalign.actors.wire import Door, WireEnd, frame_of, read_frame
from rayalign.errors import CapacityError


class TwoWordsError(Exception):
    """Cannot be read again from a pickle, which knows one word alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class CountError(Exception):
    """Its constructor wants a number, and gets its own words when it is read from a pickle."""

    def __init__(self, number: int) -> None:
        super().__init__(f"no more than {int(number)}")


class Desk:
    def __init__(self) -> None:
        self.open = threading.Event()

    def add(self, *numbers: int) -> int:
        return sum(numbers)

    def wait(self) -> str:
        assert self.open.wait(30.0)
        return "opened"

    def let_go(self) -> None:
        self.open.set()

    def refuse(self) -> None:
        raise CapacityError("the desk is full")

    def lock(self) -> Any:
        return threading.Lock()

    def two_words(self) -> None:
        raise TwoWordsError("pen", "paper")

    def count(self) -> None:
        raise CountError(7)


@contextmanager
def connected(threads: int = 2) -> Iterator[tuple[socket.socket, BinaryIO]]:
    end = WireEnd(Desk(), "127.0.0.1", threads)
    with visitor(end.door) as connection:
        yield connection, greeted(connection, end.door)


def visitor(door: Door) -> socket.socket:
    """A connection to a door."""
    return socket.create_connection((door.address, door.port), timeout=10.0)


def greeted(connection: socket.socket, door: Door) -> BinaryIO:
    """What comes over a connection once either side knows the other."""
    connection.sendall(door.key)
    frames = connection.makefile("rb")
    assert frames.read(len(door.reply)) == door.reply
    return frames


def send(connection: socket.socket, number: int, method: str, *arguments: Any) -> None:
    connection.sendall(frame_of(number, pickle.dumps((method, arguments))))


def answer(frames: BinaryIO) -> tuple[int, bool, Any]:
    frame = read_frame(frames)
    assert frame is not None
    went_well, value = pickle.loads(frame[1])
    return frame[0], went_well, value


def test_a_call_is_answered_under_its_number() -> None:
    with connected() as (connection, frames):
        send(connection, 7, "add", 1, 2, 3)
        assert answer(frames) == (7, True, 6)


def test_a_later_call_may_be_answered_first() -> None:
    with connected(threads=2) as (connection, frames):
        send(connection, 1, "wait")
        send(connection, 2, "let_go")
        answers = {number: value for number, _, value in (answer(frames), answer(frames))}
    assert answers == {1: "opened", 2: None}


def test_with_one_thread_calls_are_answered_in_their_order() -> None:
    with connected(threads=1) as (connection, frames):
        for number in range(20):
            send(connection, number, "add", number)
        assert [answer(frames) for _ in range(20)] == [(number, True, number) for number in range(20)]


@pytest.mark.parametrize(
    ("method", "kind", "words"),
    [
        ("refuse", CapacityError, "the desk is full"),
        ("lock", RuntimeError, "TypeError: cannot pickle '_thread.lock' object"),
        ("two_words", RuntimeError, "TwoWordsError: pen and paper"),
        ("count", RuntimeError, "CountError: no more than 7"),
        ("missing", AttributeError, "'Desk' object has no attribute 'missing'"),
    ],
)
def test_an_error_travels_as_it_is_or_in_words(method: str, kind: type[Exception], words: str) -> None:
    with connected() as (connection, frames):
        send(connection, 0, method)
        _, went_well, error = answer(frames)
    assert not went_well and type(error) is kind
    assert str(error) == words


def test_who_does_not_know_the_key_is_turned_away_and_the_door_stays_open() -> None:
    door = WireEnd(Desk(), "127.0.0.1", 1).door
    for wrong in (bytes(len(door.key)), b""):
        with visitor(door) as stranger:
            stranger.sendall(wrong + frame_of(0, pickle.dumps(("add", (1,)))))
            assert _rest(stranger) == b""
    with visitor(door) as connection:
        frames = greeted(connection, door)
        send(connection, 1, "add", 4)
        assert answer(frames) == (1, True, 4)


def _rest(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:  # it was closed with something unread
        return b""


def test_key_and_reply_are_not_printed() -> None:
    door = WireEnd(Desk(), "127.0.0.1", 1).door
    assert len(door.key) == len(door.reply) == wire.KEY_BYTES
    assert str(door.key) not in repr(door) and str(door.reply) not in repr(door)


def is_closed(door: Door) -> bool:
    try:
        visitor(door).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_door_closes_where_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.1)
    end = WireEnd(Desk(), "127.0.0.1", 1)
    time.sleep(0.5)
    assert is_closed(end.door)


def test_a_visitor_keeps_others_from_the_door_for_moments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEY_SECONDS", 0.5)
    door = WireEnd(Desk(), "127.0.0.1", 1).door
    with visitor(door) as stranger, visitor(door) as connection:
        begin = time.monotonic()
        for _ in range(4):  # a byte now and then does not prolong it
            stranger.sendall(b"x")
            time.sleep(0.1)
        frames = greeted(connection, door)
        assert time.monotonic() - begin < 2.0
        send(connection, 1, "add", 4)
        assert answer(frames) == (1, True, 4)


@pytest.mark.parametrize("came", [False, True])
def test_an_end_forgets_its_object_at_once(came: bool) -> None:
    desk = Desk()
    end = WireEnd(desk, "127.0.0.1", 1)
    held = weakref.ref(desk)
    del desk
    with ExitStack() as open_ones:
        if came:
            greeted(open_ones.enter_context(visitor(end.door)), end.door)
        end.end()
        gc.collect()
        assert held() is None
        time.sleep(0.2)
        assert is_closed(end.door)
    end.end()


def test_nobody_can_listen_at_an_address_of_another_machine() -> None:
    with pytest.raises(OSError, match="assign"):
        WireEnd(Desk(), "192.0.2.1", 1)


def test_an_actor_behind_a_gateway_has_no_door(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hosted.ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    with caplog.at_level(logging.WARNING):
        assert HostedActor().listen(1) is None
    assert "cannot listen for the coordinator" in caplog.text


def test_an_actor_that_hangs_up_has_no_door_any_more() -> None:
    actor = HostedActor()
    first = actor.listen(1)
    second = actor.listen(1)
    assert first is not None and second is not None
    time.sleep(0.2)
    assert [is_closed(first), is_closed(second)] == [True, False]
    actor.hang_up()
    time.sleep(0.2)
    assert is_closed(second)


@pytest.mark.parametrize("cut", [0, 5, 12, 13])
def test_a_torn_frame_is_an_end(cut: int) -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.sendall(frame_of(3, b"contents")[:cut])
        writer.shutdown(socket.SHUT_WR)
        assert read_frame(reader.makefile("rb")) is None
