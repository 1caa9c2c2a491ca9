"""The engine's end of a line: messages in their order, each acknowledged when it is used up.

accept(0), accept(1), ...   threads that wait         messages()   the engine's thread, while it loads
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Condition
from typing import Any

from rayalign.errors import DeadlineError, WeightError

END = "end"
"""the message after the last one"""


class Inbox:
    """Messages of one transfer; they may come in any order and leave by their number."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._changed = Condition()
        self._waiting: dict[int, Any] = {}
        self._used = 0
        """messages used up, which is the number of the message that is due"""
        self._closed = False

    def accept(self, number: int, message: Any) -> bool:
        """Hand in a message and wait until it is used up; False where the engine stopped reading.

        Raises:
            DeadlineError: it was not used up in time.
        """
        with self._changed:
            self._waiting[number] = message
            self._changed.notify_all()
            in_time = self._changed.wait_for(lambda: self._closed or self._used > number, self.timeout)
        if not in_time:
            raise DeadlineError(
                f"an engine did not use up weight message {number} within {self.timeout:.0f} s; "
                "see its log, or raise cluster.transfer_timeout"
            )
        return self._used > number

    def messages(self) -> Iterator[Any]:
        """The messages in order; each counts as used up when the next one is asked for.

        Raises:
            DeadlineError: the next message did not come in time.
            WeightError: the inbox was closed before the last one.
        """
        while (message := self._next()) is not END:
            yield message
            del message  # the bucket is released before the sender is told so
            self._advance()
        self._advance()

    def close(self) -> None:
        """Stop reading; whoever waits is released, the engine's thread with an error."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _next(self) -> Any:
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._closed or self._used in self._waiting, self.timeout)
            if self._closed:
                raise WeightError("the weights did not come to their end: the trainer gave the transfer up")
            if not in_time:
                raise DeadlineError(
                    f"no weights came within {self.timeout:.0f} s; see the policy's log, or raise "
                    "cluster.transfer_timeout"
                )
            message = self._waiting.pop(self._used)
        return END if isinstance(message, str) and message == END else message

    def _advance(self) -> None:
        with self._changed:
            self._used += 1
            self._changed.notify_all()
