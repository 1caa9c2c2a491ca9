"""Seats: the places of a group's actors, in each of which another actor starts where one was lost.

The seat of an engine is a bundle of its placement, that of a reward or a reference a process of the run's workers. How
often they are taken again is limited, since more losses than that have a cause which a new actor does not remove.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayalign.storage.events import EventLog

logger = logging.getLogger(__name__)
Actor = Any
Seat = Callable[[Actor], Actor]
"""starts an actor in the place of one that was lost"""


class Seats:
    """Those of one group."""

    def __init__(self, role: str, seats: Mapping[Actor, Seat], events: EventLog, restarts: int) -> None:
        """
        Args:
            restarts: actors that are started in the place of lost ones, all seats together.
        """
        self._role = role
        self._seats = dict(seats)
        self._events = events
        self._left = restarts

    def refill(self, actor: Actor, error: Exception, *, machine_is_gone: bool = False) -> Actor | None:
        """Another actor in the place of one that was lost.

        None where it had no seat, where its seat went with its machine, or where too many were lost.
        """
        reason = str(error).splitlines()[0]
        seat = self._seats.pop(actor, None)
        replaced = seat is not None and self._left > 0 and not machine_is_gone
        self._events.write("actor_lost", role=self._role, reason=reason, replaced=replaced)
        if seat is None or not replaced:
            logger.warning("%s", reason)
            return None
        self._left -= 1
        logger.warning("%s; another one starts in its place (%d more may follow)", reason, self._left)
        replacement = seat(actor)
        self._seats[replacement] = seat
        return replacement


@dataclass(frozen=True, slots=True)
class Renewal:
    """How a group whose actors share no state goes on without one of them."""

    seats: Seats
    set_up: Callable[[int, Actor], Awaitable[None]]
    """makes a new process the actor of a rank"""
