"""The actor's end of a wire, called by hand."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest

from rayalign.actors import wire
from rayalign.actors.wire import WireEnd, frame_of, read_frame
from rayalign.errors import ActorError, CapacityError


class TwoWordsError(Exception):
    """Cannot be read again from a pickle, which knows one word alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


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


@contextmanager
def connected(threads: int = 2, secret: bytes | None = None) -> Iterator[tuple[socket.socket, BinaryIO]]:
    end = WireEnd(Desk(), "127.0.0.1", threads)
    with socket.create_connection((end.door.address, end.door.port), timeout=10.0) as connection:
        connection.sendall(end.door.secret if secret is None else secret)
        yield connection, connection.makefile("rb")


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
        ("lock", ActorError, "TypeError: cannot pickle '_thread.lock' object"),
        ("two_words", ActorError, "TwoWordsError: pen and paper"),
        ("missing", AttributeError, "'Desk' object has no attribute 'missing'"),
    ],
)
def test_an_error_travels_as_it_is_or_in_words(method: str, kind: type[Exception], words: str) -> None:
    with connected() as (connection, frames):
        send(connection, 0, method)
        _, went_well, error = answer(frames)
    assert not went_well and type(error) is kind
    assert str(error) == words


def test_who_does_not_know_the_secret_is_turned_away_and_the_door_stays_open() -> None:
    end = WireEnd(Desk(), "127.0.0.1", 1)
    where = (end.door.address, end.door.port)
    for wrong in (bytes(len(end.door.secret)), b""):
        with socket.create_connection(where, timeout=10.0) as stranger:
            stranger.sendall(wrong + frame_of(0, pickle.dumps(("add", (1,)))))
            assert _rest(stranger) == b""
    with socket.create_connection(where, timeout=10.0) as connection:
        connection.sendall(end.door.secret)
        send(connection, 1, "add", 4)
        assert answer(connection.makefile("rb")) == (1, True, 4)


def _rest(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionResetError:  # it was closed with something unread
        return b""


def test_the_secret_is_not_printed() -> None:
    door = WireEnd(Desk(), "127.0.0.1", 1).door
    assert len(door.secret) == wire.SECRET_BYTES
    assert str(door.secret) not in repr(door)


def test_the_door_closes_where_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.1)
    end = WireEnd(Desk(), "127.0.0.1", 1)
    time.sleep(0.5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((end.door.address, end.door.port), timeout=10.0)


def test_who_says_nothing_keeps_others_from_the_door_for_moments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SECRET_SECONDS", 0.1)
    end = WireEnd(Desk(), "127.0.0.1", 1)
    where = (end.door.address, end.door.port)
    with socket.create_connection(where), socket.create_connection(where, timeout=10.0) as connection:
        connection.sendall(end.door.secret)
        send(connection, 1, "add", 4)
        assert answer(connection.makefile("rb")) == (1, True, 4)


@pytest.mark.parametrize("cut", [0, 5, 12, 13])
def test_a_torn_frame_is_an_end(cut: int) -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.sendall(frame_of(3, b"contents")[:cut])
        writer.shutdown(socket.SHUT_WR)
        assert read_frame(reader.makefile("rb")) is None
