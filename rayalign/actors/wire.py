"""The actor's end of a wire: a connection of its own to the coordinator, for the calls that it makes most often.

A call through Ray costs each side about a millisecond of computing. A call over a wire costs a tenth of that. Engines
return candidates this way, and rewards return scores. Ray starts and ends the actor, and reports why it ended.

    coordinator                                   actor, one thread reads, others answer
        connect, send the door's key        -->   turn away whoever does not know the key
        know the actor by its reply         <--   send the reply
        frame: method and arguments         -->   call
        frame: went well?, answer or error  <--   answer
        close                               -->   end

A frame is the length of its contents, the number of the call, and the contents, which are pickled. Key and reply are
secrets that reach the coordinator through Ray, since a pickle may run code at either end.
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

logger = logging.getLogger(__name__)
HEADER = struct.Struct("!QI")
"""length of the contents [bytes], number of the call"""
PATIENCE = 30.0
"""seconds in which the coordinator must come to the door"""
KEY_SECONDS = 2.0
"""in which a visitor must send the whole key; later visitors wait meanwhile"""
KEY_BYTES = 32
_QUIET_SECONDS, _PROBES = 60, 4
"""seconds without traffic before the system probes a connection; unanswered probes before it closes it"""


@dataclass(frozen=True, slots=True)
class Door:
    """Where an actor waits for the coordinator."""

    address: str
    port: int
    key: bytes = field(repr=False)
    """proves the coordinator to the actor"""
    reply: bytes = field(repr=False)
    """proves the actor to the coordinator"""


class WireEnd:
    """Answers calls of an object's methods, until either side closes the connection."""

    def __init__(self, target: object, address: str, threads: int) -> None:
        """
        Args:
            address: of this machine, at which the coordinator reaches it.
            threads: calls that are answered at the same time.

        Raises:
            OSError: nobody can listen at that address here.
        """
        self._target: object | None = target
        self._calls = ThreadPoolExecutor(threads, thread_name_prefix="wire")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        port = self._listener.getsockname()[1]
        self.door = Door(address, port, secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES))
        self._connection: socket.socket | None = None
        self._sending = threading.Lock()
        threading.Thread(target=self._serve, name="wire", daemon=True).start()

    def end(self) -> None:
        """Close the connection and forget the object, which may hold a model."""
        self._target = None
        for end in (self._listener, self._connection):
            if end is not None:
                with suppress(OSError):  # it has ended already
                    end.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with self._listener:
            self._connection = connection = self._await_coordinator()
        if connection is None:
            return
        # a connection that breaks ends here too: the coordinator sees it at its own end
        with suppress(OSError), connection, connection.makefile("rb") as frames:
            connection.sendall(self.door.reply)
            while (frame := read_frame(frames)) is not None:
                number, contents = frame
                call = self._calls.submit(self._call, contents)
                call.add_done_callback(partial(self._answer, connection, number))
        self._target = None
        self._calls.shutdown(wait=False, cancel_futures=True)

    def _await_coordinator(self) -> socket.socket | None:
        """The connection of whoever knows the key; None where nobody came in time."""
        end = time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0 and self._target is not None:
            with suppress(OSError):
                self._listener.settimeout(left)
                connection, _ = self._listener.accept()
                if self._is_coordinator(connection):
                    return connection
                connection.close()
        return None

    def _is_coordinator(self, connection: socket.socket) -> bool:
        with suppress(OSError):
            if hmac.compare_digest(receive(connection, KEY_BYTES, KEY_SECONDS), self.door.key):
                connection.settimeout(None)
                prepare(connection)
                return True
        return False

    def _call(self, contents: bytes) -> Any:
        method, arguments = pickle.loads(contents)
        return getattr(self._target, method)(*arguments)

    def _answer(self, connection: socket.socket, number: int, call: Future[Any]) -> None:
        if call.cancelled():
            return
        error = call.exception()
        if error is not None:
            logger.error("a call of the coordinator failed", exc_info=error)
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


def prepare(connection: socket.socket) -> None:
    """Have a connection send small frames at once, and stay known to the network between two stages."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _QUIET_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _QUIET_SECONDS // _PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


def receive(connection: socket.socket, size: int, seconds: float) -> bytes:
    """So many bytes, or fewer where the other side ends before; TimeoutError where they do not come in time."""
    end = time.monotonic() + seconds
    received = b""
    while len(received) < size:
        connection.settimeout(max(end - time.monotonic(), 1e-3))
        piece = connection.recv(size - len(received))
        if not piece:
            break
        received += piece
    return received


def _outcome(call: Future[Any], error: BaseException | None) -> bytes:
    """The pickled outcome; an error in words stands for what cannot be pickled or read again."""
    try:
        if error is None:
            return pickle.dumps((True, call.result()), pickle.HIGHEST_PROTOCOL)
        failure = pickle.dumps((False, error))
        pickle.loads(failure)
        return failure
    except Exception as refusal:  # a user's class may raise anything here, and the coordinator waits for a frame
        described = error or refusal
        return pickle.dumps((False, RuntimeError(f"{type(described).__name__}: {described}")))
