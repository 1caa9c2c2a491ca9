"""The calls that wait at each engine for its finished candidates."""

from __future__ import annotations

import asyncio

from rayalign.cluster.group import Actor
from rayalign.rollout.base import Finished

POLL = 10.0
"""seconds that one such call waits for a finished candidate"""
Poll = asyncio.Task[list[Finished]]
"""one such call"""


class Polls:
    """Calls under way; those that have been answered come out in order.

    The cost of an answer does not depend on the number of engines, as it would with `asyncio.wait` over all calls.
    """

    def __init__(self) -> None:
        self._polls: dict[Actor, Poll] = {}
        self._answered: asyncio.Queue[Actor] = asyncio.Queue()

    def __contains__(self, actor: Actor) -> bool:
        return actor in self._polls

    def add(self, actor: Actor, poll: Poll) -> None:
        """Wait for a call of an engine that is not polled yet."""
        self._polls[actor] = poll
        poll.add_done_callback(lambda _: self._answered.put_nowait(actor))

    async def answered(self, timeout: float) -> list[tuple[Actor, Poll]]:
        """The calls that have been answered; waits for the first one, at most `timeout` seconds."""
        actors: list[Actor] = []
        try:
            async with asyncio.timeout(timeout):
                actors.append(await self._answered.get())
        except TimeoutError:
            return []
        while not self._answered.empty():
            actors.append(self._answered.get_nowait())
        return [(actor, self._polls.pop(actor)) for actor in actors]

    def cancel(self) -> None:
        """Give up waiting."""
        for poll in self._polls.values():
            poll.cancel()
