"""The actor's end of a wire: a connection of its own to the coordinator, for the calls that it makes most often.

A call through Ray costs either side about a millisecond of computing, a call over a wire a tenth of that. Engines
bring their candidates this way, and rewards their scores. Ray starts and ends the actor, and says why it ended.

    frame               length of the contents, number of the call, contents (pickled)
    coordinator -> actor     method and arguments
    actor -> coordinator     whether it went well, and the answer or the error

The door, which travels through Ray, holds a secret. Whoever does not send it first is turned away, since a pickle may
run code.
"""

from __future__ import annotations

import hmac
import logging
import pickle
import secrets
import socket
import struct
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from rayalign.cores import yield_to_learners
from rayalign.errors import ActorError

logger = logging.getLogger(__name__)
HEADER = struct.Struct("!QI")
"""length of the contents [bytes], number of the call"""
PATIENCE = 30.0
"""seconds in which the coordinator must come to the door"""
SECRET_SECONDS = 2.0
"""in which whoever has come must have sent the secret; others wait behind"""
SECRET_BYTES = 32
UNPICKLABLE = (pickle.PicklingError, TypeError, AttributeError)
"""what `pickle` raises where it cannot write an object"""


@dataclass(frozen=True, slots=True)
class Door:
    """Where an actor waits for the coordinator."""

    address: str
    port: int
    secret: bytes = field(repr=False)


class WireEnd:
    """Answers calls of an object's methods, until the coordinator closes the connection."""

    def __init__(self, target: object, address: str, threads: int) -> None:
        """
        Args:
            address: of this machine, at which the coordinator reaches it.
            threads: calls that are answered at the same time.
        """
        self._target = target
        self._calls = ThreadPoolExecutor(threads, thread_name_prefix="wire", initializer=yield_to_learners)
        self._listener = socket.create_server((address, 0))
        self.door = Door(address, self._listener.getsockname()[1], secrets.token_bytes(SECRET_BYTES))
        self._sending = threading.Lock()
        threading.Thread(target=self._serve, name="wire", daemon=True).start()

    def _serve(self) -> None:
        with self._listener:
            connection = self._await_coordinator()
        if connection is None:
            return
        # a connection that breaks ends here too: the coordinator sees it at its own end
        with suppress(OSError), connection, connection.makefile("rb") as frames:
            while (frame := read_frame(frames)) is not None:
                number, contents = frame
                call = self._calls.submit(self._call, contents)
                call.add_done_callback(partial(self._reply, connection, number))
        self._calls.shutdown(wait=False, cancel_futures=True)

    def _await_coordinator(self) -> socket.socket | None:
        """The connection of whoever knows the secret; None where nobody came in time."""
        end = time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0:
            with suppress(OSError):
                self._listener.settimeout(left)
                connection, _ = self._listener.accept()
                if self._is_coordinator(connection):
                    return connection
                connection.close()
        return None

    def _is_coordinator(self, connection: socket.socket) -> bool:
        with suppress(OSError):
            connection.settimeout(SECRET_SECONDS)
            if hmac.compare_digest(_received(connection, SECRET_BYTES), self.door.secret):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return True
        return False

    def _call(self, contents: bytes) -> Any:
        method, arguments = pickle.loads(contents)
        return getattr(self._target, method)(*arguments)

    def _reply(self, connection: socket.socket, number: int, call: Future[Any]) -> None:
        if call.cancelled():
            return
        error = call.exception()
        if error is not None:
            logger.error("a call failed", exc_info=error)
        with self._sending, suppress(OSError):  # the thread that reads notices a broken connection
            connection.sendall(frame_of(number, _outcome(call, error)))


def frame_of(number: int, contents: bytes) -> bytes:
    """A frame, ready to be sent."""
    return HEADER.pack(len(contents), number) + contents


def read_frame(frames: BinaryIO) -> tuple[int, bytes] | None:
    """Number and contents of the next frame; None at the end."""
    header = frames.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length, number = HEADER.unpack(header)
    contents = frames.read(length)
    return (number, contents) if len(contents) == length else None


def _outcome(call: Future[Any], error: BaseException | None) -> bytes:
    try:
        if error is None:
            return pickle.dumps((True, call.result()), pickle.HIGHEST_PROTOCOL)
        failure = pickle.dumps((False, error))
        pickle.loads(failure)  # an error whose constructor wants more than its words cannot be read again
        return failure
    except UNPICKLABLE as refusal:
        described = error or refusal
        return pickle.dumps((False, ActorError(f"{type(described).__name__}: {described}")))


def _received(connection: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer where the other side ends before."""
    received = b""
    while len(received) < size and (piece := connection.recv(size - len(received))):
        received += piece
    return received
