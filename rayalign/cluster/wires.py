"""The coordinator's ends of the wires to the actors of one group (`rayalign.actors.wire`).

    stage 1, its event loop                        stage 2, another event loop
        wire.collect.remote(10.0)  -->  actor
        answer.future()  is cancelled
                                                       answer.future()  attaches the wire to this loop
                                                       actor  -->  the answer to the call of stage 1

A wire is called like the Ray handle of its actor. It has no thread: the event loop of whoever calls or waits reads and
writes the connection. Answers that arrive while no loop runs stay in the connection. A wire ends when the actor's
process ends, when the connection breaks, or when the group drops the wire. All its open calls fail then.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import pickle
import socket
from contextlib import ExitStack
from itertools import count
from typing import Any

from rayalign.actors.wire import HEADER, KEY_BYTES, Door, frame_of, prepare, receive

logger = logging.getLogger(__name__)
CONNECT_SECONDS = 10.0
"""seconds in which an actor's door must open"""
PIECE = 1 << 18
"""bytes that one read takes at most"""


class CallError(Exception):
    """An actor raised an error, or its answer cannot be read; `cause` is that error."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class ClosedError(Exception):
    """The connection to an actor has ended, mostly with its process."""


class Answer:
    """The answer to one call, for waits in an event loop; it takes the place of Ray's object reference."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._outcome: tuple[bool, Any] | None = None
        """whether the call succeeded, and its answer or error"""
        self._waits: list[asyncio.Future[Any]] = []

    def future(self) -> asyncio.Future[Any]:
        """A future of the running event loop; it raises CallError or ClosedError."""
        self._wire.attach()
        wait = asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        self._deliver()
        return wait

    def settle(self, went_well: bool, answer: Any) -> None:
        """Deliver the outcome to everybody who waits; where the call failed, `answer` is its error."""
        self._outcome = went_well, answer
        self._deliver()

    def _deliver(self) -> None:
        if self._outcome is None:
            return
        went_well, answer = self._outcome
        for wait in self._waits:
            if wait.done():  # nobody waits any more
                continue
            if went_well:
                wait.set_result(answer)
            else:
                wait.set_exception(answer)
        self._waits.clear()


class Wire:
    """The connection to one actor; its methods are those of the actor, called as Ray's."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        """reads and writes the connection"""
        self._received = bytearray()
        """the beginning of a frame"""
        self._unsent = bytearray()
        self._writes = False
        """whether the event loop waits until the connection takes more"""
        self._numbers = count()
        self._open: dict[int, Answer] = {}
        """number of a call -> its answer to come"""

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Method(self, name)

    def begin(self, method: str, arguments: tuple[Any, ...]) -> Answer:
        """Make a call."""
        answer = Answer(self)
        if self._ended:
            answer.settle(False, ClosedError())
            return answer
        number = next(self._numbers)
        self._unsent += frame_of(number, pickle.dumps((method, arguments), pickle.HIGHEST_PROTOCOL))
        self._open[number] = answer
        self.attach()
        self._send()
        return answer

    def attach(self) -> None:
        """Have the running event loop read the connection."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and not self._ended:
            self._detach()
            self._loop = loop
            loop.add_reader(self._connection, self._receive)
            if self._writes:
                loop.add_writer(self._connection, self._send)

    def end(self) -> None:
        """Close the connection, and give up what has not been answered."""
        if self._ended:
            return
        self._ended = True
        self._detach()
        self._connection.close()
        for answer in self._open.values():
            answer.settle(False, ClosedError())
        self._open.clear()

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)

    def _send(self) -> None:
        """Send as much as the connection takes now, and the rest when it takes more."""
        assert self._loop is not None, "attach comes first"
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()
            return
        del self._unsent[:sent]
        if bool(self._unsent) == self._writes:
            return
        self._writes = not self._writes
        if self._writes:
            self._loop.add_writer(self._connection, self._send)
        else:
            self._loop.remove_writer(self._connection)

    def _receive(self) -> None:
        try:
            data = self._connection.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            return
        self._received += data
        while (frame := self._whole_frame()) is not None:
            number, contents = frame
            self._open.pop(number).settle(*_read(contents))

    def _whole_frame(self) -> tuple[int, bytes] | None:
        """Number and contents of the first frame, once all of it has come."""
        if len(self._received) < HEADER.size:
            return None
        length, number = HEADER.unpack_from(self._received)
        end = HEADER.size + length
        if len(self._received) < end:
            return None
        contents = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return number, contents


class _Method:
    """A method of an actor at the other end."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire, self._name = wire, name

    def remote(self, *arguments: Any) -> Answer:
        return self._wire.begin(self._name, arguments)


class Wires:
    """The wires of one group."""

    def __init__(self) -> None:
        self._wires: dict[Any, Wire] = {}

    def to(self, actor: Any) -> Any:
        """The wire of an actor; the actor itself where it has none, which is called the same way."""
        return self._wires.get(actor, actor)

    async def connect(self, actor: Any, door: Door, name: str) -> None:
        """Connect with an actor; where it cannot be reached, Ray goes on carrying its calls."""
        self.drop(actor)
        try:
            self._wires[actor] = Wire(await asyncio.to_thread(_connected, door))
        except OSError as error:
            reason = str(error) or type(error).__name__
            where = f"{door.address}:{door.port}"
            logger.warning("no connection with %s at %s: %s; Ray carries its calls, more slowly", name, where, reason)

    def drop(self, actor: Any) -> None:
        """Close the wire of an actor that is discarded."""
        wire = self._wires.pop(actor, None)
        if wire is not None:
            wire.end()

    def close(self) -> None:
        """Close all wires."""
        for actor in list(self._wires):
            self.drop(actor)


def are_allowed() -> bool:
    """Whether calls may travel beside Ray: where Ray encrypts its own, nothing else may carry them in the clear."""
    return os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true")


def _connected(door: Door) -> socket.socket:
    """A connection whose two ends have proven themselves to each other."""
    connection = socket.create_connection((door.address, door.port), timeout=CONNECT_SECONDS)
    with ExitStack() as undo:
        undo.enter_context(connection)
        connection.sendall(door.key)
        if not hmac.compare_digest(receive(connection, KEY_BYTES, CONNECT_SECONDS), door.reply):
            raise ConnectionError("the other side did not send the actor's reply")
        prepare(connection)
        undo.pop_all()
    return connection


def _read(contents: bytes) -> tuple[bool, Any]:
    """What a call came to: whether it went well, and its answer or error."""
    try:
        went_well, answer = pickle.loads(contents)
    except Exception as error:  # a user's class may raise anything here, and somebody waits for the answer
        return False, CallError(RuntimeError(f"its answer cannot be read: {type(error).__name__}: {error}"))
    return went_well, answer if went_well else CallError(answer)
