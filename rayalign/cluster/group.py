"""ActorGroup: the actors of one role, and the one home of waiting on them.

Every wait has a deadline; a failure names the role, the cause and the actor's last log lines. What reaches the driver
is written to the event log, so that a run can show that no tensor passed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rayalign.actors.hosted import Place
from rayalign.cluster.machine_watch import last_log_lines
from rayalign.errors import ActorError, DeadlineError, RayalignError
from rayalign.storage.events import EventLog

T = TypeVar("T")
Actor = Any
"""a Ray actor handle; Ray gives it the methods of its role's class at run time"""
Call = Callable[[Actor], ray.ObjectRef]
_PLAIN = frozenset({int, float, str})
"""types of the tokens and log-probs that most answers consist of"""


async def together(*waits: Awaitable[T]) -> list[T]:
    """All answers, once every call has ended; then the first failure, and none that nobody hears of."""
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    answers: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        answers.append(outcome)
    return answers


class ActorGroup:
    """The actors of one role, ranks in order."""

    def __init__(self, role: str, actors: Sequence[Actor], *, events: EventLog, timeout: float) -> None:
        self.role = role
        self.actors = list(actors)
        self.places: dict[Actor, Place] = {}
        self._events = events
        self._timeout = timeout

    def __len__(self) -> int:
        return len(self.actors)

    async def all(self, call: Call, *, timeout: float | None = None) -> list[Any]:
        """Call every actor and wait for all answers, in the order of ranks."""
        waits = [asyncio.ensure_future(self.one(actor, call, timeout=timeout)) for actor in self.actors]
        try:
            return await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()

    async def first(self, call: Call, *, timeout: float | None = None) -> Any:
        """Call rank 0 alone."""
        return await self.one(self.actors[0], call, timeout=timeout)

    async def one(self, actor: Actor, call: Call, *, timeout: float | None = None) -> Any:
        """Call one actor and wait for its answer.

        Raises:
            ActorError: it failed or died.
            DeadlineError: it did not answer in time.
        """
        ref = call(actor)
        limit = timeout or self._timeout
        try:
            value = await asyncio.wait_for(asyncio.wrap_future(ref.future()), limit)
        except (TimeoutError, GetTimeoutError) as error:
            raise DeadlineError(
                f"{self.role} (pid {self.pid(actor)}) did not answer within {limit:.0f} s; "
                f"it may be stuck or starved: see its log, or raise the timeout in `cluster` that is {limit:.0f} s"
            ) from error
        except (RayTaskError, RayActorError) as error:
            raise self._explain(actor, error) from error
        arrays = list(_arrays(value))
        size = sum(array.nbytes for array in arrays)
        self._events.write("received", role=self.role, bytes=size, tensor=bool(arrays))
        return value

    def pid(self, actor: Actor) -> int:
        """The process of one actor, 0 where it has not been located."""
        return self.places[actor].pid if actor in self.places else 0

    async def locate(self, timeout: float) -> list[Place]:
        """Note where each rank runs, and tell it."""
        places: list[Place] = await self.all(lambda actor: actor.where.remote(), timeout=timeout)
        for rank, (actor, place) in enumerate(zip(self.actors, places, strict=True)):
            self._note(actor, rank, place)
        return places

    async def adopt(self, actor: Actor) -> None:
        """Add an actor that started after the others, as the last rank."""
        place = await self.one(actor, lambda actor: actor.where.remote())
        self._note(actor, len(self.actors), place)
        self.actors.append(actor)

    def _note(self, actor: Actor, rank: int, place: Place) -> None:
        self.places[actor] = place
        where = {"address": place.address, "devices": list(place.devices)}
        self._events.write("actor_started", role=self.role, rank=rank, actor_pid=place.pid, **where)

    def kill(self) -> None:
        """End all actors at once."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def discard(self, actor: Actor) -> None:
        """End one actor and forget it."""
        self.actors.remove(actor)
        ray.kill(actor)

    def _explain(self, actor: Actor, error: Exception) -> RayalignError:
        if isinstance(error, RayTaskError) and isinstance(error.cause, RayalignError):
            return error.cause
        cause = error.cause if isinstance(error, RayTaskError) else error
        what = "failed" if isinstance(error, RayTaskError) else "died"
        address = self.places[actor].address if actor in self.places else ""
        log = last_log_lines(self.pid(actor), address)
        tail = f"\nlast log lines:\n{log}" if log else ""
        lines = [line.strip() for line in str(cause).splitlines() if line.strip(" ^")]
        summary = lines[:1] + lines[1:][-1:]  # between them Ray puts a remote traceback
        reason = f"{type(cause).__name__}: {' '.join(summary)}"
        return ActorError(f"{self.role} (pid {self.pid(actor)}) {what}: {reason}{tail}")


def _arrays(value: Any) -> Iterator[torch.Tensor | np.ndarray]:
    """Every tensor in an answer."""
    if isinstance(value, torch.Tensor | np.ndarray):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _arrays(item)
    elif isinstance(value, list | tuple):
        if not _PLAIN.issuperset(map(type, value)):
            for item in value:
                yield from _arrays(item)
    elif is_dataclass(value):
        for name in _names(value.__class__):
            yield from _arrays(getattr(value, name))


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
