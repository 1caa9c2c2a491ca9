"""The calls that wait at each engine for its finished candidates."""

from __future__ import annotations

import asyncio
import math

from rayalign.cluster.group import Actor
from rayalign.rollout.base import Finished

ROUND = 0.2
"""seconds from one round of answers to the next: those that come one by one cost several times as much"""
MANY = 256
"""candidates in flight that make rounds worth it; a few are soon the last ones, and training waits for them"""
Poll = asyncio.Task[list[Finished]]
"""one such call"""


class Polls:
    """Calls under way; those that have been answered come out in order.

    The cost of an answer does not depend on the number of engines, as it would with `asyncio.wait` over all calls.
    """

    def __init__(self) -> None:
        self._polls: dict[Actor, Poll] = {}
        self._answered: asyncio.Queue[Actor] = asyncio.Queue()
        self._last = -math.inf
        """when the last answers came out"""

    def __contains__(self, actor: Actor) -> bool:
        return actor in self._polls

    def add(self, actor: Actor, poll: Poll) -> None:
        """Wait for a call of an engine that is not polled yet."""
        self._polls[actor] = poll
        poll.add_done_callback(lambda _: self._answered.put_nowait(actor))

    async def answered(self, timeout: float, *, in_flight: int = 0) -> list[tuple[Actor, Poll]]:
        """The calls that have been answered; waits for the first one, at most `timeout` seconds.

        Args:
            in_flight: candidates that the engines have; where they are many, answers come out in rounds.
        """
        loop = asyncio.get_running_loop()
        actors: list[Actor] = []
        try:
            async with asyncio.timeout(timeout):
                actors.append(await self._answered.get())
        except TimeoutError:
            return []
        if in_flight >= MANY:
            await asyncio.sleep(self._last + ROUND - loop.time())
        self._last = loop.time()
        while not self._answered.empty():
            actors.append(self._answered.get_nowait())
        return [(actor, self._polls.pop(actor)) for actor in actors]

    def cancel(self) -> None:
        """Give up waiting."""
        for poll in self._polls.values():
            poll.cancel()
