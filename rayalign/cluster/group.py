"""ActorGroup: the actors of one role, and the one home of waiting on them.

    one      a call of one actor, with a deadline; meanwhile its heartbeat is listened to     -> LostError
    steady   as `one` of a rank; a lost actor is replaced where the group has seats, and called again
    all      every rank at once; where several fail, the one that made the others fail is named
    connect  a wire to an actor that is called often (`wires.py`); its calls are waited for in the same way

A failure names the role, the cause and the actor's last log lines. Answers are counted: none of them is a tensor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from rayalign.actors.hosted import PULSE, Pulse
from rayalign.actors.place import Place
from rayalign.cluster.causes import condition_at, explain_with_log, node_is_gone, precedence, silence, stopped
from rayalign.cluster.ending import end_actor
from rayalign.cluster.heart import ASKS, Heart
from rayalign.cluster.seats import Renewal
from rayalign.cluster.traffic import Traffic
from rayalign.cluster.waits import together
from rayalign.cluster.wires import Answer, CallError, ClosedError, Wires, are_allowed
from rayalign.errors import DeadlineError, LostDataError, LostError, RayalignError
from rayalign.storage.events import EventLog

Actor = Any
"""a Ray actor handle; Ray gives it the methods of its role's class at run time"""
Call = Callable[[Actor], ray.ObjectRef | Answer]
HEARTBEAT = 30.0
"""seconds until an actor without a heartbeat counts as lost, where nothing else is given"""
PATIENCE = 5.0
"""seconds in which the other ranks of one that failed fail too; the first error need not be the cause"""


class ActorGroup:
    """The actors of one role, ranks in order."""

    def __init__(
        self,
        role: str,
        actors: Sequence[Actor],
        *,
        events: EventLog,
        timeout: float,
        heartbeat: float = HEARTBEAT,
        spread: bool = False,
        wire_threads: int = 0,
    ) -> None:
        """
        Args:
            timeout: of a call [seconds].
            heartbeat: seconds without one after which an actor is lost.
            spread: the actors hold one frozen model in parts, so each call is for all of them.
            wire_threads: calls that an actor answers over its wire at a time; 0: there are no wires.
        """
        self.role = role
        self.actors = list(actors)
        self.places: dict[Actor, Place] = {}
        self.renewal: Renewal | None = None
        """None: a lost actor is not replaced"""
        self.spread = spread
        self._events = events
        self._traffic = Traffic(role, events)
        self._timeout, self._heartbeat = timeout, heartbeat
        self.wires = Wires()
        self._wire_threads = wire_threads
        self._hearts: dict[Actor, Heart] = {}
        self._renewing = [asyncio.Lock() for _ in self.actors]

    def __len__(self) -> int:
        return len(self.actors)

    async def all(self, call: Call, *, timeout: float | None = None) -> list[Any]:
        """Call every actor and wait for all answers, in the order of ranks.

        Raises:
            RayalignError: as `one`, of the rank that made the others fail.
        """
        waits = [asyncio.ensure_future(self.steady(rank, call, timeout=timeout)) for rank in range(len(self))]
        try:
            return await asyncio.gather(*waits)
        except RayalignError as error:
            cause = await self._first_cause(error, waits)
            if cause is error:
                raise
            raise cause from error
        finally:
            for wait in waits:
                wait.cancel()

    async def first(self, call: Call, *, timeout: float | None = None) -> Any:
        """Call rank 0 alone."""
        return await self.steady(0, call, timeout=timeout)

    async def steady(self, rank: int, call: Call, *, timeout: float | None = None) -> Any:
        """Call one rank; where its actor is lost and the group replaces it, call the next one.

        Raises:
            RayalignError: as `one`; LostError where no other takes its place.
        """
        while True:
            async with self._renewing[rank]:
                actor = self.actors[rank]
            try:
                return await self.one(actor, call, timeout=timeout)
            except LostDataError:  # of another actor
                raise
            except LostError as error:
                await self._renew(rank, actor, error)

    async def one(self, actor: Actor, call: Call, *, timeout: float | None = None) -> Any:
        """Call one actor and wait for its answer.

        Raises:
            LostError: its process or its machine is gone, stopped or hung, or its wire has ended.
            ActorError: it failed.
            DeadlineError: it did not answer in time.
        """
        limit = timeout or self._timeout
        try:
            value = await self._answer(actor, call(actor), limit)
        except (RayTaskError, CallError) as error:  # first: it may be a TimeoutError of the actor's own too
            raise await asyncio.to_thread(self._explain, actor, error) from error
        except (TimeoutError, GetTimeoutError) as error:
            raise DeadlineError(
                f"{self._name(actor)} did not answer within {limit:.0f} s; "
                f"it may be stuck or starved: see its log, or raise the timeout in `cluster` that is {limit:.0f} s"
            ) from error
        except RayError as error:
            raise await asyncio.to_thread(self._explain, actor, error) from error
        except ClosedError as error:  # of a wire
            raise await self._end_of(actor) from error
        self._traffic.note(value)
        return value

    def pid(self, actor: Actor) -> int:
        """The process of one actor, 0 where it has not been located."""
        return self.places[actor].pid if actor in self.places else 0

    def pulse(self, actor: Actor) -> Pulse | None:
        """The last heartbeat of an actor."""
        heart = self._hearts.get(actor)
        return heart.last if heart else None

    def machine_is_gone(self, actor: Actor) -> bool:
        """Whether Ray counts the machine of an actor as dead."""
        return node_is_gone(self.places.get(actor))

    async def locate(self, timeout: float) -> list[Place]:
        """Note where each rank runs."""
        places: list[Place] = await self.all(lambda actor: actor.where.remote(), timeout=timeout)
        for rank, (actor, place) in enumerate(zip(self.actors, places, strict=True)):
            self.note(actor, rank, place)
        return places

    async def adopt(self, actor: Actor) -> None:
        """Add an actor that started after the others, as the last rank."""
        place = await self.one(actor, lambda actor: actor.where.remote())
        self.note(actor, len(self.actors), place)
        await self.connect(actor)
        self.actors.append(actor)
        self._renewing.append(asyncio.Lock())

    async def connect(self, *actors: Actor) -> None:
        """Open a wire to each of these actors; where there can be none, Ray goes on carrying its calls."""
        if self._wire_threads and are_allowed():
            await together(*(self._connect(actor) for actor in actors))

    def note(self, actor: Actor, rank: int, place: Place) -> None:
        """Keep where an actor runs."""
        self.places[actor] = place
        where = {"address": place.address, "devices": list(place.devices)}
        self._events.write("actor_started", role=self.role, rank=rank, actor_pid=place.pid, **where)

    def kill(self) -> None:
        """End all actors at once."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
        self.wires.close()

    def discard(self, actor: Actor) -> None:
        """End one actor and forget it, whatever it is doing."""
        self.actors.remove(actor)
        self._hearts.pop(actor, None)
        self.wires.drop(actor)
        end_actor(actor, self.places.pop(actor, None), lost=True)

    async def _renew(self, rank: int, actor: Actor, error: LostError) -> None:
        """Have another actor take the rank of a lost one.

        Raises:
            LostError: none can.
        """
        if self.renewal is None:
            raise error
        async with self._renewing[rank]:
            if self.actors[rank] is not actor:  # another caller was first
                return
            while True:
                replacement = self.renewal.seats.refill(actor, error, machine_is_gone=self.machine_is_gone(actor))
                if replacement is None:
                    raise error
                self.actors[rank] = replacement  # so that it ends with the group, whatever happens
                self.places.pop(actor, None)
                self._hearts.pop(actor, None)
                self.wires.drop(actor)
                try:
                    await self.renewal.set_up(rank, replacement)
                    return
                except LostError as again:
                    actor, error = replacement, again

    async def _connect(self, actor: Actor) -> None:
        door = await self.one(actor, lambda actor: actor.listen.remote(self._wire_threads))
        if door is not None:
            await self.wires.connect(actor, door, self._name(actor))

    async def _answer(self, actor: Actor, ref: ray.ObjectRef | Answer, limit: float) -> Any:
        """The value of a call, while the heartbeat goes on."""
        answer = asyncio.wrap_future(ref.future())
        deadline = time.monotonic() + limit
        try:
            while True:
                left = deadline - time.monotonic()
                pause = min(left, self._heartbeat / ASKS)
                await asyncio.wait({answer}, timeout=max(pause, 0.0))
                if answer.done():
                    return answer.result()
                if pause == left:
                    raise TimeoutError
                await self._listen(actor)
        finally:
            answer.cancel()

    async def _listen(self, actor: Actor) -> None:
        """Raise LostError where a located actor has no heartbeat, Ray's error where two heartbeats in a row failed."""
        if actor not in self.places:
            return
        heart = self._hearts.setdefault(actor, Heart(self._heartbeat))
        waited = heart.listen(lambda: actor.pulse.options(concurrency_group=PULSE).remote().future())
        # Ray fails only its own calls: where a call over a wire waits, the heartbeat has to notice the end
        if heart.failures > 1 and isinstance(heart.failure, RayError):
            raise heart.failure
        if waited < heart.every:
            return
        reason = heart.judge(await asyncio.to_thread(condition_at, self.places[actor]))
        if reason is not None and actor in self.places:
            raise await asyncio.to_thread(self._silent, actor, reason)

    async def _end_of(self, actor: Actor) -> RayalignError:
        """The error of an ended wire. Mostly the process has ended too, and Ray reports that within moments."""
        end = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < end:
                pulse = actor.pulse.options(concurrency_group=PULSE).remote()
                await self._answer(actor, pulse, self._timeout)
                await asyncio.sleep(PATIENCE / 10)
        except RayError as error:
            return await asyncio.to_thread(self._explain, actor, error)
        except LostError as error:
            return error
        except TimeoutError:
            pass
        return await asyncio.to_thread(self._silent, actor, "its connection to the coordinator has ended")

    async def _first_cause(self, error: RayalignError, waits: Sequence[asyncio.Future[Any]]) -> RayalignError:
        """Of several ranks that fail, the failure that made the others fail: a rank that is gone or stopped."""
        if len(waits) == 1:
            return error
        await asyncio.wait(waits, timeout=PATIENCE)
        failures = [error]
        for rank, wait in enumerate(waits):
            failure = wait.exception() if wait.done() and not wait.cancelled() else None
            if isinstance(failure, RayalignError):
                failures.append(failure)
            if not isinstance(failure, LostError) and rank < len(self):
                actor = self.actors[rank]
                place, pulse = self.places.get(actor), self.pulse(actor)
                failures += await asyncio.to_thread(stopped, self._name(actor), place, pulse)
        return min(failures, key=precedence)

    def _name(self, actor: Actor) -> str:
        """Role, rank and process."""
        several = len(self.actors) > 1 and actor in self.actors
        rank = f" rank {self.actors.index(actor)}" if several else ""
        return f"{self.role}{rank} (pid {self.pid(actor)})"

    def _silent(self, actor: Actor, reason: str) -> LostError:
        return silence(self._name(actor), reason, self.places.get(actor), self.pulse(actor))

    def _explain(self, actor: Actor, error: Exception) -> RayalignError:
        return explain_with_log(self._name(actor), error, self.places.get(actor), self.pulse(actor))
