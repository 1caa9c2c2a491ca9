"""The trainer's end of a line: every message to every engine, at most so many in use at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from rayalign.weights.paths.base import AHEAD
from rayalign.weights.paths.inbox import END

logger = logging.getLogger(__name__)


class Answer(Protocol):
    """A message under way to one engine."""

    def wait(self) -> bool:
        """Wait until the engine has used the message up; False where the engine failed or stopped reading."""


class Endpoint(Protocol):
    """One engine as a sender sees it."""

    def start(self, number: int, message: Any) -> Answer:
        """Hand over a message without waiting."""


class EngineLine:
    """Messages to engines; an engine that fails is left out from then on, and the channel discards it."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = list(endpoints)
        self._under_way: deque[list[tuple[Endpoint, Answer]]] = deque()
        self._number = 0

    @property
    def engines(self) -> int:
        """How many engines still receive."""
        return len(self._endpoints)

    def post(self, message: Any, *, ahead: int = AHEAD) -> None:
        """Send a message to every engine; return once fewer than `ahead` messages are in use."""
        self._start([message] * len(self._endpoints))
        del message
        self._wait_until(ahead - 1)

    def post_each(self, messages: Sequence[Any]) -> None:
        """Send each engine its own message and wait until all are used up."""
        self._start(messages)
        self._wait_until(0)

    def end(self) -> None:
        """Wait until all messages are used up; the engines' `messages` end."""
        self.post(END, ahead=1)

    def _start(self, messages: Sequence[Any]) -> None:
        pairs = zip(self._endpoints, messages, strict=True)
        self._under_way.append([(endpoint, endpoint.start(self._number, message)) for endpoint, message in pairs])
        self._number += 1

    def _wait_until(self, most: int) -> None:
        while len(self._under_way) > most:
            for endpoint, answer in self._under_way.popleft():
                if not answer.wait() and endpoint in self._endpoints:
                    logger.warning("an engine stopped receiving weights")
                    self._endpoints.remove(endpoint)
